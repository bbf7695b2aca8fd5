"""The device mesh: axes `data`, `fsdp`, `tensor`, `sequence`."""

import dataclasses
from typing import Sequence

import jax
from jax.sharding import AxisType, Mesh

from cm3leon_jax.errors import InputError

AXES = ("data", "fsdp", "tensor", "sequence")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How many devices along each axis; one of them may be -1, which takes the rest.

  Attributes:
    data: replicas of the parameters; the batch is split over it.
    fsdp: parameters and optimizer state are split over it, and so is the batch.
    tensor: heads, feed-forward width and vocabulary are split over it.
    sequence: the length of activations is split over it.
  """

  data: int = 1
  fsdp: int = -1
  tensor: int = 1
  sequence: int = 1

  def shape(self, num_devices: int) -> tuple[int, ...]:
    """Sizes of AXES with -1 filled in.

    Raises:
      InputError: the sizes do not fit `num_devices`.
    """
    sizes = [getattr(self, axis) for axis in AXES]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
      raise InputError(f"mesh {self}: sizes are 1 or more, and at most one of them is -1")
    fixed = 1
    for size in sizes:
      fixed *= size if size != -1 else 1
    if -1 in sizes:
      if num_devices % fixed:
        raise InputError(f"mesh {self}: {fixed} does not divide the {num_devices} devices")
      sizes[sizes.index(-1)] = num_devices // fixed
    elif fixed > num_devices:
      raise InputError(f"mesh {self} needs {fixed} devices, there are {num_devices}")
    return tuple(sizes)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """The mesh over `devices` (all by default; the first ones when fewer are asked for).

  Axis types are stated: `jax.make_mesh` alone would make them Explicit.
  """
  devices = jax.devices() if devices is None else list(devices)
  shape = config.shape(len(devices))
  count = 1
  for size in shape:
    count *= size
  if count < len(devices) and jax.process_count() > 1:
    raise InputError(f"mesh {config} uses {count} of {len(devices)} devices; with several processes it must use all")
  return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:count])
