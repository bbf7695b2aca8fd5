"""Figures of the report page: learning curves and dots with intervals, as inline SVG."""

import math
from typing import Mapping, Sequence

from matplotlib.ticker import MaxNLocator
import numpy as np

from cm3leon_jax.evaluation.figure_theme import FAINT, INK, new_axes, plain, SERIES, to_svg
from cm3leon_jax.evaluation.report_data import Interval

_PERPLEXITIES = sorted(m * 10**e for e in range(-1, 4) for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))
_POINTS = 240  # kept of a curve

Series = Mapping[int, float]


def curves(
  name: str,
  series: Mapping[str, Series],
  unit: str,
  *,
  smooth: bool = False,
  perplexity: bool = False,
  focus: bool = False,
) -> str:
  """Lines over training steps.

  Args:
    name: what a screen reader says.
    series: label → {step: value}.
    unit: label of the value axis.
    smooth: draw the raw values faintly and their running mean (over a 30th of the run) on top.
    perplexity: a second axis, exp(value).
    focus: the value axis leaves out the steep first fifth of the run.
  """
  figure, axes = new_axes()
  for i, (label, points) in enumerate(series.items()):
    color = SERIES[i % len(SERIES)]
    steps, values = np.array(list(points), float), np.array(list(points.values()), float)
    if smooth and len(values) > 60:
      keep = _thin(len(values))
      axes.plot(steps[keep], values[keep], color=color, linewidth=0.7, alpha=0.28)
      width = len(values) // 30
      kernel = np.ones(width) / width
      values, steps = np.convolve(values, kernel, "valid"), steps[width - 1 :]
    keep = _thin(len(values))
    axes.plot(
      steps[keep],
      values[keep],
      color=color,
      linewidth=1.8,
      label=label,
      marker="o" if len(values) < 25 else None,
      markersize=3,
    )
  axes.set_ylabel(unit)
  axes.set_xlabel("step")
  axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
  axes.yaxis.set_major_locator(MaxNLocator(5))
  if focus and max(map(len, series.values())) >= 8:
    last = max(max(points) for points in series.values())
    seen = [v for points in series.values() for s, v in points.items() if s >= last / 5]
    margin = 0.06 * (max(seen) - min(seen)) or 0.1
    axes.set_ylim(min(seen) - margin, max(seen) + margin)
  if perplexity:
    right = axes.secondary_yaxis("right", functions=(np.exp, lambda v: np.log(np.maximum(v, 1e-9))))
    right.set_ylabel("perplexity", color=INK)
    low, high = np.exp(axes.get_ylim())
    right.set_yticks(_spread([t for t in _PERPLEXITIES if low <= t <= high], (high / low) ** 0.16))
    right.yaxis.set_major_formatter("{x:g}")
    plain(right)
  if len(series) > 1:
    axes.legend(frameon=False, fontsize=9.5, labelcolor=INK, handlelength=1.4)
  return to_svg(figure, name)


def intervals(name: str, rows: Sequence[tuple[str, Interval, int]]) -> str:
  """Dots with 95 % intervals, one row each: (label, interval, colour number)."""
  figure, axes = new_axes(height=0.62 + 0.31 * len(rows))
  for y, (_, interval, color) in enumerate(rows):
    if interval.low is not None and interval.high is not None:
      axes.plot(
        [interval.low, interval.high], [y, y], color=SERIES[color], linewidth=2.2, solid_capstyle="round", alpha=0.5
      )
    axes.plot([interval.value], [y], "o", color=SERIES[color], markersize=6)
  axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
  axes.set_ylim(len(rows) - 0.5, -0.5)
  axes.margins(x=0.08)
  axes.xaxis.set_major_locator(MaxNLocator(4))
  axes.grid(axis="x", color=FAINT, linewidth=0.8)
  axes.grid(axis="y", visible=False)
  return to_svg(figure, name)


def _thin(count: int) -> np.ndarray:
  """Indices of at most `_POINTS` evenly spread points, first and last among them."""
  return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(int))


def _spread(ticks: Sequence[float], ratio: float) -> list[float]:
  """Those ticks of a logarithmic axis that stand at least `ratio` apart."""
  kept: list[float] = []
  for tick in ticks:
    if not kept or tick >= kept[-1] * ratio:
      kept.append(tick)
  return kept


def nice(value: float | None) -> str:
  """A number for people: 12,345 · 123 · 12.3 · 1.23 · 0.123, with a true minus sign; an en dash if there is none."""
  if value is None or not math.isfinite(value):
    return "–"
  size = abs(value)
  decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
  return (f"{value:,.{decimals}f}" if value else "0").replace("-", "−")
