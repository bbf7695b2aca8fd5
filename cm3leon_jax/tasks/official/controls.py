"""Control pictures that are computed here from the square that the model sees; white on black, as ControlNet's are.

Others need a network and are read from folders; see docs/fine_tuning.md.
"""

from typing import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from cm3leon_jax.errors import InputError
from cm3leon_jax.tasks.official.square import Square

CANNY = (100, 200)  # thresholds of ControlNet's demo
SCRIBBLE = (0.5, 5.0, 32)  # two sigmas and the threshold of ControlNet's XDoG scribbles


def _cv2():
  try:
    import cv2
  except ImportError as error:
    raise InputError("canny and scribble pictures are computed by OpenCV: pip install opencv-python-headless") from error
  return cv2


def canny(picture: np.ndarray) -> np.ndarray:
  """uint8[S, S, 3] → uint8[S, S, 3], 255 on edges."""
  edges = _cv2().Canny(np.ascontiguousarray(picture), *CANNY)
  return np.repeat(edges[..., None], 3, axis=2)


def scribble(picture: np.ndarray) -> np.ndarray:
  """uint8[S, S, 3] → uint8[S, S, 3], 255 on the lines that a difference of Gaussians finds.

  All in float: ControlNet's own line doubles in uint8 and so loses the strongest edges.
  """
  fine, coarse, threshold = SCRIBBLE
  cv2, values = _cv2(), picture.astype(np.float32)
  darker = cv2.GaussianBlur(values, (0, 0), coarse) - cv2.GaussianBlur(values, (0, 0), fine)
  lines = darker.min(axis=2) * 2 > threshold  # darker than what surrounds it, in every channel
  return np.repeat(np.where(lines, 255, 0).astype(np.uint8)[..., None], 3, axis=2)


def colour(category: int) -> tuple[int, int, int]:
  """Of a category number: any two of 0..214 differ by at least 51 in a channel, and none is black, the background."""
  code = category % 215 + 1
  return code % 6 * 51, code // 6 % 6 * 51, code // 36 * 51


def segmentation(annotations: Sequence[Mapping], width: int, height: int, size: int) -> np.ndarray:
  """Instances of COCO's file → uint8[size, size, 3] in the colours of their categories, smaller ones on top.

  Args:
    annotations: `category_id`, `area`, `segmentation` (polygons, or run lengths of a crowd).
    width, height: of the picture that they were drawn on.
    size: of the result, which shows the middle square.

  Raises:
    InputError: a segmentation of another form.
  """
  square = Square.of(width, height)
  factor = size / square.side
  canvas = Image.new("RGB", (size, size))
  draw = ImageDraw.Draw(canvas)
  for row in sorted(annotations, key=lambda a: -a["area"]):
    paint, shape = colour(row["category_id"]), row["segmentation"]
    if isinstance(shape, list):
      for polygon in shape:
        points = (np.reshape(polygon, [-1, 2]) - (square.left, square.top)) * factor
        if len(points) >= 3:
          draw.polygon([tuple(p) for p in points.tolist()], fill=paint)
    elif isinstance(shape, dict) and isinstance(shape.get("counts"), list):
      mask = Image.fromarray(_runs(shape["counts"], width, height)).crop(
          (square.left, square.top, square.left + square.side, square.top + square.side))
      canvas.paste(paint, mask=mask.resize((size, size), Image.Resampling.NEAREST))
    else:
      raise InputError("a segmentation is neither polygons nor run lengths: use the instances file as downloaded")
  return np.asarray(canvas)


def _runs(counts: Sequence[int], width: int, height: int) -> np.ndarray:
  """COCO's run lengths (column by column, beginning with 0s) → uint8[height, width] of 0 and 255."""
  values = np.repeat(np.arange(len(counts)) % 2 * 255, counts)
  if len(values) != width * height:
    raise InputError(f"run lengths of {len(values)} pixels for a picture of {width}×{height}")
  return values.astype(np.uint8).reshape(width, height).T
