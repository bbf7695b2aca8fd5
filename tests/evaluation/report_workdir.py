"""A workdir as a demo run leaves it, with made-up drawings: for the tests of the report page."""

import atexit
import dataclasses
import functools
import json
import math
from pathlib import Path
import tempfile

import numpy as np
from PIL import Image, ImageDraw

from cm3leon_jax import manifest
from cm3leon_jax.evaluation import report
from cm3leon_jax.evaluation import report_data as rd

HOSTILE = '<script>alert("x")</script> & "quoted" \'caption\''
THINGS = (
  "red heart",
  "grinning face",
  "cat face",
  "avocado",
  "rocket",
  "umbrella",
  "snowman",
  "guitar",
  "cactus",
  "key",
  "sailboat",
  "mushroom",
  "crescent moon",
  "bicycle",
  "lighthouse",
  "strawberry",
  "violin",
  "anchor",
  "candle",
  "penguin",
  "teapot",
  "kite",
  "woman scientist with medium skin tone",
  HOSTILE,
)
STYLES = ("noto", "twemoji", "openmoji", "emojione", "fluent-emoji-flat", "fxemoji", "noto-v1")


def drawing(seed: int, noise: float = 0.0) -> np.ndarray:
  """uint8[64, 64, 3]: a few flat shapes on white, the same for one seed; `noise` blurs it as codes would."""
  pixels = _shapes(seed)
  if noise:
    rng = np.random.default_rng(seed)
    blocks = rng.normal(0, 60 * noise, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
    pixels = pixels + (blocks + rng.normal(0, 14 * noise, pixels.shape)) * (pixels < 250)
  return np.clip(pixels, 0, 255).astype(np.uint8)


@functools.cache
def _shapes(seed: int) -> np.ndarray:
  rng = np.random.default_rng(seed)
  s = 256
  image = Image.new("RGB", (s, s), "white")
  draw = ImageDraw.Draw(image)
  color = lambda: tuple(int(c) for c in rng.integers(20, 245, 3))
  a, b = rng.integers(s // 16, s // 5, 2)
  draw.ellipse((a, b, s - a, s - b), fill=color(), outline=(30, 30, 30) if seed % 3 == 0 else None, width=8)
  for _ in range(4):
    x, y = rng.integers(s // 5, 3 * s // 4, 2)
    r = int(rng.integers(s // 16, s // 6))
    getattr(draw, ("ellipse", "rectangle")[int(rng.integers(2))])((x - r, y - r, x + r, y + r), fill=color())
  return np.asarray(image.resize((64, 64), Image.Resampling.BOX), np.float32)


@functools.cache
def finished() -> Path:
  """A whole workdir with its page, made once for all tests of a process and removed with it."""
  folder = tempfile.TemporaryDirectory(prefix="report_")
  atexit.register(folder.cleanup)
  workdir = make(Path(folder.name) / "demo")
  report.write_report(workdir)
  return workdir


def make(workdir: Path, prompts: int = 24, candidates: int = 8) -> Path:
  """Fills every part that the page reads."""
  workdir.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  rd.write_run(
    workdir,
    rd.RunFacts.here(
      parameters=2_812_416,
      drawings=11_874,
      artists=7,
      heldout=728,
      image_size=64,
      image_tokens=64,
      codebook_size=1024,
      max_retrieved=2,
    ),
  )
  for stage, seconds, skipped in (
    ("corpus", 64.2, False),
    ("text tokenizer", 0.4, True),
    ("image tokenizer", 0.3, True),
    ("clip", 0.2, True),
    ("tokenize", 21, False),
    ("embed", 18.4, False),
    ("index", 6.1, False),
    ("neighbours", 11, False),
    ("windows", 14.8, False),
    ("pretraining", 612, False),
    ("fine-tuning", 121, False),
    ("generate", 74, False),
    ("evaluate", 88, False),
  ):
    rd.append_stage(workdir, stage, seconds, skipped)
  for folder, steps, start in (("pretrain", 1200, 5.2), ("sft", 300, 3.0)):
    (workdir / folder).mkdir()
    with open(workdir / folder / "metrics.jsonl", "w", encoding="utf-8") as f:
      for step in range(1, steps + 1, 2):
        image = 2.5 + (start - 2.5) * math.exp(-step / 250) + rng.normal(0, 0.08)
        text = 0.7 + start * math.exp(-step / 120) + rng.normal(0, 0.1)
        f.write(
          json.dumps(
            {
              "step": step,
              "loss": 0.9 * image + 0.1 * text,
              "loss_image": image,
              "loss_text": text,
              "tokens_per_second": 6400.0,
            }
          )
          + "\n"
        )
        if step % 100 == 1:
          for k in range(3):
            for split, extra in (("heldout_drawings", 0.1), ("heldout_things", 0.35)):
              f.write(
                json.dumps(
                  {
                    "step": step,
                    f"{split}_k{k}/loss_image": extra + image - 0.06 * k * step / steps,
                    f"{split}_k{k}/loss_text": text + 0.1,
                  }
                )
                + "\n"
              )
  for step in range(10, 500, 10):
    rd.append_log(
      workdir, "image_tokenizer", step, {"loss": 2 * math.exp(-step / 100), "mse": 0.009 + 0.1 * math.exp(-step / 90)}
    )
    rd.append_log(workdir, "clip", step, {"loss": 1 + 4 * math.exp(-step / 100)})
  for folder, figures in (
    ("assets/image", {"held_out": {"psnr": 20.42, "usage": 1.0, "perplexity": 296.0}}),
    (
      "assets/clip",
      {"metrics": {"heldout_drawings": {"count": 728, "text_to_image_recall_at_10": 0.41, "same_thing_at_10": 0.93}}},
    ),
  ):
    with manifest.writing(workdir / folder, "made_up") as (_, info):
      info.update(figures)

  captions = [f"{THINGS[i % len(THINGS)]}, {STYLES[i % len(STYLES)]}" for i in range(prompts)]
  for name in (*rd.SHOWCASES, "shipped_k2"):
    k = int(name[-1])
    with rd.writing_generations(workdir, name) as out:
      for i, caption in enumerate(captions):
        noise = {"showcase_k0": 1.6, "showcase_k1": 0.9, "showcase_k2": 0.6, "shipped_k2": 0.25}[name]
        out.add(
          caption,
          id=f"{STYLES[i % 7]}/{i:04x}",
          truth=drawing(i),
          seed=i,
          candidates=[
            (
              drawing(i if rng.random() < 0.8 else i + 500, noise * (1 + c / 4)),
              0.42 - 0.1 * noise - 0.03 * c + float(rng.normal(0, 0.05)),
            )
            for c in range(candidates)
          ],
          retrieved=[
            (
              f"{STYLES[(i + 1 + d) % 7]}/{i:04x}",
              f"{THINGS[i % len(THINGS)]}, {STYLES[(i + 1 + d) % 7]}",
              0.86 - 0.07 * d,
              drawing(i + 1000 * d, 0.1),
            )
            for d in range(k)
          ],
        )
  with rd.writing_generations(workdir, "infill") as out:
    for i, caption in enumerate(captions[:8]):
      hole = drawing(i).copy()
      hole[16:48, 16:48] = 216
      out.add(
        caption, given=hole, truth=drawing(i), candidates=[(drawing(i, 0.3 + c / 5), 0.4 - c / 30) for c in range(4)]
      )
  with rd.writing_generations(workdir, "edit") as out:
    for i in range(12):
      out.add(
        f"draw it the way {STYLES[i % 7]} would",
        given=drawing(i),
        truth=drawing(i + 3),
        candidates=[(drawing(i + 3, 0.5), 0.3)],
      )
  with rd.writing_generations(workdir, "caption") as out:
    for i, caption in enumerate(captions[:12]):
      out.add("caption", given=drawing(i), truth=caption, candidates=[(captions[(i + i % 2) % prompts], None)])

  interval = lambda v, w: rd.Interval(v, v - w, v + w)
  rows = [
    rd.MetricRow(
      "model",
      k,
      {
        "loss_image": interval(2.62 - 0.03 * k, 0.02),
        "perplexity_image": interval(math.exp(2.62 - 0.03 * k), 0.3),
        "loss_text": interval(0.81 - 0.05 * k, 0.03),
        "fd": interval(92.0 - 9 * k, 6),
        "clip_score": interval(0.24 + 0.05 * k, 0.015),
        "copying_share": interval(0.02 * k, 0.012),
        "cider": interval(1.1 + 0.4 * k, 0.2),
      },
    )
    for k in range(3)
  ]
  rows += [
    rd.MetricRow(
      "shipped", 2, {"fd": interval(48, 4), "clip_score": interval(0.39, 0.012), "loss_image": interval(2.31, 0.02)}
    ),
    rd.MetricRow(
      "tokenizer", None, {"fd": interval(31.0, 2), "clip_score": interval(0.41, 0.01), "psnr": rd.Interval(20.3)}
    ),
    rd.MetricRow(
      "nearest", None, {"fd": interval(22.5, 2), "clip_score": interval(0.44, 0.01), "copying_share": rd.Interval(1.0)}
    ),
    rd.MetricRow("real", None, {"copying_share": interval(0.05, 0.01)}),
  ]
  rd.write_metrics(workdir, rows)
  differences = {
    f"k{k} minus k{k - 1}": {
      "fd_efficientnet_lite0": dataclasses.asdict(interval(-9, 3)),
      "loss_image": dataclasses.asdict(interval(-0.03, 0.01)),
      "clip_score": dataclasses.asdict(interval(0.05, 0.02)),
    }
    for k in (1, 2)
  }
  (workdir / "evaluation" / "comparisons.json").write_text(json.dumps(differences))
  (workdir / "documents").mkdir()
  return workdir
