"""The page of a comparison: numbers with their differences, and the same items by each model next to each other."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import page_template
from cm3leon_jax.evaluation.run import compare, page, page_data, page_figures, page_items, page_numbers
from cm3leon_jax.evaluation.run.compare import Comparison, Row
from cm3leon_jax.evaluation.run.page_items import Tile

ENDS, RANDOM = 24, 24  # items shown each way, and at random


@dataclasses.dataclass(frozen=True)
class Answer:
  """What one model made of an item."""

  letter: str
  tile: Tile | None
  said: str | None
  choices: tuple[tuple[str, str, bool], ...]
  score: str


@dataclasses.dataclass(frozen=True)
class Pair:
  """An item and every model's answer; `change` is that of the last against the first."""

  id: str
  title: str
  change: str
  rises: bool | None
  given: Tile | None
  answers: tuple[Answer, ...]
  lines: tuple[tuple[str, str], ...]


def write(found: Comparison, out: str | os.PathLike) -> Path:
  """Writes the page, one file without outside resources, and returns its path."""
  return page_template.write(out, render(found))


def render(found: Comparison) -> str:
  """The whole page. Everything that comes from a file is escaped by the template engine."""
  albums = [page_items.Album(run) for run in found.runs]
  groups = _groups(found, albums)
  first = found.runs[0]
  return page_template.get("run_compare.html").render(
    css=page_template.css("report.css", "run.css"),
    title=" against ".join(_names(found)) if len(found.runs) == 2 else f"{len(found.runs)} runs compared",
    protocol=str(first.protocol.get("name") or "evaluation"),
    runs=[{"letter": letter, "name": name, "about": page.model_words(run), "folder": str(run.folder or "a result.json alone"),
           "command": page_data.command(run.folder, run.protocol, "ANOTHER_FOLDER")}
          for letter, name, run in zip(found.letters, _names(found), found.runs)],
    lead=page.task_words(first, settings=not found.differs),
    differs=[(field, str(a), f"{letter}: {b}" if len(found.runs) > 2 else str(b)) for field, a, b, letter in found.differs],
    letters=found.letters,
    headline=_headline(found),
    rows=[_row(row, found) for row in found.rows],
    categories=[_row(row, found) for row in found.categories],
    category_label=page_numbers.describe(page_data.item_number(first)).label,
    figures=_figures(found),
    groups=groups,
    item_label=page_numbers.ITEM_LABELS[first.item_key],
    metric=first.metric,
    paired=len(found.changes),
    models=_models(found),
    missing=sum(len(album.missing) for album in albums),
  )


def _names(found: Comparison) -> list[str]:
  """Names of the models; with the step or the folder where they would be alike."""
  names = [str(run.protocol["model"].get("checkpoint") or "a model") for run in found.runs]
  if len(set(names)) == len(names):
    return names
  steps = [f"{name} at step {run.protocol['model'].get('step')}" for name, run in zip(names, found.runs)]
  if len(set(steps)) == len(steps):
    return steps
  return [f"{name} ({run.folder.name if run.folder else letter})" for name, run, letter in zip(names, found.runs, found.letters)]


def _headline(found: Comparison) -> dict[str, Any] | None:
  """The first number, in one sentence."""
  row = next((row for row in found.rows if row.key == found.runs[0].headline), None)
  return _row(row, found) if row else None


def _row(row: Row, found: Comparison) -> dict[str, Any]:
  category = row.key.startswith("category/")
  key = page_data.item_number(found.runs[0]) if category else row.key
  about = page_numbers.describe(key)
  changes = []
  for letter, change in zip(found.letters[1:], row.changes):
    good = compare.better(key, change)
    if not page_numbers.has_bounds(change):
      verdict = "no paired interval"
    elif good is None:
      verdict = "no clear difference"
    else:
      verdict = f"{letter if good else 'A'} better"
    changes.append({"value": page_numbers.signed(key, change.value), "bounds": page_numbers.bounds_in_print(key, change),
                    "good": good, "verdict": verdict, "letter": letter})
  return {"label": row.key.removeprefix("category/") if category else about.label, "count": f"{row.count:,}",
          "better": {True: "lower is better", False: "higher is better", None: ""}[about.lower],
          "values": [(page_numbers.in_print(key, value.value), page_numbers.bounds_in_print(key, value)) for value in row.values],
          "changes": changes}


def _figures(found: Comparison) -> list[dict[str, str]]:
  """Dots of each number by run; distances by rank; the headline over guidance where that differs."""
  made = []
  if len({run.protocol["sampling"].get("guidance") for run in found.runs}) > 1:
    try:
      made.append({"title": "Over guidance", "svg": page.sweep_of(found.runs), "caption": "Each dot is one of the runs."})
    except InputError:
      pass  # one of them has no guidance, which the table of what differs says
  for title, keys in page_numbers.grouped([row.key for row in found.rows]).items():
    dots = []
    for row in found.rows:
      if row.key in keys:
        about = page_numbers.describe(row.key)
        own = f", {about.short}" if len(keys) > 1 else ""
        dots += [(letter + own, page_numbers.shown(value, about.scale), n % 4)
                 for n, (letter, value) in enumerate(zip(found.letters, row.values))]
    made.append({"title": title, "svg": page_figures.dots(f"{title}: {', '.join(found.letters)}", dots), "caption": ""})
  ranks = {letter: run.ranks() for letter, run in zip(found.letters, found.runs)}
  if all(len(values) > 1 for values in ranks.values()) and len({run.headline for run in found.runs}) == 1:
    label = page_numbers.describe(found.runs[0].headline).label
    made.append({"title": f"{label} by rank", "svg": page_figures.ranks(label, ranks), "caption": ""})
  return made


def _groups(found: Comparison, albums: list[page_items.Album]) -> dict[str, list[Pair]]:
  """Most improved, most worsened and random items; empty where the runs share no items."""
  if not found.changes or any(run.folder is None for run in found.runs):
    return {"improved": [], "worsened": [], "random": []}
  risen, fallen = compare.most_changed(found.changes, ENDS)
  drawn = page_data.choose({}, list(found.changes), random=RANDOM)[2]
  wanted = {*risen, *fallen, *drawn}
  lines = [page_data.generations(run, wanted) for run in found.runs]
  scores = [run.scores() for run in found.runs]
  return {name: [_pair(found, albums, lines, scores, id) for id in ids]
          for name, ids in (("improved", risen), ("worsened", fallen), ("random", drawn))}


def _pair(found: Comparison, albums, lines, scores, id: str) -> Pair:
  metric, change = found.runs[0].metric, found.changes[id]
  of = [line.get(id) for line in lines]
  some = next((line for line in of if line), {})
  title = page_items.heading(found.runs[0], some) if some else f"item {id}"
  answers = []
  for letter, album, line, own in zip(found.letters, albums, of, scores):
    tile = None
    if metric == "fid":
      tile = album.tile(page_items.pick(line).get("file") or "", f"drawn by {letter}: {title}", page_items.LARGE, letter,
                        page_items.item_in_words(album.run, own.get(id)))
    answers.append(Answer(letter, tile, page_items.said(line), page_items.ranked(line or {}),
                          page_items.item_in_words(album.run, own.get(id))))
  file = (some.get("real") or "") if metric == "fid" else (some.get("given") or some.get("real") or "")
  album = albums[of.index(some)] if some else albums[0]
  alt = "the real picture: " if metric == "fid" else "the picture that was given: "
  given = album.tile(file, alt + (title or f"item {id}"), page_items.LARGE, "real" if metric == "fid" else "") if file else None
  return Pair(id, title, page_numbers.item_in_print(metric, change, sign=True), change > 0 if change else None, given,
              tuple(answers), page_items.people(found.runs[0], some) if some and metric != "fid" else ())


def _models(found: Comparison) -> list[tuple[str, list[str]]]:
  """(field, value of each run) of what may differ: model and index, and what was excluded."""
  tables = [dict(page.flat({field: run.protocol.get(field) for field in ("name", "model", "index", "excluded")}))
            for run in found.runs]
  fields = list(dict.fromkeys(field for table in tables for field in table))
  return [(field, [table.get(field, "–") for table in tables]) for field in fields]
