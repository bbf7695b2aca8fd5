"""Choices in order of their likelihood."""

from typing import Sequence

import numpy as np


def ranks(scores: Sequence[float]) -> np.ndarray:
  """Ranks of choices: 1 for the highest score; of equal scores the earlier choice comes first.

  Args:
    scores: float[..., choices], e.g. log-likelihoods; −inf is allowed.

  Returns:
    int64[..., choices], a permutation of 1 … choices.

  Raises:
    ValueError: a score is not a number.
  """
  scores = np.asarray(scores, np.float64)
  if np.isnan(scores).any():
    raise ValueError("a score is not a number")
  order = np.argsort(-scores, axis=-1, kind="stable")
  result = np.empty(scores.shape, np.int64)
  np.put_along_axis(result, order, np.broadcast_to(np.arange(1, scores.shape[-1] + 1), scores.shape), axis=-1)
  return result
