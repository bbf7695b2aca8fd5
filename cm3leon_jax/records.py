"""Records on disk: ArrayRecord shards of msgpack dicts, random access by row.

Fields are str, int, float, bytes or NumPy arrays. msgpack carries no code, so a file from
elsewhere is safe to read.
"""

import os
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Sequence

from array_record.python import array_record_module
import msgpack
import numpy as np

from cm3leon_jax.errors import InputError

Record = Mapping[str, Any]
_ARRAY = 1  # msgpack extension code


def _default(value):
  if isinstance(value, (np.ndarray, np.generic)):
    array = np.ascontiguousarray(value)
    return msgpack.ExtType(_ARRAY, msgpack.packb((array.dtype.str, array.shape, array.tobytes())))
  raise TypeError(f"a record field cannot be a {type(value).__name__}")


def _ext_hook(code, data):
  if code != _ARRAY:
    raise ValueError(f"unknown msgpack extension {code}")
  dtype, shape, raw = msgpack.unpackb(data)
  return np.frombuffer(raw, np.dtype(dtype)).reshape(shape)


def encode(record: Record) -> bytes:
  return msgpack.packb(dict(record), default=_default)


def decode(data: bytes) -> dict:
  return msgpack.unpackb(data, ext_hook=_ext_hook)


def shard_name(stem: str, shard: int, num_shards: int) -> str:
  return f"{stem}-{shard:05d}-of-{num_shards:05d}.arrayrecord"


def write_shard(path: str | os.PathLike, records: Iterable[Record]) -> int:
  """Writes one shard; returns the number of records. `group_size:1` gives random access."""
  writer = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1")
  count = 0
  try:
    for record in records:
      writer.write(encode(record))
      count += 1
  finally:
    writer.close()
  return count


class Reader(Sequence):
  """Rows of all shards of a folder in shard order; `reader[i]` and `reader.rows([...])` read by index."""

  def __init__(self, folder: str | os.PathLike, stem: str):
    paths = sorted(Path(folder).glob(f"{stem}-*.arrayrecord"))
    if not paths:
      raise InputError(f"{folder}: no {stem}-*.arrayrecord files")
    self._open(paths)

  @classmethod
  def of_shard(cls, path: str | os.PathLike) -> "Reader":
    """The rows of one shard alone."""
    reader = cls.__new__(cls)
    reader._open([path])
    return reader

  def _open(self, paths: Sequence[str | os.PathLike]) -> None:
    self._readers = [array_record_module.ArrayRecordReader(os.fspath(p)) for p in paths]
    self._starts = np.cumsum([0] + [r.num_records() for r in self._readers])

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.rows(range(*index.indices(len(self))))
    return self.rows([index])[0]

  def rows(self, indices: Sequence[int]) -> list[dict]:
    """The records at `indices`, in that order: one read a shard."""
    indices = np.asarray(indices, np.int64)
    if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
      raise IndexError(f"rows {indices.min()}..{indices.max()} of {len(self)}")
    shards = np.searchsorted(self._starts, indices, side="right") - 1
    rows: list[dict | None] = [None] * len(indices)
    for shard in np.unique(shards):
      where = np.flatnonzero(shards == shard)
      data = self._readers[shard].read([int(i) for i in indices[where] - self._starts[shard]])
      for i, raw in zip(where, data):
        rows[i] = decode(raw)
    return rows

  def __iter__(self) -> Iterator[dict]:
    for start in range(0, len(self), 1024):
      yield from self.rows(range(start, min(start + 1024, len(self))))
