"""Reads a workdir for the report page, as `report_data` describes it; every part may be missing."""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Iterator, Mapping

from cm3leon_jax import assets
from cm3leon_jax import manifest
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation.report_data import (
  Candidate,
  Curves,
  Generation,
  Interval,
  MetricRow,
  number,
  ReportData,
  Retrieved,
  RunFacts,
  SETS,
  Stage,
)


def load(workdir: str | os.PathLike) -> ReportData:
  """Reads all that is there.

  Raises:
    InputError: no such workdir, or a file that cannot be read as described above.
  """
  workdir = Path(workdir)
  if not workdir.is_dir():
    raise InputError(f"{workdir}: no such folder; make it with: cm3leon demo --workdir {workdir}")
  logs = {
    "pretrain": "pretrain/metrics.jsonl",
    "sft": "sft/metrics.jsonl",
    "image_tokenizer": "logs/image_tokenizer.jsonl",
    "clip": "logs/clip.jsonl",
  }
  curves = {name: load_curves(workdir / file) for name, file in logs.items()}
  return ReportData(
    workdir=workdir,
    facts=_load_facts(workdir / "run.json"),
    stages=_load_stages(workdir / "stages.jsonl"),
    curves={name: curve for name, curve in curves.items() if curve is not None},
    tokenizer_figures=_figures(workdir, "image", "held_out"),
    clip_figures=_figures(workdir, "clip", "metrics"),
    generations={
      name: load_generations(workdir / "generations" / name)
      for name in SETS
      if (workdir / "generations" / name / "generations.jsonl").is_file()
    },
    metrics=_load_metrics(workdir / "evaluation" / "metrics.json"),
    comparisons=_load_comparisons(workdir / "evaluation" / "comparisons.json"),
  )


def load_generations(folder: str | os.PathLike) -> tuple[Generation, ...]:
  path = Path(folder) / "generations.jsonl"
  rows = []
  for at, line in _lines(path):
    try:
      row = _known(Generation, line)
      row["retrieved"] = tuple(Retrieved(**_known(Retrieved, r)) for r in row.get("retrieved", ()))
      row["candidates"] = tuple(Candidate(**_known(Candidate, c)) for c in row.get("candidates", ()))
      rows.append(Generation(**row))
    except (TypeError, AttributeError) as error:
      raise InputError(f"{path}, line {at}: not a generation ({error}); generate this set again") from error
  return tuple(rows)


def load_curves(path: str | os.PathLike) -> Curves | None:
  """A training log; a step that was run again after a resume counts once, as last written.

  A modality without tokens in a row has no loss there.
  """
  path = Path(path)
  if not path.is_file():
    return None
  train: dict[str, dict[int, float]] = {}
  evals: dict[str, dict[str, dict[int, float]]] = {}
  for at, line in _lines(path):
    if not isinstance(line.get("step"), int):
      raise InputError(f"{path}, line {at}: no integer field 'step'; delete the line")
    step = line["step"]
    for key, value in line.items():
      where, _, key = key.rpartition("/")
      unseen = line.get(f"{where}/tokens_{key[5:]}" if where else f"tokens_{key[5:]}") == 0 and key.startswith("loss_")
      if key != "step" and not unseen and number(value) is not None:
        series = evals.setdefault(where, {}) if where else train
        series.setdefault(key, {})[step] = float(value)
  in_order = lambda series: {key: dict(sorted(points.items())) for key, points in series.items()}
  return Curves(in_order(train), {name: in_order(series) for name, series in evals.items()})


def _load_facts(path: Path) -> RunFacts:
  if not path.is_file():
    return RunFacts()
  try:
    return RunFacts(**_known(RunFacts, json.loads(path.read_text(encoding="utf-8"))))
  except (ValueError, AttributeError) as error:
    raise InputError(f"{path}: not valid JSON ({error}); delete it and run cm3leon demo again") from error


def _load_stages(path: Path) -> tuple[Stage, ...]:
  """Each stage once, in order of first appearance: its last run, else that it was skipped."""
  stages: dict[str, Stage] = {}
  for at, line in _lines(path) if path.is_file() else ():
    try:
      stage = Stage(**_known(Stage, line))
    except (TypeError, AttributeError) as error:
      raise InputError(f"{path}, line {at}: not a stage ({error}); delete the line") from error
    if not stage.skipped or stage.stage not in stages:
      stages[stage.stage] = stage
  return tuple(stages.values())


def _load_metrics(path: Path) -> tuple[MetricRow, ...]:
  if not path.is_file():
    return ()
  with _broken(path, "metrics file"):
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return tuple(MetricRow(row["name"], row.get("k"), _intervals(row["metrics"])) for row in rows)


def _load_comparisons(path: Path) -> tuple[MetricRow, ...]:
  if not path.is_file():
    return ()
  with _broken(path, "comparisons file"):
    rows = json.loads(path.read_text(encoding="utf-8"))
    return tuple(MetricRow(name, None, _intervals(metrics)) for name, metrics in rows.items())


@contextlib.contextmanager
def _broken(path: Path, what: str) -> Iterator[None]:
  try:
    yield
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise InputError(f"{path}: not a {what} ({type(error).__name__}: {error}); delete it and evaluate again") from error


def _intervals(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Interval]:
  """Metric → interval; what has no finite value is left out."""
  return {
    key: Interval(float(m["value"]), number(m.get("low")), number(m.get("high")))
    for key, m in metrics.items()
    if number(m.get("value")) is not None
  }


def _figures(workdir: Path, name: str, field: str) -> dict[str, Any]:
  """Held-out figures in the manifest of the tokenizer or encoder that made D/documents; {} if there are none yet."""
  if not (workdir / "documents").is_dir():
    return {}
  folder = workdir / "assets" / name
  path = (folder if folder.is_dir() else assets.root("tokenizers") / f"demo_{name}") / manifest.FILE_NAME
  if not path.is_file():
    return {}
  with _broken(path, "manifest"):
    return dict(json.loads(path.read_text(encoding="utf-8")).get(field) or {})


def _lines(path: Path) -> Iterator[tuple[int, dict]]:
  """(line number, object); a last line without its newline was cut by a kill and is left out."""
  lines = path.read_text(encoding="utf-8").split("\n")
  for at, line in enumerate(lines[:-1], 1):
    if line.strip():
      try:
        value = json.loads(line)
      except ValueError as error:
        raise InputError(
          f"{path}, line {at}: not valid JSON ({error}); delete the line or run the stage again"
        ) from error
      if not isinstance(value, dict):
        raise InputError(f"{path}, line {at}: not a JSON object; delete the line or run the stage again")
      yield at, value


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
  """Only the fields that `kind` has: files may carry more (seed, settings)."""
  names = {field.name for field in dataclasses.fields(kind)}
  return {key: value for key, value in values.items() if key in names and value is not None}
