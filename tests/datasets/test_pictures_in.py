"""Preparation: every odd kind of picture comes out as a person sees it, every bad one is rejected by kind."""

import io

import numpy as np
from PIL import Image
import pytest

import corpus_files
from cm3leon_jax.datasets import pictures
from cm3leon_jax.datasets.pictures import Preparation, Rejected

PREPARE = Preparation(32)


def quarters(width=64, height=64):
  """Red, green / blue, grey: tells any turn or mirror."""
  image = np.zeros((height, width, 3), np.uint8)
  image[:height // 2, :width // 2], image[:height // 2, width // 2:] = (255, 0, 0), (0, 255, 0)
  image[height // 2:, :width // 2], image[height // 2:, width // 2:] = (0, 0, 255), (128, 128, 128)
  return image


def near(a, b, most=6.0):
  assert a.shape == b.shape and a.dtype == np.uint8
  assert np.abs(a.astype(int) - b.astype(int)).mean() < most


def test_the_middle_square_is_scaled():
  wide = np.full((40, 100, 3), 255, np.uint8)
  wide[:, 30:70] = (10, 20, 30)
  image, notes = PREPARE(corpus_files.encoded(np.concatenate([wide, wide[:, :1]], 1)))
  assert image.shape == (32, 32, 3) and notes == []
  assert (np.abs(image[:, 2:-2].astype(int) - (10, 20, 30)) <= 2).all(), "the white sides are cut off"


def test_pixels_of_the_right_size_are_not_touched():
  image = corpus_files.pixels(1, 32, 32)
  np.testing.assert_array_equal(PREPARE(corpus_files.encoded(image))[0], image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stands_as_its_exif_says(orientation):
  # The stored pixels are such that turning them as the tag says gives the original.
  from PIL import ImageOps

  undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # inverse of each of Pillow's transpositions
  original = Image.fromarray(quarters(96, 64))
  stored = original if undo is None else original.transpose(Image.Transpose(undo))
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = corpus_files.encoded(stored, "JPEG", quality=95, exif=exif)
  near(np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))), np.asarray(original))  # the table is right
  image, notes = PREPARE(data)
  near(image, PREPARE(corpus_files.encoded(original))[0])
  assert notes == ["exif_rotation"] * (orientation != 1)


def test_transparent_is_white():
  rgba = np.zeros((64, 64, 4), np.uint8)
  rgba[16:48, 16:48] = (200, 0, 0, 255)
  rgba[:8] = (0, 0, 0, 128)  # half of black
  expected = np.full((64, 64, 3), 255, np.uint8)
  expected[16:48, 16:48], expected[:8] = (200, 0, 0), 127
  for kind in ("PNG", "WEBP"):
    image, notes = PREPARE(corpus_files.encoded(rgba, kind, **({"lossless": True} if kind == "WEBP" else {})))
    near(image, PREPARE(corpus_files.encoded(expected))[0], 1)
    assert notes == ["alpha"]
  opaque = np.concatenate([quarters(), np.full((64, 64, 1), 255, np.uint8)], -1)
  assert PREPARE(corpus_files.encoded(opaque))[1] == []


def test_palette_with_a_transparent_colour():
  grey = np.zeros((64, 64), np.uint8)
  grey[20:40, 20:40] = 1
  paletted = Image.fromarray(grey, "P")
  paletted.putpalette([0, 0, 0, 0, 200, 0] + [0] * 762)
  image, notes = PREPARE(corpus_files.encoded(paletted, "PNG", transparency=0))
  assert notes == ["palette", "alpha"]
  assert image[0, 0].tolist() == [255, 255, 255] and image[15, 15].tolist() == [0, 200, 0]


def test_inks_become_colours():
  cmyk = Image.fromarray(quarters()).convert("CMYK")
  for kind, options in (("JPEG", {"quality": 95}), ("TIFF", {})):
    image, notes = PREPARE(corpus_files.encoded(cmyk, kind, **options))
    near(image, PREPARE(corpus_files.encoded(quarters()))[0])
    assert notes == ["cmyk"]


def test_sixteen_bits_are_scaled_not_clipped():
  ramp = np.linspace(0, 65_535, 64).astype(np.uint16)[None].repeat(64, 0)
  expected = np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, -1)
  for kind in ("PNG", "TIFF"):
    image, notes = Preparation(64)(corpus_files.encoded(ramp, kind))
    np.testing.assert_array_equal(image, expected)
    assert notes == ["16_bit", "grey"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "YCbCr", "RGBA", "CMYK"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"])
def test_every_mode_that_a_format_has_comes_out(mode, kind):
  if (mode, kind) == ("YCbCr", "TIFF"):
    return  # Pillow writes fewer pixels than its reader expects
  try:
    data = corpus_files.encoded(Image.fromarray(quarters()).convert(mode), kind)
  except (OSError, ValueError, KeyError):
    return  # Pillow writes no such file
  image, _ = PREPARE(data)
  assert image.shape == (32, 32, 3) and image.std() > 10


def test_the_first_frame_of_an_animation():
  frames = [Image.fromarray(corpus_files.pixels(i)) for i in range(3)]
  out = io.BytesIO()
  frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
  image, notes = PREPARE(out.getvalue())
  assert "animated" in notes
  near(image, PREPARE(corpus_files.encoded(frames[0]))[0])


@pytest.mark.parametrize("kind", [k for k in corpus_files.BAD if k in pictures.REJECTS])
def test_each_kind_of_bad_picture(kind):
  with pytest.raises(Rejected) as rejected:
    PREPARE(corpus_files.BAD[kind][0])
  assert rejected.value.kind == kind and rejected.value.reason


def test_limits():
  long = corpus_files.encoded(quarters(300, 40))
  PREPARE(long)
  for limit, kind in (({"max_aspect": 3}, "too_long"), ({"min_side": 41}, "too_small"), ({"max_pixels": 11_999}, "too_large")):
    with pytest.raises(Rejected) as rejected:
      Preparation(32, **limit)(long)
    assert rejected.value.kind == kind and "300 × 40" in rejected.value.reason


def test_any_bytes_are_prepared_or_rejected():
  rng = np.random.default_rng(0)
  kinds = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
  made = [corpus_files.encoded(corpus_files.pixels(i, 64, 64), kind) for i, kind in enumerate(kinds)]
  seen = set()
  for data in made * 40:
    torn = bytearray(data)
    for at in rng.integers(0, len(torn), 8):
      torn[at] = rng.integers(256)
    try:
      image, _ = PREPARE(bytes(torn[:rng.integers(1, len(torn) + 1)]))
      assert image.shape == (32, 32, 3)
    except Rejected as rejected:
      seen.add(rejected.kind)
  assert {"broken_picture", "not_a_picture"} <= seen


def test_the_decoders_own_reduction_is_near_the_whole_picture():
  x = np.linspace(0, 20, 800)
  waves = (127 + 100 * np.sin(x)[None, :, None] * np.cos(x)[:, None, None] * np.ones(3)).astype(np.uint8)
  image, _ = PREPARE(corpus_files.encoded(waves, "JPEG", quality=95))
  near(image, PREPARE(corpus_files.encoded(waves))[0], 2)


def test_packing_keeps_every_pixel():
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  np.testing.assert_array_equal(pictures.unpack(pictures.pack(noise)), noise)
