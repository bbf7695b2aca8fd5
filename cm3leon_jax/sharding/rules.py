"""From logical axis names to mesh axes, by a strict table.

Flax's own tables map an unknown name to "replicated" without a word, which shows on the pod as
running out of memory. Here an unknown logical name, an unknown mesh axis and an indivisible
dimension are errors that name both sides.
"""

import contextlib
import contextvars
import math
from typing import Any, Mapping

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cm3leon_jax.errors import InputError

MeshAxes = str | tuple[str, ...] | None

# Parameters and activations. `embed` is the width of parameters, `width` that of activations.
DEFAULT_RULES: Mapping[str, MeshAxes] = {
  "batch": ("data", "fsdp"),
  "length": "sequence",
  "width": None,
  "embed": "fsdp",
  "vocab": "tensor",
  "mlp": "tensor",
  "kv_heads": "tensor",
  "qkv": None,
  "head_dim": None,
  "gate": None,
  "norm": None,
  "position": None,
  "layers": None,
}


class ShardingError(InputError):
  """A logical name, mesh axis or dimension that does not fit the table."""


def partition_spec(names: tuple[str, ...], shape: tuple[int, ...], rules: Mapping[str, MeshAxes], mesh: Mesh,
                   what: str = "array") -> PartitionSpec:
  """The spec of one array.

  Args:
    names: one logical name a dimension.
    shape: the array's global shape.
    rules: logical name → mesh axis, several, or None (replicated).
    mesh: the device mesh.
    what: the array's name, for the errors.

  Raises:
    ShardingError: unknown logical name or mesh axis, an axis used twice, or an indivisible dimension.
  """
  if len(names) != len(shape):
    raise ShardingError(f"{what}: {len(names)} logical names {names} for shape {shape}")
  parts, used = [], {}
  for name, size in zip(names, shape):
    if name not in rules:
      raise ShardingError(f"{what}: no sharding rule for logical axis {name!r}; known: {', '.join(sorted(rules))}")
    axes = rules[name]
    axes = () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
    shards = 1
    for axis in axes:
      if axis not in mesh.shape:
        raise ShardingError(f"{what}: the rule for {name!r} names mesh axis {axis!r}; "
                            f"the mesh has {', '.join(map(str, mesh.axis_names))}")
      if axis in used:
        raise ShardingError(f"{what}: logical axes {used[axis]!r} and {name!r} both map to mesh axis {axis!r}")
      used[axis] = name
      shards *= mesh.shape[axis]
    if size % shards:
      raise ShardingError(f"{what}: logical axis {name!r} of size {size} does not divide over {shards} devices of "
                          f"mesh axis {' × '.join(axes)}; the next size that does is {-(-size // shards) * shards}")
    parts.append(axes[0] if len(axes) == 1 else axes or None)
  return PartitionSpec(*parts)


def shards(name: str, rules: Mapping[str, MeshAxes], mesh: Mesh) -> int:
  """Over how many devices a dimension of that logical name is split."""
  axes = rules[name]
  axes = () if axes is None else (axes,) if isinstance(axes, str) else axes
  return math.prod(mesh.shape[axis] for axis in axes)


def tree_shardings(axes: Any, abstract: Any, rules: Mapping[str, MeshAxes], mesh: Mesh) -> Any:
  """NamedShardings of a tree of arrays, given the equal tree of logical axis names."""
  def one(path, x, names):
    return NamedSharding(mesh, partition_spec(names, x.shape, rules, mesh, jax.tree_util.keystr(path)))
  return jax.tree_util.tree_map_with_path(one, abstract, axes)


_active: contextvars.ContextVar = contextvars.ContextVar("sharding_rules", default=None)


@contextlib.contextmanager
def use(mesh: Mesh, rules: Mapping[str, MeshAxes]):
  """Within it, `constrain` applies. Enter it around tracing (the first call of a jitted function)."""
  token = _active.set((mesh, rules))
  try:
    yield
  finally:
    _active.reset(token)


def active() -> tuple[Mesh, Mapping[str, MeshAxes]] | None:
  """The mesh and rules that `use` made current, or None."""
  return _active.get()


def constrain(x: jax.Array, *names: str) -> jax.Array:
  """Fixes the sharding of an activation by its logical names; nothing outside `use` or on one device."""
  active = _active.get()
  if active is None or active[0].size == 1:
    return x
  mesh, rules = active
  spec = partition_spec(names, x.shape, rules, mesh, f"activation {names}")
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def summed_over(name: str, axis: int, function, *arrays):
  """function(*arrays), a sum over a logical axis: partial sums on each device, then one sum over devices.

  Args:
    name: of the logical axis; it is dimension `axis` of every array in `arrays` (trees), and none of the result's.
  """
  active = _active.get()
  axes = () if active is None else active[1][name] or ()
  axes = (axes,) if isinstance(axes, str) else axes
  if not axes or shards(name, active[1], active[0]) == 1:
    return function(*arrays)
  spec = PartitionSpec(*(None,) * axis, axes)
  return jax.shard_map(lambda *x: jax.lax.psum(function(*x), axes), mesh=active[0], in_specs=spec, out_specs=PartitionSpec(),
                       axis_names=frozenset(axes), check_vma=False)(*arrays)
