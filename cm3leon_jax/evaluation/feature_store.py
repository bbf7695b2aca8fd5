"""Features of pictures, kept on disk: computed once for the same pictures and network, gone on with after a kill.

A cache folder holds

    sets/<key>.npy          float32[N, D], a finished folder's features, read as a memory map
    parts/<key>/00000.npy   what is done of an unfinished folder, 256 pictures a file

A key is a SHA-256 over the network (key, weights, preprocessing) and the content of every picture, so nothing in
the cache can be out of date, and all of it may be deleted at any time. Files are written under a temporary name and
renamed; two processes at the same pictures write the same bytes. No more than a chunk of pictures is in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from pathlib import Path
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Callable, Sequence

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import images

if TYPE_CHECKING:
  from cm3leon_jax.evaluation.networks.features import FeatureNetwork

VARIABLE = "CM3LEON_CACHE"
_FORMAT = "1"  # in every key: another way of computing features gets another number
_BLOCK = 4096  # rows looked at once


@dataclasses.dataclass(frozen=True)
class Features:
  """What is known of some picture files.

  Attributes:
    features: float32[N, D], a read-only memory map, in the order of the files.
    hashes: SHA-256 of the N files, hex.
    key: of this set of pictures under this network.
  """
  features: np.ndarray
  hashes: list[str]
  key: str

  @property
  def duplicates(self) -> int:
    """Files whose bytes a file before them has already."""
    return len(self.hashes) - len(set(self.hashes))


def default_cache() -> Path:
  """`CM3LEON_CACHE`, or `~/.cache/cm3leon_jax/features`."""
  return Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "cm3leon_jax" / "features")


def identity(network: FeatureNetwork) -> str:
  """What of the network decides the features, as one line."""
  return "\n".join([_FORMAT, network.key, network.weights_hash, network.preprocessing])


def features_of_folder(folder: str | os.PathLike, network: FeatureNetwork,
                       cache: str | os.PathLike | None = None) -> Features:
  """Features of all pictures of a folder (`images.list_images`); the rest as `features_of_files`."""
  return features_of_files(images.list_images(folder), network, cache)


def features_of_files(paths: Sequence[Path], network: FeatureNetwork,
                      cache: str | os.PathLike | None = None) -> Features:
  """Features of pictures, from the cache as far as it has them.

  Args:
    paths: one or more picture files, all of one size.
    cache: the cache folder; by default `default_cache()`. One that cannot be written is done without, with a note.

  Raises:
    InputError: a picture that cannot be read or is of another size, or features that are not finite.
  """
  paths = list(paths)
  hashes = [images.hash_file(path) for path in paths]
  key = _key(identity(network), *hashes)
  cache = Path(cache) if cache else default_cache()
  features = _read(cache / "sets" / f"{key}.npy", (len(paths), network.dim))
  if features is None:
    try:
      features = _fill(cache, key, paths, network)
    except OSError as error:
      features = _without(cache, error, lambda temporary: _fill(temporary, key, paths, network))
  return Features(features, hashes, key)


def rows_not_finite(features: np.ndarray) -> np.ndarray:
  """Numbers of the rows of features [N, D] that hold NaN or infinity."""
  return np.concatenate([np.zeros(0, np.int64)] + [
      start + np.flatnonzero(~np.isfinite(features[start:start + _BLOCK]).all(axis=1))
      for start in range(0, len(features), _BLOCK)])


def _check_finite(features: np.ndarray, paths: Sequence[Path]) -> None:
  """Raises InputError where a picture's row is not finite."""
  bad = rows_not_finite(features)
  if len(bad):
    raise InputError(f"{paths[bad[0]]}: its features are NaN or infinite ({len(bad)} such pictures of the "
                     f"{len(features)} looked at); are the weights whole?")


def _key(*parts: str) -> str:
  return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _fill(cache: Path, key: str, paths: list[Path], network: FeatureNetwork) -> np.ndarray:
  """Computes what `parts/` lacks, joins the parts to one file and maps it.

  Raises:
    OSError: the cache cannot be written.
  """
  from tqdm import tqdm

  whole, parts = cache / "sets" / f"{key}.npy", cache / "parts" / key
  parts.mkdir(parents=True, exist_ok=True)
  first = images.read_image(paths[0])
  with tqdm(total=len(paths), desc=paths[0].parent.name, unit="picture", file=sys.stderr) as bar:
    for start in range(0, len(paths), images.CHUNK):
      some = paths[start:start + images.CHUNK]
      name = parts / f"{start // images.CHUNK:05}.npy"
      if _read(name, (len(some), network.dim)) is None:
        features = network.features(images.read_chunk(some, first.shape, paths[0]))
        _check_finite(features, some)
        _write(name, features)
      bar.update(len(some))

  def join(out):
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False,
                                               "shape": (len(paths), network.dim)})
    for start in range(0, len(paths), images.CHUNK):
      out.write(np.load(parts / f"{start // images.CHUNK:05}.npy").tobytes())

  try:
    _write(whole, join)
  except FileNotFoundError:  # another process joined the same parts first, and removed them
    if _read(whole, (len(paths), network.dim)) is None:
      raise
  shutil.rmtree(parts, ignore_errors=True)
  features = _read(whole, (len(paths), network.dim))
  if features is None:
    raise OSError(f"{whole} was written, and cannot be read")
  return features


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
  """The memory map of a stored array; None when there is none of this shape."""
  try:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError, EOFError):  # not there, or damaged: it is made anew
    return None
  return array if array.shape == shape and array.dtype == np.float32 else None


def _write(path: Path, content) -> None:
  """Writes an array, or what a function writes to the open file, and renames it into place."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
  try:
    with open(temporary, "wb") as out:
      content(out) if callable(content) else np.save(out, content)
      out.flush()
      os.fsync(out.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def _without(cache: Path, error: OSError, fill: Callable[[Path], np.ndarray]) -> np.ndarray:
  """Fills a temporary folder instead, and says so."""
  print(f"note: the cache {cache} cannot be written ({error.strerror or error}): these features are not kept; "
        f"--cache=D or {VARIABLE} names another folder", file=sys.stderr)
  with _temporary() as folder:
    return fill(folder)


@contextlib.contextmanager
def _temporary():
  """A temporary folder; its files' maps stay readable after it is removed."""
  try:
    folder = Path(tempfile.mkdtemp(prefix="cm3leon_features_"))
  except OSError as error:
    raise InputError(f"{tempfile.gettempdir()}: no room for features ({error.strerror}); name a folder with "
                     "--cache=D") from error
  try:
    yield folder
  finally:
    shutil.rmtree(folder, ignore_errors=True)
