"""The files of a finished evaluation run, read for its page and for comparisons.

Only what is needed is kept in memory: the numbers of every item, and the lines of those that are shown.
"""

from collections import Counter
import dataclasses
import json
import math
import os
from pathlib import Path
import shlex
from typing import Any, Collection, Iterator, Mapping, Sequence

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import bootstrap, files
from cm3leon_jax.evaluation.bootstrap import Interval

FORMAT = 1
FEW_ITEMS = 10  # fewer give no interval: resampling two items says nothing of others
METRICS = {"fid": "clip_score", "captions": "cider", "vqa": "accuracy", "scienceqa": "accuracy", "visdial": "ndcg",
           "perplexity": "image_log_prob"}
_MEANS = {"vqa_accuracy": "accuracy", "mean_rank": "rank"}  # number of the whole → field of an item, where the names differ


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run.

  Attributes:
    folder: W; None where only a result.json was given.
    protocol: protocol.json.
    numbers: result.json without the protocol.
    items: lines of per_item.jsonl in order of their numbers; empty where only a result.json was given.
  """

  folder: Path | None
  protocol: Mapping[str, Any]
  numbers: Mapping[str, Any]
  items: Sequence[Mapping[str, Any]]

  @property
  def metric(self) -> str:
    return self.protocol["metric"]

  @property
  def item_key(self) -> str:
    """Which of an item's numbers says how good it is."""
    return METRICS[self.metric]

  @property
  def headline(self) -> str:
    """The key of the number that the run was made for."""
    if self.metric == "fid":
      return next((k for k in self.numbers if k == "fid" or k.startswith("fd_")), "fid")
    return {"captions": "cider", "vqa": "vqa_accuracy", "scienceqa": "accuracy", "visdial": "ndcg",
            "perplexity": "image_perplexity"}[self.metric]

  def interval(self, key: str) -> Interval | None:
    """A number with its bounds; the bounds are NaN where the run gives none."""
    value = number(self.numbers.get(key))
    if value is None:
      return None
    low, high = (number(self.numbers.get(f"{key}_{end}")) for end in ("low", "high"))
    return Interval(value, math.nan if low is None else low, math.nan if high is None else high)

  def scores(self, key: str | None = None) -> dict[str, float]:
    """Item id → its number, of the items that have one."""
    key = key or self.item_key
    return {str(item["id"]): float(item[key]) for item in self.items if number(item.get(key)) is not None}

  def ranks(self) -> list[float]:
    """The headline's number for each rank of the candidates, best first; empty where it was not taken."""
    found = []
    while (value := number(self.numbers.get(f"{self.headline}_rank{len(found)}"))) is not None:
      found.append(value)
    return found


@dataclasses.dataclass(frozen=True)
class Category:
  name: str
  count: int
  value: Interval


def load(path: str | os.PathLike, items: bool = True) -> Run:
  """Reads a run.

  Args:
    path: a workdir W, or a result.json. One that lies in its workdir counts as the workdir.
    items: per_item.jsonl must be there, as a page needs it.

  Raises:
    InputError: not an evaluation run, not finished, of another format, or a broken file.
  """
  path = Path(path)
  if path.is_file():
    if path.name != "result.json" or not (path.parent / "protocol.json").is_file():
      result = files.read_json(path)
      if not isinstance(result, dict) or not isinstance(result.get("protocol"), dict):
        raise InputError(f"{path}: not the result of an evaluation run: it holds no protocol, and a number without one "
                         "cannot be compared; give a folder that `cm3leon eval run --workdir` wrote, or its result.json")
      protocol = result.pop("protocol")
      _check(protocol, path)
      return Run(None, protocol, result, ())
    path = path.parent
  if not path.is_dir():
    raise InputError(f"{path}: no such folder; give one that `cm3leon eval run --workdir` wrote")
  if not (path / "protocol.json").is_file():
    raise InputError(f"{path}: not the folder of an evaluation run: no protocol.json in it; give one that "
                     "`cm3leon eval run --workdir` wrote")
  protocol = files.read_json(path / "protocol.json")
  _check(protocol, path / "protocol.json")
  if not (path / "result.json").is_file():
    done = sum(1 for _ in _lines_of_all(path))
    raise InputError(f"{path}: the run is not finished: {done:,} of {protocol['items'].get('count', 0):,} items are "
                     f"done and no result.json is there; go on with: {command(path, protocol)}")
  result = files.read_json(path / "result.json")
  if not isinstance(result, dict):
    raise InputError(f"{path / 'result.json'}: must be a JSON object of numbers; delete it and run the evaluation again")
  numbers = {key: value for key, value in result.items() if key != "protocol"}
  per_item = path / "per_item.jsonl"
  if not per_item.is_file():
    if items:
      raise InputError(f"{per_item}: missing; run again, nothing is generated twice: {command(path, protocol)}")
    return Run(path, protocol, numbers, ())
  rows = [row for _, row in read_lines(per_item)]
  if bad := [row for row in rows if not isinstance(row.get("number"), int) or "id" not in row]:
    raise InputError(f"{per_item}: {files.count(len(bad), 'line')} without \"number\" or \"id\"; delete the file and "
                     f"run again: {command(path, protocol)}")
  files.check_unique([str(row["id"]) for row in rows], per_item, "id")
  return Run(path, protocol, numbers, sorted(rows, key=lambda row: row["number"]))


def _check(protocol: Any, path: Path) -> None:
  if not isinstance(protocol, dict) or "format" not in protocol:
    raise InputError(f"{path}: not a protocol: it says no \"format\"; give a run that `cm3leon eval run` wrote")
  if protocol["format"] != FORMAT:
    raise InputError(f"{path}: format {protocol['format']}, and this version of cm3leon_jax reads format {FORMAT}; "
                     "run the evaluation again, or read it with the version that wrote it")
  if protocol.get("metric") not in METRICS:
    raise InputError(f"{path}: metric {protocol.get('metric')!r} is not known; known are {', '.join(METRICS)}")
  for field in ("items", "sampling", "model"):
    if not isinstance(protocol.get(field), dict):
      raise InputError(f"{path}: \"{field}\" is missing; run the evaluation again")


def command(folder: Path | None, protocol: Mapping[str, Any], workdir: str = "") -> str:
  """The command that makes, or goes on with, a run."""
  at = folder if folder is not None else Path("W")
  checkpoint = str(protocol["model"].get("checkpoint") or "CHECKPOINT")
  return (f"cm3leon eval run --gin_file={shlex.quote(str(at / 'operative.gin'))} "
          f"--checkpoint={shlex.quote(checkpoint)} --workdir={shlex.quote(workdir or str(at))}")


def number(value: Any) -> float | None:
  """A finite float, or None."""
  if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
    return None
  return float(value)


def read_lines(path: Path) -> Iterator[tuple[int, dict]]:
  """(line number from 1, object); a last line without its newline was cut by a kill and is left out.

  Raises:
    InputError: a line that is no JSON object.
  """
  with open(path, encoding="utf-8") as file:
    for at, line in enumerate(file, 1):
      if not line.endswith("\n") or not line.strip():
        continue
      try:
        value = json.loads(line)
      except ValueError as error:
        raise InputError(f"{path}, line {at}: not valid JSON ({error}); delete the line and run again") from error
      if not isinstance(value, dict):
        raise InputError(f"{path}, line {at}: not a JSON object; delete the line and run again")
      yield at, value


def _lines_of_all(folder: Path) -> Iterator[dict]:
  for path in sorted((folder / "generations").glob("*.jsonl")):
    for at, line in read_lines(path):
      if not isinstance(line.get("number"), int):
        raise InputError(f"{path}, line {at}: no \"number\"; delete the line and run again")
      if "again" not in line:  # says only that a failed item is being tried again
        yield line


def generations(run: Run, ids: Collection[str]) -> dict[str, dict]:
  """Item id → its line of generations/, for `ids`; ids without a line are left out."""
  if run.folder is None:
    return {}
  wanted = set(ids)
  by_number = {item["number"]: str(item["id"]) for item in run.items if str(item["id"]) in wanted}
  found: dict[str, dict] = {}
  for line in _lines_of_all(run.folder):
    id = by_number.get(line["number"])
    if id is not None and ("error" not in line or "error" in found.get(id, line)):
      found[id] = line
  return found


def picture(run: Run, file: str) -> Path:
  """The path of a picture that a line names; it must lie inside W/pictures."""
  folder = (run.folder / "pictures").resolve()
  path = (folder / file).resolve()
  if not path.is_relative_to(folder):
    raise InputError(f"{run.folder}/generations: the picture {file!r} lies outside {folder}; run the evaluation again")
  return path


def choose(scores: Mapping[str, float], everything: Sequence[str], ends: int = 24, random: int = 48,
           seed: int = 0) -> tuple[list[str], list[str], list[str]]:
  """Ids of the worst items, worst first; of the best, best first; and of some at random.

  Equal scores are put in random order, so that of a hundred answers that score 0 not always the first are shown.
  The random ones are drawn from all items, so they may be among the others too.

  Args:
    scores: of the items that have one.
    everything: all ids.
    ends: the most of the worst, and of the best; at most half of the items each.
    random: the most of the random ones.
    seed: of the draw.
  """
  rng = np.random.default_rng(seed)
  order = list(scores)
  order = [order[i] for i in rng.permutation(len(order))]
  order.sort(key=scores.__getitem__)
  worst = order[:min(ends, math.ceil(len(order) / 2))]
  best = order[::-1][:min(ends, len(order) // 2)]
  drawn = rng.permutation(len(everything))[:random]
  return worst, best, [everything[i] for i in drawn]


def mean_scale(value: float, scores: Collection[float]) -> float | None:
  """1 or 100 where a number of the whole is the mean of the items' (in percent), else None: BLEU is no mean."""
  if not len(scores):
    return None
  mean = float(np.mean(list(scores)))
  for scale in (1.0, 100.0):
    if math.isclose(scale * mean, value, rel_tol=1e-4, abs_tol=1e-5 * scale):
      return scale
  return None


def item_scores(run: Run, key: str) -> tuple[dict[str, float], float] | None:
  """(item id → number, scale) of the items behind a number of the whole; None where it is not their mean."""
  value = number(run.numbers.get(key))
  if value is None or key.startswith("bleu"):
    return None
  scores = run.scores(_MEANS.get(key, key))
  scale = mean_scale(value, scores.values())
  return None if scale is None else (scores, scale)


def item_number(run: Run) -> str:
  """The number of the whole that the items' own numbers are behind."""
  return "clip_score" if run.metric == "fid" else run.headline


def mean_interval(values: Sequence[float]) -> Interval:
  """Mean with its 95 % interval; the bounds are NaN for fewer than `FEW_ITEMS`."""
  if len(values) < FEW_ITEMS:
    return Interval(float(np.mean(values)), math.nan, math.nan)
  return bootstrap.mean_interval(np.array(values))


def categories(run: Run) -> list[Category]:
  """The items' numbers by category, most items first, in the unit of the whole; empty with fewer than two."""
  counts = Counter(str(item.get("category") or "") for item in run.items)
  if len(counts) < 2:
    return []
  found = item_scores(run, item_number(run))
  scores, scale = found if found else (run.scores(), 1.0)
  groups: dict[str, list[float]] = {}
  for item in run.items:
    if str(item["id"]) in scores:
      groups.setdefault(str(item.get("category") or ""), []).append(scale * scores[str(item["id"])])
  result = [Category(name or "(none)", len(values), mean_interval(values)) for name, values in groups.items()]
  return sorted(result, key=lambda c: (-c.count, c.name))
