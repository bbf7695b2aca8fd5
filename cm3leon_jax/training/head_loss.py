"""Cross-entropy of the output head, with its gradient made in the same pass.

The backward pass of a plain chunked loss makes every chunk's logits again, and on a mesh it sums the head's
gradient over all devices once a chunk. Here the forward pass, when it is differentiated, already makes d(loss)/d(hidden)
and d(loss)/d(table): one matmul less of four, and one sum over devices a step.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.linear import contract, outer
from cm3leon_jax.sharding import rules as rules_lib


def token_losses(logits_xV: jax.Array, targets_x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(negative log-likelihood, log Z), float32 of the targets' shape.

  The target's logit is picked by comparison, not by gather, which fuses into the softmax's passes.
  """
  log_z = jax.nn.logsumexp(logits_xV, axis=-1)
  return log_z - jnp.where(_is_target(logits_xV, targets_x), logits_xV, 0.0).sum(-1), log_z


def _is_target(logits_xV, targets_x):
  return jax.lax.broadcasted_iota(jnp.int32, logits_xV.shape, logits_xV.ndim - 1) == targets_x[..., None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def head_loss(hidden_BxLxD: jax.Array, table_VxD: jax.Array, targets_BxL: jax.Array, weights_BxL: jax.Array,
              z_loss: float, chunk: int) -> tuple[jax.Array, jax.Array]:
  """Summed loss of next-token prediction.

  Args:
    hidden_BxLxD: after the final norm.
    table_VxD: rows of the head, in their own dtype; they are multiplied in the dtype of `hidden_BxLxD`.
    targets_BxL: int32.
    weights_BxL: float32, not differentiated.
    z_loss: coefficient of log²Z.
    chunk: tokens of the length, on one device, whose logits exist at once; 0 takes all. It must divide the length.

  Returns:
    The sum of weight · (nll + z_loss · log²Z), and nll float32[B, L] in nats, which carries no gradient.

  Raises:
    InputError: `chunk` does not divide the length.
  """
  return _on_mesh(hidden_BxLxD, table_VxD, targets_BxL, weights_BxL, z_loss, chunk, False)


def _forward(hidden, table, targets, weights, z_loss, chunk):
  objective, nll, *gradients = _on_mesh(hidden, table, targets, weights, z_loss, chunk, True)
  # The barrier: else XLA puts the sum of the table's gradient over devices off to the end of the backward pass, to make
  # one sum of it and the lookups' gradient, and each device keeps all of the table's gradient until then (7B: 1 GiB).
  dhidden, dtable = jax.lax.optimization_barrier(tuple(gradients))
  return (objective, nll), (dhidden, dtable, jnp.zeros_like(weights))


def _backward(z_loss, chunk, saved, cotangents):
  dhidden, dtable, dweights = saved
  return (dhidden * cotangents[0]).astype(dhidden.dtype), dtable * cotangents[0], None, dweights


head_loss.defvjp(_forward, _backward)


def _on_mesh(hidden, table, targets, weights, z_loss, chunk, differentiated):
  """Each device sums over its own rows; only the results are summed over devices."""
  active = rules_lib.active()
  if active is None or active[0].size == 1:
    return _local(hidden, table, targets, weights, z_loss, chunk, differentiated)
  mesh, rules = active
  tokens = rules_lib.partition_spec(("batch", "length"), targets.shape, rules, mesh, "targets")
  ours = _axes(tokens[0]) + _axes(tokens[1])  # in one order: every process must compile the same program
  # The table's width may be split over some of these axes: there its gradient's sum leaves each device its part.
  width = rules_lib.partition_spec(("vocab", "embed"), table.shape, rules, mesh, "head")[1]
  split = tuple(axis for axis in _axes(width) if axis in ours)

  def on_device(*arrays):
    objective, nll, *gradients = _local(*arrays, z_loss, chunk, differentiated)
    objective = jax.lax.psum(objective, ours)
    if not differentiated:
      return objective, nll
    dhidden, dtable = gradients
    rest = tuple(axis for axis in ours if axis not in split)
    dtable = jax.lax.psum(dtable, rest) if rest else dtable
    for axis in split:
      dtable = jax.lax.psum_scatter(dtable, axis, scatter_dimension=1, tiled=True)
    return objective, nll, dhidden, dtable

  everywhere, rows = PartitionSpec(), PartitionSpec(*tokens, None)
  out = (everywhere, tokens, rows, PartitionSpec(None, split or None))
  mapped = jax.shard_map(on_device, mesh=mesh, in_specs=(rows, everywhere, tokens, tokens),
                         out_specs=out if differentiated else out[:2], axis_names=frozenset(ours), check_vma=False)
  return mapped(hidden, table, targets, weights)


def _axes(part) -> tuple[str, ...]:
  return () if part is None else (part,) if isinstance(part, str) else tuple(part)


def _local(hidden, table, targets, weights, z_loss, chunk, differentiated):
  """The same on the rows at hand: objective, nll [, d objective/d hidden, d objective/d table]."""
  length = targets.shape[1]
  chunk = min(chunk or length, length)
  if length % chunk:
    raise InputError(f"Loss.chunk={chunk} does not divide the {length} tokens of a row that one device has; take a divisor")
  rows = table.astype(hidden.dtype)

  def one_chunk(totals, parts):
    h, t, w = parts
    logits = contract(h, rows, (h.ndim - 1,), (1,))
    nll, log_z = token_losses(logits, t)
    objective = totals[0] + (w * (nll + z_loss * log_z**2)).sum()
    if not differentiated:
      return (objective,), (nll,)
    dlogits = jnp.exp(logits - log_z[..., None]) * (w * (1.0 + 2.0 * z_loss * log_z))[..., None]
    dlogits = jnp.where(_is_target(logits, t), dlogits - w[..., None], dlogits).astype(h.dtype)
    dhidden = contract(dlogits, rows, (dlogits.ndim - 1,), (0,)).astype(h.dtype)
    return (objective, totals[1] + outer(dlogits, h).astype(table.dtype)), (nll, dhidden)

  zero = (jnp.zeros((), jnp.float32),) + ((jnp.zeros_like(table),) if differentiated else ())
  if chunk == length:
    totals, values = one_chunk(zero, (hidden, targets, weights))
  else:
    parts = [x.reshape(x.shape[0], -1, chunk, *x.shape[2:]).swapaxes(0, 1) for x in (hidden, targets, weights)]
    totals, values = jax.lax.scan(one_chunk, zero, tuple(parts))
    values = [x.swapaxes(0, 1).reshape(*targets.shape, *x.shape[3:]) for x in values]
  return totals[0], values[0], *values[1:], *totals[1:]
