"""Figures of the report page: matplotlib drawings as inline SVG that follow the page's light or dark colours.

matplotlib writes fixed colours; a reserved colour stands for each CSS variable and is replaced in the text.
"""

import io
import math
import re
from typing import Mapping, Sequence

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
import matplotlib
from matplotlib.ticker import MaxNLocator
import numpy as np

from cm3leon_jax.evaluation.report_data import Interval

# Reserved colour → CSS variable of templates/report.css.
_INK, _FAINT = "#010101", "#020202"
_SERIES = ("#030303", "#040404", "#050505", "#060606")
_VARIABLES = {
  _INK: "var(--muted)",
  _FAINT: "var(--line)",
  **{color: f"var(--series-{i})" for i, color in enumerate(_SERIES)},
}
_SIZE = (4.6, 2.7)  # inches at 72 units each: about the width of a third of the page, so text keeps its size
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
  figure, axes = _axes()
  for i, (label, points) in enumerate(series.items()):
    color = _SERIES[i % len(_SERIES)]
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
    right.set_ylabel("perplexity", color=_INK)
    low, high = np.exp(axes.get_ylim())
    right.set_yticks(_spread([t for t in _PERPLEXITIES if low <= t <= high], (high / low) ** 0.16))
    right.yaxis.set_major_formatter("{x:g}")
    _plain(right)
  if len(series) > 1:
    axes.legend(frameon=False, fontsize=9.5, labelcolor=_INK, handlelength=1.4)
  return _svg(figure, name)


def intervals(name: str, rows: Sequence[tuple[str, Interval, int]]) -> str:
  """Dots with 95 % intervals, one row each: (label, interval, colour number)."""
  figure, axes = _axes(height=0.62 + 0.31 * len(rows))
  for y, (_, interval, color) in enumerate(rows):
    if interval.low is not None and interval.high is not None:
      axes.plot(
        [interval.low, interval.high], [y, y], color=_SERIES[color], linewidth=2.2, solid_capstyle="round", alpha=0.5
      )
    axes.plot([interval.value], [y], "o", color=_SERIES[color], markersize=6)
  axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
  axes.set_ylim(len(rows) - 0.5, -0.5)
  axes.margins(x=0.08)
  axes.xaxis.set_major_locator(MaxNLocator(4))
  axes.grid(axis="x", color=_FAINT, linewidth=0.8)
  axes.grid(axis="y", visible=False)
  return _svg(figure, name)


def _axes(height: float = _SIZE[1]):
  figure = Figure((_SIZE[0], height), layout="constrained")
  FigureCanvasSVG(figure)
  axes = figure.add_subplot()
  axes.grid(axis="y", color=_FAINT, linewidth=0.8)
  axes.set_axisbelow(True)
  _plain(axes)
  return figure, axes


def _plain(axes) -> None:
  axes.tick_params(colors=_INK, labelsize=9.5, length=0)
  axes.xaxis.label.set(color=_INK, size=9.5)
  axes.yaxis.label.set(color=_INK, size=9.5)
  for side in axes.spines.values():
    side.set_visible(False)


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


def _svg(figure: Figure, name: str) -> str:
  out = io.StringIO()
  salt = re.sub(r"\W+", "-", name)  # ids of clip paths differ between the figures of one page
  with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}):
    figure.savefig(
      out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
  text = out.getvalue()
  text = text[text.index("<svg") :]
  text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.S)
  text = re.sub(r'<g id="[^"]*"', "<g", text)
  text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # the page's own font
  text = re.sub(r' xmlns:xlink="[^"]*"', "", text).replace("xlink:href", "href")
  for color, variable in _VARIABLES.items():
    text = text.replace(color, variable)
  label = name.replace("&", "and").replace('"', "'").replace("<", "(").replace(">", ")")
  text = re.sub(
    r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{label}">', text, count=1
  )
  return re.sub(r"\n\s*", "\n", text)


def nice(value: float | None) -> str:
  """A number for people: 12,345 · 123 · 12.3 · 1.23 · 0.123, with a true minus sign; an en dash if there is none."""
  if value is None or not math.isfinite(value):
    return "–"
  size = abs(value)
  decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
  return (f"{value:,.{decimals}f}" if value else "0").replace("-", "−")
