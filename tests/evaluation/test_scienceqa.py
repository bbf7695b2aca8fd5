"""ScienceQA: the official extraction and table (lupantech/ScienceQA: run_gpt3.py, evaluate_acc.py), by hand."""

import json

import pytest

from cm3leon_jax import cli
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import scienceqa

CHOICES = ["a fish", "Paris", "B"]


@pytest.mark.parametrize("output, number", [
    # The official pattern, found once; its last full stop stands for any one sign.
    ("The answer is B.", 1),
    ("The answer is B. BECAUSE: fish swim.", 1),
    ("Lecture. The answer is C!", 2),
    ("The answer is A", None),  # no sign after the letter
    ("The answer is A. The answer is B.", None),  # found twice
    ("The answer is D.", None),  # only three choices
    ("the answer is B.", None),
    # What the official code would guess at random.
    ("B", 1), ("(c)", 2), ("a.", 0), ("E", None),
    ("Paris", 1), (" paris. ", 1), ("A FISH", 0), ("fish", None), ("", None),
])
def test_the_choice_that_a_text_names(output, number):
  assert scienceqa.extract(output, CHOICES) == number


def problem(answer, subject="natural science", grade="grade2", hint="", image=None, split="test"):
  return {"question": "?", "choices": CHOICES, "answer": answer, "hint": hint, "image": image, "task": "closed choice",
          "grade": grade, "subject": subject, "topic": "t", "split": split, "lecture": "", "solution": ""}


PROBLEMS = {"1": problem(0, hint="h", image="image.png"), "2": problem(1, "social science", "grade7", image="image.png"),
            "3": problem(2, "language science", "grade12"), "5": problem(1, grade="grade6", hint="h"),
            "9": problem(0, split="val")}


@pytest.fixture
def run(tmp_path):

  def evaluate(choices, problems=PROBLEMS, **settings):
    (tmp_path / "p.json").write_text(json.dumps(choices))
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    return scienceqa.evaluate_scienceqa(tmp_path / "p.json", tmp_path / "problems.json", tmp_path / "o.json", **settings)

  return evaluate


def test_the_official_table(run, tmp_path, capsys):
  result = run({"1": 0, "2": "The answer is A.", "3": "no idea", "5": "Paris"})  # right, wrong, unreadable, right
  assert result["accuracy"] == 50 and result["count"] == 4 and result["unreadable"] == 1
  assert {k: v for k, v in result.items() if "/" in k} == {
      "category/NAT": 100, "category/SOC": 0, "category/LAN": 0,
      "category/TXT": 100, "category/IMG": 50, "category/NO": 0,  # a hint and a picture count in both
      "category/G1-6": 100, "category/G7-12": 0}
  assert json.loads((tmp_path / "o.json").read_text()) == result
  assert not cli.main(["eval", "scienceqa", f"--predictions={tmp_path}/p.json", f"--references={tmp_path}/problems.json"])
  assert "accuracy\t50.0" in capsys.readouterr().out


def test_the_official_file_of_results(run):
  assert run({"acc": 1, "results": {"1": 0, "2": 1, "3": 2, "5": 1}, "outputs": {}})["accuracy"] == 100


def test_another_split_and_a_part(run):
  assert run({"9": 0}, split="val")["accuracy"] == 100
  assert run({"1": 0}, allow_missing=True)["share_scored"] == 0.25


@pytest.mark.parametrize("choices, settings, says", [
    ({"1": 0}, {}, "p.json: 3 questions of the test split of .*problems.json without an answer: '2', '3', '5'"),
    ({"1": 0, "2": 0, "3": 0, "5": 0, "9": 0}, {}, "p.json: 1 question not in the test split of .*: '9'"),
    ({"1": 3, "2": 0, "3": 0, "5": -1}, {}, "p.json: 2 questions whose number is none of a choice .*from 0.*: '1', '5'"),
    ({"1": None}, {}, "p.json: 1 question whose choice is neither a number nor a text: '1'"),
    ([{"question_id": 1, "answer": "a"}], {}, "p.json: must hold .*looks like answers for `cm3leon eval vqa`"),
    ({"1": 0}, {"split": "tset"}, "no problem of --split=tset; it has test, val"),
    ({"1": 0}, {"problems": {"annotations": [{"image_id": 1, "caption": "x"}]}}, "problems.json: not .*looks like captions"),
    ({"1": 0}, {"problems": {"test": ["1"]}}, "problems.json: not ScienceQA's problems.json.*wrong: 'test'"),
])
def test_bad_files_are_said(run, choices, settings, says):
  with pytest.raises(InputError, match=says):
    run(choices, **settings)


def test_a_question_answered_twice_is_said(run, tmp_path):
  run({"1": 0, "2": 0, "3": 0, "5": 0})
  (tmp_path / "p.json").write_text('{"1": 0, "2": 0, "3": 0, "5": 0, "1": 1}')
  with pytest.raises(InputError, match="p.json: 1 name more than once: '1'"):
    scienceqa.evaluate_scienceqa(tmp_path / "p.json", tmp_path / "problems.json")
