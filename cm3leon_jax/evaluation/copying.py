"""How much of a generated picture is copied from a retrieved one, cell by cell.

Blank cells agree by themselves (most drawings stand on white), so they do not count. Real
drawings share codes with their neighbours too: the number means something only beside
the same number of the real held-out drawings.
"""

from typing import Protocol, Sequence

import numpy as np

COPIED = 0.8  # a picture counts as copied when more than this share of its non-blank codes is a document's


class Tokenizer(Protocol):
  """What is needed of `tokenizers.image.ImageTokenizer`."""
  image_size: int

  def encode(self, images: np.ndarray) -> np.ndarray:
    ...


def blank_codes(tokenizer: Tokenizer) -> np.ndarray:
  """The codes that an all-white picture has; int32[n], sorted."""
  size = tokenizer.image_size
  return np.unique(tokenizer.encode(np.full((1, size, size, 3), 255, np.uint8)))


def copied_shares(codes: np.ndarray, retrieved: Sequence[np.ndarray], blank: np.ndarray) -> np.ndarray:
  """Share of each picture's non-blank codes that stand in the same cell of a retrieved picture.

  Args:
    codes: int[N, I].
    retrieved: for each picture int[K, I]; K may differ. The document with the most counts.
    blank: codes that do not count.

  Returns:
    float64[N]; NaN where a picture is all blank or has no retrieved document.
  """
  shares = np.full(len(codes), np.nan)
  for i, (picture, documents) in enumerate(zip(codes, retrieved, strict=True)):
    drawn = ~np.isin(picture, blank)
    if drawn.any() and len(documents):
      shares[i] = (np.asarray(documents)[:, drawn] == picture[drawn]).mean(axis=1).max()
  return shares
