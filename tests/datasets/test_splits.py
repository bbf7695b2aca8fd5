import dataclasses

from hypothesis import given, settings, strategies as st
import numpy as np

from cm3leon_jax.datasets import splits

ITEM = st.builds(
    lambda style, base, variant, pixels: (style, f"{base}.{variant}", base, pixels),
    st.sampled_from("abcd"), st.sampled_from("qrstuvwxyz"), st.integers(0, 2), st.integers(0, 40))


@st.composite
def corpora(draw):
  """Drawings of few things in four styles, some with the pixels of another; thumbnails follow the pixels."""
  raw = draw(st.lists(ITEM, min_size=1, max_size=80))
  items = [splits.Item(f"{i}", style, thing, base, f"p{pixels}") for i, (style, thing, base, pixels) in enumerate(raw)]
  pictures = np.random.default_rng(draw(st.integers(0, 5))).random((41, 4, 4, 3), np.float32)
  close = draw(st.floats(0, 1))  # squeezes all pictures together, so that some are near twins
  thumbnails = np.stack([0.5 + close * (pictures[int(x.pixels[1:])] - 0.5) for x in items])
  return items, thumbnails.astype(np.float32)


def squared_error(a: np.ndarray, b: np.ndarray) -> float:
  return float(np.square(a.astype(np.float64) - b).mean())


def check(items: list[splits.Item], thumbnails: np.ndarray, near: float, got: splits.Assignment) -> None:
  """The promises of `assign`, stated one by one and checked the slow way."""
  kept = [i for i, s in enumerate(got.splits) if s != splits.DROPPED]
  where = lambda key, among=kept: {k: {got.splits[i] for i in among if key(i) == k} for k in {key(i) for i in among}}
  assert all(len(s) == 1 for s in where(lambda i: got.groups[i]).values())
  assert all(len(s) == 1 for s in where(lambda i: items[i].pixels).values())
  assert all(len(s) == 1 for s in where(lambda i: (items[i].base, items[i].style)).values())
  for found in where(lambda i: items[i].base).values():
    assert splits.THINGS not in found or found == {splits.THINGS}
  train = [i for i in kept if got.splits[i] == splits.TRAIN]
  for i in kept:
    if got.splits[i] == splits.DRAWINGS:
      known = {items[j].style for j in train if items[j].thing == items[i].thing}
      assert len(known - {items[i].style}) >= 2
    if got.splits[i] != splits.TRAIN:
      for j in train:
        for picture in (thumbnails[j], thumbnails[j][:, ::-1]):
          assert squared_error(thumbnails[i], picture) > near * 0.999


@settings(deadline=None, max_examples=150)
@given(corpora(), st.sampled_from([0.004, 0.05]))
def test_nothing_straddles(corpus, near):
  items, thumbnails = corpus
  check(items, thumbnails, near, splits.assign(items, thumbnails, things=0.2, drawings=0.5, near=near))


@settings(deadline=None, max_examples=50)
@given(corpora(), st.randoms(use_true_random=False))
def test_the_order_of_drawings_does_not_matter(corpus, random):
  items, thumbnails = corpus
  order = list(range(len(items)))
  random.shuffle(order)
  one = splits.assign(items, thumbnails, things=0.2, drawings=0.5)
  other = splits.assign([items[i] for i in order], thumbnails[order], things=0.2, drawings=0.5)
  assert [one.splits[i] for i in order] == other.splits
  assert [one.groups[i] for i in order] == other.groups


def many(things: int = 2000, styles: str = "abcd") -> tuple[list[splits.Item], np.ndarray]:
  items = [splits.Item(f"{s}/{t}", s, f"{t}", f"{t}", f"{s}{t}") for t in range(things) for s in styles]
  return items, np.random.default_rng(0).random((len(items), 4, 4, 3), np.float32)


def test_shares():
  items, thumbnails = many()
  got = splits.assign(items, thumbnails)
  # 3 % of 8,000 in whole things (deviation 31), 6 % of the rest (deviation 21).
  assert abs(len(got.indices(splits.THINGS)) - 240) < 120
  assert abs(len(got.indices(splits.DRAWINGS)) - 466) < 90
  assert not got.indices(splits.DROPPED)


def test_two_other_styles_stay_however_many_drawings_are_asked_for():
  items, thumbnails = many(100)
  got = splits.assign(items, thumbnails, things=0, drawings=1)
  assert len(got.indices(splits.TRAIN)) == 200 == len(got.indices(splits.DRAWINGS))
  check(items, thumbnails, 0.004, got)


def test_more_drawings_move_no_old_one():
  items, thumbnails = many()
  less = splits.assign(items[:6000], thumbnails[:6000])
  assert splits.assign(items, thumbnails).splits[:6000] == less.splits


def test_a_twin_of_a_training_drawing_is_dropped_also_mirrored():
  items, thumbnails = many()
  got = splits.assign(items, thumbnails)
  train = got.indices(splits.TRAIN)[0]
  twin, mirrored = got.indices(splits.DRAWINGS)[:2]
  thumbnails[twin] = thumbnails[train] + 0.06  # mean squared error 0.0036
  thumbnails[mirrored] = thumbnails[train][:, ::-1] - 0.06
  assert splits.assign(items, thumbnails).indices(splits.DROPPED) == sorted([twin, mirrored])
  thumbnails[twin] = thumbnails[train] + 0.066  # 0.0044
  assert splits.assign(items, thumbnails).indices(splits.DROPPED) == [mirrored]


def test_identical_pixels_join_things():
  items, thumbnails = many(200)
  items[4:8] = [dataclasses.replace(x, pixels=y.pixels) for x, y in zip(items[4:8], items[:4])]
  got = splits.assign(items, thumbnails, things=0.5, near=0)
  assert got.splits[:4] == got.splits[4:8] and got.groups[:4] == got.groups[4:8]


def test_pixel_key_sees_mirror_images_and_nothing_else():
  image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
  assert splits.pixel_key(image) == splits.pixel_key(image[:, ::-1])
  other = image.copy()
  other[0, 0, 0] ^= 1
  assert len({splits.pixel_key(x) for x in (image, image[::-1], other, image.transpose(1, 0, 2))}) == 4


def test_thumbnail_is_the_area_average():
  image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  small = splits.thumbnail(image)
  assert small.shape == (16, 16, 3) and small.dtype == np.float32
  np.testing.assert_allclose(small[3, 5], image[12:16, 20:24].reshape(-1, 3).mean(0) / 255, rtol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.integers(0, 40), st.floats(0, 0.1), st.integers(0, 3), st.integers(1, 50))
def test_near_twins_against_the_slow_way(n, m, limit, seed, chunk):
  rng = np.random.default_rng(seed)
  a, b = (0.5 + 0.4 * (rng.random((k, 2, 2, 3), np.float32) - 0.5) for k in (n, m))
  distance = np.array([[min(squared_error(x, y), squared_error(x[:, ::-1], y)) for y in b] for x in a]).reshape(n, m)
  smallest = distance.min(1, initial=np.inf)
  got = splits.near_twins(a, b, limit, chunk)
  clear = abs(smallest - limit) > 1e-6
  assert (got == (smallest < limit))[clear].all()


@given(st.lists(st.lists(st.integers(0, 12), max_size=3), max_size=20))
def test_components_against_the_slow_way(nodes):
  roots = splits.components(nodes)
  labels = list(range(len(nodes)))
  for _ in nodes:
    for i, a in enumerate(nodes):
      for j, b in enumerate(nodes):
        if set(a) & set(b):
          labels[i] = labels[j] = min(labels[i], labels[j])
  assert roots == labels
