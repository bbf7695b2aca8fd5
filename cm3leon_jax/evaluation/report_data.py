"""What the report page shows: the files of a workdir, and their writers. `report_reader` reads them.

A workdir D holds (each part is optional; the page says which stage has not run):

    D/run.json                 RunFacts: what was trained, where
    D/stages.jsonl             Stage, one line when a stage ends
    D/pretrain/metrics.jsonl   as training/metrics.py writes them: {"step": 10, "loss_image": …, "loss_text": …, …}
    D/sft/metrics.jsonl        and {"step": 100, "heldout_drawings_k2/loss_image": …, …}; losses in nats a token
    D/logs/image_tokenizer.jsonl, D/logs/clip.jsonl   the same form, by `append_log`, if they were trained here
    D/assets/{image,clip}/manifest.json               held-out figures of the image tokenizer (`held_out`: psnr, usage,
                               perplexity) and CLIP (`metrics`: split → text_to_image_recall_at_10, …); where they were
                               not trained here, those of the shipped ones
    D/generations/<set>/       generations.jsonl, one Generation a line, and the PNG files that it names;
                               <set>: one of `SETS`
    D/evaluation/metrics.json      {"rows": [MetricRow, …]}
    D/evaluation/comparisons.json  {"k1 minus k0": {"fd": {"value": …, "low": …, "high": …}, …}, …}: paired differences

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
  curves: Mapping[str, Curves]  # by name: pretrain, sft, image_tokenizer, clip
  tokenizer_figures: Mapping[str, float]  # held-out psnr, usage, perplexity
  clip_figures: Mapping[str, Mapping[str, float]]  # by held-out split
  generations: Mapping[str, tuple[Generation, ...]]  # by set
  metrics: tuple[MetricRow, ...]
  comparisons: tuple[MetricRow, ...]  # one a difference

  def picture(self, name: str, file: str) -> Path:
    """The path of a picture that a line of set `name` names; it must lie inside the set's folder."""
    folder = (self.workdir / "generations" / name).resolve()
    path = (folder / file).resolve()
    if not path.is_relative_to(folder):
      raise InputError(
        f"{folder}/generations.jsonl: the picture {file!r} lies outside its folder; generate this set again"
      )
    return path


def number(value: Any) -> float | None:
  """A finite float, or None."""
  if isinstance(value, (bool, str)) or value is None:
    return None
  return float(value) if math.isfinite(float(value)) else None


def write_run(workdir: str | os.PathLike, facts: RunFacts) -> None:
  _replace(Path(workdir) / "run.json", json.dumps(dataclasses.asdict(facts), indent=2, ensure_ascii=False) + "\n")


def append_stage(workdir: str | os.PathLike, stage: str, seconds: float, skipped: bool = False) -> None:
  """Adds one line to D/stages.jsonl."""
  line = json.dumps(dataclasses.asdict(Stage(stage, round(float(seconds), 3), bool(skipped))), ensure_ascii=False)
  path = Path(workdir) / "stages.jsonl"
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "a", encoding="utf-8") as f:
    f.write(line + "\n")


def append_log(workdir: str | os.PathLike, name: str, step: int, metrics: Mapping[str, float]) -> None:
  """Adds a row to D/logs/<name>.jsonl; `name` is `image_tokenizer` or `clip`."""
  path = Path(workdir) / "logs" / f"{name}.jsonl"
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "a", encoding="utf-8") as f:
    f.write(json.dumps({"step": int(step), **{key: float(value) for key, value in metrics.items()}}) + "\n")


class GenerationWriter:
  """Collects one set; made by `writing_generations`. Pictures are uint8[H, W, 3]."""

  def __init__(self, folder: Path):
    self._folder = folder
    self._lines: list[str] = []

  def add(
    self,
    prompt: str,
    *,
    id: str = "",
    candidates: Sequence[tuple[np.ndarray | str, float | None]],
    retrieved: Sequence[tuple[str, str, float | None, np.ndarray]] = (),
    given: np.ndarray | None = None,
    truth: np.ndarray | str | None = None,
    **settings: Any,
  ) -> None:
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
    ranked = sorted(candidates, key=lambda c: math.inf if number(c[1]) is None else -float(c[1]))
    line = Generation(
      prompt=prompt,
      id=id,
      retrieved=tuple(
        Retrieved(i, caption, number(score), self._save(f"{stem}_doc{n}.png", picture))
        for n, (i, caption, score, picture) in enumerate(retrieved)
      ),
      candidates=tuple(
        Candidate(score=number(score), text=what)
        if isinstance(what, str)
        else Candidate(self._save(f"{stem}_{n}.png", what), number(score))
        for n, (what, score) in enumerate(ranked)
      ),
      given=self._save(f"{stem}_given.png", given),
      truth="" if isinstance(truth, str) else self._save(f"{stem}_truth.png", truth),
      truth_text=truth if isinstance(truth, str) else "",
    )
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


def _replace(path: Path, text: str) -> None:
  temporary = path.with_name(path.name + ".partial")
  temporary.write_text(text, encoding="utf-8")
  os.replace(temporary, path)
