"""Generated pictures against the real ones of the same prompts: distances and CLIP score, with intervals.

One `Reference` holds what does not change between the sides that are compared (K = 0, 1, 2 and
the yardsticks), so that all are measured the same way, on the same prompts, in pairs.
"""

import dataclasses
from typing import Sequence

import numpy as np

from cm3leon_jax.evaluation import bootstrap, clip_score, frechet, kid
from cm3leon_jax.evaluation.bootstrap import Interval
from cm3leon_jax.evaluation.networks.features import FeatureNetwork

HALVES = 100  # half samples behind the intervals of the distances


@dataclasses.dataclass(frozen=True)
class Scores:
  """One side's results, and what paired comparisons need.

  Attributes:
    intervals: the network's key (e.g. `fd_efficientnet_lite0`), `kid`, `clip_score` → value and 95 % interval.
    halves: `fd…` and `kid` on the same half samples for every side; float64[HALVES].
    clip_scores: float64[N], in the order of the prompts.
  """
  intervals: dict[str, Interval]
  halves: dict[str, np.ndarray]
  clip_scores: np.ndarray


class Reference:
  """The real pictures and their captions, encoded once."""

  def __init__(self, real: np.ndarray, captions: Sequence[str], encoder: clip_score.Encoder, network: FeatureNetwork,
               seed: int = 0):
    """
    Args:
      real: uint8[N, H, W, 3], N ≥ 4.
      captions: N prompts.
      encoder: a CLIP, e.g. `retrieval.encoder.Encoder`.
      network: what the distances are measured by, e.g. `efficientnet_lite0.load()`.
      seed: of the resampling.
    """
    if len(real) != len(captions) or len(real) < 4:
      raise ValueError(f"{len(real)} pictures and {len(captions)} captions: as many of each are needed, and at least 4")
    self.captions = list(captions)
    self.network, self.encoder, self.seed = network, encoder, seed
    self._features = network.features(real)
    self._halves = bootstrap.half_samples(len(real), HALVES, seed)

  def evaluate(self, generated: np.ndarray) -> Scores:
    """Scores pictures uint8[N, H, W, 3], one for each prompt, in the prompts' order.

    Raises:
      ValueError: another number of pictures.
    """
    if len(generated) != len(self.captions):
      raise ValueError(f"{len(generated)} pictures for {len(self.captions)} prompts")
    features = self.network.features(generated)
    rows, kernels = frechet.Rows(features, self._features), kid.Kernels(features, self._features)
    everything = np.arange(len(features))
    halves = {self.network.key: np.array([rows.distance(half, half) for half in self._halves]),
              "kid": np.array([kernels.kid(half, half) for half in self._halves])}
    whole = {self.network.key: rows.distance(), "kid": kernels.kid(everything, everything)}
    intervals = {key: bootstrap.half_sample_interval(whole[key], halves[key]) for key in whole}
    clip_scores = clip_score.clip_scores(self.encoder, generated, self.captions)
    intervals["clip_score"] = bootstrap.mean_interval(clip_scores, seed=self.seed)
    return Scores(intervals, halves, clip_scores)

  def differences(self, first: Scores, second: Scores) -> dict[str, Interval]:
    """first − second of each number, paired by prompt; an interval without 0 means that they differ."""
    result = {key: bootstrap.half_sample_interval(first.intervals[key].value - second.intervals[key].value,
                                                  first.halves[key] - second.halves[key]) for key in first.halves}
    result["clip_score"] = bootstrap.difference_interval(first.clip_scores, second.clip_scores, seed=self.seed)
    return result


def evaluate_images(generated: np.ndarray, real: np.ndarray, captions: Sequence[str], encoder: clip_score.Encoder,
                    network: FeatureNetwork, seed: int = 0) -> dict[str, Interval]:
  """The intervals of one side alone; to compare several, make one `Reference`."""
  return Reference(real, captions, encoder, network, seed).evaluate(generated).intervals
