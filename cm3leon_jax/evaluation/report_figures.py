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
_VARIABLES = {_INK: "var(--muted)", _FAINT: "var(--line)",
              **{color: f"var(--series-{i})" for i, color in enumerate(_SERIES)}}
_SIZE = (4.6, 2.7)  # inches at 72 units each: about the width of a third of the page, so text keeps its size
_POINTS = 240  # kept of a curve

Series = Mapping[int, float]


def curves(name: str, series: Mapping[str, Series], unit: str, *, smooth: bool = False, perplexity: bool = False) -> str:
  """Lines over training steps.

  Args:
    name: what a screen reader says.
    series: label → {step: value}.
    unit: label of the value axis.
    smooth: draw the raw values faintly and their running mean (over a 30th of the run) on top.
    perplexity: a second axis, exp(value).
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
      values, steps = np.convolve(values, kernel, "valid"), steps[width - 1:]
    keep = _thin(len(values))
    axes.plot(steps[keep], values[keep], color=color, linewidth=1.8, label=label,
              marker="o" if len(values) < 25 else None, markersize=3)
  axes.set_ylabel(unit)
  axes.set_xlabel("step")
  axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
  axes.yaxis.set_major_locator(MaxNLocator(5))
  if perplexity:
    right = axes.secondary_yaxis("right", functions=(np.exp, lambda v: np.log(np.maximum(v, 1e-9))))
    right.set_ylabel("perplexity", color=_INK)
    low, high = np.exp(axes.get_ylim())
    right.set_yticks([t for t in (1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000) if low <= t <= high])
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
      axes.plot([interval.low, interval.high], [y, y], color=_SERIES[color], linewidth=2.2, solid_capstyle="round", alpha=0.5)
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


def _svg(figure: Figure, name: str) -> str:
  out = io.StringIO()
  salt = re.sub(r"\W+", "-", name)  # ids of clip paths differ between the figures of one page
  with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}):
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
  text = out.getvalue()
  text = text[text.index("<svg"):]
  text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.S)
  text = re.sub(r'<g id="[^"]*"', "<g", text)
  text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)  # the page's own font
  text = re.sub(r' xmlns:xlink="[^"]*"', "", text).replace("xlink:href", "href")
  for color, variable in _VARIABLES.items():
    text = text.replace(color, variable)
  label = name.replace("&", "and").replace('"', "'").replace("<", "(").replace(">", ")")
  text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{label}">', text, count=1)
  return re.sub(r"\n\s*", "\n", text)


def nice(value: float | None, digits: int = 3) -> str:
  """A number for people: three significant digits, thousands with commas, a true minus sign."""
  if value is None or not math.isfinite(value):
    return "–"
  if abs(value) >= 1000:
    text = f"{value:,.0f}"
  elif value == 0 or abs(value) >= 10 ** (digits - 1):
    text = f"{value:.0f}"
  else:
    text = f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
  return text.replace("-", "−")
