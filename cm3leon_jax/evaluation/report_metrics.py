"""The metrics section of the report page: which figure means what, as a table and as intervals."""

import dataclasses
import re
from typing import Sequence

from cm3leon_jax.evaluation import report_figures
from cm3leon_jax.evaluation.report_data import Interval, MetricRow, ROWS

# key → (label, which way is better, what it means). Shown in this order; other keys follow under their own names.
METRICS = {
  "loss_image": ("Loss, image tokens", "lower", "nats a token of the held-out drawings"),
  "perplexity_image": ("Perplexity, image tokens", "lower", "how many codes it hesitates between"),
  "loss_text": ("Loss, text tokens", "lower", "nats a token of the held-out captions"),
  "perplexity_text": ("Perplexity, text tokens", "lower", "how many word pieces it hesitates between"),
  "fd": (
    "FD (EfficientNet-Lite0)",
    "lower",
    "Fréchet distance to the real drawings over features of "
    "EfficientNet-Lite0; not comparable with any published number over another network",
  ),
  "kid": (
    "KID (EfficientNet-Lite0)",
    "lower",
    "kernel distance over the same features; unbiased in the number of drawings",
  ),
  "clip_score": (
    "CLIP score",
    "higher",
    "cosine of caption and drawing under the small CLIP that this demo trained, "
    "which also picks the best candidate: comparable on this page only",
  ),
  "copying_share": (
    "Copying",
    "lower",
    "share of drawings that repeat more than 80 % of a retrieved drawing's "
    "non-blank codes; see the same figure for the real drawings",
  ),
  "cider": ("CIDEr-D, captions", "higher", "agreement of predicted and true captions"),
  "bleu_4": ("BLEU-4, captions", "higher", "four-word overlap with the true captions"),
  "rouge_l": ("ROUGE-L, captions", "higher", "longest common run of words with the true captions"),
  "psnr": ("PSNR", "higher", "decibels between a drawing and its reconstruction"),
}
_ALIASES = {"fd_efficientnet_lite0": "fd"}
_PANELS = ("loss_image", "fd", "clip_score", "copying_share", "cider")


@dataclasses.dataclass(frozen=True)
class TableRow:
  label: str
  meaning: str
  cells: tuple[Interval | None, ...]


@dataclasses.dataclass(frozen=True)
class Table:
  columns: tuple[str, ...]
  rows: tuple[TableRow, ...]


def row_name(row: MetricRow) -> str:
  name = ROWS.get(row.name, re.sub(r"\bk(\d)\b", "K\u00a0=\u00a0\\1", row.name))
  return name if row.k is None else f"{name}, K\u00a0=\u00a0{row.k}"


def in_order(rows: Sequence[MetricRow]) -> list[MetricRow]:
  """The model by K, then the shipped one, then the yardsticks, then anything else."""
  known = list(ROWS)
  return sorted(
    rows, key=lambda r: (known.index(r.name) if r.name in known else len(known), r.name, -1 if r.k is None else r.k)
  )


def table(rows: Sequence[MetricRow]) -> Table:
  """One table row a metric, one column a `MetricRow`."""
  rows = [
    dataclasses.replace(row, metrics={_ALIASES.get(key, key): m for key, m in row.metrics.items()})
    for row in in_order(rows)
  ]
  present = {key for row in rows for key in row.metrics}
  keys = [key for key in METRICS if key in present] + sorted(present - METRICS.keys())
  return Table(tuple(map(row_name, rows)), tuple(_table_row(key, rows) for key in keys))


def _table_row(key: str, rows: Sequence[MetricRow]) -> TableRow:
  label, better, meaning = METRICS.get(key, (key.replace("_", " "), "", ""))
  return TableRow(
    label, f"{meaning}; {better} is better" if better else meaning, tuple(row.metrics.get(key) for row in rows)
  )


def panels(rows: Sequence[MetricRow]) -> list[dict[str, str]]:
  """Dots with intervals for the main metrics that more than one row has."""
  colors = {"model": 0, "shipped": 1}
  out = []
  for key in _PANELS:
    label, better, _ = METRICS[key]
    shown = [(_short(row), row.metrics[key], colors.get(row.name, 2)) for row in in_order(rows) if key in row.metrics]
    if len(shown) > 1:
      out.append(
        {
          "title": label,
          "svg": report_figures.intervals(f"{label}: dots with intervals", shown),
          "caption": f"{better} is better; bars are 95 % intervals",
        }
      )
  return out


def _short(row: MetricRow) -> str:
  short = {"model": "this model", "shipped": "shipped", "tokenizer": "tokenizer", "nearest": "nearest", "real": "real"}
  name = short.get(row.name, row.name)
  return name if row.k is None else f"{name}, K={row.k}"
