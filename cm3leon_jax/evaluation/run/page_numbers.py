"""The numbers of a result as people read them: names, units, which way is better, and warnings."""

import dataclasses
import math
from typing import Sequence

from cm3leon_jax.evaluation import report_figures
from cm3leon_jax.evaluation.bootstrap import Interval
from cm3leon_jax.evaluation.run import paper_rows
from cm3leon_jax.evaluation.run.page_data import number, Run

FEW = 10_000  # pictures; below, the bias of a Fréchet distance is large


@dataclasses.dataclass(frozen=True)
class Number:
  """A key of result.json.

  Attributes:
    label: its name in print.
    meaning: in a few words.
    lower: lower is better; None: neither.
    scale: what it is multiplied by on the page: COCO's tables show CIDEr × 100.
    group: numbers of one group share a unit and a range, and a figure.
    decimals: as in published tables; None: three figures.
  """

  label: str
  meaning: str = ""
  lower: bool | None = False
  scale: float = 1
  group: str = ""
  decimals: int | None = None

  @property
  def short(self) -> str:
    """The name without its unit."""
    return self.label.removesuffix(" × 100").removesuffix(", %")


_GROUPS = {"manifold": "Precision, recall, density, coverage", "overlap": "Overlap with people's captions",
           "visdial": "Rank of the answers"}
_NUMBERS = {
  "fid": Number("FID", "Fréchet distance over InceptionV3 features, as pytorch-fid computes it", True, decimals=2),
  "fd_efficientnet_lite0": Number("FD (EfficientNet-Lite0)", "Fréchet distance over another network than FID's", True, decimals=2),
  "kid": Number("KID", "kernel distance over the same features, unbiased", True, decimals=4),
  "clip_score": Number("CLIP score", "mean cosine of prompt and picture; flatters where the same CLIP picked",
                       decimals=3),
  "precision": Number("precision", "share of drawn pictures within the real ones", group="manifold", decimals=3),
  "recall": Number("recall", "share of real pictures within the drawn ones", group="manifold", decimals=3),
  "density": Number("density", "how densely drawn pictures lie among real ones", group="manifold", decimals=3),
  "coverage": Number("coverage", "share of real pictures with a drawn one near", group="manifold", decimals=3),
  "cider": Number("CIDEr × 100", "CIDEr-D, agreement with people's captions", scale=100, decimals=1),
  "rouge_l": Number("ROUGE-L × 100", "longest common subsequence", scale=100, group="overlap", decimals=1),
  "meteor": Number("METEOR × 100", "matches by stems and synonyms", scale=100, group="overlap", decimals=1),
  "spice": Number("SPICE × 100", "agreement of scene graphs", scale=100, group="overlap", decimals=1),
  **{f"bleu_{n}": Number(f"BLEU-{n} × 100", "" if n > 1 else "overlap of word n-grams, over the whole set", scale=100,
                         group="overlap", decimals=1) for n in range(1, 5)},
  "vqa_accuracy": Number("VQA accuracy, %", "official rule: an answer counts in full when three people gave it", decimals=1),
  "accuracy": Number("accuracy, %", "share of questions answered right", decimals=1),
  "ndcg": Number("NDCG × 100", "do the answers that people found relevant stand first", scale=100, group="visdial", decimals=1),
  "mrr": Number("MRR × 100", "mean of 1 ÷ rank of the true answer", scale=100, group="visdial", decimals=1),
  **{f"recall_{k}": Number(f"recall@{k}, %", f"true answer among the first {k}", scale=100, group="visdial",
                           decimals=1) for k in (1, 5, 10)},
  **{f"{part}_perplexity": Number(f"perplexity of {what}", f"exp of the nats a {unit}, over all of them", True, decimals=3)
     for part, what, unit in (("image", "pictures", "code"), ("text", "captions", "token"))},
  **{f"{part}_nats_per_token": Number(f"nats a {unit} of {what}", f"given {given}", True, decimals=4)
     for part, what, unit, given in (("image", "pictures", "code", "the caption"), ("text", "captions", "token", "the picture"))},
  "mean_rank": Number("mean rank", "of the true answer among the choices", True, decimals=2),
}
ITEM_LABELS = {"image_log_prob": "log-probability a code", "clip_score": "CLIP score", "cider": "CIDEr", "accuracy": "accuracy",
               "ndcg": "NDCG"}


def describe(key: str) -> Number:
  """A key's name and unit; an unknown one speaks for itself."""
  return _NUMBERS.get(key) or Number(key.replace("_", " "), "", True if key.startswith("fd_") else None)


def is_count(run: Run, key: str) -> bool:
  """Whether a key counts items, or says which share of them counted, and measures nothing."""
  return isinstance(run.numbers[key], int) or key == "share_scored"


def keys(run: Run) -> list[str]:
  """Numbers of a result that stand in its table: the headline first; no bounds, ranks, categories or halves."""
  found = []
  for key, value in run.numbers.items():
    bound = key.endswith(("_low", "_high")) and key.rpartition("_")[0] in run.numbers
    if number(value) is not None and not bound and "_rank" not in key.replace("mean_rank", "") and "/" not in key:
      found.append(key)
  return sorted(found, key=lambda key: (key != run.headline, is_count(run, key)))


def grouped(keys: Sequence[str]) -> dict[str, list[str]]:
  """Title of a figure → keys that share it, in order."""
  groups: dict[str, list[str]] = {}
  for key in keys:
    about = describe(key)
    groups.setdefault(_GROUPS.get(about.group, about.label), []).append(key)
  return {title if len(members) > 1 else describe(members[0]).label: members for title, members in groups.items()}


def shown(interval: Interval, scale: float) -> Interval:
  return Interval(*(scale * value for value in interval))


def has_bounds(interval: Interval) -> bool:
  return math.isfinite(interval.low) and math.isfinite(interval.high)


def nice(value: float | None) -> str:
  """Three figures; small ones not as a row of zeros."""
  if value is not None and math.isfinite(value) and 0 < abs(value) < 0.0995:
    return f"{value:.3g}".replace("-", "−") if abs(value) >= 1e-4 else f"{value:.1e}".replace("-", "−")
  return report_figures.nice(value)


def in_print(key: str, value: float) -> str:
  """A number of the whole in its unit on the page, with the decimals of published tables."""
  about = describe(key)
  if about.decimals is None or not math.isfinite(value):
    return nice(about.scale * value)
  return f"{about.scale * value:,.{about.decimals}f}".replace("-", "−")


def bounds_in_print(key: str, interval: Interval) -> str:
  """`106.12 … 114.60`; empty where the run gives no bounds."""
  return f"{in_print(key, interval.low)} … {in_print(key, interval.high)}" if has_bounds(interval) else ""


def signed(key: str, value: float) -> str:
  """A difference: `+1.20`, `−0.30`, `0.00`."""
  text = in_print(key, value)
  return "+" + text if value > 0 and text.strip("0.") else text


def item_in_print(metric: str, value: float, sign: bool = False) -> str:
  """An item's own number, or with `sign` a difference of two."""
  if metric == "fid":
    text = f"{value:.3f}"
  else:
    text = f"{100 * value:.0f}" + (" %" if metric in ("vqa", "scienceqa") else "")
  return ("+" if sign and value > 0 else "") + text.replace("-", "−")


def warnings(run: Run) -> list[str]:
  """Why the numbers are not those of the paper, or of any other table; a sentence each."""
  protocol, count = run.protocol, number(run.protocol["items"].get("count")) or 0
  rows, network = paper_rows.find(protocol.get("name", "")), protocol.get("network") or {}
  notes = str(run.numbers.get("note") or "")
  found = []
  if run.metric == "fid":
    if run.headline != "fid":
      found.append(f"{network.get('name') or 'another network'} is not measured over the InceptionV3 of FID: the two "
                   "distances have nothing in common but the formula")
    elif not network.get("published", False) and "published" not in notes:
      found.append("the weights of InceptionV3 are not the published file: this is not a FID to publish")
    if count < FEW and "biased" not in notes:
      found.append(f"{count:,.0f} pictures: a Fréchet distance of fewer than {FEW:,} is biased upwards")
  if rows and rows.count and count != rows.count:
    found.append(f"{count:,.0f} items, where the paper has {rows.count:,}")
  if rows and rows.docs is not None and protocol["sampling"].get("docs") not in (None, rows.docs):
    found.append(f"{protocol['sampling']['docs']} documents were retrieved, where the paper's row has {rows.docs}")
  expected = protocol["items"].get("expected")
  if expected and count != expected and not (rows and rows.count):
    found.append(f"{count:,.0f} items, where the whole set has {expected:,}")
  if rows and rows.differs:
    found.append(rows.differs)
  share = number(run.numbers.get("share_scored"))
  if share is not None and share < 1:
    found.append(f"only {100 * share:.1f} % of the items have an answer")
  unscored = len(run.items) - len(run.scores())
  if unscored:
    found.append(f"{unscored:,} item{'s' * (unscored != 1)} without a number of its own")
  if run.metric == "captions" and protocol.get("tokenizer") == "rules":
    found.append("tokens by rules after PTBTokenizer (99.98 % of COCO's captions alike), not by Stanford's program itself")
  return found + [notes] * bool(notes)
