import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.tasks import documents
from cm3leon_jax.vocabulary import EOS_ID
from task_samples import LAYOUT, VOCABULARY


def pair(rng, length):
  return (rng.integers(3, VOCABULARY.text_size, length).astype(np.int32),
          VOCABULARY.image_ids(rng.integers(0, VOCABULARY.image_size, LAYOUT.image_tokens)))


def test_layout_of_a_sample():
  rng = np.random.default_rng(0)
  builder = documents.SampleBuilder(VOCABULARY, LAYOUT)
  (t0, i0), (t1, i1) = pair(rng, 2), pair(rng, 9)  # the second text is longer than the 6 tokens it may have
  got = builder.build([(t0, i0), (t1, i1)], query_loss_only=True, answer=slice(2, None))
  b = VOCABULARY.break_id
  assert got["tokens"].tolist() == [EOS_ID, *t0, b, *i0, b, *t1[:6], b, *i1, EOS_ID]
  assert dict(builder.counts) == {"texts": 2, "truncated_texts": 1}
  # The first pair has slot 1 of 3 (stride 6 + 2 + 9 = 17): E at 17; the query's delimiter at 34, the last E at 51.
  assert got["positions"][[0, 13, -1]].tolist() == [17, 34, 51]
  start, size = 1 + 2 + 1 + 9 + 1, len(got["tokens"])
  assert np.flatnonzero(got["loss_weights"]).tolist() == list(range(start, size - 1))
  assert np.flatnonzero(got["answers"]).tolist() == list(range(start + 2, start + 6))
  assert builder.build([(t0, i0)])["loss_weights"].all() and not builder.build([(t0, i0)])["answers"].any()


def test_errors():
  rng = np.random.default_rng(0)
  builder = documents.SampleBuilder(VOCABULARY, LAYOUT)
  with pytest.raises(InputError, match="4 pairs exceeds Layout.max_documents=3"):
    builder.build([pair(rng, 1)] * 4)
  text, image = pair(rng, 1)
  with pytest.raises(InputError, match="an image of 8 codes, but Layout.image_tokens=9"):
    builder.build([(text, image[:-1])])


def test_number_of_documents():
  rng = np.random.default_rng(0)
  shares = np.bincount([documents.number_of_documents((1, 1, 2), rng) for _ in range(4000)], minlength=3) / 4000
  np.testing.assert_allclose(shares, [0.25, 0.25, 0.5], atol=0.032)  # 4 standard errors
  assert {documents.number_of_documents((0, 1), rng) for _ in range(200)} == {1}


def test_choice():
  rng = np.random.default_rng(0)
  by_text, by_image = ["a", "b"], ["b", "c"]
  drawn = {tuple(documents.choose_randomly(by_text, by_image, 2, rng)) for _ in range(300)}
  assert drawn == {(x, y) for x in "abc" for y in "abc" if x != y}  # every choice and order, none twice
  assert sorted(documents.choose_randomly(by_text, by_image, 5, rng)) == ["a", "b", "c"]
  assert documents.choose_top(by_text, 1) == ["a"] and documents.choose_top(by_text, 3) == ["a", "b"]


def test_documents_of_a_sample_share_their_framing():
  made = [{"image": np.full(4, 10 * d), "framings": [np.full(4, 10 * d + f) for f in (1, 2)]} for d in range(3)]
  seen = set()
  for seed in range(30):
    query, near = documents.same_framing(made[0], made[1:], np.random.default_rng(seed))
    offsets = {int(d["image"][0]) % 10 for d in (query, *near)}
    assert len(offsets) == 1 and [int(d["image"][0]) // 10 for d in (query, *near)] == [0, 1, 2]
    seen |= offsets
  assert seen == {0, 1, 2}, "the original and every framing come up"
  assert made[0]["image"][0] == 0, "the documents themselves stay"
  plain = [{"image": np.zeros(4)}, {"image": np.ones(4)}]
  assert documents.same_framing(plain[0], plain[1:], np.random.default_rng(0)) == (plain[0], plain[1:])


def test_the_text_querys_documents_alone_in_the_asked_share():
  lists = (["t0", "t1"], ["i0", "i1"])
  draws = [documents.choose_randomly(*lists, 2, np.random.default_rng(seed), 0.75) for seed in range(400)]
  alone = np.mean([set(d) <= {"t0", "t1"} for d in draws])
  # 0.75, and of the other quarter the chance that both of two are the text's among four: 1/6. Sigma is 0.02.
  assert abs(alone - (0.75 + 0.25 / 6)) < 0.08
  assert {tuple(d) for d in draws} >= {("t0", "t1"), ("t1", "t0")}
  plain = [documents.choose_randomly(*lists, 2, np.random.default_rng(seed)) for seed in range(20)]
  assert any(not set(d) <= {"t0", "t1"} for d in plain)
