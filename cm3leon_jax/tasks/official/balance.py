"""How often each task of a mixture is drawn (PAPER §7.1).

The paper limits the up- and down-sampling of a data set by "a threshold of 3/0.3". Read here as: in an epoch, which is as
many samples as the tasks have rows, no row is drawn more than 3 times or less than 0.3 times on average.
"""

import math
from typing import Mapping

from cm3leon_jax.errors import InputError

LOWEST, HIGHEST = 0.3, 3.0


def repetitions(rates: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
  """How often a row of each task is drawn in an epoch on average, at these relative rates."""
  total, rows = sum(rates.values()), sum(sizes[name] for name in rates)
  return {name: rate / total * rows / sizes[name] for name, rate in rates.items()}


def rates(sizes: Mapping[str, int], exponent: float = 1.0) -> dict[str, float]:
  """Shares of the samples, sum 1: in proportion to size**exponent, within the limits of repetition.

  Shares are scale·size**exponent, clipped to 0.3 … 3 times the share of the rows; the one scale at which they add up to
  1 is found by halving. Exponent 1 draws every row once, 0 draws every task alike where the limits allow it.

  Raises:
    InputError: no task, a task without rows, or a negative exponent.
  """
  empty = [name for name, size in sizes.items() if size <= 0]
  if not sizes or empty or exponent < 0:
    raise InputError(f"a mixture needs tasks with rows and an exponent of 0 or more: exponent={exponent}, "
                     f"without rows: {', '.join(empty) or 'none'}, tasks: {len(sizes)}")
  total, largest = sum(sizes.values()), max(sizes.values())
  share = {name: size / total for name, size in sizes.items()}
  wanted = {name: (size / largest) ** exponent for name, size in sizes.items()}

  def clipped(log_scale: float) -> dict[str, float]:
    scale = math.exp(log_scale)
    return {n: min(max(scale * wanted[n], LOWEST * share[n]), HIGHEST * share[n]) for n in sizes}

  # At the low end every share is at its lowest, in sum 0.3; at the high end at its highest, 3.
  low = min(math.log(LOWEST * share[n] / wanted[n]) for n in sizes)
  high = max(math.log(HIGHEST * share[n] / wanted[n]) for n in sizes)
  for _ in range(100):
    middle = (low + high) / 2
    low, high = (middle, high) if sum(clipped(middle).values()) < 1 else (low, middle)
  found = clipped((low + high) / 2)
  return {name: value / sum(found.values()) for name, value in found.items()}
