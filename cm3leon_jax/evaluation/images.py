"""Folders of pictures, read in chunks."""

import os
from pathlib import Path
from typing import Iterator

import numpy as np
from PIL import Image

from cm3leon_jax.errors import InputError

EXTENSIONS = frozenset("bmp jpg jpeg pgm png ppm tif tiff webp".split())  # pytorch-fid's list
CHUNK = 256


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


def read_chunks(paths: list[Path]) -> Iterator[np.ndarray]:
  """Yields uint8[≤ 256, H, W, 3].

  Raises:
    InputError: a file is not a picture, or of another size than the first.
  """
  size = None
  for start in range(0, len(paths), CHUNK):
    chunk = []
    for path in paths[start:start + CHUNK]:
      image = read_image(path)
      size = size or image.shape
      if image.shape != size:
        raise InputError(f"{path}: {image.shape[1]}×{image.shape[0]} px, while {paths[0].name} is "
                         f"{size[1]}×{size[0]} px; bring all pictures of a folder to one size first")
      chunk.append(image)
    yield np.stack(chunk)
