"""Which remat policy, rows at once and mesh make a run cheapest on a machine: tries them all, fitting ones first."""

import dataclasses
import itertools
import sys
from typing import Callable

import tqdm

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.config import CHOICES
from cm3leon_jax.planning.plan import Plan, plan, Run
from cm3leon_jax.sharding.mesh import MeshConfig

DEVICE_BATCHES = (1, 2, 4, 8, 16)
TENSOR = (1, 2, 4, 8)
COMPILED = 4  # of the analytic ranking's best, so many are compiled


def candidates(run: Run) -> list[tuple[str, Run]]:
  """Every choice with the flags that make it; those that cannot be built are left to `plan` to refuse."""
  found = []
  for remat, rows, tensor in itertools.product(CHOICES["remat"], DEVICE_BATCHES, TENSOR):
    mesh = MeshConfig(data=1, fsdp=-1, tensor=tensor)
    flags = (f"--gin.Transformer.remat=\"'{remat}'\" --gin.train.device_batch={rows}"
             + (f" --gin.Mesh.tensor={tensor}" if tensor > 1 else ""))
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
  ranked, reasons = [], []
  for flags, choice in progress(candidates(run), desc="shapes", unit=" plans", file=sys.stderr, leave=False):
    try:
      result = plan(choice, topology, analytic=True)
    except InputError as error:
      reasons.append(str(error))
      continue
    if result.parts * result.rows_per_device and result.peak_bytes_per_device <= 0.95 * result.hbm_bytes_available:
      ranked.append((flags, choice, result))
  if not ranked:
    reason = f" ({reasons[0]})" if reasons else ""
    raise InputError(f"--topology={topology}: no remat policy, number of rows or tensor axis fits{reason}; take more devices")
  ranked.sort(key=lambda row: row[2].step_seconds)
  if analytic:
    return [(flags, result) for flags, _, result in ranked]
  best = [(flags, plan(choice, topology))
          for flags, choice, _ in progress(ranked[:COMPILED], desc="compiled", unit=" plans", file=sys.stderr)]
  return sorted(best, key=lambda row: (not row[1].fits, row[1].step_seconds or 0.0))
