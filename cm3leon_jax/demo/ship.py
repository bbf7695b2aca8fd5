"""A trained demo model with all that it needs to draw, in one folder small enough to ship:

    python -m cm3leon_jax.demo.ship D/long D tokenizers/demo_model

    model.json weights.npz     the weights in float16
    index/                     the retrieval index
    documents/train/           the documents that it points to, without what only training reads
"""

import argparse
from pathlib import Path
import shutil

import numpy as np

from cm3leon_jax import manifest, records
from cm3leon_jax.retrieval.store import DocumentStore
from cm3leon_jax.training import checkpoints

# What a retrieved document is drawn, shown and named from.
KEPT = ("id", "caption", "text", "image")


def ship(run: Path, data: Path, out: Path) -> None:
  """Writes `out`.

  Args:
    run: folder of the training run.
    data: D, whose index and training documents the model retrieves from.
    out: folder to write; replaced where it exists, but for a README.md, which is kept.
  """
  readme = out / "README.md"
  kept = readme.read_text(encoding="utf-8") if readme.is_file() else ""
  checkpoints.export_weights(run, out)
  if kept:
    readme.write_text(kept, encoding="utf-8")
  shutil.copytree(data / "index", out / "index")
  source = data / "documents" / "train"
  about = manifest.read(source, "documents")
  with manifest.writing(out / "documents" / "train", "documents") as (folder, made):
    records.write_shard(folder / records.shard_name("documents", 0, 1), map(_small, records.Reader(source, "documents")))
    made |= {name: value for name, value in about.items() if name not in ("kind", "format_version", "framings", "num_shards")}
  DocumentStore(out / "documents" / "train")  # writes its map of ids, which would else be made at the first use


def _small(document: dict) -> dict:
  return {name: document[name].astype(np.uint16) if name in ("text", "image") else document[name] for name in KEPT}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("run", type=Path)
  parser.add_argument("data", type=Path)
  parser.add_argument("out", type=Path)
  ship(**vars(parser.parse_args()))


if __name__ == "__main__":
  main()
