"""Workdirs as a finished `cm3leon eval run` leaves them, of made-up pictures and numbers: for tests of pages and comparisons.

The numbers hang together: what result.json calls a mean is the mean of per_item.jsonl.
"""

from collections import Counter
import functools
import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cm3leon_jax.evaluation import bootstrap

HOSTILE = '<script>alert("x")</script> & "quoted" \'caption\''
METRICS = ("fid", "captions", "vqa", "scienceqa", "visdial")
SIDE = 128  # pixels
RANKS = 3  # candidates of a drawn item
_THINGS = ("dog", "train", "kite", "pizza", "red bus", "surfer", "giraffe", "clock tower", "bowl of fruit", "parasol")
_PLACES = ("on a beach", "in a kitchen", "at night", "in the snow", "beside a parked car", "in front of a white house")
_TYPES = ("yes/no", "number", "other", "other")
_NAMES = {"fid": "coco_30k_docs2", "captions": "coco_captions", "vqa": "okvqa"}
_TASKS = {"fid": "text_to_image", "captions": "image_to_text"}
_ITEM_KEYS = {"fid": "clip_score", "captions": "cider", "visdial": "ndcg"}


@functools.cache
def scene(seed: int, weak: float = 0.0) -> Image.Image:
  """A horizon with a few things on it, the same for one seed; `weak` 0..1: as a poor model would draw it."""
  rng = np.random.default_rng(seed)
  sky, ground = rng.integers(120, 245, 3), rng.integers(40, 190, 3)
  rows = np.linspace(0, 1, SIDE)[:, None, None]
  pixels = np.broadcast_to(sky + (255 - sky) * rows * 0.6, (SIDE, SIDE, 3)).copy()
  horizon = int(rng.integers(SIDE // 3, 3 * SIDE // 4))
  pixels[horizon:] = ground * (1 - 0.3 * rows[horizon:])
  picture = Image.fromarray(np.clip(pixels + rng.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8))
  draw = ImageDraw.Draw(picture)
  for _ in range(int(rng.integers(2, 5))):
    x, r = int(rng.integers(SIDE // 6, 5 * SIDE // 6)), int(rng.integers(SIDE // 12, SIDE // 4))
    shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
    shape((x - r, horizon - 3 * r // 2, x + r, horizon + r // 3), fill=tuple(int(c) for c in rng.integers(10, 250, 3)))
  if weak:
    blobs = np.clip(128 + np.random.default_rng(seed + 1).normal(0, 45 * weak, (SIDE // 8, SIDE // 8, 3)), 0, 255)
    blobs = np.asarray(Image.fromarray(blobs.astype(np.uint8)).resize((SIDE, SIDE)), float) - 128
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(4 * weak)), float)
    picture = Image.fromarray(np.clip(soft + blobs, 0, 255).astype(np.uint8))
  return picture


def prompt(number: int) -> str:
  if number == 3:
    return HOSTILE
  return f"Photo of a {_THINGS[number % len(_THINGS)]} {_PLACES[number // len(_THINGS) % len(_PLACES)]}."


def make(folder: Path, metric: str = "fid", *, count: int = 60, skill: float = 0.5, checkpoint: str = "demo_7m",
         **changes) -> Path:
  """Writes W and returns it.

  Args:
    folder: W.
    metric: one of METRICS.
    count: items.
    skill: 0..1 of the model: what it draws and says, and its numbers.
    checkpoint: name of the model.
    **changes: fields of protocol.json to replace; `sampling` is merged into its defaults.
  """
  folder = Path(folder)
  (folder / "pictures").mkdir(parents=True)
  (folder / "generations").mkdir()
  rng = np.random.default_rng(int(hashlib.sha256(f"{metric}{checkpoint}".encode()).hexdigest()[:8], 16))
  protocol = _protocol(metric, count, checkpoint, changes)
  values = [_value(metric, number, skill, rng) for number in range(count)]
  category = lambda number: _TYPES[number % 4] if metric in ("vqa", "scienceqa") else ""
  line = globals()[f"_{metric if metric != 'scienceqa' else 'vqa'}"]
  with open(folder / "generations" / "00000-of-00001.jsonl", "w", encoding="utf-8") as lines:
    for number in np.random.default_rng(1).permutation(count):  # as they finish
      number = int(number)
      row = {"task": protocol["task"], "seed": number, "settings": {}, "rules": "", "retrieved": [], "given": "",
             "real": "", "number": number, "id": 1000 + number, "image_id": number, "category": category(number),
             **line(folder / "pictures", number, values[number], skill)}
      lines.write(json.dumps(row, ensure_ascii=False) + "\n")
  key = _ITEM_KEYS.get(metric, "accuracy")
  with open(folder / "per_item.jsonl", "w", encoding="utf-8") as lines:
    for number, value in enumerate(values):
      lines.write(json.dumps({"number": number, "id": 1000 + number, "category": category(number), key: value,
                              **({"rouge_l": min(1.0, value / 2)} if metric == "captions" else {})}) + "\n")
  result = _result(metric, np.array(values), skill, [category(number) for number in range(count)])
  _write(folder / "protocol.json", protocol)
  _write(folder / "result.json", {**result, "protocol": protocol})
  (folder / "operative.gin").write_text(f"Protocol.name = '{protocol['name']}'\nProtocol.seed = 0\n")
  return folder


def _write(path: Path, value) -> None:
  path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _hash(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _protocol(metric: str, count: int, checkpoint: str, changes: dict) -> dict:
  sampling = {"docs": 2 if metric == "fid" else 0, "candidates": RANKS if metric == "fid" else 1, "pick": "clip",
              "guidance": 3.0, "temperature": 1.0, "top_p": 0.9, "seed": 0, **changes.pop("sampling", {})}
  drawn = metric == "fid"
  return {
      "format": 1, "name": _NAMES.get(metric, metric), "task": _TASKS.get(metric, "vqa"), "metric": metric,
      "items": {"count": count, "hash": _hash(f"{metric}{count}"), "source": "annotations.json",
                "caption": "the first of each picture"},
      "reference": {"preprocessing": "middle square, scaled to 128 (bicubic, antialias)",
                    "hash": _hash("reference")} if drawn else None,
      "sampling": sampling,
      "model": {"checkpoint": checkpoint, "hash": _hash(checkpoint), "step": 12_000},
      "index": {"hash": _hash("index"), "count": 12_345} if drawn else None,
      "excluded": {"by_id": 12, "by_hash": 3},
      "network": {"name": "EfficientNet-Lite0", "key": "fd_efficientnet_lite0", "weights_hash": _hash("weights"),
                  "published": True, "preprocessing": "224 px, bilinear"} if drawn else None,
      "encoder": {"name": "the model's own CLIP", "fingerprint": _hash("clip")} if drawn else None,
      "tokenizer": "rules" if metric == "captions" else None, **changes,
  }


def _value(metric: str, number: int, skill: float, rng: np.random.Generator) -> float:
  """The item's own number: its difficulty, the same for every model, and luck."""
  ease = np.random.default_rng(number).normal()
  if metric == "fid":
    return round(float(0.18 + 0.12 * skill + 0.04 * ease + rng.normal(0, 0.015)), 4)
  if metric == "captions":
    return round(float(max(0.0, 0.2 + 0.9 * skill + 0.4 * ease + rng.normal(0, 0.15))), 4)
  if metric == "visdial":
    return round(float(np.clip(0.2 + 0.5 * skill + 0.15 * ease + rng.normal(0, 0.05), 0, 1)), 4)
  right = rng.random() < np.clip(skill + 0.2 * ease, 0.02, 0.98)
  if metric == "scienceqa":
    return float(right)
  return 1.0 if right else float(rng.choice([0.0, 0.0, 0.3, 0.6]))  # of the answers below, by the official rule


def _save(folder: Path, number: int, what: str, picture: Image.Image) -> str:
  name = f"{number:06d}_{what}.png"
  picture.save(folder / name)
  return name


def _fid(folder: Path, number: int, value: float, skill: float) -> dict:
  weak = round(float(np.clip(1.6 - 5 * value, 0.05, 1)), 2)
  candidates = [{"candidate": (number + rank) % RANKS, "score": round(value - 0.03 * rank, 4), "log_prob": -310.5, "text": "",
                 "file": _save(folder, number, str(rank), scene(number, min(1.0, weak + 0.12 * rank)))} for rank in range(RANKS)]
  retrieved = [{"id": f"doc{number}{n}", "caption": prompt(number + 10 * n + 1), "score": round(0.82 - 0.06 * n, 3),
                "file": _save(folder, number, f"doc{n}", scene(500 + number * 2 + n))} for n in range(2)]
  return {"prompt": prompt(number), "candidates": candidates, "retrieved": retrieved, "references": [],
          "real": _save(folder, number, "real", scene(number))}


def _text(folder: Path, number: int, text: str, **fields) -> dict:
  return {"candidates": [{"candidate": 0, "score": None, "log_prob": -5.25, "text": text, "file": ""}],
          "given": _save(folder, number, "given", scene(number)), **fields}


def _captions(folder: Path, number: int, value: float, skill: float) -> dict:
  thing = _THINGS[number % len(_THINGS)]
  said = prompt(number) if value > 0.6 else f"a {thing} and a {thing} and a {thing}" if value > 0.2 else ""
  return _text(folder, number, said, prompt="Describe the given picture.", references=[
      prompt(number), f"There is a {thing} here.", f"Close view of a {thing}.", f"The {thing} fills most of the picture."])


def _vqa(folder: Path, number: int, value: float, skill: float) -> dict:
  kind = _TYPES[number % 4]
  right, wrong = {"yes/no": ("yes", "no"), "number": ("3", "5"), "other": ("on the grass", "a table")}[kind]
  question = {"yes/no": "Is there a {} in the picture?", "number": "How many {}s are there?",
              "other": "Where does the {} stand?"}[kind].format(_THINGS[number % len(_THINGS)])
  said = {1.0: right, 0.6: wrong, 0.3: "unclear", 0.0: "purple"}[value]
  return _text(folder, number, said, prompt=f"Question: {question} The answer is",
               question=HOSTILE if number == 3 else question, references=[right] * 7 + [wrong] * 2 + ["unclear"],
               choices=[right, wrong] if kind == "other" else [])


def _visdial(folder: Path, number: int, value: float, skill: float) -> dict:
  choices = ["yes", "no", "2", "maybe", "it is red", "i can't tell", "on the grass", "no people"]
  chances = [round(float(v), 3) for v in np.random.default_rng(number).normal(-3, 1.2, len(choices))]
  return {"prompt": f"A {_THINGS[number % 10]}. Question: What colour is it? The answer is", "question": "What colour is it?",
          "candidates": [], "choices": choices, "choice_log_probs": chances, "references": ["it is red"],
          "given": _save(folder, number, "given", scene(number))}


def _result(metric: str, values: np.ndarray, skill: float, categories: list[str]) -> dict:
  count = {"count": len(values)}
  if metric == "fid":
    distance = round(140 - 60 * skill, 2)
    result = bootstrap.Interval(distance, distance - 4.2, distance + 4.6).as_fields("fd_efficientnet_lite0")
    result |= {f"fd_efficientnet_lite0_rank{rank}": distance + 3.5 * rank for rank in range(RANKS)}
    result |= bootstrap.Interval(0.031 - 0.02 * skill, 0.012, 0.034).as_fields("kid")
    result |= bootstrap.mean_interval(values).as_fields("clip_score")
    return result | {"precision": 0.4 + 0.3 * skill, "recall": 0.3 + 0.2 * skill, "density": 0.5 + 0.3 * skill,
                     "coverage": 0.55 + 0.3 * skill, **count,
                     "note": f"{len(values)} pictures: the distance is biased upwards below 10000; compare only equal counts"}
  if metric == "captions":
    result = bootstrap.mean_interval(values).as_fields("cider")
    for n in range(1, 5):
      bleu = 0.75 * (0.5 + 0.5 * skill) / n**0.6
      result |= bootstrap.Interval(bleu, bleu - 0.02, bleu + 0.02).as_fields(f"bleu_{n}")
    return result | bootstrap.mean_interval(np.minimum(1, values / 2)).as_fields("rouge_l") | {**count, "share_scored": 1.0}
  if metric == "visdial":
    return bootstrap.mean_interval(values).as_fields("ndcg") | {
        "mrr": 0.3 + 0.3 * skill, "recall_1": 0.2 + 0.2 * skill, "recall_5": 0.5 + 0.2 * skill, "recall_10": 0.6 + 0.2 * skill,
        "mean_rank": 30 - 20 * skill, **count}
  values = 100 * values
  result = bootstrap.mean_interval(values).as_fields("vqa_accuracy" if metric == "vqa" else "accuracy") | count
  for name in Counter(categories):
    result[f"category/{name}"] = float(np.mean([v for v, c in zip(values, categories) if c == name]))
  return result
