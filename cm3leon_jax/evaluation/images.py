"""Folders of pictures, read in chunks."""

import hashlib
import os
from pathlib import Path
from typing import Iterator

import numpy as np
from PIL import Image

from cm3leon_jax.errors import InputError

EXTENSIONS = frozenset("bmp jpg jpeg pgm png ppm tif tiff webp".split())  # pytorch-fid's list
CHUNK = 256  # pictures in memory at once


def list_images(folder: str | os.PathLike) -> list[Path]:
  """The pictures directly in a folder, by name.

  Raises:
    InputError: no such folder, or no pictures in it.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise InputError(f"{folder}: no such folder")
  paths = sorted(p for p in folder.iterdir() if p.suffix[1:].lower() in EXTENSIONS)
  if not paths:
    raise InputError(f"{folder}: no pictures in it ({', '.join(sorted(EXTENSIONS))}); folders inside are not searched")
  return paths


def read_image(path: str | os.PathLike) -> np.ndarray:
  """uint8[H, W, 3]; other modes are converted to RGB as PIL (and pytorch-fid) does.

  Raises:
    InputError: not a picture, or cut short.
  """
  try:
    with Image.open(path) as image:
      return np.asarray(image.convert("RGB"))
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise InputError(f"{path}: not a readable picture ({error}); remove it or write it again") from error


def read_chunk(paths: list[Path], shape: tuple[int, ...], first: Path) -> np.ndarray:
  """uint8[len(paths), H, W, 3], all of `shape`, the shape of the picture `first`.

  Raises:
    InputError: a file is not a picture, or of another shape.
  """
  chunk = np.empty((len(paths),) + tuple(shape), np.uint8)
  for row, path in enumerate(paths):
    image = read_image(path)
    if image.shape != shape:
      raise InputError(f"{path}: {image.shape[1]}×{image.shape[0]} px, while {first.name} is "
                       f"{shape[1]}×{shape[0]} px; bring all pictures of a folder to one size first")
    chunk[row] = image
  return chunk


def read_chunks(paths: list[Path]) -> Iterator[np.ndarray]:
  """Yields uint8[≤ 256, H, W, 3] of all pictures, which must be of the first one's shape (see `read_chunk`)."""
  shape = read_image(paths[0]).shape if paths else ()
  for start in range(0, len(paths), CHUNK):
    yield read_chunk(paths[start:start + CHUNK], shape, paths[0])


def hash_file(path: str | os.PathLike) -> str:
  """SHA-256 of a file's bytes, hex.

  Raises:
    InputError: it cannot be read.
  """
  try:
    with open(path, "rb") as f:
      return hashlib.file_digest(f, "sha256").hexdigest()
  except OSError as error:
    raise InputError(f"{path}: cannot be read ({error.strerror})") from error
