"""Query dropout: a training query loses a fifth of its tokens, so that retrieval stays varied (PAPER §2).

Pure functions of their seed: any host, any order, the same queries.
"""

from typing import Sequence

import numpy as np

PATCH_PIXELS = 8
_WHITE = 255


def drop_text(ids: np.ndarray, rate: float, seed: Sequence[int]) -> np.ndarray:
  """int32[n] text ids → those that stay, in order; each goes with probability `rate`, at least one stays."""
  ids = np.asarray(ids, np.int32)
  draws = np.random.default_rng(tuple(seed)).random(len(ids))
  kept = draws >= rate
  if len(ids) and not kept.any():
    kept[draws.argmax()] = True
  return ids[kept]


def drop_patches(image: np.ndarray, rate: float, seed: Sequence[int], patch: int = PATCH_PIXELS) -> np.ndarray:
  """uint8[H, W, 3] → a copy in which each patch × patch square is white with probability `rate`, one at least stays.

  White is the ground of the drawings; an encoder without patches has no other way to miss one.
  """
  height, width = image.shape[:2]
  draws = np.random.default_rng(tuple(seed)).random((-(-height // patch), -(-width // patch)))
  gone = draws < rate
  if gone.all():
    gone.flat[draws.argmax()] = False
  gone = np.repeat(np.repeat(gone, patch, axis=0), patch, axis=1)[:height, :width]
  return np.where(gone[..., None], np.uint8(_WHITE), image)
