import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from cm3leon_jax.vocabulary import EOS_ID, PAD_ID, UNK_ID, Vocabulary


def test_full_size_is_two_to_the_sixteen():
  v = Vocabulary()
  # Paper §2.1: 56,320 text and 8,192 image ids; 65,536 − both = 1,024 special ids.
  assert (v.image_start, v.image_end, v.break_id, v.total_size) == (56_320, 64_512, 64_512, 2**16)
  assert v.total_size - v.image_end == 1024
  assert (v.eoss_id, v.sentinel(0), v.sentinel(511)) == (64_513, 64_514, 65_025)
  assert [v.name(i) for i in (0, 1, 2, 7, 56_320, 64_512, 64_513, 64_514, 65_535)] == [
      "<pad>", "<eos>", "<unk>", "<text:7>", "<image:0>", "<break>", "<eoss>", "<sentinel:0>", "<reserved:65535>"]


@hypothesis.given(st.integers(3, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_every_id_has_one_modality(text, image, sentinels):
  v = Vocabulary(text, image, sentinels, total_size=0)
  ids = np.arange(v.total_size)
  kinds = np.stack([v.is_text(ids), v.is_image(ids), v.is_special(ids)]).astype(int)
  np.testing.assert_array_equal(kinds.sum(0), 1)
  assert (kinds.sum(1)[:2] == [text, image]).all()
  assert v.total_size % 128 == 0 and v.is_sentinel(ids).sum() == sentinels
  assert not v.is_sentinel(np.array([v.break_id, v.eoss_id])).any()
  assert max(PAD_ID, EOS_ID, UNK_ID) < v.image_start


@hypothesis.given(st.lists(st.integers(0, 1023), max_size=64))
def test_image_codes_round_trip(codes):
  v = Vocabulary(2048, 1024, 16, 0)
  ids = v.image_ids(codes)
  assert ids.dtype == np.int32 and np.all(v.is_image(ids))
  np.testing.assert_array_equal(v.image_codes(ids), codes)


def test_bad_values_name_themselves():
  v = Vocabulary(2048, 1024, 16, 0)
  with pytest.raises(ValueError, match="0..1023, got 3..1024"):
    v.image_ids([3, 1024])
  with pytest.raises(ValueError, match="sentinel 16"):
    v.sentinel(16)
  with pytest.raises(ValueError, match="not image ids"):
    v.image_codes([5])
  with pytest.raises(ValueError, match="below the 3090 ids"):
    Vocabulary(2048, 1024, 16, 3000)


def test_fingerprint_follows_the_ranges():
  assert Vocabulary().fingerprint() == Vocabulary().fingerprint()
  assert len({Vocabulary(2048, 1024, 16, 0).fingerprint(), Vocabulary(2048, 512, 16, 0).fingerprint(),
              Vocabulary().fingerprint()}) == 3
