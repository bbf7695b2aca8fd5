"""From windows to what a training step eats: inputs, shifted targets, and which targets count."""

from typing import Mapping

import numpy as np

FEATURES = ("inputs", "targets", "loss_weights", "segment_ids", "positions")


def to_batch(windows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Windows [B, length + 1] → batch [B, length].

  A target weighs nothing where it is padding, or belongs to another segment than its input: a sample's
  opening <eos>, and the first token of its tails where another sample stands before them.

  Args:
    windows: `tokens`, `segment_ids`, `positions` int32, `loss_weights` float32.
  """
  tokens, segment_ids = windows["tokens"], windows["segment_ids"]
  targets = tokens[:, 1:]
  same = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] > 0)
  weights = np.where(same, windows["loss_weights"][:, 1:], 0.0)
  return {
      "inputs": np.ascontiguousarray(tokens[:, :-1], np.int32),
      "targets": np.ascontiguousarray(targets, np.int32),
      "loss_weights": weights.astype(np.float32),
      "segment_ids": np.ascontiguousarray(segment_ids[:, :-1], np.int32),
      "positions": np.ascontiguousarray(windows["positions"][:, :-1], np.int32),
  }
