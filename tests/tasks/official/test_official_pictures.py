"""The square that the model sees, boxes in it, and control pictures."""

import hypothesis
from hypothesis import strategies
import numpy as np
from PIL import Image
import pytest

from cm3leon_jax import api
from cm3leon_jax.errors import InputError
from cm3leon_jax.tasks.official import controls, square


@pytest.mark.parametrize("mode,suffix", [("RGB", "jpg"), ("L", "png"), ("RGBA", "png"), ("P", "png"), ("RGB", "png")])
def test_a_picture_is_prepared_as_at_inference(tmp_path, mode, suffix):
  noise = np.random.default_rng(0).integers(0, 255, (50, 70, 4), np.uint8)
  path = tmp_path / f"p.{suffix}"
  Image.fromarray(noise).convert(mode).save(path)
  np.testing.assert_array_equal(square.read(path, 32), api.squared(api.open_picture(path), 32))


def test_what_cannot_be_read_is_told(tmp_path):
  (tmp_path / "a.jpg").write_bytes(b"no picture")
  Image.new("RGB", (30, 20)).save(tmp_path / "b.png")
  with pytest.raises(InputError, match="a.jpg: not a picture"):
    square.read(tmp_path / "a.jpg", 16)
  with pytest.raises(InputError, match="c.png: no such picture"):
    square.read(tmp_path / "c.png", 16)
  with pytest.raises(InputError, match="b.png: 30×20 pixels, its annotations are for 20×30"):
    square.read(tmp_path / "b.png", 16, (20, 30))


def test_a_box_follows_its_pixels(tmp_path):
  """A white rectangle is where its box says, after the crop and the scale of the picture itself."""
  image = np.zeros((300, 400, 3), np.uint8)
  image[90:150, 200:290] = 255
  Image.fromarray(image).save(tmp_path / "p.png")
  seen = square.read(tmp_path / "p.png", 256)[..., 0] > 127
  rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
  found = square.box(square.Square.of(400, 300), (200, 90, 290, 150))
  np.testing.assert_allclose(found, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), atol=1)


@hypothesis.given(*[strategies.integers(1, 600)] * 2, strategies.lists(strategies.floats(-50, 700), min_size=4, max_size=4))
def test_boxes_stay_in_the_frame(width, height, corners):
  x0, y0, x1, y1 = corners
  found = square.box(square.Square.of(width, height), (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))
  assert found is None or (0 <= found[0] < found[2] <= 255 and 0 <= found[1] < found[3] <= 255)


def test_a_box_mostly_outside_the_square_is_not_in_the_picture():
  middle = square.Square.of(200, 100)  # x 50 … 150
  assert square.box(middle, (40, 0, 59, 50)) is None  # 9 of 19 pixels inside
  assert square.box(middle, (41, 0, 60, 50)) == (0, 0, 26, 128)  # 10 of 19


def test_canny_and_scribble_find_a_square():
  image = np.full((64, 64, 3), 230, np.uint8)
  image[16:48, 16:48] = 20
  edges = controls.canny(image)
  assert edges.shape == (64, 64, 3) and set(np.unique(edges)) == {0, 255}
  rows, columns = np.nonzero(edges[..., 0])
  assert {rows.min(), columns.min()} <= {15, 16} and {rows.max(), columns.max()} <= {47, 48}
  assert not edges[20:44, 20:44].any() and not controls.canny(np.full_like(image, 9)).any()
  lines = controls.scribble(image)
  assert lines[17, 32, 0] == 255 and not lines[32, 32].any() and not lines[4, 4].any()


def test_segmentation_paints_categories_in_their_places():
  outline = lambda x, y, w, h: [[x, y, x + w, y, x + w, y + h, x, y + h]]
  annotations = [  # on a picture of 80 × 40, whose square is x 20 … 60
      {"category_id": 44, "area": 100, "segmentation": outline(30, 10, 10, 10)},
      {"category_id": 81, "area": 1600, "segmentation": outline(20, 0, 40, 40)},  # larger: below the other
      {"category_id": 1, "area": 900, "segmentation": {"counts": [40 * 50, 40 * 10, 40 * 20], "size": [40, 80]}}]
  seen = controls.segmentation(annotations, 80, 40, 40)
  assert tuple(seen[15, 15]) == controls.colour(44)
  assert tuple(seen[30, 15]) == controls.colour(81)
  assert tuple(seen[15, 35]) == controls.colour(1)  # the run's columns 50 … 60
  colours = {controls.colour(i) for i in range(1, 91)}  # COCO's category numbers
  assert len(colours) == 90 and (0, 0, 0) not in colours
  with pytest.raises(InputError, match="neither polygons nor run lengths"):
    controls.segmentation([{"category_id": 1, "area": 1, "segmentation": "abc"}], 8, 8, 8)
