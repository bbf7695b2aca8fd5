"""JSON lines beside picture files.

    pairs.jsonl   {"id": "7", "image": "pictures/7.jpg", "caption": "a red hat"}
"""

import base64
import binascii
import dataclasses
import json
import os
from typing import Iterator

from cm3leon_jax.datasets.corpora import raw
from cm3leon_jax.datasets.corpora.raw import Raw


@dataclasses.dataclass(frozen=True)
class JsonLines:
  """A shard is a stretch of `shard_bytes` of a file: the lines that begin in it.

  Attributes:
    files: a glob pattern, or the folder with the .jsonl files.
    images: folder that the picture paths start from; `` is that of the .jsonl file.
    image, caption, id: names of the fields. Without an id in it, a line is named by its file and place. An image is a
      path, or a file in base64 (`data:image/png;base64,…` too).
    shard_bytes: how much of a file one shard reads.
  """

  files: str
  images: str = ""
  image: str = "image"
  caption: str = "caption"
  id: str = "id"
  shard_bytes: int = 1 << 20

  def shards(self) -> list[str]:
    files = raw.files(self.files, "JSON lines: JsonLines.files = '/data/pairs*.jsonl'")
    return [s for f in files for s in raw.ranges(f, os.path.getsize(f), self.shard_bytes)]

  def read(self, shard: str) -> Iterator[Raw]:
    path, begin, end = raw.split_range(shard)
    with open(path, "rb") as f:
      if begin:  # the line that goes over the border belongs to the shard before
        f.seek(begin - 1)
        f.readline()
      while f.tell() < end:
        place = f.tell()
        line = f.readline()
        if line.strip():
          yield self._record(path, place, line)

  def _record(self, path: str, place: int, line: bytes) -> Raw:
    name = f"{os.path.basename(path)}@{place}"
    try:
      row = json.loads(line)
      if not isinstance(row, dict):
        raise ValueError("not an object")
    except UnicodeDecodeError as error:
      return Raw(name, None, None, {}, ("caption_not_utf8", str(error)))
    except ValueError as error:
      return Raw(name, None, None, {}, ("broken_record", f"the line at byte {place} is not JSON: {error}"))
    image, problem = self._picture(path, row.get(self.image))
    extra = {k: v for k, v in row.items() if k not in (self.image, self.caption)}
    return Raw(str(row.get(self.id, name)), image, row.get(self.caption), extra, problem)

  def _picture(self, path: str, value) -> tuple[bytes | None, tuple[str, str] | None]:
    if not isinstance(value, str) or not value:
      return None, None
    if value.startswith("data:") or len(value) > 4096:
      try:
        return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True), None
      except binascii.Error as error:
        return None, ("broken_picture", f"not base64: {error}")
    return raw.picture_bytes(os.path.join(self.images or os.path.dirname(path), value))
