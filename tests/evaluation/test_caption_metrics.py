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


def test_scores_of_each_image_are_pycocoevalcaps():
  hypotheses = [["a", "red", "heart", "on", "the", "white", "cat"], ["dog"], []]
  references = [[["a", "red", "heart", "on", "a", "cat"], ["the", "red", "heart", "on", "the", "white"]],
                [["a", "dog"]], [["cat"]]]
  res = {i: [" ".join(h)] for i, h in enumerate(hypotheses)}
  gts = {i: [" ".join(r) for r in refs] for i, refs in enumerate(references)}
  scores = captions.per_item(hypotheses, references)
  assert set(scores) == {"cider", "rouge_l", "bleu_4"}
  np.testing.assert_allclose(scores["bleu_4"], Bleu(4).compute_score(gts, res, verbose=0)[1][3], rtol=1e-9, atol=1e-15)
  np.testing.assert_allclose(scores["cider"], Cider().compute_score(gts, res)[1], atol=1e-12)
  np.testing.assert_allclose(scores["rouge_l"], Rouge().compute_score(gts, res)[1], atol=1e-12)


def test_only_the_metrics_asked_for():
  assert set(captions.score([["a"]], [[["a"]]], ["rouge_l"])) == {"rouge_l", "rouge_l_low", "rouge_l_high"}
  with pytest.raises(InputError, match="--metrics: bleu_4 named; known: cider, bleu, rouge_l, meteor, spice"):
    captions.score([["a"]], [[["a"]]], ["cider", "bleu_4"])
  with pytest.raises(InputError, match="--metrics: nothing named"):
    captions.score([["a"]], [[["a"]]], [])


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


PARAGRAPHS = [{"url": "u", "image_id": 7, "paragraph": "A red heart. It is on a cat."},
              {"url": "u", "image_id": 9, "paragraph": "A dog runs. The dog is white."},
              {"url": "u", "image_id": 9, "paragraph": "A white dog."},
              {"url": "u", "image_id": 5, "paragraph": "Nothing."}]


def test_paragraphs_of_a_split(files, tmp_path):
  results, references, out = files([{"image_id": 9, "caption": "The dog is white."},
                                    {"image_id": 7, "caption": "A red heart. It is on the cat."}], PARAGRAPHS)
  (tmp_path / "test_split.json").write_text("[7, 9]")
  result = captions.evaluate_captions(results, references, out, split=tmp_path / "test_split.json")
  expected, _, _ = reference([["a", "red", "heart", "it", "is", "on", "the", "cat"], ["the", "dog", "is", "white"]],
                             [[["a", "red", "heart", "it", "is", "on", "a", "cat"]],
                              [["a", "dog", "runs", "the", "dog", "is", "white"], ["a", "white", "dog"]]])
  assert {name: result[name] for name in expected} == pytest.approx(expected)
  assert result["count"] == 2 and result["share_scored"] == 1


@pytest.mark.parametrize("split, says", [
    ("[7, 9, 11]", "test_split.json: 1 image id not in .*captions.json: 11"),
    ("[7, 7]", "1 image id more than once"),
    ('{"images": []}', "must be a list of image ids"),
    ("[]", "must be a list of image ids"),
    ("[7, 5]", "1 image id of .*test_split.json without an answer: 5"),
    ("[9]", "1 image id not in .*test_split.json: 7"),
])
def test_a_wrong_split_is_said(files, tmp_path, split, says):
  results, references, out = files([{"image_id": 7, "caption": "x"}], PARAGRAPHS)
  (tmp_path / "test_split.json").write_text(split)
  with pytest.raises(InputError, match=says):
    captions.evaluate_captions(results, references, out, split=tmp_path / "test_split.json")


@pytest.mark.parametrize("predictions, references, says", [
    ([{"question_id": 1, "answer": "x"}], None, "results.json: .*looks like answers for `cm3leon eval vqa`"),
    ([{"image_id": 1, "round_id": 1, "ranks": [1]}], None, "results.json: .*looks like ranks for `cm3leon eval visdial`"),
    ({"annotations": [{"image_id": 1, "caption": "x"}]}, None, "results.json: .*must be a list.*looks like captions"),
    (None, {"annotations": [{"question_id": 1, "answers": []}]}, "captions.json: .*looks like annotations of VQA"),
    (None, {"questions": [{"question_id": 1, "question": "x"}]}, "captions.json: .*looks like questions of VQA"),
    (None, [{"image": "a.jpg", "answers": []}], "captions.json: .*looks like annotations of VizWiz"),
    (None, [1, 2], "captions.json: .*looks like a list of ids"),
    (None, {"1": {"choices": ["a"], "answer": 0}}, "captions.json: .*looks like problems of ScienceQA"),
    (None, {"what": "ever"}, "captions.json: not a COCO captions file[^;]*$"),
])
def test_a_file_of_another_task_is_recognised(files, predictions, references, says):
  with pytest.raises(InputError, match=says):
    captions.evaluate_captions(*files(predictions or [{"image_id": 1, "caption": "x"}], references))
