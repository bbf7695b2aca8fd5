"""What the report page reads, and the helpers that write it: one definition for both sides.

A workdir D holds (each part is optional; the page says which stage has not run):

    D/run.json                 RunFacts: what was trained, where
    D/stages.jsonl             Stage, one line when a stage ends
    D/pretrain/metrics.jsonl   training log: {"step": 10, "loss": …, "loss_image": …, "loss_text": …, …} and
    D/sft/metrics.jsonl        {"step": 100, "eval": {"k2": {"loss_image": …, "loss_text": …}, …}}; losses in nats
    D/tokenizers/image/metrics.jsonl, D/clip/metrics.jsonl   the same line form, any numeric keys
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

import contextlib
import dataclasses
import json
import math
import os
from pathlib import Path
import platform
from typing import Any, Iterable, Iterator, Mapping, Sequence

import numpy as np
from PIL import Image

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
  curves: Mapping[str, Curves]  # by folder: pretrain, sft, tokenizers/image, clip
  generations: Mapping[str, tuple[Generation, ...]]  # by set
  metrics: tuple[MetricRow, ...]

  def picture(self, name: str, file: str) -> Path:
    """The path of a picture that a line of set `name` names; it must lie inside the set's folder."""
    folder = (self.workdir / "generations" / name).resolve()
    path = (folder / file).resolve()
    if not path.is_relative_to(folder):
      raise InputError(f"{folder}/generations.jsonl: the picture {file!r} lies outside its folder; generate this set again")
    return path


# Writing.


def write_run(workdir: str | os.PathLike, facts: RunFacts) -> None:
  _replace(Path(workdir) / "run.json", json.dumps(dataclasses.asdict(facts), indent=2, ensure_ascii=False) + "\n")


def append_stage(workdir: str | os.PathLike, stage: str, seconds: float, skipped: bool = False) -> None:
  """Adds one line to D/stages.jsonl."""
  line = json.dumps(dataclasses.asdict(Stage(stage, round(float(seconds), 3), bool(skipped))), ensure_ascii=False)
  path = Path(workdir) / "stages.jsonl"
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "a", encoding="utf-8") as f:
    f.write(line + "\n")


class GenerationWriter:
  """Collects one set; made by `writing_generations`. Pictures are uint8[H, W, 3]."""

  def __init__(self, folder: Path):
    self._folder = folder
    self._lines: list[str] = []

  def add(self, prompt: str, *, id: str = "", candidates: Sequence[tuple[np.ndarray | str, float | None]],
          retrieved: Sequence[tuple[str, str, float | None, np.ndarray]] = (), given: np.ndarray | None = None,
          truth: np.ndarray | str | None = None, **settings: Any) -> None:
    """Adds a prompt.

    Args:
      prompt: the caption or the instruction.
      id: id of the held-out drawing.
      candidates: (picture or text, CLIP score or None) in any order; stored best first.
      retrieved: (id, caption, score, picture) in the order the model read them.
      given: what an infill, edit or caption starts from.
      truth: the held-out picture, or the true caption.
      **settings: JSON values stored with the line (seed, guidance, …).
    """
    stem = f"{len(self._lines):04d}"
    ranked = sorted(candidates, key=lambda c: -math.inf if c[1] is None else -float(c[1]))
    line = Generation(
        prompt=prompt, id=id,
        retrieved=tuple(Retrieved(i, caption, _number(score), self._save(f"{stem}_doc{n}.png", picture))
                        for n, (i, caption, score, picture) in enumerate(retrieved)),
        candidates=tuple(Candidate(score=_number(score), text=what) if isinstance(what, str) else
                         Candidate(self._save(f"{stem}_{n}.png", what), _number(score))
                         for n, (what, score) in enumerate(ranked)),
        given=self._save(f"{stem}_given.png", given),
        truth="" if isinstance(truth, str) else self._save(f"{stem}_truth.png", truth),
        truth_text=truth if isinstance(truth, str) else "")
    self._lines.append(json.dumps({**dataclasses.asdict(line), **settings}, ensure_ascii=False))

  def _save(self, name: str, picture: np.ndarray | None) -> str:
    if picture is None:
      return ""
    Image.fromarray(np.asarray(picture, np.uint8)).save(self._folder / name)
    return name

  def close(self) -> int:
    (self._folder / "generations.jsonl").write_text("".join(f"{line}\n" for line in self._lines), encoding="utf-8")
    return len(self._lines)


@contextlib.contextmanager
def writing_generations(workdir: str | os.PathLike, name: str) -> Iterator[GenerationWriter]:
  """Yields a writer for D/generations/<name>; the folder appears whole at the end."""
  with manifest.writing(Path(workdir) / "generations" / name, "generations") as (folder, info):
    writer = GenerationWriter(folder)
    yield writer
    info["count"] = writer.close()


def write_metrics(workdir: str | os.PathLike, rows: Iterable[MetricRow]) -> None:
  """Writes D/evaluation/metrics.json."""
  path = Path(workdir) / "evaluation" / "metrics.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  _replace(path, json.dumps({"rows": [dataclasses.asdict(row) for row in rows]}, indent=2, ensure_ascii=False) + "\n")


# Reading.


def load(workdir: str | os.PathLike) -> ReportData:
  """Reads all that is there.

  Raises:
    InputError: no such workdir, or a file that cannot be read as described above.
  """
  workdir = Path(workdir)
  if not workdir.is_dir():
    raise InputError(f"{workdir}: no such folder; make it with: cm3leon demo --workdir {workdir}")
  folders = ("pretrain", "sft", "tokenizers/image", "clip")
  curves = {name: load_curves(workdir / name / "metrics.jsonl") for name in folders}
  return ReportData(
      workdir=workdir,
      facts=_load_facts(workdir / "run.json"),
      stages=_load_stages(workdir / "stages.jsonl"),
      curves={name: curve for name, curve in curves.items() if curve is not None},
      generations={name: load_generations(workdir / "generations" / name) for name in SETS
                   if (workdir / "generations" / name / "generations.jsonl").is_file()},
      metrics=_load_metrics(workdir / "evaluation" / "metrics.json"))


def load_generations(folder: str | os.PathLike) -> tuple[Generation, ...]:
  path = Path(folder) / "generations.jsonl"
  rows = []
  for number, line in _lines(path):
    try:
      row = _known(Generation, line)
      row["retrieved"] = tuple(Retrieved(**_known(Retrieved, r)) for r in row.get("retrieved", ()))
      row["candidates"] = tuple(Candidate(**_known(Candidate, c)) for c in row.get("candidates", ()))
      rows.append(Generation(**row))
    except (TypeError, AttributeError) as error:
      raise InputError(f"{path}, line {number}: not a generation ({error}); generate this set again") from error
  return tuple(rows)


def load_curves(path: str | os.PathLike) -> Curves | None:
  """A training log; a step that was run again after a resume counts once, as last written."""
  path = Path(path)
  if not path.is_file():
    return None
  train: dict[str, dict[int, float]] = {}
  evals: dict[str, dict[str, dict[int, float]]] = {}
  for number, line in _lines(path):
    if not isinstance(line.get("step"), int):
      raise InputError(f"{path}, line {number}: no integer field 'step'; delete the line")
    step = line["step"]
    for name, values in (line.get("eval") or {}).items():
      for key, value in values.items():
        if _number(value) is not None:
          evals.setdefault(name, {}).setdefault(key, {})[step] = float(value)
    for key, value in line.items():
      if key not in ("step", "eval") and _number(value) is not None:
        train.setdefault(key, {})[step] = float(value)
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
  for number, line in _lines(path) if path.is_file() else ():
    try:
      stage = Stage(**_known(Stage, line))
    except (TypeError, AttributeError) as error:
      raise InputError(f"{path}, line {number}: not a stage ({error}); delete the line") from error
    if not stage.skipped or stage.stage not in stages:
      stages[stage.stage] = stage
  return tuple(stages.values())


def _load_metrics(path: Path) -> tuple[MetricRow, ...]:
  if not path.is_file():
    return ()
  try:
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return tuple(MetricRow(row["name"], row.get("k"), {
        key: Interval(float(m["value"]), _number(m.get("low")), _number(m.get("high")))
        for key, m in row["metrics"].items() if _number(m.get("value")) is not None}) for row in rows)
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise InputError(f"{path}: not a metrics file ({type(error).__name__}: {error}); delete it and evaluate again") from error


def _lines(path: Path) -> Iterator[tuple[int, dict]]:
  """(line number, object); a last line without its newline was cut by a kill and is left out."""
  lines = path.read_text(encoding="utf-8").split("\n")
  for number, line in enumerate(lines[:-1], 1):
    if line.strip():
      try:
        value = json.loads(line)
      except ValueError as error:
        raise InputError(f"{path}, line {number}: not valid JSON ({error}); delete the line or run the stage again") from error
      if not isinstance(value, dict):
        raise InputError(f"{path}, line {number}: not a JSON object; delete the line or run the stage again")
      yield number, value


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
  """Only the fields that `kind` has: files may carry more (seed, settings)."""
  names = {field.name for field in dataclasses.fields(kind)}
  return {key: value for key, value in values.items() if key in names and value is not None}


def _number(value: Any) -> float | None:
  """A finite float, or None."""
  if isinstance(value, (bool, str)) or value is None:
    return None
  return float(value) if math.isfinite(float(value)) else None


def _replace(path: Path, text: str) -> None:
  temporary = path.with_name(path.name + ".partial")
  temporary.write_text(text, encoding="utf-8")
  os.replace(temporary, path)
