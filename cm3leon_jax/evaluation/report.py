"""The report page: one HTML file that shows what a demo run made. Reads a workdir as `report_data` describes it."""

import importlib
import importlib.metadata
import math
import os
from pathlib import Path
import re
import shlex
from typing import Any, Mapping, Sequence

import jinja2
import markupsafe

import cm3leon_jax
from cm3leon_jax.evaluation import report_figures
from cm3leon_jax.evaluation import report_metrics
from cm3leon_jax.evaluation.report_data import Curves, Generation, load, ReportData, RunFacts, SHOWCASES
from cm3leon_jax.evaluation.report_pictures import data_uri

TITLE = "Drawings by a model that was trained right here"
CONTENTS = (("drawings", "Drawings"), ("time", "Time"), ("curves", "Curves"), ("samples", "Candidates"),
            ("retrieval", "Retrieval"), ("longer", "More training"), ("infills", "Infills"), ("edits", "Edits"),
            ("captions", "Captions"), ("metrics", "Metrics"), ("failures", "Failures"), ("next", "Next"), ("credits", "Credits"))
_FAILURES = 6  # shown
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "seqio", "tensorflow", "scann", "sentencepiece", "numpy")


def write_report(workdir: str | os.PathLike, out: str | os.PathLike | None = None,
                 commands: Sequence[tuple[str, str]] | None = None) -> Path:
  """Writes the page and returns its path.

  Args:
    workdir: a demo's folder; whatever is not there yet is said to be missing on the page.
    out: the HTML file; by default <workdir>/report/index.html.
    commands: (what it does, command line) pairs of the last section instead of the usual ones.

  Raises:
    InputError: no such workdir, or a file in it that is broken.
  """
  data = load(workdir)
  out = Path(out) if out is not None else Path(workdir) / "report" / "index.html"
  out.parent.mkdir(parents=True, exist_ok=True)
  temporary = out.with_name(out.name + ".partial")
  temporary.write_text(render(data, commands or usual_commands(data.workdir)), encoding="utf-8")
  os.replace(temporary, out)
  return out


def render(data: ReportData, commands: Sequence[tuple[str, str]]) -> str:
  """The whole page. Everything that comes from a file is escaped by the template engine."""
  folder = Path(__file__).parent / "templates"
  environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True,
                                   undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
  hero_set, hero = _showcase(data)
  stages, total = _stages(data)
  with_candidates = {name: [g for g in rows if g.candidates] for name, rows in data.generations.items()}
  by_k = _by_k(with_candidates)
  return environment.get_template("report.html").render(
      title=TITLE, css=markupsafe.Markup((folder / "report.css").read_text(encoding="utf-8")),
      lead=lead(data), contents=CONTENTS, facts=data.facts, workdir=str(data.workdir),
      hero=hero, hero_set=hero_set, most=max((len(g.candidates) for g in hero), default=0),
      docs=max((len(g.retrieved) for g in hero), default=0),
      stages=stages, total=total, panels=curve_panels(data.curves),
      by_k=by_k, ks=_list([str(k) for k in sorted({k for r in by_k for k, _, _ in r["picks"]})]),
      longer=_longer(hero, hero_set, with_candidates.get("shipped_k2", [])),
      generations={name: with_candidates.get(name, []) for name in ("infill", "edit", "caption")},
      table=report_metrics.table(data.metrics), metric_panels=report_metrics.panels(data.metrics),
      failures=_failures(hero), commands=commands, credits=credits(), versions=versions(data.facts),
      version=cm3leon_jax.__version__,
      picture=lambda name, file: data_uri(data.picture(name, file)), seconds=seconds,
      score=lambda s: "" if s is None else f"{s:.2f}".replace("-", "−"), number=report_figures.nice)


def lead(data: ReportData) -> str:
  """One paragraph on what was trained, of the figures that are known."""
  facts = data.facts
  size = f"a transformer of {facts.parameters / 1e6:.1f} million parameters" if facts.parameters else "a small transformer"
  where = "On this machine"
  if facts.cores or facts.accelerator:
    parts = [p for p in (facts.accelerator, f"{facts.cores} CPU core{'s' * (facts.cores != 1)}" if facts.cores else "") if p]
    where += f" ({', '.join(parts)})" if facts.accelerator else f" ({parts[0]}, no accelerator)"
  trained = [s.seconds for s in data.stages if s.stage in ("pretrain", "sft") and not s.skipped]
  text = f"{where}, {size} learned to draw{f' in {seconds(sum(trained))} of training' if trained else ''}."
  if facts.drawings:
    by = f" of the same things by {facts.artists} artists" if facts.artists else ""
    text += f" It saw {facts.drawings:,} drawings{by}"
    if facts.image_tokens:
      codes = f", out of {facts.codebook_size:,}" if facts.codebook_size else ""
      text += f", each as {facts.image_tokens} codes{codes}, in one stream with its caption"
    text += "."
  if facts.max_retrieved:
    text += f" Before it draws, it looks up {facts.max_retrieved} drawings by other hands and reads them first."
  if facts.heldout:
    text += f" The prompts below come from {facts.heldout:,} drawings that were kept away from it."
  if facts.quick:
    text += " This was the quick run, which only shows that everything works: the pictures are not expected to be good."
  return text


def curve_panels(curves: Mapping[str, Curves]) -> list[dict[str, str]]:
  """The learning curves, as {title, svg, caption}; only what the logs hold."""
  out = []

  def panel(title, series, unit, caption="", **options):
    series = {label: points for label, points in series.items() if points}
    if series:
      out.append({"title": title, "svg": report_figures.curves(title, series, unit, **options), "caption": caption or _last(series, unit)})

  for folder, name in (("pretrain", "Pretraining"), ("sft", "Instruction tuning")):
    if folder in curves:
      train = curves[folder].train
      by_modality = {"image tokens": train.get("loss_image"), "text tokens": train.get("loss_text")}
      if not any(by_modality.values()):
        by_modality = {"all tokens": train.get("loss")}
      panel(f"{name}: training loss", by_modality, "nats a token", smooth=True, perplexity=True)
      for group, series in _evals_by_k(curves[folder], "loss_image").items():
        panel(f"{name}: {group or 'held out'}, image tokens", series, "nats a token", perplexity=True)
      for group, series in _evals_by_k(curves[folder], "loss_text").items():
        panel(f"{name}: {group or 'held out'}, text tokens", series, "nats a token", perplexity=True)
  for folder, name in (("tokenizers/image", "Image tokenizer"), ("clip", "CLIP")):
    if folder in curves:
      evals, train = curves[folder].evals, curves[folder].train
      for key, unit in (("psnr", "dB"), ("loss", "loss"), ("code_perplexity", "codes"), ("recall_at_10", "recall@10")):
        series = {label: s[key] for label, s in evals.items() if key in s}
        if key in train:
          series = {"training": train[key], **series} if series else {"training": train[key]}
        panel(f"{name}: {'PSNR' if key == 'psnr' else key.replace('_at_', '@').replace('_', ' ')}", series, unit, smooth=key == "loss")
  return out


def _evals_by_k(curves: Curves, key: str) -> dict[str, dict[str, Mapping[int, float]]]:
  """{group: {"K = 2": points}}: an evaluation named `drawings_k2` is group `drawings`, K = 2."""
  groups: dict[str, dict[str, Mapping[int, float]]] = {}
  for name, series in sorted(curves.evals.items()):
    if key in series:
      match = re.fullmatch(r"(.*?)[_/ -]?k(\d+)", name)
      group, label = (match[1], f"K = {match[2]}") if match else ("", name.replace("_", " "))
      groups.setdefault(group.replace("_", " "), {})[label] = series[key]
  return groups


def _last(series: Mapping[str, Mapping[int, float]], unit: str) -> str:
  """`image tokens 2.57, text tokens 1.1 nats a token at the end`: each a mean over the last 5 % of its log."""
  ends = []
  for label, points in series.items():
    values = list(points.values())
    tail = values[-max(1, len(values) // 20):]
    ends.append(f"{label} {report_figures.nice(sum(tail) / len(tail))}")
  return f"At the end: {', '.join(ends)} {unit}."


def _showcase(data: ReportData) -> tuple[str, list[Generation]]:
  """The showcase with the most retrieved drawings that has been generated."""
  for name in reversed(SHOWCASES):
    rows = [g for g in data.generations.get(name, ()) if g.candidates]
    if rows:
      return name, rows
  return "", []


def _stages(data: ReportData) -> tuple[list[dict[str, Any]], float]:
  spent = [0.0 if s.skipped else s.seconds for s in data.stages]
  longest = max(spent, default=0.0) or 1.0
  return [{"stage": s.stage, "seconds": s.seconds, "skipped": s.skipped, "share": 100 * t / longest}
          for s, t in zip(data.stages, spent)], sum(spent)


def _key(g: Generation) -> str:
  return g.id or g.prompt


def _by_k(generations: Mapping[str, Sequence[Generation]]) -> list[dict[str, Any]]:
  """The picks of the same prompt at each K, for prompts drawn at two K or more."""
  rows: dict[str, dict[str, Any]] = {}
  for k, name in enumerate(SHOWCASES):
    for g in generations.get(name, ()):
      row = rows.setdefault(_key(g), {"prompt": g.prompt, "picks": [], "truth": "", "set": ""})
      row["picks"].append((k, name, g.candidates[0]))
      if g.truth:
        row.update(truth=g.truth, set=name)
  return [row for row in rows.values() if len(row["picks"]) > 1]


def _longer(hero: Sequence[Generation], hero_set: str, shipped: Sequence[Generation]) -> list[dict[str, Any]]:
  by_key = {_key(g): g for g in shipped}
  return [{"prompt": g.prompt, "here": g.candidates[0], "shipped": by_key[_key(g)].candidates[0], "truth": g.truth, "set": hero_set}
          for g in hero if _key(g) in by_key]


def _failures(hero: Sequence[Generation]) -> list[Generation]:
  scored = [g for g in hero if g.best_score is not None]
  return sorted(scored, key=lambda g: g.best_score)[:_FAILURES]


def seconds(value: float) -> str:
  """`4 s`, `3 min 20 s`, `2 h 5 min`."""
  value = int(round(value)) if value >= 10 else round(value, 1)
  if value < 60:
    return f"{value:g} s"
  minutes, rest = divmod(int(value), 60)
  if minutes < 60:
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def usual_commands(workdir: Path) -> list[tuple[str, str]]:
  at = lambda part: shlex.quote(str(workdir / part))
  return [
      ("Draw something else.", f"cm3leon generate --checkpoint={at('pretrain')} --task=text_to_image --text=\"a red heart, twemoji\" "
       f"--docs=2 --index={at('index')} --candidates=8 --out=hearts"),
      ("See what the model would look up.", f"cm3leon search --index={at('index')} --text=\"red heart\" -k 8"),
      ("Look at the training examples, decoded.", "cm3leon inspect task --help"),
      ("Will a large run fit a TPU pod, and how long would it take? No TPU is needed to ask.",
       "cm3leon plan --gin_file=configs/runs/pretrain_7b.gin --topology=v5e:16x16"),
      ("Train there: the same code and the same command as here, with another run file.",
       "cm3leon train --gin_file=configs/runs/pretrain_7b.gin --workdir=gs://BUCKET/RUN"),
  ]


def credits() -> list[dict[str, str]]:
  """The sources' title, author, licence and url; empty if the table is not installed."""
  try:
    table = importlib.import_module("cm3leon_jax.datasets.attribution").ATTRIBUTION
  except ImportError:
    return []
  rows = table.values() if isinstance(table, Mapping) else table
  read = lambda row, name: str((row.get(name) if isinstance(row, Mapping) else getattr(row, name, None)) or "")
  out = [{name: read(row, name) for name in ("title", "author", "licence", "url")} for row in rows]
  for row in out:
    if not re.match(r"https?://", row["url"]):  # a link from a data package must not become a script
      row["url"] = ""
  return out


def versions(facts: RunFacts) -> list[str]:
  """`jax 0.10.2`, …: those that the run recorded, else those installed now."""
  if facts.versions:
    return [f"{name} {version}" for name, version in facts.versions.items()]
  found = []
  for name in _PACKAGES:
    try:
      found.append(f"{name} {importlib.metadata.version(name)}")
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def _list(words: Sequence[str]) -> str:
  """`0, 1 and 2`."""
  return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
