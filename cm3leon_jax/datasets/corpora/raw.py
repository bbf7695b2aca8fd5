"""What every reader of a corpus gives, and the little that they share."""

import glob
import os
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Protocol, Sequence

from cm3leon_jax.errors import InputError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2")
_MOST = 400  # characters of a field that is carried


class Raw(NamedTuple):
  """One record as it lies in the source, nothing decoded.

  Attributes:
    id: unique in the corpus.
    image: the bytes of a picture file; None where there is none.
    caption: text, or bytes that should be UTF-8; None where there is none.
    extra: other fields of the source: str, int, float, bool, or lists and dicts of them.
    problem: (kind, reason) of a record that the reader itself could not read; else None.
  """

  id: str
  image: bytes | None
  caption: str | bytes | None
  extra: Mapping[str, Any] = {}
  problem: tuple[str, str] | None = None


class Source(Protocol):
  """A corpus in some format; small and picklable, so that any worker can read any shard."""

  def shards(self) -> Sequence[str]:
    """Names of its shards, always in the same order; reads no records.

    Raises:
      InputError: nothing is there.
    """

  def read(self, shard: str) -> Iterator[Raw]:
    """The records of one shard, in order, each as it is asked for."""


def files(pattern: str, what: str) -> list[str]:
  """Files of a glob pattern (`{a,b}` is not one), sorted by name; a folder's own files where it names a folder.

  Raises:
    InputError: none.
  """
  names = [os.path.join(pattern, n) for n in os.listdir(pattern)] if os.path.isdir(pattern) else glob.glob(pattern, recursive=True)
  found = sorted(n for n in names if os.path.isfile(n) and not os.path.basename(n).startswith((".", "_")))
  if not found:
    raise InputError(f"{pattern}: no such file; give {what}")
  return found


def split_range(shard: str) -> tuple[str, int, int]:
  """`path@begin-end` → its parts."""
  path, _, span = shard.rpartition("@")
  begin, end = span.split("-")
  return path, int(begin), int(end)


def ranges(path: str, total: int, step: int) -> list[str]:
  """`path@begin-end` for each stretch of `step` in [0, total)."""
  return [f"{path}@{b}-{min(b + step, total)}" for b in range(0, total, step)]


def picture_bytes(path: str | os.PathLike) -> tuple[bytes | None, tuple[str, str] | None]:
  """A file's bytes and no problem, or None and the problem."""
  try:
    return Path(path).read_bytes(), None
  except FileNotFoundError:
    return None, ("no_picture", f"{path}: no such file")
  except OSError as error:
    return None, ("unreadable_file", f"{path}: {error.strerror}")


def common_folder(paths: Iterable[str]) -> str:
  """The folder that all paths share, to name records by what is below it."""
  return os.path.commonpath([os.path.dirname(p) or "." for p in paths])


def kept(extra: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
  """Those fields that are there; long texts are cut."""
  found = {name: extra[name] for name in names if extra.get(name) is not None}
  return {name: v[:_MOST] if isinstance(v, str) else v for name, v in found.items()}
