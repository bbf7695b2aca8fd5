"""One training step: a pure function of the state and the batch."""

import jax
import jax.numpy as jnp
import optax

from cm3leon_jax.training.state import TrainState


def train_step(state: TrainState, batch, *, loss_fn, optimizer: optax.GradientTransformation, ema_decay: float):
  """Returns (the next state, metrics as float32 scalars).

  Args:
    batch: arrays [B, L]; see `losses.loss_sums`.
    loss_fn: (params, batch, step) → (loss, metrics).
    ema_decay: of the running mean; used when the state has one.

  A step whose gradient is not finite changes nothing but the counters.
  """
  (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch, state.step)
  grad_norm = optax.tree.norm(grads)
  finite = jnp.isfinite(grad_norm)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
  params = keep(optax.apply_updates(state.params, updates), state.params)
  ema = state.ema
  if ema is not None:
    # Early on the mean follows closely, so that it forgets the initial values.
    decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
    ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), ema, params)
  skipped_in_row = jnp.where(finite, 0, state.skipped_in_row + 1)
  metrics = metrics | {"grad_norm": grad_norm, "skipped_in_row": skipped_in_row}
  return TrainState(step=state.step + 1, params=params, opt_state=keep(opt_state, state.opt_state), ema=ema,
                    skipped=state.skipped + ~finite, skipped_in_row=skipped_in_row), metrics
