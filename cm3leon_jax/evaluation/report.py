"""The report page: one HTML file that shows what a demo run made. Reads a workdir as `report_data` describes it."""

import importlib.metadata
import math
import os
from pathlib import Path
import re
import shlex
from typing import Any, Mapping, Sequence

from cm3leon_jax.datasets.attribution import ATTRIBUTION
from cm3leon_jax.evaluation import page_template
from cm3leon_jax.evaluation import report_figures
from cm3leon_jax.evaluation import report_metrics
from cm3leon_jax.evaluation.report_data import Curves, Generation, ReportData, RunFacts, SHOWCASES
from cm3leon_jax.evaluation.report_pictures import data_uri
from cm3leon_jax.evaluation.report_reader import load

TITLE = "Drawings by a model that was trained right here"
CONTENTS = (
  ("drawings", "Drawings"),
  ("time", "Time"),
  ("curves", "Curves"),
  ("samples", "Candidates"),
  ("retrieval", "Retrieval"),
  ("longer", "More training"),
  ("infills", "Infills"),
  ("edits", "Edits"),
  ("captions", "Captions"),
  ("metrics", "Metrics"),
  ("failures", "Failures"),
  ("next", "Next"),
  ("credits", "Credits"),
)
_FAILURES = 6  # shown
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "seqio", "tensorflow", "scann", "sentencepiece", "numpy")


def write_report(
  workdir: str | os.PathLike, out: str | os.PathLike | None = None, commands: Sequence[tuple[str, str]] | None = None
) -> Path:
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
  return page_template.write(out, render(data, commands or usual_commands(data.workdir)))


def render(data: ReportData, commands: Sequence[tuple[str, str]]) -> str:
  """The whole page. Everything that comes from a file is escaped by the template engine."""
  hero_set, hero = _showcase(data)
  stages, total = _stages(data)
  with_candidates = {name: [g for g in rows if g.candidates] for name, rows in data.generations.items()}
  by_k = _by_k(with_candidates)
  return page_template.get("report.html").render(
    title=TITLE,
    css=page_template.css("report.css"),
    lead=lead(data),
    contents=CONTENTS,
    facts=data.facts,
    workdir=str(data.workdir),
    hero=hero,
    hero_set=hero_set,
    most=max((len(g.candidates) for g in hero), default=0),
    docs=max((len(g.retrieved) for g in hero), default=0),
    stages=stages,
    total=total,
    curves=curve_groups(data.curves),
    networks=networks(data),
    by_k=by_k,
    ks=_list([str(k) for k in sorted({k for r in by_k for k, _, _ in r["picks"]})]),
    longer=_longer(hero, hero_set, with_candidates.get("shipped_k2", [])),
    generations={name: with_candidates.get(name, []) for name in ("infill", "edit", "caption")},
    table=report_metrics.table(data.metrics),
    differences=report_metrics.table(data.comparisons),
    metric_panels=report_metrics.panels(data.metrics),
    failures=_failures(hero),
    commands=commands,
    credits=ATTRIBUTION.values(),
    versions=versions(data.facts),
    picture=lambda name, file: data_uri(data.picture(name, file)),
    seconds=seconds,
    score=lambda s: "" if s is None else f"{s:.2f}".replace("-", "−"),
    number=report_figures.nice,
  )


def lead(data: ReportData) -> str:
  """One paragraph on what was trained, of the figures that are known."""
  facts = data.facts
  size = (
    f"a transformer of {facts.parameters / 1e6:.1f} million parameters" if facts.parameters else "a small transformer"
  )
  where = "On this machine"
  if facts.cores or facts.accelerator:
    parts = [
      p for p in (facts.accelerator, f"{facts.cores} CPU core{'s' * (facts.cores != 1)}" if facts.cores else "") if p
    ]
    where += f" ({', '.join(parts)})" if facts.accelerator else f" ({parts[0]}, no accelerator)"
  trained = [s.seconds for s in data.stages if s.stage in ("pretraining", "fine-tuning") and not s.skipped]
  text = f"{where}, {size} learned to draw{f' in {seconds(sum(trained))} of training' if trained else ''}."
  if facts.drawings:
    by = f" of the same things by {facts.artists} artists" if facts.artists else ""
    text += f" It saw {facts.drawings:,} drawings{by}"
    if facts.image_tokens:
      codes = f" out of {facts.codebook_size:,}" if facts.codebook_size else ""
      text += f", each as {facts.image_tokens} codes{codes}, in one stream with its caption"
    text += "."
  if facts.max_retrieved:
    text += f" Before it draws, it looks up {facts.max_retrieved} drawings by other hands and reads them first."
  if facts.heldout:
    text += f" The prompts below come from {facts.heldout:,} drawings that were kept away from it."
  if facts.quick:
    text += " This was the quick run, which only shows that everything works: the pictures are not expected to be good."
  return text


def curve_groups(curves: Mapping[str, Curves]) -> list[tuple[str, list[dict[str, str]]]]:
  """The learning curves, as (stage, [{title, svg, caption}, …]); only what the logs hold."""
  groups = []
  for folder, name in (
    ("pretrain", "Pretraining"),
    ("sft", "Instruction tuning"),
    ("image_tokenizer", "Image tokenizer"),
    ("clip", "CLIP, which retrieves and ranks"),
  ):
    if folder in curves:
      figures = (
        _language_model(name, curves[folder]) if folder in ("pretrain", "sft") else _network(name, curves[folder])
      )
      if figures:
        groups.append((name, figures))
  return groups


def _language_model(stage: str, curves: Curves) -> list[dict[str, str]]:
  train = {"image tokens": curves.train.get("loss_image"), "text tokens": curves.train.get("loss_text")}
  if not any(train.values()):
    train = {"all tokens": curves.train.get("loss")}
  out = _panel(stage, "training loss", train, "nats a token", smooth=True, perplexity=True)
  for key, modality in (("loss_image", "image tokens"), ("loss_text", "text tokens")):
    for group, series in _evals_by_k(curves, key).items():
      out += _panel(stage, f"{group or 'held out'}, {modality}", series, "nats a token", perplexity=True, focus=True)
  return out


def _network(stage: str, curves: Curves) -> list[dict[str, str]]:
  train = dict(curves.train)
  if "mse" in train:  # of pixels in -1..1
    train["psnr"] = {step: 10 * math.log10(4.0 / max(mse, 1e-9)) for step, mse in train["mse"].items()}
  out = []
  for key, title, unit in (
    ("psnr", "PSNR in training", "dB"),
    ("perplexity", "codes in even use", "perplexity"),
    ("loss", "loss", ""),
  ):
    out += _panel(stage, title, {"training": train.get(key)}, unit)
  return out


def networks(data: ReportData) -> list[str]:
  """A sentence on each network that the language model stands on."""
  out = []
  held_out = data.tokenizer_figures
  if "psnr" in held_out:
    text = f"Image tokenizer: {report_figures.nice(held_out['psnr'])} dB PSNR on held-out drawings"
    if "usage" in held_out:
      text += f"; {100 * held_out['usage']:.0f} % of its codes are used"
    out.append(
      text + (f", with perplexity {report_figures.nice(held_out['perplexity'])}." if "perplexity" in held_out else ".")
    )
  for split, figures in data.clip_figures.items():
    if "text_to_image_recall_at_10" in figures:
      of = f" of {figures['count']:,.0f}" if "count" in figures else ""
      text = (
        f"CLIP on {split.replace('_', ' ').replace('heldout', 'held-out')}: a caption finds its own drawing among the "
        f"first ten{of} in {100 * figures['text_to_image_recall_at_10']:.0f} % of cases"
      )
      if "same_thing_at_10" in figures:
        text += f"; a drawing of the same thing by another artist in {100 * figures['same_thing_at_10']:.0f} %"
      out.append(text + ".")
  return out


def _panel(
  stage: str, title: str, series: Mapping[str, Mapping[int, float] | None], unit: str, **options: bool
) -> list[dict[str, str]]:
  """[] or one panel: series without points are left out."""
  series = {label: points for label, points in series.items() if points}
  if not series:
    return []
  return [
    {
      "title": title,
      "svg": report_figures.curves(f"{stage}: {title}", series, unit, **options),
      "caption": _last(series, unit),
    }
  ]


def _evals_by_k(curves: Curves, key: str) -> dict[str, dict[str, Mapping[int, float]]]:
  """{group: {"K = 2": points}}: an evaluation named `drawings_k2` is group `drawings`, K = 2."""
  groups: dict[str, dict[str, Mapping[int, float]]] = {}
  for name, series in sorted(curves.evals.items()):
    if key in series:
      match = re.fullmatch(r"(.*?)[_/ -]?k(\d+)", name)
      group, label = (match[1], f"K = {match[2]}") if match else ("", name.replace("_", " "))
      groups.setdefault(group.replace("_", " ").replace("heldout", "held-out"), {})[label] = series[key]
  return groups


def _last(series: Mapping[str, Mapping[int, float]], unit: str) -> str:
  """`At the end: image tokens: 2.57; text tokens: 1.1 nats a token`: each a mean over the last 5 % of its log."""
  ends = []
  for label, points in series.items():
    values = list(points.values())
    tail = values[-max(1, len(values) // 20) :]
    ends.append(f"{label}: {report_figures.nice(sum(tail) / len(tail))}")
  return f"At the end: {'; '.join(ends)}{f' {unit}' if unit else ''}."


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
  return [
    {"stage": s.stage, "seconds": s.seconds, "skipped": s.skipped, "share": 100 * t / longest}
    for s, t in zip(data.stages, spent)
  ], sum(spent)


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
  return [
    {
      "prompt": g.prompt,
      "here": g.candidates[0],
      "shipped": by_key[_key(g)].candidates[0],
      "truth": g.truth,
      "set": hero_set,
    }
    for g in hero
    if _key(g) in by_key
  ]


def _failures(hero: Sequence[Generation]) -> list[Generation]:
  scored = [g for g in hero if g.best_score is not None]
  return sorted(scored, key=lambda g: g.best_score)[:_FAILURES]


def seconds(value: float) -> str:
  """`4 s`, `3 min 20 s`, `2 h 5 min`."""
  value = round(value) if value >= 10 else round(value, 1)
  if value < 60:
    return f"{value:g} s"
  minutes, rest = divmod(int(value), 60)
  if minutes < 60:
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def usual_commands(workdir: Path) -> list[tuple[str, str]]:
  """What to try next, as (what it does, command line)."""
  at = lambda part="": shlex.quote(str(workdir / part))
  return [
    (
      "Draw something else.",
      f"cm3leon generate --checkpoint={at('pretrain')} --index={at('index')} \\\n"
      '  --task=text_to_image --text="a red heart, twemoji" --docs=2 --candidates=8 --out=hearts',
    ),
    ("See what the model would look up.", f'cm3leon search --index={at("index")} --text="red heart" -k 8'),
    ("Look at training examples, decoded.", f"cm3leon inspect task emoji_retrieval_pretrain --workdir={at()}"),
    ("Look into the checkpoint.", f"cm3leon inspect checkpoint {at('pretrain')}"),
    (
      "Would a run fit a TPU slice, and how long would it take? No TPU is needed to ask.",
      "cm3leon plan --gin_file=configs/runs/demo_gpu.gin --topology=v5e:2x2",
    ),
    (
      "Train longer: the same code and the same command as here, with another run file.",
      f"cm3leon train --gin_file=configs/runs/demo_gpu.gin --data={at()} --workdir={at('long')}",
    ),
  ]


def versions(facts: RunFacts) -> list[str]:
  """`cm3leon-jax 0.1.0`, `jax 0.10.2`, …: those that the run recorded, else those installed now."""
  found = dict(facts.versions)
  for name in ("cm3leon-jax", *(() if found else _PACKAGES)):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed, or an extra
      continue
  return [f"{name} {version}" for name, version in found.items()]


def _list(words: Sequence[str]) -> str:
  """`0, 1 and 2`."""
  return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
