"""Caption metrics against pycocoevalcap, on the same tokens, to 1e-6 (they agree to about 1e-15)."""

import json

from hypothesis import given, settings, strategies as st
import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import captions


def reference(hypotheses, references):
  """pycocoevalcap's corpus scores and its scores of each image."""
  res = {i: [" ".join(h)] for i, h in enumerate(hypotheses)}
  gts = {i: [" ".join(r) for r in refs] for i, refs in enumerate(references)}
  cider, ciders = Cider().compute_score(gts, res)
  bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
  rouge, rouges = Rouge().compute_score(gts, res)
  return {"cider": cider, "rouge_l": rouge, **{f"bleu_{n + 1}": b for n, b in enumerate(bleu)}}, ciders, rouges


sentence = st.lists(st.sampled_from("a red heart dog on the white cat".split()), min_size=0, max_size=9)
images = st.lists(st.tuples(sentence, st.lists(sentence, min_size=1, max_size=4)), min_size=1, max_size=8)


@given(images)
@settings(max_examples=100, deadline=None)
def test_equal_to_pycocoevalcap_on_any_tokens(data):
  hypotheses, references = [h for h, _ in data], [r for _, r in data]
  if not any(token for refs in references for r in refs for token in r):
    return  # without any reference n-gram pycocoevalcap stops at the maximum of nothing
  expected, ciders, rouges = reference(hypotheses, references)
  result = captions.score(hypotheses, references)
  for name, value in expected.items():
    assert result[name] == pytest.approx(value, abs=1e-6), name
  corpus = captions.corpus(hypotheses, references)
  np.testing.assert_allclose(captions.cider(corpus), ciders, atol=1e-6)
  np.testing.assert_allclose(captions.rouge_l(hypotheses, references), rouges, atol=1e-6)


def test_numbers_worked_by_hand():
  # One match of two words, brevity: BLEU-1 = 1/1 · exp(1 − 2/1). LCS 1 of 1 and of 2: P = 1, R = 1/2.
  result = captions.score([["red"], ["dog"]], [[["red", "heart"]], [["dog", "cat"]]])
  assert result["bleu_1"] == pytest.approx(np.exp(-1))
  assert result["rouge_l"] == pytest.approx((1 + 1.2**2) * 0.5 / (0.5 + 1.2**2))


def test_intervals_hold_the_estimate_and_are_the_same_each_time():
  rng = np.random.default_rng(0)
  words = np.array("a b c d e f g h".split())
  references = [[list(rng.choice(words, 6)) for _ in range(3)] for _ in range(60)]
  hypotheses = [refs[0][:4] + list(rng.choice(words, 2)) for refs in references]
  result = captions.score(hypotheses, references)
  assert result == captions.score(hypotheses, references)
  for name in ("cider", "bleu_1", "bleu_4", "rouge_l"):
    assert result[f"{name}_low"] < result[name] < result[f"{name}_high"]


@pytest.fixture
def files(tmp_path):

  def write(predictions, references=None):
    references = references or {
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "A red heart."},
                        {"id": 2, "image_id": 1, "caption": "heart"},
                        {"id": 3, "image_id": 2, "caption": "Dog's face"}]}
    (tmp_path / "results.json").write_text(predictions if isinstance(predictions, str) else json.dumps(predictions))
    (tmp_path / "captions.json").write_text(json.dumps(references))
    return tmp_path / "results.json", tmp_path / "captions.json", tmp_path / "out" / "o.json"

  return write


def test_coco_files_in_flat_json_out(files):
  paths = files([{"image_id": 2, "caption": "a dog's face"}, {"image_id": 1, "caption": "Red heart!"}])
  result = captions.evaluate_captions(*paths)
  assert json.loads(paths[2].read_text()) == result
  expected, _, _ = reference([["red", "heart"], ["a", "dog", "'s", "face"]],
                             [[["a", "red", "heart"], ["heart"]], [["dog", "'s", "face"]]])
  assert {name: result[name] for name in expected} == pytest.approx(expected)
  assert result["count"] == 2 and result["tokenizer"].startswith("own rules")
  assert all(isinstance(value, (int, float, str)) for value in result.values())


@pytest.mark.parametrize("predictions, says", [
    ([{"image_id": 1, "caption": "x"}], r"1 image id of .*captions.json without an answer: 2.*--allow_missing"),
    ([{"image_id": 1, "caption": "x"}] * 3, r"2 image ids more than once: 1, 1"),
    ([{"image_id": i, "caption": "x"} for i in (1, 2, 7)], r"1 image id not in .*: 7"),
    ([{"image_id": "1", "caption": "x"}, {"image_id": 2, "caption": "x"}], r"not in .*'1'; the ids' types differ"),
    ([{"image_id": 1, "text": "x"}], r"1 of 1 rows .*row 0"),
    ({"annotations": []}, r"must be a list"),
    ([], r"is empty"),
    ("{", r"not valid JSON"),
])
def test_bad_predictions_are_said_by_name_and_count(files, predictions, says):
  with pytest.raises(InputError, match=says):
    captions.evaluate_captions(*files(predictions))


def test_bad_references(files, tmp_path):
  good = [{"image_id": 1, "caption": "x"}]
  with pytest.raises(InputError, match="not a COCO captions file"):
    captions.evaluate_captions(*files(good, [{"image_id": 1, "caption": "x"}]))
  with pytest.raises(InputError, match="1 image without a caption: 2"):
    captions.evaluate_captions(*files(good, {"images": [{"id": 1}, {"id": 2}], "annotations": good}))
  with pytest.raises(InputError, match="no such file"):
    captions.evaluate_captions(tmp_path / "none.json", tmp_path / "captions.json")
  with pytest.raises(InputError, match="--tokenizer=spacy: unknown"):
    captions.evaluate_captions(*files(good), tokenizer="spacy")


def test_what_is_there_can_be_scored_and_empty_captions_are_counted(files):
  result = captions.evaluate_captions(*files([{"image_id": 1, "caption": " . "}]), allow_missing=True)
  assert result["count"] == 1 and result["share_scored"] == 0.5 and result["empty_captions"] == 1
  assert result["cider"] == result["rouge_l"] == 0
