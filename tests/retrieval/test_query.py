"""Query dropout: pure in its seed, close to its rate, and never everything."""

from hypothesis import given, settings, strategies as st
import numpy as np

from cm3leon_jax.retrieval.query import drop_patches, drop_text

seeds = st.tuples(st.integers(0, 2**31), st.integers(0, 2**40))


@settings(deadline=None)
@given(length=st.integers(0, 40), rate=st.floats(0, 1), seed=seeds)
def test_text_keeps_order_and_something(length, rate, seed):
  ids = np.arange(100, 100 + length, dtype=np.int32)
  kept = drop_text(ids, rate, seed)
  np.testing.assert_array_equal(kept, drop_text(ids, rate, seed))
  assert kept.dtype == np.int32 and np.all(np.diff(kept) > 0) and set(kept) <= set(ids)
  assert len(kept) >= min(1, length)
  assert rate > 0 or len(kept) == length


@settings(deadline=None, max_examples=50)
@given(height=st.integers(1, 40), width=st.integers(1, 40), rate=st.floats(0, 1), seed=seeds)
def test_patches_are_whole_squares(height, width, rate, seed):
  image = np.full((height, width, 3), 7, np.uint8)
  holed = drop_patches(image, rate, seed)
  np.testing.assert_array_equal(holed, drop_patches(image, rate, seed))
  assert np.all(image == 7), "the query's own picture must stay whole"
  for top in range(0, height, 8):
    for left in range(0, width, 8):
      assert len(np.unique(holed[top:top + 8, left:left + 8])) == 1
  assert (holed == 7).any()


# 0.2 of 4,000 tokens is 800 ± 25 (one standard deviation); 5 of them either way.
def test_a_fifth_goes_and_seeds_differ():
  ids = np.arange(4000, dtype=np.int32)
  first, second = drop_text(ids, 0.2, (0, 1)), drop_text(ids, 0.2, (0, 2))
  assert 3075 < len(first) < 3325
  assert not np.array_equal(first, second)
  image = np.zeros((512, 512, 3), np.uint8)
  assert abs((drop_patches(image, 0.2, (0, 1)) == 255).mean() - 0.2) < 0.03
