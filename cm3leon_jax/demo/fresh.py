"""`cm3leon demo --fresh`: the two tokenizers and CLIP, trained on the training split instead of taken as shipped."""

from pathlib import Path
import sys

import numpy as np

from cm3leon_jax import manifest
from cm3leon_jax.datasets import reader
from cm3leon_jax.evaluation import report_data
from cm3leon_jax.pipelines.build import HELD_OUT, TRAIN, Pipelines
from cm3leon_jax.retrieval import train_clip
from cm3leon_jax.tokenizers import train_image, train_text

CLIP_STEPS = 600
QUICK = 60  # steps of each under --quick


def train_assets(workdir: Path, pipelines: Pipelines, quick: bool) -> None:
  """Writes the three asset folders that `pipelines` names; one that is whole is kept."""
  pairs = {split: list(reader.read(workdir / "corpus", split, pipelines.pixels)) for split in (TRAIN, *HELD_OUT)}
  text, image, clip = (pipelines.folder(name, workdir)
                       for name in (pipelines.text_tokenizer, pipelines.image_tokenizer, pipelines.encoder))
  if not manifest.exists(text):
    _say("text tokenizer")
    train_text.train_text([p["caption"] for p in pairs[TRAIN]], text, size=pipelines.vocabulary.text_size, fold_case=True)
  if not manifest.exists(image):
    _say("image tokenizer")
    recipe = train_image.ImageRecipe(steps=QUICK, warmup_steps=10, decay_steps=20) if quick else train_image.FRESH
    kept = train_image.thin_variants([p["skin_tone"] for p in pairs[TRAIN]])
    drawings = np.stack([p["image"] for p in pairs[TRAIN]])[kept]
    train_image.train_image_tokenizer(drawings, np.stack([p["image"] for p in pairs[HELD_OUT[0]]]), image,
                                      train_image.DEMO, recipe, on_log=lambda step, means: report_data.append_log(
                                          workdir, "image_tokenizer", step, means))
  if not manifest.exists(clip):
    _say("CLIP")
    drawings = {split: train_clip.drawings(rows) for split, rows in pairs.items()}
    train_clip.train_clip(drawings.pop(TRAIN), clip, text, steps=QUICK if quick else CLIP_STEPS, heldout=drawings,
                          on_log=lambda step, means: report_data.append_log(workdir, "clip", step, means))


def _say(text: str) -> None:
  print(f"  training the {text}", file=sys.stderr, flush=True)
