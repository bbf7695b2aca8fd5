"""Kernel Inception Distance (Bińkowski et al. 2018): squared MMD under k(x, y) = (x·y / D + 1)³.

The unbiased estimate over all rows at once, so without the random subsets (100 of 1,000)
of the common packages: the same expectation, less noise, the same number each time. Above
10,000 rows, whose pairs would take minutes, it is the mean over disjoint parts of at most
that many, drawn with a fixed seed. An unbiased estimate may fall below zero.
"""

import numpy as np

_MOST = 10_000  # rows compared with each other at once
_BLOCK = 2048  # rows of the kernel matrix held at once


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  k = x @ y.T
  k /= x.shape[1]
  k += 1
  return k * k * k  # several times faster than k ** 3


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
  return sum(_kernel(x[i:i + _BLOCK], y[j:j + _BLOCK]).sum()
             for i in range(0, len(x), _BLOCK) for j in range(0, len(y), _BLOCK))


def _within(x: np.ndarray) -> float:
  """Mean kernel over pairs of different rows."""
  total = 0.0
  for i in range(0, len(x), _BLOCK):
    block = _kernel(x[i:i + _BLOCK], x[i:i + _BLOCK])
    total += block.sum() - np.trace(block) + 2 * _kernel_sum(x[i:i + _BLOCK], x[i + _BLOCK:])
  return total / (len(x) * (len(x) - 1))


def kid(first: np.ndarray, second: np.ndarray) -> float:
  """Between features [n, D] and [m, D] of any float type; n, m ≥ 2. Float64, 10,000 rows at a time."""
  if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
    raise ValueError(f"features must be [n ≥ 2, D] of one D, got {first.shape} and {second.shape}")
  parts = min(-(-max(len(first), len(second)) // _MOST), min(len(first), len(second)) // 2)
  if parts > 1:
    rng = np.random.default_rng(0)
    pairs = zip(*(np.array_split(rng.permutation(len(x)), parts) for x in (first, second)))
    return float(np.mean([_unbiased(first[i], second[j]) for i, j in pairs]))
  return float(_unbiased(first, second))


def _unbiased(first: np.ndarray, second: np.ndarray) -> float:
  first, second = (np.asarray(x, np.float64) for x in (first, second))
  return _within(first) + _within(second) - 2 * _kernel_sum(first, second) / (len(first) * len(second))


class Kernels:
  """KID of subsets of two sets of features from kernels computed once: memory n² + m² + n·m."""

  def __init__(self, first: np.ndarray, second: np.ndarray):
    first, second = (np.asarray(x, np.float64) for x in (first, second))
    self._xx, self._yy, self._xy = _kernel(first, first), _kernel(second, second), _kernel(first, second)

  def kid(self, first: np.ndarray, second: np.ndarray) -> float:
    """Between the rows `first` of one set and `second` of the other (different numbers each)."""
    n, m = len(first), len(second)
    xx, yy = self._xx[np.ix_(first, first)], self._yy[np.ix_(second, second)]
    return float((xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
                 - 2 * self._xy[np.ix_(first, second)].mean())
