"""A toy world for the retrieval room: six colours × three shapes, each drawn by two artists."""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from cm3leon_jax.models.clip import DEMO

SIZE = 32
COLOURS = ("red", "green", "blue", "orange", "purple", "black")
SHAPES = ("circle", "square", "diamond")
STYLES = ("twemoji", "openmoji")  # filled, outlined
CONFIG = dataclasses.replace(DEMO, image_size=SIZE, image_width=8, embed_dim=16, text_width=32)


def picture(colour, shape, style):
  image = Image.new("RGB", (SIZE, SIZE), "white")
  draw = ImageDraw.Draw(image)
  look = {"fill": colour} if style == "twemoji" else {"outline": colour, "width": 3}
  corners = {"circle": None, "square": [(5, 5), (26, 5), (26, 26), (5, 26)], "diamond": [(16, 3), (28, 16), (16, 28), (3, 16)]}
  if shape == "circle":
    draw.ellipse((4, 4, 27, 27), **look)
  else:
    draw.polygon(corners[shape], **look)
  return np.asarray(image)


def pairs():
  return [{"id": f"{style}/{colour}-{shape}", "caption": f"{colour} {shape}, {style}", "image": picture(colour, shape, style),
           "thing": f"{colour}-{shape}", "name": f"{colour} {shape}", "style": style, "skin_tone": ""}
          for colour in COLOURS for shape in SHAPES for style in STYLES]
