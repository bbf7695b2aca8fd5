"""CLIP score: the cosine of a caption and its picture, under the CLIP of a folder.

Published CLIP scores come from OpenAI's or OpenCLIP's models (weights/clip.py imports them); this number compares
only with others of the same encoder, so results carry its fingerprint. An encoder that also
picked the best candidate flatters it; say so beside the number.

Hessel et al.'s CLIPScore (2021, arXiv:2104.08718) is 2.5 · max(cosine, 0) with OpenAI's ViT-B/32 and "A photo depicts "
put before each caption; others print 100 · cosine.
"""

from typing import Protocol, Sequence

import numpy as np


class Encoder(Protocol):
  """What is needed of `retrieval.encoder.Encoder`: unit vectors float32[N, D]."""
  fingerprint: str

  def encode_text(self, texts: Sequence[str]) -> np.ndarray:
    ...

  def encode_images(self, images: np.ndarray) -> np.ndarray:
    ...


def clip_scores(encoder: Encoder, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
  """float64[N] in −1..1 of pictures uint8[N, H, W, 3] and their captions.

  Raises:
    ValueError: as many captions as pictures are needed.
  """
  if len(images) != len(captions):
    raise ValueError(f"{len(images)} pictures and {len(captions)} captions")
  text = np.asarray(encoder.encode_text(list(captions)), np.float64)
  image = np.asarray(encoder.encode_images(images), np.float64)
  return (text * image).sum(axis=1)
