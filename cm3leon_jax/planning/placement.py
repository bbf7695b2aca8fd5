"""Where every array of a run lies on its mesh: a line an array, for people to read and golden files to hold."""

import math
from typing import Iterator

import jax
from jax.sharding import NamedSharding

from cm3leon_jax.planning.plan import Run
from cm3leon_jax.sharding import rules as rules_lib
from cm3leon_jax.sharding.mesh import abstract_mesh
from cm3leon_jax.training.optimizer import make_optimizer
from cm3leon_jax.training.state import abstract_state, state_shardings
from cm3leon_jax.training.step import parts_of_batch


def activations(run: Run, rows: int, sequence: int) -> dict[str, tuple[tuple[str, ...], tuple[int, ...], int]]:
  """name → logical axes, global shape, bytes an element, of the arrays that a layer and the head make at once.

  Args:
    rows: of all devices together, computed at once.
    sequence: over how many devices the length is split.
  """
  c, length = run.model, run.length
  token = ("batch", "length")
  own = length // sequence
  chunk = min(run.loss.chunk or own, own) * sequence
  gates = 2 if c.activation == "swiglu" else 1
  return {
      "batch.inputs": (token, (rows, length), 4),
      "hidden": ((*token, "width"), (rows, length, c.model_dim), 2),
      "queries": (("batch", "length", "kv_heads", "qkv", "head_dim"),
                  (rows, length, c.num_kv_heads, c.queries_per_kv, c.head_dim), 2),
      "keys": (("batch", "length", "kv_heads", "head_dim"), (rows, length, c.num_kv_heads, c.head_dim), 2),
      "feed_forward": ((*token, "mlp"), (rows, length, c.mlp_dim * gates), 2),
      "logits.chunk": (("batch", "length", "vocab"), (rows, chunk, c.vocab_size), 4),
  }


def lines(run: Run, devices: int) -> Iterator[str]:
  """`name dtype[shape] spec bytes-a-device`, for parameters, optimizer slots and activations.

  Raises:
    ShardingError, InputError: something does not divide over the mesh.
  """
  mesh = abstract_mesh(run.mesh, devices)
  parts = parts_of_batch(run.batch_size, run.device_batch, mesh, run.rules)
  state = abstract_state(run.model, make_optimizer(run.optimizer, run.model, run.steps), run.ema_decay > 0)
  shardings = state_shardings(run.model, state, mesh, run.rules)
  yield f"mesh {', '.join(f'{axis} {size}' for axis, size in mesh.shape.items())}; {parts} parts of the batch"
  total = 0
  for (path, leaf), sharding in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(shardings), strict=True):
    size = math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    total += size
    yield _line(jax.tree_util.keystr(path, simple=True, separator="."), leaf.dtype.name, leaf.shape, sharding.spec, size)
  yield f"state, bytes a device: {total:,}"
  for name, (axes, shape, width) in activations(run, run.batch_size // parts, rules_lib.shards("length", run.rules, mesh)).items():
    spec = rules_lib.partition_spec(axes, shape, run.rules, mesh, name)
    size = math.prod(NamedSharding(mesh, spec).shard_shape(shape)) * width
    yield _line(name, {2: "bfloat16", 4: "4 bytes"}[width], shape, spec, size)


def _line(name, dtype, shape, spec, size: int) -> str:
  parts = ", ".join("·" if part is None else part if isinstance(part, str) else "+".join(part) for part in spec)
  return f"{name:60}{dtype}[{','.join(map(str, shape))}]  ({parts})  {size:,}"
