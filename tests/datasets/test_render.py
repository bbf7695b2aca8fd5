import numpy as np
import pytest

from cm3leon_jax.datasets import render
from cm3leon_jax.errors import InputError

RED = '<rect x="0" y="0" width="32" height="16" fill="#f00"/>'


def test_wide_drawings_stand_in_the_middle_on_white():
  image = render.render(render.svg_document(RED, 0, 0, 32, 16), 64)
  assert image.shape == (64, 64, 3) and image.dtype == np.uint8
  assert (image[:16] == 255).all() and (image[48:] == 255).all()
  assert (image[16:48] == [255, 0, 0]).all()


def test_an_offset_frame():
  image = render.render(render.svg_document(RED, 16, 0, 16, 16), 32)
  assert (image == [255, 0, 0]).all()


def test_a_whole_svg_that_is_not_square():
  svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 16" width="32" height="16">{RED}</svg>'
  image = render.render(svg, 64)
  assert image.shape == (64, 64, 3)
  assert (image[32] == [255, 0, 0]).all() and (image[0] == 255).all()


def test_workers_draw_the_same_in_the_same_order():
  svgs = [render.svg_document(f'<circle cx="8" cy="8" r="{r / 100}" fill="#08{r % 10}"/>', 0, 0, 16, 16)
          for r in range(100, 100 + render._CHUNK + 3)]
  images = list(render.render_all(svgs, 16, workers=2))
  assert len(images) == len(svgs)
  for i in (0, 1, render._CHUNK - 1, render._CHUNK, len(svgs) - 1):
    np.testing.assert_array_equal(images[i], render.render(svgs[i], 16))


def test_a_broken_svg_is_an_input_error():
  with pytest.raises(InputError, match="rendering failed"):
    list(render.render_all(["<svg"], 16))
