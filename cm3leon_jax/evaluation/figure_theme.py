"""The look of every figure on a page: matplotlib drawings as inline SVG that follow the page's light or dark colours.

matplotlib writes fixed colours; a reserved colour stands for each CSS variable and is replaced in the text.
"""

import io
import re

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Reserved colour → CSS variable of templates/report.css.
INK, FAINT = "#010101", "#020202"
SERIES = ("#030303", "#040404", "#050505", "#060606")
_VARIABLES = {
  INK: "var(--muted)",
  FAINT: "var(--line)",
  **{color: f"var(--series-{i})" for i, color in enumerate(SERIES)},
}
SIZE = (4.6, 2.7)  # inches at 72 units each: about the width of a third of the page, so text keeps its size


def new_axes(height: float = SIZE[1]):
  """(figure, axes) without frames, `height` inches high."""
  figure = Figure((SIZE[0], height), layout="constrained")
  FigureCanvasSVG(figure)
  axes = figure.add_subplot()
  axes.grid(axis="y", color=FAINT, linewidth=0.8)
  axes.set_axisbelow(True)
  plain(axes)
  return figure, axes


def plain(axes) -> None:
  axes.tick_params(colors=INK, labelsize=9.5, length=0)
  axes.xaxis.label.set(color=INK, size=9.5)
  axes.yaxis.label.set(color=INK, size=9.5)
  for side in axes.spines.values():
    side.set_visible(False)


def to_svg(figure: Figure, name: str) -> str:
  """The figure as `<svg>`; `name` is what a screen reader says, and differs between the figures of a page."""
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
