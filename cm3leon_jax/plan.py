"""The function behind `cm3leon plan`: a run's gin configuration into `planning.plan`."""

import json
import os
from pathlib import Path

from cm3leon_jax.errors import InputError
from cm3leon_jax.planning import plan as planning


def main(topology: str, json_path: str | os.PathLike = "") -> planning.Plan:
  """Plans the run that the loaded gin configuration describes; prints it, and writes it to `json_path` if given.

  Raises:
    InputError: the configuration does not bind all that a training step depends on, or no such slice.
  """
  import gin

  from cm3leon_jax.train import fit_model

  run = gin.get_bindings("train")  # with its references (@Transformer() and the like) evaluated
  needed = ("model", "vocabulary", "layout", "optimizer", "loss", "mesh", "batch_size", "steps")
  missing = [name for name in needed if name not in run]
  if missing:
    raise InputError(
      f"--gin_file: it does not bind train.{missing[0]}; give a run file, such as configs/runs/demo_pretrain.gin"
    )
  try:
    length = gin.query_parameter("Pipelines.window_length")
  except ValueError as error:
    raise InputError("--gin_file: it does not bind Pipelines.window_length, the tokens of a row") from error
  result = planning.plan(
    topology=topology,
    model=fit_model(run["model"], run["vocabulary"], run["layout"]),
    vocabulary=run["vocabulary"],
    optimizer=run["optimizer"],
    loss=run["loss"],
    mesh=run["mesh"],
    batch_size=run["batch_size"],
    length=length,
    steps=run["steps"],
    ema_decay=run.get("ema_decay", 0.0),
  )
  print(planning.table(result))
  if json_path:
    Path(json_path).write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
  return result
