"""The `examples` folder of a set's split: a row is a text, and comes with the pictures that it belongs to."""

import os
from pathlib import Path

import numpy as np

from cm3leon_jax import manifest as manifests
from cm3leon_jax import records
from cm3leon_jax.layout import Layout
from cm3leon_jax.errors import InputError
from cm3leon_jax.vocabulary import Vocabulary

KIND = "examples"
TEXTS_FILE = "texts.npy"
REBUILD = "cm3leon data examples"


def write_texts(folder: str | os.PathLike) -> int:
  """Writes `texts.npy`, int32[records]: how many texts each record has; returns their sum."""
  counts = np.array([len(row["texts"]) for row in records.Reader(folder, KIND)], np.int32)
  temporary = Path(folder) / f"{TEXTS_FILE}.partial.npy"
  np.save(temporary, counts)
  temporary.replace(Path(folder) / TEXTS_FILE)
  return int(counts.sum())


class Examples:
  """`len(examples)` texts; `examples[row]` → (fields of the text, image ids int32[n, I]).

  Attributes:
    manifest: the folder's.
  """

  def __init__(self, folder: str | os.PathLike, vocabulary: Vocabulary, layout: Layout):
    """Opens a folder written by `pipelines/examples.py`.

    Raises:
      InputError: no such folder, half written, or made for pictures of another size or another codebook.
    """
    self.manifest = manifests.read(folder, KIND, rebuild=REBUILD)
    have = (self.manifest["image_tokens"], self.manifest["codebook_size"])
    if have[0] != layout.image_tokens or have[1] > vocabulary.image_size:
      raise InputError(f"{folder}: pictures of {have[0]} codes of {have[1]}, but Layout.image_tokens={layout.image_tokens} "
                       f"and Vocabulary.image_size={vocabulary.image_size}: make it again with: {REBUILD}")
    self._vocabulary = vocabulary
    self._reader = records.Reader(folder, KIND)
    if not (Path(folder) / TEXTS_FILE).is_file():  # the pipeline was stopped in its last step
      write_texts(folder)
    counts = np.load(Path(folder) / TEXTS_FILE, allow_pickle=False)
    if len(counts) != len(self._reader):
      raise InputError(f"{folder}: {TEXTS_FILE} is of {len(counts)} records, there are {len(self._reader)}; remove it, "
                       "and it is made anew")
    self._ends = np.cumsum(counts, dtype=np.int64)

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, row: int) -> tuple[dict, np.ndarray]:
    record = int(np.searchsorted(self._ends, row, side="right"))
    found = self._reader[record]
    number = row - (int(self._ends[record - 1]) if record else 0)
    return found["texts"][number], self._vocabulary.image_ids(found["images"].astype(np.int32))
