"""Orderings of candidates."""

import numpy as np

from cm3leon_jax.decoding import rerank
from cm3leon_jax.vocabulary import PAD_ID


def test_best_first_keeps_the_order_of_equals_and_puts_nan_last():
  np.testing.assert_array_equal(rerank.best_first([0.1, np.nan, 0.7, 0.1, 0.7]), [2, 4, 0, 3, 1])


def test_clip_scores_are_cosines_of_unit_vectors():
  text, images = np.array([0.6, 0.8]), np.array([[1.0, 0.0], [0.6, 0.8], [-0.8, 0.6]])
  np.testing.assert_allclose(rerank.clip_scores(text, images), [0.6, 1.0, 0.0], atol=1e-12)


def test_mean_log_prob_counts_chosen_tokens_only():
  tokens = np.array([[7, 8, 50, PAD_ID], [7, 8, 9, 50]])
  log_probs = np.array([[-1.0, -2.0, -3.0, 0.0], [-1.0, -1.0, -1.0, 0.0]])
  given = np.array([-1, -1, -1, 50])  # the last one closes the longest span
  np.testing.assert_allclose(rerank.mean_log_prob(log_probs, tokens, given), [-2.0, -1.0])
