"""Writes the parts of a workdir that the report page reads, as `report_data` defines them."""

import contextlib
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Sequence

import numpy as np
from PIL import Image

from cm3leon_jax import manifest
from cm3leon_jax.evaluation.report_data import Candidate, Generation, MetricRow, number, Retrieved, RunFacts, Stage


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
