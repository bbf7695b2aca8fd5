"""Parquet, as img2dataset and many data sets on hubs write it: one row a record.

    00000.parquet   columns `jpg` (bytes) or `image` ({"bytes", "path"}), `caption`, `key`, `url`, …
"""

import dataclasses
import os
from typing import Iterator

from cm3leon_jax.datasets.corpora import raw
from cm3leon_jax.datasets.corpora.raw import Raw
from cm3leon_jax.errors import InputError

_IMAGES = ("image", "jpg", "png", "webp", "jpeg", "image_bytes", "bytes")
_CAPTIONS = ("caption", "text", "TEXT")
_BATCH = 64  # rows held at a time


@dataclasses.dataclass(frozen=True)
class Parquet:
  """One shard a row group.

  Attributes:
    files: a glob pattern, or the folder with the .parquet files.
    image: column of the picture: bytes, a struct with `bytes` or `path`, or a path. ``: the first of the usual names.
    caption: its column; ``: the first of the usual names.
    id: its column; without one, a record is named by its file and row.
    images: folder that picture paths start from; `` is that of the file.
  """

  files: str
  image: str = ""
  caption: str = ""
  id: str = "key"
  images: str = ""

  def shards(self) -> list[str]:
    pq, files = _pyarrow(), raw.files(self.files, "Parquet files: Parquet.files = '/data/*.parquet'")
    return [f"{f}@{g}-{g + 1}" for f in files if f.endswith(".parquet") for g in range(_open(pq, f).num_row_groups)]

  def read(self, shard: str) -> Iterator[Raw]:
    pq = _pyarrow()
    path, group, _ = raw.split_range(shard)
    table = _open(pq, path)
    names = table.schema_arrow.names
    image = self._column(self.image, _IMAGES, names, path, "Parquet.image")
    caption = self._column(self.caption, _CAPTIONS, names, path, "Parquet.caption")
    number = 0
    try:
      for batch in table.iter_batches(_BATCH, row_groups=[group]):
        columns = {name: batch.column(name) for name in batch.schema.names}
        for i in range(batch.num_rows):
          name = f"{os.path.basename(path)}/{group}/{number}"
          number += 1
          try:
            row = {k: c[i].as_py() for k, c in columns.items()}
          except UnicodeDecodeError as error:
            yield Raw(name, None, None, {}, ("caption_not_utf8", str(error)))
            continue
          picture, problem = self._picture(path, row[image])
          extra = {k: v for k, v in row.items() if k not in (image, caption)}
          yield Raw(name if row.get(self.id) is None else str(row[self.id]), picture, row[caption], extra, problem)
    except (OSError, ValueError) as error:  # pyarrow's errors are both or one of them
      yield Raw(f"{os.path.basename(path)}/{group}/{number}", None, None, {}, ("broken_shard", f"{path}: {error}"))

  def _column(self, given: str, usual: tuple[str, ...], names: list[str], path: str, field: str) -> str:
    found = [n for n in ((given,) if given else usual) if n in names]
    if not found:
      raise InputError(f"{path}: no column {given or ' or '.join(usual)}; it has {', '.join(names)}: set {field}")
    return found[0]

  def _picture(self, path: str, value) -> tuple[bytes | None, tuple[str, str] | None]:
    if isinstance(value, dict):
      value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
      return raw.picture_bytes(os.path.join(self.images or os.path.dirname(path), value))
    return value, None


def _pyarrow():
  try:
    import pyarrow.parquet as pq
  except ImportError as error:
    raise InputError("Parquet needs pyarrow: pip install 'cm3leon-jax[beam]'") from error
  return pq


def _open(pq, path: str):
  try:
    return pq.ParquetFile(path)
  except (OSError, ValueError) as error:
    raise InputError(f"{path}: not a Parquet file that can be read ({error}); fetch it again, or move it away") from error
