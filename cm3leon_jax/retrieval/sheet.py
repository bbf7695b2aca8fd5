"""A contact sheet: pictures in a grid, each with a few lines of text below."""

import textwrap
from typing import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_TILE = 160  # pixels
_LINE = 14
_LINES = 4
_GAP = 8
_COLUMNS = 6


def contact_sheet(pictures: Sequence[np.ndarray | None], texts: Sequence[str]) -> Image.Image:
  """Lays out uint8[H, W, 3] pictures (None leaves the place empty) with their texts, row by row."""
  columns = min(_COLUMNS, max(1, len(pictures)))
  rows = -(-len(pictures) // columns)
  cell = (_TILE + _GAP, _TILE + _LINE * _LINES + _GAP)
  sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), "white")
  draw = ImageDraw.Draw(sheet)
  font = ImageFont.load_default(11)
  for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
    left, top = _GAP + i % columns * cell[0], _GAP + i // columns * cell[1]
    if picture is not None:
      sheet.paste(Image.fromarray(picture).resize((_TILE, _TILE), Image.Resampling.LANCZOS), (left, top))
    draw.rectangle((left, top, left + _TILE - 1, top + _TILE - 1), outline="#d0d0d0")
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 26)]
    for n, line in enumerate(lines[:_LINES]):
      draw.text((left, top + _TILE + 2 + n * _LINE), line, fill="black", font=font)
  return sheet
