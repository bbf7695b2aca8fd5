"""A checkpoint of ours, read layer by layer: `weights.npz` in place, a run's by way of a scratch file a leaf.

Orbax stores an array in as many chunks as it had shards, compressed: a layer of it cannot be read without the whole
chunk. So each array is unpacked chunk by chunk to disk first, and its checksum compared with the one in `about`.
"""

import itertools
import json
import math
import os
from pathlib import Path
from typing import Callable, Iterator, Mapping
import zipfile

import ml_dtypes
import numpy as np

from cm3leon_jax import assets, manifest
from cm3leon_jax.errors import InputError
from cm3leon_jax.models.init import abstract_parameters
from cm3leon_jax.training import checkpoints
from cm3leon_jax.training.store import flatten

WEIGHTS = "weights.npz"


class Leaf:
  """Numbers of one array in a plain file, in C order, from byte `start` on."""

  def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...], start: int = 0):
    self.path, self.dtype, self.shape, self.start = path, np.dtype(dtype), tuple(shape), start

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  def read(self, layer: int | None = None) -> np.ndarray:
    """The whole array, or its slice `layer` of the first axis."""
    shape = self.shape if layer is None else self.shape[1:]
    size = math.prod(shape) * self.dtype.itemsize
    raw = np.fromfile(self.path, np.uint8, size, offset=self.start + (layer or 0) * size)
    if raw.size != size:
      raise InputError(f"{self.path}: ends too early; it is cut short, copy it again")
    return raw.view(self.dtype).reshape(shape)


class Stored:
  """What a folder holds.

  Attributes:
    folder: of the checkpoint.
    config, vocabulary, layout, meta: of model.json.
    files: whose bytes are read.
    step: of a run's checkpoint, None of a released model.
    unpacked: what is written to scratch, in bytes.
  """

  def __init__(self, path: str | os.PathLike):
    self.folder = Path(assets.find(path))
    if not self.folder.is_dir():
      raise InputError(f"{path}: no such folder; expected a run folder or a released model")
    self.config, self.vocabulary, self.layout, self.meta = checkpoints.read_model_file(self.folder)
    self.leaves: dict[str, Leaf] = {}
    self.step = None
    self._want = {name: x.shape for name, x in flatten(abstract_parameters(self.config)).items()}
    if (self.folder / WEIGHTS).is_file():
      self.files = [self.folder / WEIGHTS]
      self.leaves = npz_leaves(self.folder / WEIGHTS)
      found = {name: leaf.shape for name, leaf in self.leaves.items()}
      self._run = None
    else:
      self._run = _Run(self.folder)
      self.step, self.files, found = self._run.step, self._run.files, self._run.shapes
    different = sorted(self._want.keys() ^ found.keys()) or [n for n in found if tuple(found[n]) != self._want[n]]
    if different:
      raise InputError(f"{self.folder}: does not hold the weights that model.json describes: {different[0]}")
    self.unpacked = self._run.nbytes if self._run else 0

  def check(self, digests: Mapping[str, str]) -> None:
    """Compares a released file's SHA-256, in hex by name, with its manifest; a run's arrays are checked by `unpack`.

    Raises:
      InputError: they differ.
    """
    try:
      said = json.loads((self.folder / manifest.FILE_NAME).read_text())["weights"]
    except (OSError, ValueError, KeyError, TypeError):
      return  # there is none, or it is another kind's
    if WEIGHTS in digests and not digests[WEIGHTS].startswith(str(said)):
      raise InputError(f"{self.folder / WEIGHTS}: its hash is not the manifest's {said}; it was changed or is damaged: copy it "
                       "again")

  def dtype(self, leaf: str) -> np.dtype:
    return self._run.dtypes[leaf] if self._run else self.leaves[leaf].dtype

  def unpack(self, scratch: Path, progress: Callable[[int], None]) -> None:
    """Makes the leaves of a run readable: writes each to a file in `scratch`, unless it is there. Released ones are."""
    if self._run:
      self.leaves = {name: self._run.unpack(name, scratch, progress) for name in self._run.shapes}

  def read(self, leaf: str, layer: int | None = None) -> np.ndarray:
    """A leaf, or one layer of it."""
    return self.leaves[leaf].read(layer)


def npz_leaves(path: Path) -> dict[str, Leaf]:
  """Name → leaf of every array in an uncompressed .npz; 16-bit unsigned integers are bfloat16's bits.

  Raises:
    InputError: not such a file.
  """
  leaves = {}
  try:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as f:
      for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED:
          raise InputError(f"{path}: {info.filename} is compressed; write it with np.savez")
        f.seek(info.header_offset)
        local = f.read(30)  # its last two fields: lengths of the name and of what is added
        f.seek(int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little"), os.SEEK_CUR)
        version = np.lib.format.read_magic(f)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(f)
        if fortran and len(shape) > 1 or dtype.hasobject:
          raise InputError(f"{path}: {info.filename} is in Fortran order, or holds Python objects")
        dtype = np.dtype(ml_dtypes.bfloat16) if dtype == np.uint16 else dtype
        leaves[info.filename.removesuffix(".npy")] = Leaf(path, dtype, shape, f.tell())
  except (zipfile.BadZipFile, ValueError, OSError) as error:
    raise InputError(f"{path}: not a whole .npz file ({error})") from error
  return leaves


class _Run:
  """The newest finished checkpoint of a run folder; the running mean of the weights, where one was kept."""

  def __init__(self, folder: Path):
    steps = [int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()]
    if not steps:
      raise InputError(f"{folder}: neither {WEIGHTS} nor a finished checkpoint in checkpoints/")
    self.step = max(steps)
    self._place = folder / "checkpoints" / str(self.step)
    self.files = sorted(p for p in (self._place / "state").rglob("*") if p.is_file())
    about = self._place / "about" / "metadata"
    try:
      self._checksums = json.loads(about.read_text()).get("checksums", {}) if about.is_file() else {}
      names = json.loads((self._place / "state" / "_METADATA").read_text())["tree_metadata"].values()
      names = [entry["key_metadata"][0]["key"] for entry in names]
    except (ValueError, KeyError, TypeError, OSError) as error:
      raise self._damaged(str(error)) from error
    self._root = "ema." if any(name.startswith("ema.") for name in names) else "params."
    names = sorted(name.removeprefix(self._root) for name in names if name.startswith(self._root))
    self._arrays = {name: self._open(self._root + name) for name in names}
    self.shapes = {name: tuple(x.shape) for name, x in self._arrays.items()}
    self.dtypes = {name: np.dtype(x.dtype.numpy_dtype) for name, x in self._arrays.items()}
    self.nbytes = sum(math.prod(self.shapes[n]) * self.dtypes[n].itemsize for n in names)

  def _damaged(self, why: str) -> InputError:
    return InputError(f"{self._place}: this checkpoint is incomplete or corrupt ({why[:200]}); move it away to use the one "
                      "before")

  def _open(self, name: str):
    import tensorstore

    spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": f"file://{self._place.resolve()}/state/", "path": f"{name}/"}}
    try:
      return tensorstore.open(spec, open=True, read=True).result()
    except ValueError as error:
      raise self._damaged(f"{name}: {error}") from error

  def unpack(self, name: str, scratch: Path, progress: Callable[[int], None]) -> Leaf:
    store, shape, dtype = self._arrays[name], self.shapes[name], self.dtypes[name]
    leaf = Leaf(scratch / f"{name}.raw", dtype, shape)
    done = scratch / f"{name}.done"
    if done.is_file():  # an earlier run of the same command wrote it, and compared its sum
      progress(leaf.nbytes)
      return leaf
    total = 0
    with open(leaf.path, "wb") as f:
      f.truncate(leaf.nbytes)
      for place in _chunks(shape, store.chunk_layout.read_chunk.shape):
        try:
          block = store[place].read().result()
        except ValueError as error:
          raise self._damaged(f"{name}: {error}") from error
        corner = [s.start for s in place]
        total = (total + checksum(block, corner)) % 2**32
        _place(f, block, corner, shape)
        progress(block.nbytes)
    if self._checksums.get(self._root + name, total) != total:
      raise self._damaged(f"{name} was changed")
    done.touch()
    return leaf


def _chunks(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
  """The places of all chunks of an array."""
  starts = (range(0, n, size or 1) for n, size in zip(shape, chunk))
  for corner in itertools.product(*starts):
    yield tuple(slice(at, min(at + size, n)) for at, size, n in zip(corner, chunk, shape))


def _place(file, block: np.ndarray, corner: list[int], shape: tuple[int, ...]) -> None:
  """Writes a block of an array in C order, a run of consecutive numbers at a time; a mapped file would stay in memory."""
  axis = block.ndim  # axes from here on are whole
  while axis and block.shape[axis - 1] == shape[axis - 1]:
    axis -= 1
  axis = max(axis - 1, 0)  # a part of this one is consecutive too
  for index in np.ndindex(block.shape[:axis]):
    first = [c + i for c, i in zip(corner, (*index, *[0] * (block.ndim - axis)))]
    at = int(np.ravel_multi_index(first, shape)) if shape else 0
    file.seek(at * block.itemsize)
    file.write(np.ascontiguousarray(block[index]).reshape(-1).view(np.uint8).data)


def checksum(block: np.ndarray, corner: list[int]) -> int:
  """The part of `training.checksums` that belongs to the block of an array whose first element stands at `corner`."""
  bits = np.ascontiguousarray(block).view(f"u{block.dtype.itemsize}")
  place = np.zeros((1,) * bits.ndim, np.uint32)
  for axis, (start, size) in enumerate(zip(corner, bits.shape)):
    index = np.arange(start, start + size, dtype=np.uint32)
    place = place * np.uint32(65537) + index.reshape([-1 if i == axis else 1 for i in range(bits.ndim)])
  total = 0
  for row, at in zip(bits.reshape(len(bits), -1), place.reshape(len(bits), -1)) if bits.ndim else [(bits, place)]:
    total += int(np.sum(row.astype(np.uint32) * (2 * at + np.uint32(1)), dtype=np.uint32))
  return total % 2**32
