"""The document store: a document by its id, read from ArrayRecord shards.

The map id → row is two sorted arrays beside the shards, `ids.npy` and `rows.npy`, read through
memory maps: a look-up is a binary search, and hundreds of millions of documents need no dict.
"""

import os
from pathlib import Path
import tempfile
from typing import Iterable, Sequence

import numpy as np

from cm3leon_jax import manifest as manifests
from cm3leon_jax import records
from cm3leon_jax.errors import InputError

KIND = "documents"
IDS_FILE = "ids.npy"
ROWS_FILE = "rows.npy"


class DocumentStore:
  """`store[id]` → the document record; `store.get(ids)` → several in one read a shard; `len`, `in`.

  Attributes:
    manifest: the folder's.
  """

  def __init__(self, folder: str | os.PathLike):
    """Opens a `documents` folder, and writes its id map if nobody has yet.

    Raises:
      InputError: no such folder, half written, or two documents of one id.
    """
    self.manifest = manifests.read(folder, KIND, rebuild="cm3leon data tokenize")
    self._folder = Path(folder)
    self._reader = records.Reader(folder, KIND)
    self._ids, self._rows = self._open_map()

  def __len__(self) -> int:
    return len(self._reader)

  def __contains__(self, document_id: str) -> bool:
    return self._row(document_id) is not None

  def __getitem__(self, document_id: str) -> dict:
    return self.get([document_id])[0]

  def get(self, document_ids: Sequence[str]) -> list[dict]:
    """The documents, in the order asked for.

    Raises:
      InputError: an id that is not there.
    """
    rows = [self._row(document_id) for document_id in document_ids]
    if None in rows:
      raise InputError(f"{self._folder}: no document {document_ids[rows.index(None)]!r}; "
                       "the index or the neighbours were made from other documents: make them again")
    return self._reader.rows(rows)

  def _row(self, document_id: str) -> int | None:
    key = document_id.encode()
    at = int(np.searchsorted(self._ids, key))
    return int(self._rows[at]) if at < len(self._ids) and self._ids[at] == key else None

  def _open_map(self) -> tuple[np.ndarray, np.ndarray]:
    paths = [self._folder / IDS_FILE, self._folder / ROWS_FILE]
    if all(path.is_file() for path in paths):
      ids, rows = (np.load(path, mmap_mode="r") for path in paths)
      if len(ids) == len(rows) == len(self._reader):
        return ids, rows
    ids, rows = sorted_ids(row["id"] for row in self._reader)
    repeated = np.flatnonzero(ids[1:] == ids[:-1])
    if len(repeated):
      raise InputError(f"{self._folder}: two documents have the id {ids[repeated[0]].decode()!r}; make it again")
    for path, array in zip(paths, (ids, rows), strict=True):
      _save_if_writable(path, array)
    return ids, rows


def sorted_ids(ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
  """Ids in row order → their bytes sorted, and int64 rows in that order."""
  encoded = np.array([document_id.encode() for document_id in ids])
  order = np.argsort(encoded, kind="stable").astype(np.int64)
  return encoded[order], order


def _save_if_writable(path: Path, array: np.ndarray) -> None:
  """Whole or not at all, whoever else writes it too; a read-only folder keeps the map in memory only."""
  try:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
  except OSError:
    return
  with os.fdopen(handle, "wb") as file:
    np.save(file, array)
  os.replace(name, path)
