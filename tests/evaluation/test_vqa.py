"""VQA accuracy: cases worked by hand from the official rule, and the rule's slips, which numbers depend on.

The expected forms were also compared with the official vqaEval.py on 200,000 random strings: no difference.
"""

import json

import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import vqa


@pytest.mark.parametrize("answer, people, expected", [
    # All ten alike: compared as they are. Nine others match in each of ten sets: min(1, 9/3).
    ("yes", ["yes"] * 10, 1.0),
    ("Yes", ["yes"] * 10, 0.0),
    ("two dogs.", ["two dogs"] * 10, 0.0),
    # They differ: everything is brought to one form first.
    ("Yes.", ["yes"] * 9 + ["no"], 1.0),
    ("two", ["2"] * 5 + ["three"] * 5, 1.0),
    ("a dog", ["the dog"] * 4 + ["cat"] * 6, 1.0),
    ("dont know", ["don't know"] * 4 + ["cat"] * 6, 1.0),
    # Three match: without one of them 2/3 (three sets), without another person 1 (seven sets).
    ("dog", ["dog"] * 3 + ["cat"] * 7, (3 * 2 / 3 + 7) / 10),
    ("dog", ["dog"] * 2 + ["cat"] * 8, (2 * 1 / 3 + 8 * 2 / 3) / 10),
    ("dog", ["dog"] + ["cat"] * 9, (0 + 9 / 3) / 10),
    ("bird", ["dog"] + ["cat"] * 9, 0.0),
    # Newlines and tabs go before the answers are compared among themselves.
    ("yes\n", ["yes\t"] * 5 + ["yes"] * 5, 1.0),
])
def test_accuracy(answer, people, expected):
  assert vqa.accuracy(answer, people) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("answer, form", [
    ("The red, white and blue!", "red white and blue"),
    ("red,white", "red white"),  # a comma that touches no space becomes one
    ("1,000 dogs", "1000 dogs"),  # a comma in a number: all signs go without a space
    ("t-shirt", "t shirt"),
    ("t-shirt 1,000", "tshirt 1000"),
    ("3.5", "3.5"),
    ("U.S.A.", "usa"),
    ("3. dogs", "3 dogs"),
    ("none", "0"),
    ("ten", "10"),
    ("a an the", ""),
    ("couldntve", "couldntve"),  # only one apostrophe may be missing
    ("couldnt've", "couldn't've"),
    ("somebody'd", "somebodyd"),  # the official table's slip
    ("Im", "im"),  # its forms of "I" never match: answers are lower case by then
    ("." * 40, "." * 8),  # its re.UNICODE (32) stands where the count belongs
])
def test_one_form(answer, form):
  assert vqa.process(answer) == form


@pytest.fixture
def files(tmp_path):
  annotations = [
      {"question_id": 1, "answer_type": "yes/no", "question_type": "is the", "image_id": 5,
       "answers": [{"answer": "yes", "answer_id": i, "answer_confidence": "yes"} for i in range(10)]},
      {"question_id": 2, "answer_type": "other", "question_type": "what", "image_id": 5,
       "answers": [{"answer": a, "answer_id": i} for i, a in enumerate(["dog"] * 2 + ["cat"] * 8)]}]

  def write(predictions, references=None):
    (tmp_path / "p.json").write_text(json.dumps(predictions))
    (tmp_path / "r.json").write_text(json.dumps(references or {"info": {}, "annotations": annotations}))
    return tmp_path / "p.json", tmp_path / "r.json", tmp_path / "o.json"

  return write


def test_files(files):
  paths = files([{"question_id": 2, "answer": "dog"}, {"question_id": 1, "answer": "yes"}])
  result = vqa.evaluate_vqa(*paths)
  assert json.loads(paths[2].read_text()) == result
  assert result["vqa_accuracy"] == pytest.approx((100 + 60) / 2)
  assert result["answer_type/yes/no"] == 100 and result["question_type/what"] == pytest.approx(60)
  assert result["count"] == 2 and result["vqa_accuracy_low"] <= result["vqa_accuracy"] <= result["vqa_accuracy_high"]


@pytest.mark.parametrize("predictions, references, says", [
    ([{"question_id": 1, "answer": "a"}], None, "1 question id of .* without an answer: 2"),
    ([{"question_id": 1, "answer": "a"}] * 2, None, "1 question id more than once: 1"),
    ([{"question_id": 9, "answer": "a"}], None, "1 question id not in"),
    ([{"image_id": 1, "caption": "a"}], None, "1 of 1 rows of answers"),
    ([{"question_id": 1, "answer": 2}], None, "1 of 1 rows of answers"),
    ([{"question_id": 1, "answer": "a"}], {"questions": []}, "not a VQA annotations file"),
    ([{"question_id": 1, "answer": "a"}], {"annotations": [{"question_id": 1, "answers": []}]}, "1 question whose"),
])
def test_bad_files_are_said_by_name_and_count(files, predictions, references, says):
  with pytest.raises(InputError, match=says):
    vqa.evaluate_vqa(*files(predictions, references))


def test_what_is_there_can_be_scored(files):
  result = vqa.evaluate_vqa(*files([{"question_id": 1, "answer": "yes"}]), allow_missing=True)
  assert result["vqa_accuracy"] == 100 and result["share_scored"] == 0.5
