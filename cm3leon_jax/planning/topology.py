"""TPU slices by name, as devices that programs can be compiled for on any machine with libtpu."""

import dataclasses
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from cm3leon_jax.errors import InputError
from cm3leon_jax.planning.hlo_cost import Chip, CHIPS

# libtpu's compiler needs no TPU: let several processes use it, and do not ask a metadata server which host this is.
_ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
}
_AXES = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}
_EXAMPLES = "v5e:16x16, v6e:4x4, v5p:4x4x4, v4:4x4x4"


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice, or several.

  Attributes:
    name: as asked for, e.g. `v5e:16x16` or `2*v5e:16x16`.
    chip: v4, v5e, v5p or v6e.
    spec: its peaks.
    devices: one a chip, in the compiler's order; they compile, they do not run.
  """

  name: str
  chip: str
  spec: Chip
  devices: tuple[Any, ...]


def parse(name: str) -> tuple[int, str, tuple[int, ...]]:
  """`v5e:4x4` → (1, "v5e", (4, 4)); `2*v5e:4x4`, two such slices, → (2, "v5e", (4, 4)).

  Raises:
    InputError: an unknown chip, or a shape that this chip has not.
  """
  match = re.fullmatch(r"(?:([1-9]\d*)\*)?(v4|v5e|v5p|v6e):(\d+(?:x\d+)*)", name)
  shape = tuple(int(n) for n in match[3].split("x")) if match else ()
  if not match or len(shape) != _AXES[match[2]] or min(shape) < 1:
    raise InputError(f"--topology={name}: no such TPU slice; examples: {_EXAMPLES}; GPUs: h100:8, h100:32x8 (--analytic)")
  return int(match[1] or 1), match[2], shape


def load(name: str) -> Topology:
  """The slice called `<chip>:<chips>x<chips>[x<chips>]`, or several: `<slices>*<chip>:…`.

  Rings are closed where the hardware closes them: along 16 chips of v5e and v6e, along multiples of 4 of v4 and v5p.

  Raises:
    InputError: an unknown chip, a shape that this chip has not, or no libtpu.
  """
  slices, chip, shape = parse(name)
  for key, value in _ENVIRONMENT.items():  # read when libtpu loads, below
    os.environ.setdefault(key, value)
  if not os.environ.get("JAX_PLATFORMS"):
    jax.config.update("jax_platforms", "cpu")  # libtpu is here, but no TPU to start
  cube = shape + (1,) * (3 - len(shape))
  closed = [n == 16 if _AXES[chip] == 2 else n % 4 == 0 for n in cube]
  try:
    description = topologies.get_topology_desc(
      platform="tpu",
      topology_name=name.split("*")[-1],
      chip_config_name="megacore" if chip in ("v4", "v5p") else "default",
      chips_per_host_bounds=tuple(min(n, m) for n, m in zip(cube, (2, 2, 1))),
      num_slices=slices,
      wrap=tuple(closed),
    )
  except Exception as error:  # libtpu raises several kinds
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "libtpu" in text.lower() and "layout" not in text:
      raise InputError(f"--topology={name}: libtpu's compiler is missing ({text}); pip install libtpu") from error
    raise InputError(f"--topology={name}: {text}; examples: {_EXAMPLES}") from error
  return Topology(name, chip, CHIPS[chip], tuple(description.devices))
