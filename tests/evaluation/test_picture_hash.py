"""Hashes and near pairs: against the public package, against comparing every pair, and what they must not notice."""

import io

from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays
import numpy as np
from PIL import Image
import pytest

from cm3leon_jax.evaluation import picture_hash


def photographs(count, size=64, seed=0):
  """uint8[count, size, size, 3]: soft random shades, with a full spectrum as photographs have."""
  rng = np.random.default_rng(seed)
  out = []
  for _ in range(count):
    rough = rng.integers(0, 255, (9, 9, 3)).astype(np.uint8)
    out.append(np.asarray(Image.fromarray(rough).resize((size, size), Image.Resampling.BICUBIC)))
  return np.stack(out)


@settings(deadline=None, max_examples=25)
@given(image=arrays.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))), data=st.data())
def test_the_exact_hash_sees_pixels_and_nothing_else(image, data):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG", compress_level=data.draw(st.integers(0, 9)))
  again = np.asarray(Image.open(file))
  assert picture_hash.digest(again) == picture_hash.digest(image)
  at = tuple(data.draw(st.integers(0, n - 1)) for n in image.shape)
  changed = image.copy()
  changed[at] ^= data.draw(st.integers(1, 255))
  assert picture_hash.digest(changed) != picture_hash.digest(image)
  assert len(picture_hash.digest(image)) == picture_hash.DIGEST


def test_the_exact_hash_sees_the_shape():
  flat = np.zeros((2, 8, 3), np.uint8)
  assert picture_hash.digest(flat) != picture_hash.digest(flat.reshape(8, 2, 3))


def test_the_perceptual_hash_is_imagehash_s():
  imagehash = pytest.importorskip("imagehash", reason="in requirements-reference.txt")
  images = [*photographs(8, 64), *photographs(8, 200, seed=1), *np.random.default_rng(2).integers(
      0, 256, (8, 64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)]
  for image in images:
    theirs = int(str(imagehash.phash(Image.fromarray(image))), 16)
    assert int(picture_hash.perceptual(image[None])[0]) == theirs


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), x=st.integers(0, 63), y=st.integers(0, 63), value=st.integers(0, 255))
def test_a_pixel_breaks_the_exact_hash_and_not_the_perceptual_one(seed, x, y, value):
  [image] = photographs(1, seed=seed)
  changed = image.copy()
  changed[y, x] = value if (image[y, x] != value).any() else 255 - value
  assert picture_hash.digest(changed) != picture_hash.digest(image)
  a, b = picture_hash.perceptual(np.stack([image, changed]))
  assert np.bitwise_count(a ^ b) <= 6  # of 64; 4,000 random cases gave at most 4


def test_the_perceptual_hash_outlives_compression_and_size_and_tells_pictures_apart():
  images = photographs(200)
  hashes, copies = picture_hash.perceptual(images), []
  for image in images:
    file = io.BytesIO()
    Image.fromarray(image).resize((150, 150), Image.Resampling.BICUBIC).save(file, "JPEG", quality=60)
    copies.append(np.asarray(Image.open(file)))
  distances = np.bitwise_count(hashes ^ picture_hash.perceptual(np.stack(copies)))
  assert distances.max() <= 6
  apart = np.bitwise_count(hashes[:, None] ^ hashes)[~np.eye(200, dtype=bool)]
  assert apart.min() > 6 and apart.mean() == pytest.approx(32, abs=1)  # half of the bits, by the median


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 12), m=st.integers(0, 12), bits=st.integers(0, 12))
def test_near_hashes_are_those_that_comparing_all_pairs_finds(seed, n, m, bits):
  rng = np.random.default_rng(seed)
  queries, others = (rng.integers(0, 2**64, size, np.uint64) for size in (n, m))
  for i in range(min(n, m)):  # some lie close
    flips = rng.choice(64, rng.integers(0, 2 * bits + 2), replace=False)
    others[i] = queries[i] ^ np.uint64(sum(1 << int(f) for f in flips))
  (i, j), distance = picture_hash.near_hashes(queries, others, bits)
  expected = np.bitwise_count(queries[:, None] ^ others)
  assert sorted(zip(i, j)) == sorted(zip(*np.nonzero(expected <= bits)))
  np.testing.assert_array_equal(distance, expected[i, j])


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8), m=st.integers(1, 8),
       cells=st.sampled_from([4, 16, 64, 100]), share=st.sampled_from([0.5, 0.8, 0.95, 1.0]), ground=st.floats(0, 1))
def test_near_codes_are_those_that_comparing_all_pairs_finds(seed, n, m, cells, share, ground):
  rng = np.random.default_rng(seed)
  queries, others = (rng.integers(0, 50, (size, cells)) for size in (n, m))
  queries[rng.random(queries.shape) < ground] = 7  # blank
  for i in range(min(n, m)):  # some lie close; most of them have few cells that are drawn
    few = rng.integers(0, cells + 1)
    queries[i, np.roll(np.arange(cells), rng.integers(cells))[few:]] = 7
    others[i] = np.where(rng.random(cells) < 2 * (1 - share) * rng.random(), others[i], queries[i])
  (i, j), shares = picture_hash.NearCodes(queries, np.array([7, 8]), share).find(others)
  blank = (np.isin(queries, [7, 8])[:, None] & np.isin(others, [7, 8]))
  equal = ((queries[:, None] == others) & ~blank).sum(2)
  drawn = (~blank).sum(2)
  empty = np.isin(queries, [7, 8]).all(1)[:, None]
  expected = (equal >= share * drawn - 1e-9) & (drawn > 0) & ~empty
  assert sorted(zip(i, j)) == sorted(zip(*np.nonzero(expected)))
  np.testing.assert_allclose(shares, (equal / np.maximum(drawn, 1))[i, j])


def test_a_plain_ground_that_many_share_is_no_likeness_and_takes_no_room(monkeypatch):
  rng = np.random.default_rng(0)
  queries, others = (rng.integers(0, 8192, (count, 256)) for count in (60, 50))
  queries[:, :80] = others[:, :80] = 77  # the same sky everywhere
  others[3] = queries[5]
  monkeypatch.setattr(picture_hash, "_PAIRS", 100)  # 3,000 pairs share a band: many rounds
  (i, j), shares = picture_hash.NearCodes(queries, np.array([7]), 0.95).find(others)
  assert (list(i), list(j), list(shares)) == ([5], [3], [1.0])
