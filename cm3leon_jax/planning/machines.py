"""Machines by name: TPU slices (`v5e:16x16`, `2*v5e:16x16`), which libtpu compiles for, and GPU nodes (`h100:32x8`)."""

import dataclasses
import math
import re
from typing import Any

from cm3leon_jax.errors import InputError
from cm3leon_jax.planning import topology
from cm3leon_jax.planning.hlo_cost import Chip, CHIPS

# Dense bf16 FLOP/s, HBM bytes/s, NVLink bytes/s in one direction; NVIDIA's data sheets (SXM). One 400 Gbit/s NIC a GPU.
GPUS = {
    "a100": Chip(312e12, 2039e9, 300e9, 1, 80e9 / 2**30, 0.0),
    "h100": Chip(989e12, 3350e9, 450e9, 1, 80e9 / 2**30, 0.0),
    "h200": Chip(989e12, 4800e9, 450e9, 1, 141e9 / 2**30, 0.0),
}
NIC = 50e9  # bytes/s a GPU to other nodes
# What programs may use of the memory: the TPU compiler keeps 0.25 of v5e's 16 GiB; of a GPU's, JAX is told 0.92.
TPU_SHARE, GPU_SHARE = 15.75 / 16, 0.92


@dataclasses.dataclass(frozen=True)
class Machine:
  """What a run is planned for.

  Attributes:
    name: as asked for.
    chip: a key of `CHIPS` or `GPUS`.
    spec: its peaks; of several GPU nodes, with the network between them as `ici`.
    count: devices.
    devices: of a TPU slice, if the compiler was asked for: they compile, they do not run. Else empty.
    gpu: whether it is one.
    slices: TPU slices; what they send each other over the data-centre network is costed as if it were ICI.
  """

  name: str
  chip: str
  spec: Chip
  count: int
  devices: tuple[Any, ...] = ()
  gpu: bool = False
  slices: int = 1

  @property
  def bytes_available(self) -> int:
    return int(self.spec.hbm_gib * 2**30 * (GPU_SHARE if self.gpu else TPU_SHARE))


def load(name: str, compiler: bool) -> Machine:
  """The machine called `name`.

  Args:
    compiler: whether its devices are needed to compile for.

  Raises:
    InputError: no such machine, or a GPU with `compiler`.
  """
  gpu = re.fullmatch(rf"({'|'.join(GPUS)}):(?:(\d+)x)?(\d+)", name)
  if gpu:
    if compiler:
      raise InputError(f"--topology={name}: there is no compiler for GPUs that are not here; add --analytic")
    nodes, per_node = int(gpu[2] or 1), int(gpu[3])
    if nodes < 1 or per_node < 1:
      raise InputError(f"--topology={name}: needs at least one GPU; examples: h100:8, h100:32x8")
    spec = GPUS[gpu[1]]
    return Machine(name, gpu[1], spec._replace(ici=NIC) if nodes > 1 else spec, nodes * per_node, gpu=True)
  if compiler:
    slice_ = topology.load(name)
    return Machine(name, slice_.chip, slice_.spec, len(slice_.devices), slice_.devices, slices=topology.parse(name)[0])
  slices, chip, shape = topology.parse(name)
  return Machine(name, chip, CHIPS[chip], slices * math.prod(shape), slices=slices)
