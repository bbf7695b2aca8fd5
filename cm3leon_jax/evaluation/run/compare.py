"""`cm3leon eval compare A B`: may two results be compared, how do they differ, and on which items.

Differences are B − A, paired by item: both models met the same items, so an interval of the difference is narrower
than the two intervals side by side suggest.
"""

import dataclasses
import os
from pathlib import Path
import string
import sys
from typing import Any, Mapping, Sequence

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import bootstrap, files
from cm3leon_jax.evaluation.bootstrap import Interval
from cm3leon_jax.evaluation.run import page_data, page_numbers
from cm3leon_jax.evaluation.run.page_data import Run
from cm3leon_jax.evaluation.run.protocol import differences, MODEL_FIELDS

CHANGES = 5  # items named in the flat result, each way


@dataclasses.dataclass(frozen=True)
class Row:
  """One number of every run.

  Attributes:
    key: as in result.json, or `category/<name>`.
    values: of each run, with its bounds.
    changes: of each run but the first, minus the first; bounds are NaN where no paired interval can be had.
    count: items, of a category.
  """

  key: str
  values: tuple[Interval, ...]
  changes: tuple[Interval, ...]
  count: int = 0


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Runs A, B, … beside each other.

  Attributes:
    runs: in the order given.
    differs: (field, value of A, value of the other, letter of the other), fields that make results incomparable.
    rows: numbers that all have.
    categories: the same, by category.
    changes: item id → its number in the last run minus in A, of items that both scored.
  """

  runs: tuple[Run, ...]
  differs: tuple[tuple[str, Any, Any, str], ...]
  rows: tuple[Row, ...]
  categories: tuple[Row, ...]
  changes: Mapping[str, float]

  @property
  def letters(self) -> str:
    return string.ascii_uppercase[:len(self.runs)]


def compare(paths: Sequence[str | os.PathLike], json_out: str = "", html: str = "", force: bool = False) -> dict:
  """Compares results; the first is what the others are measured against.

  Args:
    paths: two or more workdirs of finished runs, or their result.json.
    json_out: where the flat result goes; empty for nowhere.
    html: where a page that shows them side by side goes; empty for none.
    force: give the differences of results that are not comparable too; the result then says so.

  Returns:
    Flat: `comparable`; for every number `<key>/a`, `<key>/b`, `<key>/b_minus_a` with `_low`, `_high` where the items
    allow a paired interval; the same under `category/<name>`; `paired_items`; `improved/<id>`, `worsened/<id>`: the
    items that changed most from the first run to the last; `differs/<field>/a`, `/b` where protocols differ.

  Raises:
    InputError: not such results, or they are not comparable and `force` is not set.
  """
  found = measure(paths)
  result = flat(found)
  if json_out:
    files.write_json(json_out, result)
  if found.differs and not force:
    print("field\tA\tanother")
    for field, first, other, letter in found.differs:
      print(f"{field}\t{first}\t{letter}: {other}")
    fields = list(dict.fromkeys(field for field, *_ in found.differs))
    raise InputError(f"these results cannot be compared: they differ in {', '.join(fields)}; run one again with the "
                     "other's protocol, or see the differences of numbers all the same with --force")
  if found.differs:
    print(f"not comparable: {', '.join(dict.fromkeys(field for field, *_ in found.differs))} differ; the differences of "
          "numbers below say nothing about the models alone", file=sys.stderr)
  if html:
    from cm3leon_jax.evaluation.run import compare_page  # matplotlib, only where a page is wanted

    compare_page.write(found, html)
  return result


def measure(paths: Sequence[str | os.PathLike]) -> Comparison:
  """Reads the runs and takes their differences.

  Raises:
    InputError: fewer than two, the same one twice, or not such results.
  """
  if len(paths) < 2 or len(paths) > len(string.ascii_uppercase):
    raise InputError(f"{len(paths)} results to compare: give from 2 to {len(string.ascii_uppercase)}")
  where = [Path(path).resolve() for path in paths]
  where = [path.parent if path.name == "result.json" and (path.parent / "protocol.json").is_file() else path for path in where]
  if len(set(where)) < len(where):
    twice = next(path for path in where if where.count(path) > 1)
    raise InputError(f"{twice}: given twice; compare it with another run")
  runs = tuple(page_data.load(path, items=False) for path in paths)
  first, others = runs[0], runs[1:]
  differs = tuple((field, a, b, letter) for run, letter in zip(others, string.ascii_uppercase[1:])
                  for field, a, b in differences(_fixed(first), _fixed(run), MODEL_FIELDS))
  shared = [key for key in page_numbers.keys(first)
            if not page_numbers.is_count(first, key) and all(page_data.number(run.numbers.get(key)) is not None for run in others)]
  rows = tuple(Row(key, tuple(run.interval(key) for run in runs), tuple(_change(key, first, run) for run in others))
               for key in shared)
  changes: dict[str, float] = {}
  if first.metric == runs[-1].metric:
    before, after = first.scores(), runs[-1].scores()
    changes = {id: after[id] - before[id] for id in before if id in after}
  return Comparison(runs, differs, rows, _categories(runs), changes)


def _fixed(run: Run) -> dict[str, Any]:
  """What must be equal: the protocol, and which share of its items was scored."""
  return {**run.protocol, "share_scored": run.numbers.get("share_scored", 1)}


def _change(key: str, first: Run, other: Run) -> Interval:
  """other − first of one number; with bounds from pairs of items, or from half samples in the results."""
  value = other.interval(key).value - first.interval(key).value
  pairs = [page_data.item_scores(run, key) for run in (first, other)]
  if all(pairs):
    (before, scale), (after, scale_after) = pairs
    ids = [id for id in before if id in after]
    if ids and scale == scale_after:
      return _paired([scale * after[id] for id in ids], [scale * before[id] for id in ids])
  halves = [run.numbers.get(f"{key}_halves") for run in (first, other)]
  if all(isinstance(half, list) for half in halves) and len(halves[0]) == len(halves[1]) > 1:
    return bootstrap.half_sample_interval(value, np.subtract(halves[1], halves[0]))
  return Interval(value, np.nan, np.nan)


def _paired(after: Sequence[float], before: Sequence[float]) -> Interval:
  return page_data.mean_interval(np.subtract(after, before))


def _categories(runs: Sequence[Run]) -> tuple[Row, ...]:
  """Categories that every run has, most items first."""
  tables = [{c.name: c for c in page_data.categories(run)} for run in runs]
  found = [page_data.item_scores(run, page_data.item_number(run)) for run in runs]
  if not all(tables) or not all(found) or len({run.metric for run in runs}) > 1:
    return ()
  of = {str(item["id"]): str(item.get("category") or "") or "(none)" for item in runs[0].items}
  rows = []
  for name, category in tables[0].items():
    if any(name not in table for table in tables):
      continue
    changes = []
    before, scale = found[0]
    for after, scale_after in found[1:]:
      ids = [id for id in before if of[id] == name and id in after]
      changes.append(_paired([scale_after * after[id] for id in ids], [scale * before[id] for id in ids]) if ids
                     else Interval(np.nan, np.nan, np.nan))
    rows.append(Row(f"category/{name}", tuple(table[name].value for table in tables), tuple(changes), category.count))
  return tuple(rows)


def most_changed(changes: Mapping[str, float], most: int) -> tuple[list[str], list[str]]:
  """Ids of the items that rose most, and of those that fell most; items that did not change are in neither."""
  order = sorted(changes, key=changes.__getitem__)
  return ([id for id in order[::-1][:most] if changes[id] > 0], [id for id in order[:most] if changes[id] < 0])


def better(key: str, change: Interval) -> bool | None:
  """Whether a change is one for the better beyond doubt; None where it is not, or where no direction is better."""
  lower = page_numbers.describe(key).lower
  if lower is None or not page_numbers.has_bounds(change) or change.low <= 0 <= change.high:
    return None
  return (change.value < 0) == lower


def flat(found: Comparison) -> dict:
  """What --json gets; see `compare`."""
  letters = found.letters.lower()
  result: dict[str, Any] = {"comparable": not found.differs}
  result |= {letter: str(run.folder or run.protocol.get("name") or "result.json") for letter, run in zip(letters, found.runs)}
  for row in (*found.rows, *found.categories):
    result |= {f"{row.key}/{letter}": value.value for letter, value in zip(letters, row.values)}
    for letter, change in zip(letters[1:], row.changes):
      name = f"{row.key}/{letter}_minus_a"
      result |= change.as_fields(name) if page_numbers.has_bounds(change) else {name: change.value}
  result = {key: value for key, value in result.items() if value == value}  # JSON has no NaN
  if found.changes:
    risen, fallen = most_changed(found.changes, CHANGES)
    result["paired_items"] = len(found.changes)
    result |= {f"improved/{id}": found.changes[id] for id in risen} | {f"worsened/{id}": found.changes[id] for id in fallen}
  for field, first, other, letter in found.differs:
    result |= {f"differs/{field}/a": _scalar(first), f"differs/{field}/{letter.lower()}": _scalar(other)}
  return result


def _scalar(value: Any) -> Any:
  return str(value) if isinstance(value, (list, dict)) or value is None else value
