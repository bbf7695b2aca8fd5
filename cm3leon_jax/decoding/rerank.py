"""Which of several candidates is best: pure orderings. The encoder that makes the vectors lives in `retrieval/`."""

import numpy as np

from cm3leon_jax.vocabulary import PAD_ID


def best_first(scores) -> np.ndarray:
  """int[N]: indices from the highest score [N] to the lowest; equal ones in their order, NaN last."""
  scores = np.asarray(scores, np.float64)
  return np.argsort(np.where(np.isnan(scores), np.inf, -scores), kind="stable")


def clip_scores(text_vector, image_vectors) -> np.ndarray:
  """float[N]: similarity of a prompt float[D] with pictures float[N, D], all of unit norm."""
  return np.asarray(image_vectors) @ np.asarray(text_vector)


def mean_log_prob(log_probs, tokens, given) -> np.ndarray:
  """float64[N]: log-probability [N, T] per token that the model chose; the length of a text is no merit or fault.

  Args:
    log_probs, tokens: of `engine.Output`.
    given: int[T], `Prompt.given`.
  """
  chosen = (np.asarray(given) < 0) & (np.asarray(tokens) != PAD_ID)
  return np.asarray(log_probs, np.float64).sum(axis=1) / np.maximum(chosen.sum(axis=1), 1)
