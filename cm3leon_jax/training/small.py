"""A training loop for networks that fit one device: the image tokenizer and CLIP.

The transformer has its own sharded, checkpointed loop (`training/loop.py`); this one is what a
network of a few million parameters needs: one jitted step, a progress bar, and a hook at each log.
"""

from collections.abc import Callable, Iterable
import math
import sys
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
import tqdm

# (params, state, batch, key) → (loss scalar, (new state, metrics: name → scalar)).
LossFn = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]


@flax.struct.dataclass
class Fitted:
  """Everything that changes from step to step; save it whole to go on later.

  Attributes:
    params: what the optimizer moves.
    opt_state: the optimizer's own state.
    state: what the loss function itself moves without gradients (running means, a codebook); None if nothing.
    step: int32 scalar, steps done.
  """
  params: Any
  opt_state: Any
  state: Any
  step: jax.Array


def start(params: Any, optimizer: optax.GradientTransformation, state: Any = None) -> Fitted:
  """The point before the first step."""
  return Fitted(params=params, opt_state=optimizer.init(params), state=state, step=jnp.zeros((), jnp.int32))


def fit(
    loss_fn: LossFn,
    params: Any,
    optimizer: optax.GradientTransformation,
    batches: Iterable[Any],
    steps: int,
    *,
    key: jax.Array,
    log_every: int = 50,
    on_log: Callable[[int, dict[str, float], Fitted], None] | None = None,
    state: Any = None,
    label: str = "fit",
) -> Fitted:
  """Minimises `loss_fn` from `params`; see `resume` for the arguments. Returns the last `Fitted`."""
  return resume(loss_fn, start(params, optimizer, state), optimizer, batches, steps, key=key, log_every=log_every,
                on_log=on_log, label=label)


def resume(
    loss_fn: LossFn,
    fitted: Fitted,
    optimizer: optax.GradientTransformation,
    batches: Iterable[Any],
    steps: int,
    *,
    key: jax.Array,
    log_every: int = 50,
    on_log: Callable[[int, dict[str, float], Fitted], None] | None = None,
    label: str = "fit",
) -> Fitted:
  """Goes on from `fitted` until `steps` steps are done in all.

  Args:
    loss_fn: (params, state, batch, key) → (loss, (state, metrics)); jitted here, with its gradient.
    fitted: where to start.
    optimizer: any optax transformation; the one that `fitted` was made with.
    batches: yields the batch of step `fitted.step`, then of the next, …; arrays of one shape, or it compiles anew.
      An endless iterator is fine, one that ends early is an error.
    steps: total steps, those of `fitted` among them.
    key: random key of the whole run; step t gets `fold_in(key, t)`, so a resumed run equals an unbroken one.
    log_every: steps between two calls of `on_log`; the last step logs too.
    on_log: (steps done, means of the metrics and of `loss` since the last call, fitted). The buffers of `fitted`
      are given to the next step: copy to the host what should live longer.
    label: name in front of the progress bar (stderr).

  Raises:
    FloatingPointError: the loss is no longer finite (looked at when logging).
    ValueError: `batches` ended before `steps`.
  """

  def one_step(fitted: Fitted, batch: Any) -> tuple[Fitted, dict[str, jax.Array]]:
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    step_key = jax.random.fold_in(key, fitted.step)
    (loss, (state, metrics)), grads = gradient(fitted.params, fitted.state, batch, step_key)
    updates, opt_state = optimizer.update(grads, fitted.opt_state, fitted.params)
    params = optax.apply_updates(fitted.params, updates)
    return Fitted(params, opt_state, state, fitted.step + 1), {"loss": loss, **metrics}

  # The first step must not eat the caller's arrays, hence one copy before the buffers are donated from step to step.
  fitted = jax.tree.map(jnp.copy, fitted)
  one_step = jax.jit(one_step, donate_argnums=0)
  iterator = iter(batches)
  done = int(fitted.step)
  waiting: list[dict[str, jax.Array]] = []
  with tqdm.tqdm(total=steps, initial=done, desc=label, file=sys.stderr, mininterval=1.0, unit="step") as bar:
    while done < steps:
      try:
        batch = next(iterator)
      except StopIteration:
        raise ValueError(f"{label}: the batches ended after {done} of {steps} steps") from None
      fitted, metrics = one_step(fitted, batch)
      waiting.append(metrics)
      if len(waiting) > 2:
        jax.block_until_ready(waiting[-3])  # else the bar runs ahead of the device by any number of steps
      done += 1
      bar.update()
      if done % log_every == 0 or done == steps:
        host = jax.device_get(waiting)
        means = {name: float(sum(m[name] for m in host) / len(host)) for name in host[0]}
        waiting = []
        if not math.isfinite(means["loss"]):
          raise FloatingPointError(f"{label}: the loss is {means['loss']} at step {done}; lower the learning rate")
        bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
        if on_log is not None:
          on_log(done, means, fitted)
  return fitted
