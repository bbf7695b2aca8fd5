from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks import packing

LAYOUT = Layout(image_tokens=4, text_tokens=4, max_documents=2, numbering="sequence")


def make(lengths):
  """Samples whose tokens are all different, none of them 0."""
  starts = np.cumsum([1] + list(lengths))
  return [{"tokens": np.arange(s, s + n, dtype=np.int32), "loss_weights": np.arange(n, dtype=np.float32) / 2,
           "positions": np.arange(n, dtype=np.int32)} for s, n in zip(starts, lengths)]


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 20), max_size=60), pool=st.integers(1, 5))
def test_whole_samples_arrive_once_and_uncut(lengths, pool):
  samples, stats = make(lengths), packing.PackingStats()
  windows = list(packing.pack(iter(samples), 20, layout=LAYOUT, pool=pool, stats=stats))
  found = {}
  for w in windows:
    ids = w["segment_ids"]
    assert all(len(v) == 20 for v in w.values())
    assert np.all(np.diff(ids[ids > 0]) >= 0) and not w["tokens"][ids == 0].any()
    for segment in range(1, ids.max() + 1):
      part = {k: v[ids == segment] for k, v in w.items()}
      found[int(part["tokens"][0])] = part
  assert len(found) == len(samples)
  for s in samples:
    for name, value in s.items():
      np.testing.assert_array_equal(found[int(s["tokens"][0])][name], value)
      assert found[int(s["tokens"][0])][name].dtype == value.dtype
  assert (stats.samples, stats.tokens, stats.windows) == (len(lengths), sum(lengths), len(windows))


def test_first_fit_wastes_little():
  # Halves and thirds fill windows of 12 exactly when several are open; in order, one open window wastes a third.
  lengths = [6, 4, 4, 6, 4] * 40  # 24 a group: two windows
  waste = {}
  for pool in (1, 16):
    stats = packing.PackingStats()
    list(packing.pack(make(lengths), 12, layout=LAYOUT, pool=pool, stats=stats))
    waste[pool] = stats.wasted
  assert waste[16] < 0.02 and waste[1] > 0.1


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 50), max_size=30))
def test_straddling_windows_are_the_stream(lengths):
  samples, stats = make(lengths), packing.PackingStats()
  windows = list(packing.pack(samples, 12, layout=LAYOUT, mode="straddle", stats=stats))
  total = sum(lengths)
  assert len(windows) == -(-total // 12)
  for i, w in enumerate(windows):
    size = min(12, total - 12 * i)
    np.testing.assert_array_equal(w["tokens"], [1 + 12 * i + j if j < size else 0 for j in range(12)])
    np.testing.assert_array_equal(w["segment_ids"], [1] * size + [0] * (12 - size))
    np.testing.assert_array_equal(w["positions"], list(range(size)) + [0] * (12 - size))


def test_errors():
  with pytest.raises(InputError, match="a sample of 21 tokens does not fit a window of 20"):
    list(packing.pack(make([21]), 20, layout=LAYOUT))
  with pytest.raises(InputError, match="known: whole, straddle"):
    list(packing.pack([], 20, layout=LAYOUT, mode="cut"))
  document = Layout(image_tokens=4, text_tokens=4, max_documents=2, numbering="document")
  with pytest.raises(InputError, match="numbering='sequence'"):
    list(packing.pack([], 20, layout=document, mode="straddle"))
