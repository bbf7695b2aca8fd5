"""One training step: a pure function of the state and the batch; and the way it is compiled, here and in `planning/`."""

import functools
from typing import Any, Callable, Mapping

import jax
from jax.sharding import NamedSharding
import jax.numpy as jnp
import optax

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.transformer import Transformer
from cm3leon_jax.sharding import rules as rules_lib
from cm3leon_jax.training import losses
from cm3leon_jax.training.state import TrainState
from cm3leon_jax.vocabulary import Vocabulary

SumsFn = Callable[[Any, Mapping[str, jax.Array], jax.Array], losses.Sums]


def make_sums_fn(network: Transformer, config: losses.LossConfig, vocabulary: Vocabulary, seed: int) -> SumsFn:
  """(params, batch, count) → `losses.loss_sums`; the dropout key depends on seed and count alone."""
  def sums_fn(params, batch, count):
    key = jax.random.fold_in(jax.random.key(seed), count) if network.config.dropout else None
    return losses.loss_sums(network, params, batch, config, vocabulary, key)
  return sums_fn


def parts_of_batch(batch_size: int, device_batch: int, mesh, rules: Mapping[str, rules_lib.MeshAxes]) -> int:
  """In how many parts a global batch is computed when a device takes `device_batch` rows at once (0: all of its rows).

  Raises:
    InputError: the batch does not divide.
  """
  shards = rules_lib.shards("batch", rules, mesh)
  if batch_size % shards:
    raise InputError(f"batch_size={batch_size} does not divide over {shards} shards of the batch; "
                     f"the next that does is {-(-batch_size // shards) * shards}")
  own = batch_size // shards
  if not device_batch or own <= device_batch:
    return 1
  if own % device_batch:
    raise InputError(f"device_batch={device_batch} does not divide the {own} rows that each device has of "
                     f"batch_size={batch_size}")
  return own // device_batch


def gradient(params, batch, step, sums_fn: SumsFn, parts: int):
  """(sums over the batch, gradient of the loss), computed in `parts` parts of the batch, one after another.

  Part i takes rows i, i + parts, …, so that every device keeps its own rows. The loss is a quotient of two sums over the
  whole batch, so the gradients of its numerator add up, and are divided once.
  """
  def one(batch, count, over):
    def numerator(params):
      sums = sums_fn(params, batch, count)
      return sums["objective"] / over(sums), sums
    (_, sums), grads = jax.value_and_grad(numerator, has_aux=True)(params)
    return sums, grads

  weight = lambda sums: jnp.maximum(sums["weight"], 1e-6)
  if parts == 1:
    return one(batch, step, weight)
  split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
  part = lambda batch, count: one(batch, count, lambda sums: 1.0)
  shapes = jax.eval_shape(part, jax.tree.map(lambda x: x[0], split), step)
  zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  add = lambda total, scanned: (jax.tree.map(jnp.add, total, part(*scanned)), None)
  (sums, grads), _ = jax.lax.scan(add, zero, (split, step * parts + jnp.arange(parts)))
  return sums, jax.tree.map(lambda g: g / weight(sums).astype(g.dtype), grads)


def train_step(state: TrainState, batch, *, sums_fn: SumsFn, optimizer: optax.GradientTransformation, ema_decay: float,
               parts: int = 1):
  """Returns (the next state, metrics as scalars).

  Args:
    batch: arrays [B, L]; see `losses.loss_sums`.
    sums_fn: see `make_sums_fn`.
    ema_decay: of the running mean; used when the state has one.
    parts: the batch's rows are computed in so many parts (gradient accumulation).

  A step whose gradient is not finite changes nothing but the counters.
  """
  sums, grads = gradient(state.params, batch, state.step, sums_fn, parts)
  grad_norm = optax.tree.norm(grads)
  finite = jnp.isfinite(grad_norm)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
  params = keep(optax.apply_updates(state.params, updates), state.params)
  ema = state.ema
  if ema is not None:
    # Early on the mean follows closely, so that it forgets the initial values.
    decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
    ema = keep(jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), ema, params), ema)
  skipped_in_row = jnp.where(finite, 0, state.skipped_in_row + 1)
  metrics = losses.metrics(sums) | {"grad_norm": grad_norm, "skipped_in_row": skipped_in_row}
  return TrainState(step=state.step + 1, params=params, opt_state=keep(opt_state, state.opt_state), ema=ema,
                    skipped=state.skipped + ~finite, skipped_in_row=skipped_in_row), metrics


def jit_step(*, sums_fn: SumsFn, optimizer: optax.GradientTransformation, ema_decay: float, parts: int,
             shardings: TrainState, batch_sharding: NamedSharding, compiler_options: Mapping[str, Any] | None = None):
  """The compiled (or, with `.lower`, lowered) `train_step`; the state is donated."""
  function = functools.partial(train_step, sums_fn=sums_fn, optimizer=optimizer, ema_decay=ema_decay, parts=parts)
  return jax.jit(function, in_shardings=(shardings, batch_sharding), out_shardings=(shardings, None), donate_argnums=0,
                 compiler_options=dict(compiler_options or {}) or None)
