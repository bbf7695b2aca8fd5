"""Raw pairs on disk, as the corpus pipeline writes them: ArrayRecord shards, pictures as lossless WebP.

    D/corpus/manifest.json   D/corpus/train/pairs-00000-of-00012.arrayrecord   D/corpus/heldout/…   D/corpus/rejects/…
"""

import json
import os
from pathlib import Path
from typing import Iterator

import numpy as np

from cm3leon_jax import manifest, records
from cm3leon_jax.datasets import pictures
from cm3leon_jax.errors import InputError

KIND = "pairs"
TRAIN, HELD_OUT = "train", "heldout"
SPLITS = (TRAIN, HELD_OUT)
_ROWS = 64  # read at a time


def exists(folder: str | os.PathLike) -> bool:
  """Whether a finished corpus of this form lies there (and not one of TFDS)."""
  return manifest.exists(folder) and "splits" in json.loads((Path(folder) / manifest.FILE_NAME).read_text(encoding="utf-8"))


def about(folder: str | os.PathLike) -> dict:
  """The manifest of a corpus folder.

  Raises:
    InputError: none is there, or half of one.
  """
  return manifest.read(folder, "corpus", rebuild="cm3leon data corpus")


def splits(folder: str | os.PathLike) -> list[str]:
  """Splits that have pairs, `train` first."""
  sizes = about(folder)["splits"]
  return [name for name in SPLITS if sum(sizes[name])]


def _sizes(folder: str | os.PathLike, split: str, pixels: int) -> list[int]:
  """Records of each shard."""
  found = about(folder)
  if found["pixels"] != pixels:
    raise InputError(f"{folder}: pictures of {found['pixels']} pixels, not {pixels}: make the corpus anew in another "
                     "--workdir, or set Pipelines.pixels")
  if split not in found["splits"]:
    raise InputError(f"{folder}: no split {split!r}; it has {', '.join(SPLITS)}")
  return found["splits"][split]


def count(folder: str | os.PathLike, split: str, pixels: int) -> int:
  """Number of pairs in a split; errors as `read`'s."""
  return sum(_sizes(folder, split, pixels))


def read(folder: str | os.PathLike, split: str, pixels: int, begin: int = 0, end: int | None = None) -> Iterator[dict]:
  """Yields rows [begin, end) of a split: `id`, `caption`, `extra`, and `image` uint8[pixels, pixels, 3].

  Opens only the shards that hold them.

  Raises:
    InputError: no such split, pictures of another size, or no corpus.
  """
  sizes = _sizes(folder, split, pixels)
  starts = np.cumsum([0, *sizes])
  end = int(starts[-1]) if end is None else end
  for shard in range(int(np.searchsorted(starts, begin, "right")) - 1, len(sizes)):
    first, last = max(begin - int(starts[shard]), 0), min(end - int(starts[shard]), sizes[shard])
    if last <= 0 or begin >= end:
      return
    if first >= last:
      continue
    rows = records.Reader.of_shard(Path(folder) / split / records.shard_name(KIND, shard, len(sizes)))
    for at in range(first, last, _ROWS):
      for row in rows.rows(range(at, min(at + _ROWS, last))):
        yield {**{k: row[k] for k in ("id", "caption", "extra")}, "image": pictures.unpack(row["image"])}
