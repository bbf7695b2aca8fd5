"""The safetensors layout, read and written tensor by tensor, with plain file access.

A file is eight bytes (the header's length, little endian), a JSON header (name → dtype, shape, place), and the
numbers, C order, little endian. The `safetensors` package maps whole files and writes only what is whole in memory;
here the caller's memory holds one tensor at a time, and bfloat16 is read as such.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Callable, Iterable, Mapping, NamedTuple

import ml_dtypes
import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.weights import blocks

DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16),
          "F64": np.dtype(np.float64), "I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "I16": np.dtype(np.int16),
          "I8": np.dtype(np.int8), "U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_)}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # as the package allows
_MOST_DIMS, _LONGEST_DIM = 64, 2**62  # NumPy's
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Entry(NamedTuple):
  """Where a tensor lies: `start` counts from the file's first byte."""

  path: Path
  dtype: np.dtype
  shape: tuple[int, ...]
  start: int

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  def read(self) -> np.ndarray:
    """The tensor; raises InputError when the file has become shorter than its header says."""
    raw = np.fromfile(self.path, np.uint8, self.nbytes, offset=self.start)
    if raw.size != self.nbytes:
      raise InputError(f"{self.path}: ends before its last tensor; it is cut short, copy it again")
    return raw.view(self.dtype).reshape(self.shape)


def read_header(path: str | os.PathLike) -> dict[str, Entry]:
  """Name → entry of every tensor in the file.

  Raises:
    InputError: not a whole safetensors file, or a dtype that is not known here.
  """
  path = Path(path)
  try:
    size = path.stat().st_size
    with open(path, "rb") as f:
      length = int.from_bytes(f.read(8), "little")
      if size < 8 or not 2 <= length <= min(_LONGEST_HEADER, size - 8):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
      header = json.loads(f.read(length))
    header.pop("__metadata__", None)
    entries = {}
    for name, about in header.items():
      if about["dtype"] not in DTYPES:
        raise InputError(f"{path}: {name} has dtype {about['dtype']}; known: {', '.join(DTYPES)}")
      shape, (start, stop) = tuple(about["shape"]), about["data_offsets"]
      if len(shape) > _MOST_DIMS or not all(type(n) is int and 0 <= n < _LONGEST_DIM for n in (*shape, start, stop)):
        raise ValueError(f"{name} has a shape or place that is no count")
      entries[name] = Entry(path, DTYPES[about["dtype"]], shape, 8 + length + start)
      if entries[name].nbytes != stop - start or 8 + length + stop > size:
        raise ValueError(f"{name} does not lie within the file")
  except FileNotFoundError as error:
    raise InputError(f"{path}: no such file") from error
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise InputError(f"{path}: not a whole safetensors file ({error})") from error
  except OSError as error:
    raise InputError(f"{path}: cannot be read ({error})") from error
  return entries


def read_folder(folder: str | os.PathLike) -> dict[str, Entry]:
  """Name → entry over all shards of a public model's folder: model.safetensors, or the files that the index names.

  Raises:
    InputError: neither is there, a shard is missing or damaged, or a tensor is not where the index says.
  """
  folder = Path(folder)
  if (folder / SINGLE).is_file():
    return read_header(folder / SINGLE)
  index = folder / INDEX
  if not index.is_file():
    old = sorted(folder.glob("*.bin"))
    hint = f" ({old[0].name} is a pickle: save it again with safe_serialization=True)" if old else ""
    raise InputError(f"{folder}: neither {SINGLE} nor {INDEX} in it{hint}")
  try:
    places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    files = sorted(set(places.values()))
    if any(Path(name).name != name or name in ("", "..") for name in files):
      raise ValueError("it names files outside the folder")
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
    raise InputError(f"{index}: not an index of shards ({error})") from error
  entries: dict[str, Entry] = {}
  for file in files:
    for name, entry in read_header(folder / file).items():
      if name in entries:
        raise InputError(f"{folder}: {name} is in two shards, {entries[name].path.name} and {file}")
      entries[name] = entry
  for name, file in places.items():
    if name not in entries or entries[name].path.name != file:
      raise InputError(f"{index}: says that {name} is in {file}, which does not hold it")
  return entries


def write(path: str | os.PathLike, tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
          arrays: Iterable[Callable[[], np.ndarray]], progress: Callable[[int], None] = lambda _: None) -> str:
  """Writes one file, tensor after tensor, and returns its SHA-256 in hex.

  Args:
    path: of the file.
    tensors: name → (dtype in the file, shape), in the file's order.
    arrays: in the same order, functions that give the arrays; each is cast block by block.
    progress: told the bytes of each block.

  Raises:
    InputError: a number does not fit into the file's dtype.
  """
  header: dict = {"__metadata__": {"format": "pt"}}
  at = 0
  for name, (dtype, shape) in tensors.items():
    stop = at + math.prod(shape) * np.dtype(dtype).itemsize
    header[name] = {"dtype": _NAMES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [at, stop]}
    at = stop
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)  # the numbers start at a multiple of 8, as the package wants
  digest = hashlib.sha256()
  with open(path, "wb") as f:
    for part in (len(text).to_bytes(8, "little"), text):
      f.write(part)
      digest.update(part)
    for (name, (dtype, shape)), array in zip(tensors.items(), arrays, strict=True):
      for block in blocks.cast(array(), dtype, name, shape):
        f.write(block)
        digest.update(block)
        progress(len(block))
  return digest.hexdigest()
