"""WebDataset: tar files in which the members of one name make a record, as img2dataset writes them (LAION, CC12M).

    00000.tar   000000000.jpg  000000000.txt  000000000.json     the caption in .txt, else in the JSON
"""

import dataclasses
import json
import os
import tarfile
from typing import Iterator

from cm3leon_jax.datasets.corpora import raw
from cm3leon_jax.datasets.corpora.raw import Raw

_CAPTIONS = (".txt", ".caption", ".text")


class _Member(tarfile.TarInfo):
  """Python's reader takes a damaged or missing head for the end of the file, without a word; here only the end mark is."""

  @classmethod
  def fromtarfile(cls, tar):
    try:
      return super().fromtarfile(tar)
    except tarfile.EOFHeaderError:
      raise
    except tarfile.HeaderError as error:
      raise tarfile.ReadError(f"{error}, and no end mark") from error


@dataclasses.dataclass(frozen=True)
class WebDataset:
  """One shard a tar file (`.tar`, or compressed).

  Attributes:
    files: a glob pattern, or the folder with the tar files.
    caption: field of the .json that is the caption of a record without .txt.
    id: field of the .json that names a record; `` names it `<tar>/<key>`, which is unique by itself.
  """

  files: str
  caption: str = "caption"
  id: str = ""

  def shards(self) -> list[str]:
    return [f for f in raw.files(self.files, "tar files: WebDataset.files = '/data/shards/*.tar'") if ".tar" in os.path.basename(f)
            or f.endswith(".tgz")]

  def read(self, shard: str) -> Iterator[Raw]:
    stem = os.path.basename(shard).split(".")[0]
    key, parts = None, {}
    try:
      with tarfile.open(shard, "r|*", tarinfo=_Member) as tar:  # a stream: members in order, nothing is sought
        for member in tar:
          if not member.isfile():
            continue
          folder, name = os.path.split(member.name)
          base, _, suffix = name.partition(".")  # WebDataset's rule: from the first dot of the file's name
          if (folder, base) != key:
            if parts:
              yield self._record(stem, key, parts)
            key, parts = (folder, base), {}
          parts[f".{suffix.lower()}"] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
      # What was being read when the file broke off is not whole.
      problem = ("broken_shard", f"{shard} breaks off after {_name(key) or 'nothing'}: {error}")
      yield Raw(f"{stem}/{_name(key)}", None, None, {}, problem)
      return
    if parts:
      yield self._record(stem, key, parts)

  def _record(self, stem: str, key: tuple[str, str], parts: dict[str, bytes]) -> Raw:
    name = f"{stem}/{_name(key)}"
    about, problem = {}, None
    if ".json" in parts:
      try:
        about = json.loads(parts[".json"])
        if not isinstance(about, dict):
          raise ValueError("not an object")
      except ValueError as error:
        about, problem = {}, ("broken_record", f"its .json cannot be read: {error}")
    image = next((parts[s] for s in parts if s.endswith(raw.PICTURE_SUFFIXES)), None)
    caption = next((parts[s] for s in _CAPTIONS if s in parts), about.get(self.caption))
    return Raw(str(about.get(self.id) or name) if self.id else name, image, caption, about, problem if caption is None else None)


def _name(key: tuple[str, str] | None) -> str:
  return "" if key is None else "/".join(part for part in key if part)
