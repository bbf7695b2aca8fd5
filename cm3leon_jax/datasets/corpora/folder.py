"""A folder of pictures, at any depth.

    hats/red_hat.jpg  hats/red_hat.txt     the caption beside it, or made from its name: `red hat`
"""

import dataclasses
import functools
import os
import re
from pathlib import Path
from typing import Iterator

from cm3leon_jax.datasets.corpora import raw
from cm3leon_jax.datasets.corpora.raw import Raw
from cm3leon_jax.errors import InputError

CAPTIONS = ("sidecar", "name", "folder_and_name")
_WORDS = re.compile(r"[\W_]+")
_COUNTER = re.compile(r"(?:^|[\W_])\d{1,3}$")  # the `02` of `red_hat_02`


@functools.lru_cache(4)
def _listed(folder: str) -> list[str]:
  """Paths of the pictures below a folder, from it; listed once a worker, not once a shard."""
  return sorted(os.path.relpath(os.path.join(path, name), folder) for path, _, names in os.walk(folder, followlinks=True)
                for name in names if name.lower().endswith(raw.PICTURE_SUFFIXES) and not name.startswith("."))


@dataclasses.dataclass(frozen=True)
class ImageFolder:
  """A shard is a stretch of `shard_files` pictures in the order of their paths. Links are followed.

  Attributes:
    folder: where the pictures lie.
    captions: `sidecar`: the file of the same name and `suffix`; `name`: the file's name in words, without a counter
      at its end; `folder_and_name`: that with the names of the folders before it.
    suffix: of the sidecar files.
    shard_files: pictures of a shard.
  """

  folder: str
  captions: str = "sidecar"
  suffix: str = ".txt"
  shard_files: int = 1000

  def shards(self) -> list[str]:
    if self.captions not in CAPTIONS:
      raise InputError(f"ImageFolder.captions={self.captions!r}: known are {', '.join(CAPTIONS)}")
    if not os.path.isdir(self.folder):
      raise InputError(f"{self.folder}: no such folder of pictures (ImageFolder.folder)")
    _listed.cache_clear()
    if not _listed(self.folder):
      raise InputError(f"{self.folder}: no picture in it ({', '.join(raw.PICTURE_SUFFIXES)})")
    return raw.ranges(self.folder, len(_listed(self.folder)), self.shard_files)

  def read(self, shard: str) -> Iterator[Raw]:
    _, begin, end = raw.split_range(shard)
    for name in _listed(self.folder)[begin:end]:
      path = Path(self.folder) / name
      image, problem = raw.picture_bytes(path)
      yield Raw(os.fsencode(name).decode("utf-8", "backslashreplace"), image, self._caption(path, name), {}, problem)

  def _caption(self, path: Path, name: str) -> bytes | str | None:
    if self.captions == "sidecar":
      beside = path.with_suffix(self.suffix)
      return beside.read_bytes() if beside.is_file() else None
    words = name if self.captions == "folder_and_name" else os.path.basename(name)
    words = os.path.splitext(words)[0]
    bare = _COUNTER.sub("", words)
    return _WORDS.sub(" ", bare if re.search(r"[^\W\d_]", bare) else words).strip()
