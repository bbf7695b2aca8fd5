import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from cm3leon_jax.layout import Layout


def test_the_paper_numbers_tokens_in_order():
  layout = Layout(image_tokens=1024, text_tokens=128, max_documents=4)
  # E (T b I b)×1 T b I E with texts of 9 and 5: 1 + (9+1+1024+1) + (5+1+1024) + 1 tokens.
  np.testing.assert_array_equal(layout.sample_positions([9, 5]), np.arange(1 + 1035 + 1030 + 1))


def test_document_numbering_by_hand():
  layout = Layout(image_tokens=4, text_tokens=3, max_documents=2, numbering="document")
  assert layout.stride == 9  # delimiter, 3 texts, break, 4 cells
  # Slot 0 holds a text of 2, slot 1 of 1; then the closing <eos> at 2 · 9.
  assert layout.sample_positions([2, 1]).tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17, 18]
  # A lone pair takes the last slot.
  assert layout.sample_positions([3]).tolist() == [9, 10, 11, 12, 13, 14, 15, 16, 17, 18]


@hypothesis.given(st.integers(1, 6), st.integers(1, 9), st.data())
def test_the_same_cell_has_the_same_offset_in_every_slot(grid, text, data):
  slots = data.draw(st.integers(1, 4))
  layout = Layout(grid * grid, text, slots, "document")
  lengths = data.draw(st.lists(st.integers(1, text), min_size=1, max_size=slots))
  positions = layout.sample_positions(lengths)
  assert len(positions) == sum(lengths) + len(lengths) * (grid * grid + 2) + 1
  assert (np.diff(positions) > 0).all() and positions[-1] == layout.num_positions - 1
  first = layout.image_positions(layout.slot(0, len(lengths)))
  for i in range(len(lengths)):
    cells = layout.image_positions(layout.slot(i, len(lengths)))
    np.testing.assert_array_equal(cells - first, i * layout.stride)
    assert np.isin(cells, positions).all()


def test_what_does_not_fit_is_refused_with_numbers():
  layout = Layout(4, 3, 2, "document")
  with pytest.raises(ValueError, match="3 pairs .* exceed max_documents=2"):
    layout.sample_positions([1, 1, 1])
  with pytest.raises(ValueError, match="4 tokens exceeds text_tokens=3"):
    layout.sample_positions([4])
  with pytest.raises(ValueError, match="not a square"):
    Layout(image_tokens=5)
  with pytest.raises(ValueError, match="numbering='slots'"):
    Layout(numbering="slots")
