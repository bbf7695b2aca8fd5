"""The demo's own held-out drawings, as prompts or as pictures to describe. Answers to questions it has none."""

import hashlib
from pathlib import Path

from cm3leon_jax import manifest
from cm3leon_jax.datasets.items import Item, Items
from cm3leon_jax.datasets.official.source import Source, one_of
from cm3leon_jax.errors import InputError

SPLITS = ("heldout_drawings", "heldout_things")
USES = ("prompts", "captions")


def demo_heldout(workdir: str, use: str = "prompts", count: int = 0, split: str = "heldout_drawings") -> Items:
  """Held-out drawings of a demo's workdir; the picture is uint8[S, S, 3], S as the corpus was made. category: artist.

  Drawings with a skin tone are left out: a thing in five tones would count five times.

  Args:
    workdir: folder that `cm3leon demo` or `cm3leon data corpus` made, with `corpus/`.
    use: `prompts` (text is the caption) or `captions` (it is the reference).
    count: the first so many in the order of sha256(id), so from all artists; 0 for all.
    split: `heldout_drawings` (other artists drew the thing) or `heldout_things` (nobody did).

  Raises:
    InputError: no corpus there, or fewer drawings than `count`.
  """
  from cm3leon_jax.datasets import reader  # TensorFlow Datasets: not before it is needed

  one_of(use, USES, "DemoHeldOut.use")
  source = Source(workdir, f"demo/{one_of(split, SPLITS, 'DemoHeldOut.split')}")
  corpus = Path(workdir) / "corpus"
  about = manifest.read(corpus, "corpus", rebuild="cm3leon data corpus")
  source.read.append(f"corpus ({about['source']})")
  drawings = [d for d in reader.read(corpus, split, about["pixels"]) if not d["skin_tone"]]
  if count < 0 or count > len(drawings):
    raise InputError(f"DemoHeldOut.count={count}: {split} of {workdir} has {len(drawings)} drawings")
  drawings.sort(key=lambda d: hashlib.sha256(d["id"].encode()).digest())
  drawn = use == "prompts"
  return source.finish(
      [Item(d["id"], text=d["caption"] if drawn else "", image=d["image"], image_id=d["id"], references=(d["caption"],),
            category=d["style"]) for d in drawings[:count or None]],
      "the drawing's one caption" if drawn else "")
