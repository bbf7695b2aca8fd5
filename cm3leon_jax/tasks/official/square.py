"""The part of a picture that the model sees: its middle square, scaled. Pictures and boxes alike."""

import os
from typing import NamedTuple, Sequence

import numpy as np
from PIL import Image, ImageOps

from cm3leon_jax.datasets.pictures import FORMATS
from cm3leon_jax.errors import InputError

FRAME = 256  # boxes are written in pixels 0..255 whatever the tokenizer's size (paper Fig. 15)
SEEN = 0.5  # a box less than half of which lies in the square is not said to be in the picture


class Square(NamedTuple):
  """The middle square, in the picture's pixels."""

  left: int
  top: int
  side: int

  @classmethod
  def of(cls, width: int, height: int) -> "Square":
    side = min(width, height)
    return cls((width - side) // 2, (height - side) // 2, side)


def read(path: str | os.PathLike, size: int, expected: tuple[int, int] | None = None) -> np.ndarray:
  """uint8[size, size, 3], prepared as a picture that is given at inference is (`api.open_picture`, `api.squared`).

  Args:
    path: a picture; turned as its EXIF says, transparent parts white.
    size: of the result.
    expected: (width, height) that its annotations were made for.

  Raises:
    InputError: no such file, not a picture, or of another size than its annotations say.
  """
  try:
    with Image.open(path, formats=FORMATS) as opened:
      turned = ImageOps.exif_transpose(opened)
      picture = turned.convert("RGB") if turned.mode in ("RGB", "L", "YCbCr", "CMYK") and not turned.info.get(
          "transparency") else _on_white(turned.convert("RGBA"))
  except FileNotFoundError as error:
    raise InputError(f"{path}: no such picture") from error
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    raise InputError(f"{path}: not a picture that can be read ({error})") from error
  if expected and picture.size != tuple(expected):
    raise InputError(f"{path}: {picture.width}×{picture.height} pixels, its annotations are for {expected[0]}×{expected[1]}")
  left, top, side = Square.of(*picture.size)
  square = picture.crop((left, top, left + side, top + side))
  return np.asarray(square if side == size else square.resize((size, size), Image.Resampling.LANCZOS))


def _on_white(rgba: Image.Image) -> Image.Image:
  return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def box(square: Square, corners: Sequence[float]) -> tuple[int, int, int, int] | None:
  """A box (x0, y0, x1, y1) in the picture's pixels → in those of the 256 × 256 square, clipped to 0..255.

  None where less than half of it lies in the square, or less than a pixel is left.
  """
  x0, y0, x1, y1 = corners
  scaled = [(v - o) * FRAME / square.side for v, o in ((x0, square.left), (y0, square.top), (x1, square.left), (y1, square.top))]
  clipped = [min(max(v, 0), FRAME) for v in scaled]
  area = lambda b: max(b[2] - b[0], 0) * max(b[3] - b[1], 0)
  if area(clipped) < SEEN * area(scaled) or not area(clipped):
    return None
  found = tuple(min(int(round(v)), FRAME - 1) for v in clipped)
  return found if found[2] > found[0] and found[3] > found[1] else None
