"""The device mesh: axes `data`, `fsdp`, `tensor`, `sequence`."""

import dataclasses
from typing import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from cm3leon_jax.errors import InputError

AXES = ("data", "fsdp", "tensor", "sequence")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How many devices along each axis; one of them may be -1, which takes the rest.

  Attributes:
    data: replicas of the parameters; the batch is split over it. On several TPU slices it is a multiple of their
      number: the slices are connected by the data-centre network, which only `data` crosses.
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

  Raises:
    InputError: the sizes do not fit the devices, their slices or the processes.
  """
  devices = jax.devices() if devices is None else list(devices)
  shape = config.shape(len(devices))
  count = 1
  for size in shape:
    count *= size
  if count < len(devices) and jax.process_count() > 1:
    raise InputError(f"mesh {config} uses {count} of {len(devices)} devices; with several processes it must use all")
  types = (AxisType.Auto,) * len(AXES)
  # GPUs have a slice index too, one a host: there the order of `jax.make_mesh` will do.
  slices = len({getattr(d, "slice_index", 0) for d in devices}) if devices[0].platform == "tpu" else 1
  if slices > 1:
    if count < len(devices) or shape[0] % slices:
      raise InputError(f"mesh {config}: on {slices} slices it must use all {len(devices)} devices, and `data` must be a "
                       f"multiple of {slices}")
    per_slice, across = (shape[0] // slices, *shape[1:]), (slices,) + (1,) * (len(AXES) - 1)
    return Mesh(mesh_utils.create_hybrid_device_mesh(per_slice, across, devices, allow_split_physical_axes=True), AXES,
                axis_types=types)
  return jax.make_mesh(shape, AXES, axis_types=types, devices=devices[:count])


def abstract_mesh(config: MeshConfig, num_devices: int) -> AbstractMesh:
  """The mesh over `num_devices` devices that are not here: for shapes and shardings, not for running."""
  return AbstractMesh(config.shape(num_devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))
