"""The Fréchet distance at infinitely many generated pictures (Chong and Forsyth 2020), by extrapolation.

The distance of N pictures is biased upwards by about slope / N. So it is taken at 15 equally spaced numbers of
generated pictures, from 5,000 up to all of them, each a random subset, and a straight line in 1/N is laid through
by least squares: its value at 1/N = 0 is the extrapolation. Below 10,000 pictures the smallest subset is half of
them, as the line holds only where pictures are more than dimensions. The reference stays whole, so the bias that
its own number brings stays in.
"""

from typing import Callable, NamedTuple

import numpy as np

SIZES = 15
_LEAST = 5000


class Extrapolation(NamedTuple):
  """`value` at 1/N = 0; `slope`, so that the distance at N pictures is about value + slope / N."""
  value: float
  slope: float


def sizes(count: int) -> np.ndarray:
  """The numbers of pictures that are measured, int64[15], ascending."""
  return np.linspace(min(_LEAST, max(count // 2, 2)), count, SIZES).astype(np.int64)


def extrapolate(distance: Callable[[np.ndarray], float], count: int, seed: int = 0) -> Extrapolation:
  """
  Args:
    distance: row numbers int64[n] of generated pictures → their distance from the reference.
    count: generated pictures, 4 or more.
  """
  if count < 4:
    raise ValueError(f"{count} pictures are too few to extrapolate from")
  rng = np.random.default_rng(seed)
  numbers = sizes(count)
  distances = [distance(rng.permutation(count)[:n]) for n in numbers]
  slope, value = np.polyfit(1 / numbers, distances, 1)
  return Extrapolation(float(value), float(slope))
