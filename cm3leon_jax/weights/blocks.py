"""Arrays to bytes and files to hashes, in blocks, so that no second copy of a tensor is made."""

import hashlib
import os
from typing import Callable, Iterator

import numpy as np

from cm3leon_jax.errors import InputError

BLOCK = 2**24  # bytes


def cast(array: np.ndarray, dtype: np.dtype, name: str, shape: tuple[int, ...]) -> Iterator[memoryview]:
  """The bytes of `array` as `dtype` in C order, a few rows of its first axis at a time; a transposed view will do.

  Raises:
    InputError: a finite number becomes infinite in `dtype`; `name` is told.
  """
  if array.shape != tuple(shape):
    raise ValueError(f"{name}: {array.shape} instead of {tuple(shape)}")
  dtype = np.dtype(dtype)
  if not array.ndim:
    array = array[None]
  rows = max(1, BLOCK // max(1, array[:1].size * max(array.itemsize, dtype.itemsize)))
  for start in range(0, len(array), rows):
    part = array[start:start + rows]
    with np.errstate(over="ignore"):
      block = np.ascontiguousarray(part.astype(dtype, copy=False))
    if dtype != array.dtype and not np.array_equal(np.isfinite(block), np.isfinite(part)):
      raise InputError(f"weight {name} exceeds {dtype.name}; choose --dtype=bfloat16 or float32")
    yield block.reshape(-1).view(np.uint8).data


def transposed(x: np.ndarray) -> np.ndarray:
  """A copy of the transpose of a matrix, in tiles that stay in cache: several times as fast as NumPy's own."""
  bits = x.view(f"u{x.itemsize}")
  out = np.empty(bits.shape[::-1], bits.dtype)
  for row in range(0, bits.shape[0], 64):
    for column in range(0, bits.shape[1], 512):
      out[column:column + 512, row:row + 64] = bits[row:row + 64, column:column + 512].T
  return out.view(x.dtype)


def sha256(path: str | os.PathLike, progress: Callable[[int], None] = lambda _: None, start: int = 0,
           size: int | None = None) -> str:
  """SHA-256 of a file, or of `size` bytes of it from `start` on, in hex."""
  digest = hashlib.sha256()
  left = os.path.getsize(path) - start if size is None else size
  with open(path, "rb") as f:
    f.seek(start)
    while left > 0 and (block := f.read(min(BLOCK, left))):
      digest.update(block)
      progress(len(block))
      left -= len(block)
  return digest.hexdigest()
