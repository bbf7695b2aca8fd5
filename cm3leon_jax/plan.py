"""The function behind `cm3leon plan`: a run's gin configuration into `planning`."""

import json
import os
from pathlib import Path

from cm3leon_jax.errors import InputError
from cm3leon_jax.planning import plan as planning
from cm3leon_jax.planning import search as searching
from cm3leon_jax.planning import show

SHOWN = 12  # rows of a search


def configured_run() -> planning.Run:
  """What the loaded gin configuration says of a training step.

  Raises:
    InputError: it does not bind all that a step depends on.
  """
  import gin

  from cm3leon_jax.train import fit_model

  run = gin.get_bindings("train")  # with its references (@Transformer() and the like) evaluated
  needed = ("model", "vocabulary", "layout", "optimizer", "loss", "mesh", "batch_size", "steps")
  missing = [name for name in needed if name not in run]
  if missing:
    raise InputError(
        f"--gin_file: it does not bind train.{missing[0]}; give a run file, such as configs/runs/pretrain_7b.gin")
  try:
    length = gin.query_parameter("Pipelines.window_length")
  except ValueError as error:
    raise InputError("--gin_file: it does not bind Pipelines.window_length, the tokens of a row") from error
  names = ("vocabulary", "optimizer", "loss", "mesh", "batch_size", "steps", "device_batch", "ema_decay", "tpu_options")
  return planning.Run(model=fit_model(run["model"], run["vocabulary"], run["layout"]), length=length,
                      **{name: run[name] for name in names if name in run})


def main(topology: str, json_path: str | os.PathLike = "", *, analytic: bool = False, search: bool = False,
         hlo: str | os.PathLike = "") -> planning.Plan:
  """Plans the run that the loaded gin configuration describes; prints it, and writes it to `json_path` if given.

  Args:
    topology: a TPU slice, or with `analytic` GPU nodes.
    analytic: from shapes alone.
    search: try remat policies, rows at once and tensor axes; the best one is the result.
    hlo: path for the compiled program's text.

  Raises:
    InputError: the configuration does not bind all that a training step depends on, no such machine, or nothing fits.
  """
  if hlo and (search or analytic):
    raise InputError("--hlo is the text of one compiled program; leave out --search and --analytic")
  run = configured_run()
  if search:
    found = searching.search(run, topology, analytic=analytic)
    print(show.rows(found[:SHOWN]), end="\n\n")
    result = found[0][1]
  else:
    result = planning.plan(run, topology, analytic=analytic, hlo=hlo)
  print(show.table(result))
  if json_path:
    Path(json_path).write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
  return result
