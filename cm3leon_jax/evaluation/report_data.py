"""What the report page reads: the files of a workdir. `report_writer` writes them, from the same definitions.

A workdir D holds (each part is optional; the page says which stage has not run):

    D/run.json                 RunFacts: what was trained, where
    D/stages.jsonl             Stage, one line when a stage ends
    D/pretrain/metrics.jsonl   as training/metrics.py writes them: {"step": 10, "loss_image": …, "loss_text": …, …}
    D/sft/metrics.jsonl        and {"step": 100, "heldout_drawings_k2/loss_image": …, …}; losses in nats a token
    D/logs/image_tokenizer.jsonl, D/logs/clip.jsonl   the same form, by `append_log`, if they were trained here
    D/tokenizers/image/manifest.json                  `held_out`: psnr, usage, perplexity
    D/clip/manifest.json                              `metrics`: split → text_to_image_recall_at_10, …
    D/generations/<set>/       generations.jsonl, one Generation a line, and the PNG files that it names;
                               <set>: one of `SETS`
    D/evaluation/metrics.json  {"rows": [MetricRow, …]}

Generation, as JSON (file names are relative to the set's folder):

    {"prompt": "a red heart, twemoji", "id": "twemoji/2764",
     "retrieved": [{"id": "noto/2764", "caption": "red heart, noto", "score": 0.81, "file": "0000_doc0.png"}],
     "candidates": [{"file": "0000_0.png", "score": 0.36, "text": ""}],      best first; the first is the pick
     "given": "", "truth": "0000_truth.png", "truth_text": ""}

    showcase_k*, shipped_k2   prompt = caption; candidates = pictures; truth = the held-out drawing
    infill                    given = the picture with its hole; candidates = N fillings; truth = the whole picture
    edit                      prompt = instruction; given = before; candidates = after; truth = the target
    caption                   given = the picture; candidates = texts; truth_text = its caption

MetricRow, as JSON: {"name": "model", "k": 2, "metrics": {"fd": {"value": 61.2, "low": 57.0, "high": 66.1}}};
`name` is one of `ROWS` (others are shown as they are), `k` an int or null, `low`/`high` a 95 % interval or null.
"""

import dataclasses
import json
import math
import os
from pathlib import Path
import platform
from typing import Any, Iterator, Mapping

from cm3leon_jax import manifest
from cm3leon_jax.errors import InputError

SHOWCASES = ("showcase_k0", "showcase_k1", "showcase_k2")
SETS = (*SHOWCASES, "shipped_k2", "infill", "edit", "caption")
ROWS = {
  "model": "this model",
  "shipped": "shipped model, trained longer",
  "tokenizer": "tokenizer reconstructions (the ceiling)",
  "nearest": "nearest neighbour (pure copying)",
  "real": "the real held-out drawings",
}


@dataclasses.dataclass(frozen=True)
class RunFacts:
  """What the first paragraph says; zero or empty means unknown and is left out."""

  parameters: int = 0
  drawings: int = 0  # training drawings
  artists: int = 0
  heldout: int = 0  # held-out drawings
  image_size: int = 0  # pixels along a side
  image_tokens: int = 0
  codebook_size: int = 0
  max_retrieved: int = 0
  cores: int = 0
  memory_gib: float = 0.0
  machine: str = ""
  accelerator: str = ""  # e.g. "NVIDIA H100"; empty: none
  quick: bool = False  # the short run for tests and CI
  versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @classmethod
  def here(cls, **facts: Any) -> "RunFacts":
    """`facts` and this machine's: cores, memory, system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0
    try:
      memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):  # not a POSIX system
      memory = 0.0
    machine = f"{platform.system()} on {platform.machine()}, Python {platform.python_version()}"
    return cls(**{"cores": cores, "memory_gib": round(memory, 1), "machine": machine, **facts})


@dataclasses.dataclass(frozen=True)
class Stage:
  stage: str
  seconds: float
  skipped: bool = False  # it was done before, or its result is shipped


@dataclasses.dataclass(frozen=True)
class Retrieved:
  id: str
  caption: str = ""
  score: float | None = None
  file: str = ""


@dataclasses.dataclass(frozen=True)
class Candidate:
  file: str = ""
  score: float | None = None
  text: str = ""


@dataclasses.dataclass(frozen=True)
class Generation:
  prompt: str
  id: str = ""
  retrieved: tuple[Retrieved, ...] = ()
  candidates: tuple[Candidate, ...] = ()
  given: str = ""
  truth: str = ""
  truth_text: str = ""

  @property
  def best_score(self) -> float | None:
    return self.candidates[0].score if self.candidates else None


@dataclasses.dataclass(frozen=True)
class Interval:
  value: float
  low: float | None = None
  high: float | None = None


@dataclasses.dataclass(frozen=True)
class MetricRow:
  name: str
  k: int | None
  metrics: Mapping[str, Interval]


@dataclasses.dataclass(frozen=True)
class Curves:
  """`train[key]` and `evals[name][key]` are {step: value}, steps in order."""

  train: Mapping[str, Mapping[int, float]]
  evals: Mapping[str, Mapping[str, Mapping[int, float]]]


@dataclasses.dataclass(frozen=True)
class ReportData:
  workdir: Path
  facts: RunFacts
  stages: tuple[Stage, ...]
  curves: Mapping[str, Curves]  # by name: pretrain, sft, image_tokenizer, clip
  tokenizer_figures: Mapping[str, float]  # held-out psnr, usage, perplexity
  clip_figures: Mapping[str, Mapping[str, float]]  # by held-out split
  generations: Mapping[str, tuple[Generation, ...]]  # by set
  metrics: tuple[MetricRow, ...]

  def picture(self, name: str, file: str) -> Path:
    """The path of a picture that a line of set `name` names; it must lie inside the set's folder."""
    folder = (self.workdir / "generations" / name).resolve()
    path = (folder / file).resolve()
    if not path.is_relative_to(folder):
      raise InputError(
        f"{folder}/generations.jsonl: the picture {file!r} lies outside its folder; generate this set again"
      )
    return path


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
    tokenizer_figures=_figures(workdir / "tokenizers" / "image", "held_out"),
    clip_figures=_figures(workdir / "clip", "metrics"),
    generations={
      name: load_generations(workdir / "generations" / name)
      for name in SETS
      if (workdir / "generations" / name / "generations.jsonl").is_file()
    },
    metrics=_load_metrics(workdir / "evaluation" / "metrics.json"),
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
  try:
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return tuple(
      MetricRow(
        row["name"],
        row.get("k"),
        {
          key: Interval(float(m["value"]), number(m.get("low")), number(m.get("high")))
          for key, m in row["metrics"].items()
          if number(m.get("value")) is not None
        },
      )
      for row in rows
    )
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise InputError(
      f"{path}: not a metrics file ({type(error).__name__}: {error}); delete it and evaluate again"
    ) from error


def _figures(folder: Path, field: str) -> Mapping[str, Any]:
  """A field of a folder's manifest, of whatever kind; {} when there is none."""
  path = folder / manifest.FILE_NAME
  if not path.is_file():
    return {}
  try:
    figures = json.loads(path.read_text(encoding="utf-8")).get(field) or {}
    return dict(figures)
  except (ValueError, TypeError, AttributeError) as error:
    raise InputError(f"{path}: not a manifest ({error}); make the folder again") from error


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


def number(value: Any) -> float | None:
  """A finite float, or None."""
  if isinstance(value, (bool, str)) or value is None:
    return None
  return float(value) if math.isfinite(float(value)) else None
