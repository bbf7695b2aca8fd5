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


# VizWiz: the rule of its own evaluation code (VQAEval of the VizWiz API), on its form of file. It has no annotations of
# a question: an image has one question. Only the model's answer is brought to one form.
@pytest.mark.parametrize("answer, people, expected", [
    ("Yes.", ["yes"] * 10, 1.0),  # normalised though all agree: the VQA rule gives 0
    ("two", ["2"] * 10, 1.0),
    ("two", ["two"] * 10, 0.0),  # people's answers are not normalised
    ("the dog", ["dog"] * 3 + ["cat"] * 7, (3 * 2 / 3 + 7) / 10),  # as in the VQA rule: 9 of 10 at a time
    ("unanswerable", ["unanswerable"] * 2 + ["unsuitable"] * 8, (2 * 1 / 3 + 8 * 2 / 3) / 10),
    ("dont know", ["don't know"] * 10, 0.0),  # becomes "don’t know"
    ("dont know", ["don’t know"] * 10, 1.0),
    ("cant", ["can't"] * 10, 1.0),  # one of the eight straight ones
    ("Heinz\tketchup\n", ["heinz ketchup"] * 10, 1.0),
])
def test_vizwiz_accuracy(answer, people, expected):
  assert vqa.vizwiz_accuracy(answer, people) == pytest.approx(expected, abs=1e-12)


VIZWIZ = [{"image": "VizWiz_val_00000000.jpg", "question": "Ok. There is another picture.", "answer_type": "unanswerable",
           "answerable": 0, "answers": [{"answer_confidence": "yes", "answer": "unanswerable"}] * 10},
          {"image": "VizWiz_val_00000001.jpg", "question": "What is this?", "answer_type": "other", "answerable": 1,
           "answers": [{"answer_confidence": "maybe", "answer": a} for a in ["soda"] * 2 + ["can of soda"] * 8]}]


def test_vizwiz_files(files, tmp_path):
  paths = files([{"image": "VizWiz_val_00000001.jpg", "answer": "Soda"},
                 {"image": "VizWiz_val_00000000.jpg", "answer": "Unanswerable."}], VIZWIZ)
  result = vqa.evaluate_vqa(*paths)
  assert result["rule"] == "vizwiz" and result["vqa_accuracy"] == pytest.approx((100 + 60) / 2)
  assert result["answer_type/unanswerable"] == 100 and result["answer_type/other"] == pytest.approx(60)


def test_okvqa_files(files):
  # The official file: five people's answers, each twice; `answer` is `raw_answer` after stemming, and is what counts.
  answers = [{"answer_id": i + 1, "raw_answer": raw, "answer_confidence": "yes", "answer": stem}
             for i, (raw, stem) in enumerate([("racing", "race")] * 2 + [("motocross", "motocross")] * 8)]
  annotations = {"info": {}, "question_types": {"one": "Vehicles and Transportation"}, "annotations": [
      {"question_id": 297147, "image_id": 297147, "question_type": "one", "answer_type": "other", "answers": answers}]}
  result = vqa.evaluate_vqa(*files([{"question_id": 297147, "answer": "race"}], annotations))
  assert result["vqa_accuracy"] == pytest.approx(60) and result["rule"] == "vqa"
  assert result["question_type/Vehicles and Transportation"] == pytest.approx(60)
  assert vqa.evaluate_vqa(*files([{"question_id": 297147, "answer": "racing"}], annotations))["vqa_accuracy"] == 0


@pytest.mark.parametrize("predictions, references, says", [
    ([{"question_id": 1, "answer": "a"}], VIZWIZ, "p.json: 1 of 1 rows.*looks like answers for `cm3leon eval vqa`"),
    ([{"image": "a.jpg", "answer": "a"}], None, "p.json: 1 of 1 rows.*looks like answers of VizWiz"),
    ([{"image": "a.jpg", "answer": "a"}], VIZWIZ, "p.json: 1 image not in .*r.json: 'a.jpg'"),
    ([{"image": VIZWIZ[0]["image"], "answer": "a"}], VIZWIZ, "1 image of .*r.json without an answer"),
    ([{"image": "a.jpg", "answer": "a"}], [{"image": "a.jpg", "question": "what"}], "r.json: .*looks like questions of VizWiz"),
    ([{"image": "a.jpg", "answer": "a"}], VIZWIZ + VIZWIZ[:1], "r.json: 1 image more than once"),
    ([{"question_id": 1, "answer": "a"}], {"annotations": [{"image_id": 1, "caption": "a"}]}, "r.json: .*looks like captions"),
    ([{"question_id": 1, "answer": "a"}], {"questions": [{"question_id": 1, "question": "x"}]}, "looks like questions of VQA"),
])
def test_files_of_another_form_are_recognised(files, predictions, references, says):
  with pytest.raises(InputError, match=says):
    vqa.evaluate_vqa(*files(predictions, references))
