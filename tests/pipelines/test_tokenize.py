"""The other framings of a drawing."""

import numpy as np

from cm3leon_jax.pipelines import tokenize


def drawing():
  image = np.full((64, 64, 3), 255, np.uint8)
  image[20:40, 16:48] = (200, 30, 30)
  return image


def test_a_move_is_a_roll_onto_white():
  moved = tokenize.reframe(drawing()[None], 1.0, 2, -3)[0]
  np.testing.assert_array_equal(moved, np.roll(drawing(), (-3, 2), axis=(0, 1)))
  edge = np.zeros((1, 64, 64, 3), np.uint8)
  assert (tokenize.reframe(edge, 1.0, 2, 2)[0, :2] == 255).all(), "what comes into view is white"


def test_scaling_keeps_the_middle_and_the_size():
  for scale, side in ((0.5, 32), (1.0, 64), (0.92, 64 * 0.92)):
    black = np.zeros((1, 64, 64, 3), np.uint8)
    dark = (tokenize.reframe(black, scale, 0, 0)[0] < 128).all(-1)
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    assert abs(len(rows) - side) <= 1 and abs(len(columns) - side) <= 1
    assert abs(rows.mean() - 31.5) <= 0.5 and abs(columns.mean() - 31.5) <= 0.5


def test_the_side_sets_the_unit_of_a_move():
  small = drawing()[::2, ::2]
  np.testing.assert_array_equal(tokenize.reframe(small[None], 1.0, 2, 2)[0], np.roll(small, (1, 1), axis=(0, 1)))


def test_signs_flags_and_sides_have_no_mirror_image():
  say = lambda caption, category="objects": tokenize.mirrorable({"caption": caption, "category": category})
  assert say("a pencil, noto") and say("bright lamp by twemoji")
  assert not say("backhand index pointing right, noto") and not say("one o'clock, noto")
  assert not say("input numbers, noto", "symbols") and not say("flag of Iceland, noto", "flags")
