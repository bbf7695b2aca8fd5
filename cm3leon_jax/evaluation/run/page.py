"""The page of one evaluation run: W/report/index.html, one file that opens from disk.

Reads only what the run wrote: protocol.json, result.json, per_item.jsonl, generations/, pictures/, operative.gin.
"""

import os
from pathlib import Path
from typing import Any, Sequence

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import page_template
from cm3leon_jax.evaluation.bootstrap import Interval
from cm3leon_jax.evaluation.run import page_data, page_figures, page_items, page_numbers, paper_rows
from cm3leon_jax.evaluation.run.page_data import Run

ENDS, RANDOM = 24, 48  # items shown of the worst and of the best, and at random
TASKS = {"text_to_image": "Text to picture", "image_to_text": "Picture to text", "vqa": "Questions about pictures"}
_CATEGORIES = 20  # in the figure; the table has them all


def write(workdir: str | os.PathLike) -> Path:
  """Writes W/report/index.html and returns its path.

  Args:
    workdir: W of a finished `cm3leon eval run`.

  Raises:
    InputError: not such a folder, not finished, or a broken file in it. A missing picture is shown as a marked
      empty cell, and counted.
  """
  run = page_data.load(workdir)
  if run.folder is None:
    raise InputError(f"{workdir}: a page needs the run's folder, not a result.json alone")
  return page_template.write(run.folder / "report" / "index.html", render(run))


def render(run: Run) -> str:
  """The whole page. Everything that comes from a file is escaped by the template engine."""
  album = page_items.Album(run)
  groups = dict(page_items.sections(run, album, ENDS, RANDOM))
  rows = paper_rows.find(run.protocol.get("name", ""))
  ranks = run.ranks()
  label = page_numbers.describe(run.headline).label
  categories, by = page_data.categories(run), page_data.item_number(run)
  return page_template.get("run.html").render(
    css=page_template.css("report.css", "run.css"),
    title=str(run.protocol.get("name") or "Evaluation"),
    lead=f"{task_words(run)} {model_words(run)}",
    headline=headline(run),
    warnings=page_numbers.warnings(run),
    comparable=rows is not None and comparable(run, rows),
    paper=rows,
    ours=ours(run, rows),
    figures=figures(run, rows),
    numbers=table(run),
    ranks=[(n + 1, page_numbers.in_print(run.headline, value)) for n, value in enumerate(ranks)] if len(ranks) > 1 else [],
    rank_figure=page_figures.ranks(label, {label: ranks}) if len(ranks) > 1 else "",
    label=label,
    groups=groups,
    item_label=page_numbers.ITEM_LABELS[run.item_key],
    metric=run.metric,
    scored=len(run.scores()),
    categories=[(c.name, f"{c.count:,}", *_cell(by, c.value)) for c in categories],
    category_label=page_numbers.describe(by).label,
    category_figure=page_figures.dots(
      f"{page_numbers.describe(by).label} by category",
      [(c.name, page_numbers.shown(c.value, page_numbers.describe(by).scale), 0) for c in categories[:_CATEGORIES]],
    ) if categories else "",
    shown_categories=_CATEGORIES,
    command=page_data.command(run.folder, run.protocol),
    anew=page_data.command(run.folder, run.protocol, "ANOTHER_FOLDER"),
    index=(run.protocol.get("index") or {}).get("hash", ""),
    operative=_text(run.folder / "operative.gin"),
    protocol=flat(run.protocol),
    folder=str(run.folder),
    missing=len(album.missing),
  )


def task_words(run: Run, settings: bool = True) -> str:
  """What was run, in a sentence; with how the model was asked, where `settings` says so."""
  protocol, sampling = run.protocol, run.protocol["sampling"]
  count = page_data.number(protocol["items"].get("count")) or 0
  text = f"{TASKS.get(protocol.get('task'), 'Evaluation')}, {count:,.0f} items"
  if not settings:
    return text + "."
  parts = []
  if sampling.get("docs"):
    parts.append(f"{sampling['docs']} retrieved document{'s' * (sampling['docs'] != 1)} each")
  if (sampling.get("candidates") or 1) > 1:
    pick = str(sampling.get("pick") or "score")
    parts.append(f"{sampling['candidates']} candidates, the best by {'CLIP' if pick == 'clip' else pick}")
  if sampling.get("guidance") is not None:
    parts.append(f"guidance {sampling['guidance']:g}")
  return text + (f" ({', '.join(parts)})." if parts else ".")


def model_words(run: Run) -> str:
  model, index = run.protocol["model"], run.protocol.get("index")
  text = f"Model {model.get('checkpoint') or 'without a name'}"
  if model.get("step") is not None:
    text += f" at step {model['step']:,}"
  if index:
    text += f", retrieving from {index.get('count', 0):,} documents"
  return text + "."


def headline(run: Run) -> dict[str, str] | None:
  value = run.interval(run.headline)
  if value is None:
    return None
  about = page_numbers.describe(run.headline)
  text, bounds = _cell(run.headline, value)
  return {"label": about.label, "value": text, "bounds": bounds, "meaning": about.meaning,
          "better": {True: "lower is better", False: "higher is better", None: ""}[about.lower]}


def comparable(run: Run, rows: paper_rows.Rows) -> bool:
  """Whether our number may stand on one axis with the paper's."""
  count, expected = (run.protocol["items"].get(field) for field in ("count", "expected"))
  published = (run.protocol.get("network") or {}).get("published", False) if run.metric == "fid" else True
  whole = (rows.count or expected or count) == count and run.numbers.get("share_scored", 1) == 1
  return run.headline == rows.key and published and not rows.differs and whole


def ours(run: Run, rows: paper_rows.Rows | None) -> dict[str, str] | None:
  """Our row of the table with the paper's."""
  value = run.interval(run.headline)
  if rows is None or value is None:
    return None
  text, bounds = _cell(run.headline, value)
  metric = rows.metric if comparable(run, rows) else page_numbers.describe(run.headline).label
  docs = run.protocol["sampling"].get("docs")
  return {"model": str(run.protocol["model"].get("checkpoint") or "this run"), "docs": "–" if docs is None else f"{docs}",
          "metric": metric, "value": text, "bounds": bounds}


def figures(run: Run, rows: paper_rows.Rows | None) -> list[dict[str, str]]:
  """Interval bars: the headline beside the paper's where that is fair, then numbers that share a unit."""
  made = []
  value = run.interval(run.headline)
  if rows is not None and value is not None and comparable(run, rows):
    theirs = [(f"{r.model}{f', {r.docs} docs' if r.docs is not None else ''}", r.value, 1) for r in rows.rows]
    dots = [("this run", page_numbers.shown(value, page_numbers.describe(run.headline).scale), 0), *theirs]
    made.append({"title": f"{rows.metric}: this run and the paper",
                 "svg": page_figures.dots(f"{rows.metric} beside the paper", dots),
                 "caption": f"Blue: ours, with its 95 % interval. Orange: as printed in the {rows.source}."})
  keys = [key for key in page_numbers.keys(run) if not page_numbers.is_count(run, key) and not (made and key == run.headline)]
  for title, members in page_numbers.grouped(keys).items():
    about = {key: page_numbers.describe(key) for key in members}
    intervals = {key: page_numbers.shown(run.interval(key), about[key].scale) for key in members}
    bounded = any(map(page_numbers.has_bounds, intervals.values()))
    if len(members) > 1 or bounded:
      made.append({"title": title, "caption": "Dot: the number; bar: its 95 % interval." if bounded else "",
                   "svg": page_figures.dots(f"{title} with intervals", [
                     (about[key].short if len(members) > 1 else "this run", intervals[key], 0) for key in members])})
  return made


def table(run: Run) -> list[dict[str, Any]]:
  """Every number of the result: name, meaning, value and bounds in print, key and value as in result.json."""
  made = []
  for key in page_numbers.keys(run):
    about = page_numbers.describe(key)
    value = run.interval(key)
    count = page_numbers.is_count(run, key)
    text, bounds = (f"{value.value:,.7g}", "") if count else _cell(key, value)
    made.append({"label": about.label, "meaning": about.meaning, "value": text, "bounds": bounds, "key": key,
                 "arrow": "" if count or about.lower is None else "lower is better" if about.lower else "higher is better"})
  return made


def _cell(key: str, value: Interval) -> tuple[str, str]:
  return page_numbers.in_print(key, value.value), page_numbers.bounds_in_print(key, value)


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
  """(dotted field, text) of a nested protocol, in its order."""
  if isinstance(value, dict):
    return [row for key, inner in value.items() for row in flat(inner, f"{name}.{key}" if name else key)]
  if isinstance(value, list):
    return [(name, ", ".join(map(str, value)))]
  return [(name, "–" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value))]


def sweep(workdirs: Sequence[str | os.PathLike]) -> str:
  """SVG of the headline's number over guidance.

  Args:
    workdirs: of runs that differ in guidance; the same guidance twice is drawn twice.

  Raises:
    InputError: not such folders; other numbers or no guidance in one of them.
  """
  return sweep_of([page_data.load(workdir, items=False) for workdir in workdirs])


def sweep_of(runs: Sequence[Run]) -> str:
  key = runs[0].headline
  points = []
  for run in runs:
    guidance, value = page_data.number(run.protocol["sampling"].get("guidance")), run.interval(key)
    if guidance is None or value is None:
      raise InputError(f"{run.folder or run.protocol.get('name')}: no sampling.guidance or no {key} in it; a sweep is "
                       "drawn over runs of one metric that each have a guidance")
    points.append((guidance, page_numbers.shown(value, page_numbers.describe(key).scale)))
  return page_figures.sweep(page_numbers.describe(key).label, sorted(points))


def _text(path: Path) -> str:
  return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
