"""Which remat policy, rows at once and mesh make a run cheapest on a machine: tries them all, fitting ones first."""

import dataclasses
import itertools
import sys
from typing import Callable

import tqdm

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.config import CHOICES
from cm3leon_jax.planning import machines
from cm3leon_jax.planning.plan import Plan, plan, Run
from cm3leon_jax.sharding.mesh import MeshConfig

DEVICE_BATCHES = (1, 2, 4, 8, 16)
TENSOR = (1, 2, 4, 8)
COMPILED = 4  # of the analytic ranking's best, so many are compiled


def candidates(run: Run, slices: int, devices: int) -> list[tuple[str, Run]]:
  """Every choice, with the flags that make it of the run's configuration."""
  found = []
  for remat, rows, tensor in itertools.product(CHOICES["remat"], DEVICE_BATCHES, TENSOR):
    if rows > max(1, run.batch_size * tensor // devices):
      continue  # more rows than a device has: the same program as with fewer
    mesh = MeshConfig(data=slices, fsdp=-1, tensor=tensor)
    bindings = {"Transformer.remat": repr(remat), "train.device_batch": rows,
                **{f"Mesh.{name}": size for name, size in dataclasses.asdict(mesh).items()
                   if size != getattr(run.mesh, name)}}
    flags = " ".join(f'"--gin.{name}={value}"' for name, value in bindings.items())
    found.append((flags, dataclasses.replace(run, model=dataclasses.replace(run.model, remat=remat), device_batch=rows,
                                             mesh=mesh)))
  return found


def search(run: Run, topology: str, *, analytic: bool, progress: Callable = tqdm.tqdm) -> list[tuple[str, Plan]]:
  """(flags, plan) of the choices that fit, cheapest first.

  All are ranked by `--analytic`; unless that was asked for, the best `COMPILED` are then compiled and ranked anew. The
  analytic ranking leaves out what needs more than 95 % of the memory, its own error.

  Raises:
    InputError: nothing fits.
  """
  machine = machines.load(topology, compiler=False)
  ranked, reasons = [], ["all need more memory"]
  for flags, choice in progress(candidates(run, machine.slices, machine.count), desc="shapes", unit=" plans",
                                file=sys.stderr, leave=False):
    try:
      result = plan(choice, topology, analytic=True)
    except InputError as error:
      reasons.append(str(error))
      continue
    if result.peak_bytes_per_device <= 0.95 * result.hbm_bytes_available:
      ranked.append((flags, choice, result))
  ranked.sort(key=lambda row: row[2].step_seconds)
  if analytic:
    fitting = [(flags, result) for flags, _, result in ranked]
  else:
    compiled = [(flags, plan(choice, topology))
                for flags, choice, _ in progress(ranked[:COMPILED], desc="compiled", unit=" plans", file=sys.stderr)]
    fitting = sorted((row for row in compiled if row[1].fits), key=lambda row: row[1].step_seconds)
  if not fitting:
    raise InputError(f"--topology={topology}: no remat policy, number of rows or tensor axis fits ({reasons[-1]}); "
                     "take more devices")
  return fitting
