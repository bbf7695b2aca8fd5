"""Percentile bootstrap: how far a mean could have come out elsewhere, had other examples been drawn.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), §13.3. Seeded, so that a
result is the same number each time. Statistics that are no means, and that depend on the
number of examples (a Fréchet distance), are resampled by halves instead: `half_samples`.
"""

from typing import Iterator, NamedTuple

import numpy as np

REPEATS = 1000
LEVEL = 0.95
_CHUNK = 4_000_000  # resampled indices held at once


class Interval(NamedTuple):
  """A statistic of the sample itself and the bounds of its percentile interval."""
  value: float
  low: float
  high: float

  def as_fields(self, name: str) -> dict[str, float]:
    """`name`, `name_low`, `name_high`: the flat form of the results."""
    return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def resamples(size: int, repeats: int = REPEATS, seed: int = 0) -> Iterator[np.ndarray]:
  """Chunks int64[c, size] of row numbers drawn with replacement, `repeats` rows in all."""
  rng = np.random.default_rng(seed)
  for start in range(0, repeats, max(1, _CHUNK // size)):
    yield rng.integers(size, size=(min(max(1, _CHUNK // size), repeats - start), size))


def resampled_means(values: np.ndarray, repeats: int = REPEATS, seed: int = 0) -> np.ndarray:
  """Means over resampled rows.

  Args:
    values: float[N] or float[N, K]; columns are resampled together.

  Returns:
    float64[repeats] or float64[repeats, K].
  """
  values = np.asarray(values, np.float64)
  if not len(values):
    raise ValueError("no values to resample")
  columns = values.reshape(len(values), -1)
  means = []
  for chunk in resamples(len(values), repeats, seed):
    drawn = np.empty(chunk.shape)  # how often each row was drawn: one matrix product serves all columns
    for i, rows in enumerate(chunk):
      drawn[i] = np.bincount(rows, minlength=len(values))
    means.append(drawn @ columns / len(values))
  return np.concatenate(means).reshape((repeats,) + values.shape[1:])


def interval(estimate: float, resampled: np.ndarray, level: float = LEVEL) -> Interval:
  """The central `level` of resampled statistics float[repeats], beside the sample's own value."""
  low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
  return Interval(float(estimate), float(low), float(high))


def mean_interval(values: np.ndarray, *, level: float = LEVEL, repeats: int = REPEATS, seed: int = 0) -> Interval:
  """Interval of the mean of values float[N]; one value gives an interval of no width."""
  values = np.asarray(values, np.float64)
  resampled = resampled_means(values, repeats, seed)
  return interval(values.mean(), resampled, level)


def difference_interval(a: np.ndarray, b: np.ndarray, *, level: float = LEVEL, repeats: int = REPEATS,
                        seed: int = 0) -> Interval:
  """Interval of mean(a − b) over pairs: a[i] and b[i] belong to the same example.

  Raises:
    ValueError: the two differ in shape.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.shape != b.shape:
    raise ValueError(f"paired values must have one shape, got {a.shape} and {b.shape}")
  return mean_interval(a - b, level=level, repeats=repeats, seed=seed)


def ratio_interval(sums: np.ndarray, counts: np.ndarray, *, level: float = LEVEL, repeats: int = REPEATS,
                   seed: int = 0) -> Interval:
  """Interval of Σ sums / Σ counts, both [N], examples resampled: a loss a token over texts of unequal length."""
  parts = np.stack([sums, counts], axis=1).astype(np.float64)
  means = resampled_means(parts, repeats, seed)
  return interval(parts[:, 0].sum() / parts[:, 1].sum(), means[:, 0] / means[:, 1], level)


def half_samples(size: int, repeats: int, seed: int = 0) -> np.ndarray:
  """int64[repeats, size // 2] of row numbers, each row drawn without replacement."""
  rng = np.random.default_rng(seed)
  return np.stack([rng.permutation(size)[:size // 2] for _ in range(repeats)])


def half_sample_interval(estimate: float, halves: np.ndarray, level: float = LEVEL) -> Interval:
  """Interval from a statistic of half samples float[repeats].

  Halves drawn without replacement vary as much as whole samples drawn anew (Shao and Wu 1989, delete-half
  jackknife). They share one bias of their size, and no row stands twice; so their spread around their own
  mean is put around the estimate.
  """
  return interval(estimate, estimate + halves - np.mean(halves), level)
