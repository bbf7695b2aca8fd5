"""Figures of the page of a run: beside the paper, by rank of the candidates, over a sweep of guidance."""

import math
from typing import Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from cm3leon_jax.evaluation import report_figures
from cm3leon_jax.evaluation.bootstrap import Interval
from cm3leon_jax.evaluation.figure_theme import new_axes, INK, SERIES, to_svg
from cm3leon_jax.evaluation.report_data import Interval as Shown


def dots(name: str, rows: Sequence[tuple[str, Interval | float, int]]) -> str:
  """Dots with 95 % intervals where there are any: (label, number, colour) a row."""
  made = []
  for label, value, color in rows:
    value = value if isinstance(value, Interval) else Interval(value, math.nan, math.nan)
    bounds = [bound if math.isfinite(bound) else None for bound in (value.low, value.high)]
    made.append((label if len(label) <= 24 else label[:23] + "…", Shown(value.value, *bounds), color))
  return report_figures.intervals(name, made)


def ranks(label: str, series: Mapping[str, Sequence[float]]) -> str:
  """The distance of the pictures of each rank: run → values, the best rank first."""
  figure, axes = new_axes()
  for i, (name, values) in enumerate(series.items()):
    axes.plot(range(1, len(values) + 1), values, color=SERIES[i % len(SERIES)], linewidth=1.8, marker="o", markersize=5,
              label=name)
  _axes(axes, "rank by CLIP, best first", label, integer=True)
  if len(series) > 1:
    axes.legend(frameon=False, fontsize=9.5, labelcolor=INK, handlelength=1.4)
  return to_svg(figure, f"{label} by rank of the candidates")


def sweep(label: str, points: Sequence[tuple[float, Interval]]) -> str:
  """The headline's number over guidance: (guidance, number) in order of guidance."""
  figure, axes = new_axes()
  axes.plot([g for g, _ in points], [v.value for _, v in points], color=SERIES[0], linewidth=1.8, marker="o", markersize=5)
  for guidance, value in points:
    if math.isfinite(value.low) and math.isfinite(value.high):
      axes.plot([guidance, guidance], [value.low, value.high], color=SERIES[0], linewidth=2.2, alpha=0.5,
                solid_capstyle="round")
  _axes(axes, "guidance", label)
  axes.set_xticks(sorted({g for g, _ in points}), [f"{g:g}" for g in sorted({g for g, _ in points})])
  return to_svg(figure, f"{label} over guidance")


def _axes(axes, x: str, y: str, integer: bool = False) -> None:
  axes.set_xlabel(x)
  axes.set_ylabel(y)
  axes.margins(x=0.06, y=0.12)
  axes.xaxis.set_major_locator(MaxNLocator(8, integer=integer))
  axes.yaxis.set_major_locator(MaxNLocator(5))
