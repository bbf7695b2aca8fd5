"""VQA v2, OK-VQA, VizWiz, ScienceQA and VisDial, from small files in the true form."""

import json

import official_files
import pytest

from cm3leon_jax.datasets.items import check_pictures
from cm3leon_jax.datasets.official import scienceqa, visdial, vizwiz, vqa
from cm3leon_jax.errors import InputError


def edit(path, change):
  data = json.loads(path.read_text())
  change(data)
  path.write_text(json.dumps(data))


def test_vqa2_joins_answers_to_questions_by_id(tmp_path):
  official_files.vqa2(tmp_path)  # the two files have different orders
  items = vqa.vqa2(str(tmp_path))
  check_pictures(items)
  assert [(i.id, i.image_id, i.text, i.category, list(i.references)) for i in items] == [
      (id_, image, q, kind, answers) for id_, image, q, kind, _, answers in official_files.VQA_QUESTIONS]
  assert items.source == ("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json")


def test_vqa2_test_dev_has_no_answers_and_the_pictures_of_test(tmp_path):
  items = vqa.vqa2(str(official_files.vqa2(tmp_path)), split="test-dev2015")
  check_pictures(items)
  assert [(i.id, i.references, i.category) for i in items] == [(262144005, (), ""), (262144006, (), "")]
  assert items[0].image.endswith("/test2015/COCO_test2015_000000262144.jpg") and items.expected == 107_394


def test_okvqa_says_the_kind_of_knowledge(tmp_path):
  items = vqa.okvqa(str(official_files.okvqa(tmp_path)))
  check_pictures(items)
  assert [i.category for i in items] == ["Sports and Recreation", "Cooking and Food", "Other"]
  assert items[0].references == ("golf",) * 6 + ("polo",) * 4  # `answer`, not `raw_answer`


@pytest.mark.parametrize("change, sentence", [
    (lambda d: d["annotations"].pop(), r"1 questions without answers, 0 answers without a question \(42000\)"),
    (lambda d: d["annotations"].append({**d["annotations"][0], "question_id": 5}), r"0 .* 1 answers without a question \(5\)"),
    (lambda d: d["annotations"].append(d["annotations"][0]), "1 question ids stand there more than once: 74000"),
    (lambda d: d["annotations"][1]["answers"][0].pop("answer"), r"a row is not of the official form \(KeyError: 'answer'\)"),
    (lambda d: d["annotations"][1].pop("answers"), "1 of 4 rows are not of the form of VQA annotations; the first is row 1"),
    (lambda d: d.update(annotations=[]), "should hold VQA annotations, this looks like an object with info, license"),
])
def test_damaged_annotations(tmp_path, change, sentence):
  edit(official_files.vqa2(tmp_path) / "v2_mscoco_val2014_annotations.json", change)
  with pytest.raises(InputError, match=sentence):
    vqa.vqa2(str(tmp_path))


def test_questions_in_the_place_of_annotations(tmp_path):
  official_files.vqa2(tmp_path)
  path = tmp_path / "v2_mscoco_val2014_annotations.json"
  path.write_bytes((tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").read_bytes())
  with pytest.raises(InputError, match="annotations.json: should hold VQA annotations, this looks like VQA questions"):
    vqa.vqa2(str(tmp_path))
  path.unlink()
  with pytest.raises(InputError, match="no v2_mscoco_val2014_annotations.json in it, which vqa2/val2014 needs"):
    vqa.vqa2(str(tmp_path))


def test_vizwiz(tmp_path):
  official_files.vizwiz(tmp_path)
  items = vizwiz.vizwiz(str(tmp_path))
  check_pictures(items)
  assert [i.category for i in items] == ["unanswerable", "other", "yes/no"]
  assert items[1].id == items[1].image_id == "VizWiz_val_00000001.jpg"
  assert items[1].references == ("red box",) * 6 + ("box",) * 4
  test = vizwiz.vizwiz(str(tmp_path), split="test")
  check_pictures(test)
  assert all(not i.references and not i.category for i in test) and "/test/VizWiz_test_" in test[0].image


def test_vizwiz_captions_are_another_task(tmp_path):
  official_files.vizwiz(tmp_path)
  (tmp_path / "val.json").write_text(json.dumps({  # VizWiz-Captions has a val.json too
      "images": [{"file_name": "VizWiz_val_00000000.jpg", "id": 0}],
      "annotations": [{"caption": "a box", "image_id": 0, "id": 0, "is_rejected": False}]}))
  with pytest.raises(InputError, match="val.json: should hold VizWiz questions, this looks like COCO captions"):
    vizwiz.vizwiz(str(tmp_path))


def test_scienceqa(tmp_path):
  official_files.scienceqa(tmp_path)
  items = scienceqa.scienceqa(str(tmp_path))
  check_pictures(items)
  assert [i.id for i in items] == ["4", "5", "11", "16"]  # pid_splits.json's order; "1" is of train
  text_only, magnets = items[:2]
  assert text_only.image is None and text_only.image_id is None and text_only.category == "language science"
  assert magnets.context == "Two magnets are placed." and magnets.choices == ("repel", "attract")
  assert magnets.references == ("attract",) and magnets.image.endswith("/images/test/5/image.png")
  assert [i.id for i in scienceqa.scienceqa(str(tmp_path), pictured=True)] == ["5", "11", "16"]


@pytest.mark.parametrize("file, change, sentence", [
    ("problems.json", lambda d: d.pop("11"), "1 problems of pid_splits.json are not in it: '11'"),
    ("problems.json", lambda d: d["5"].update(answer=2), "1 problems whose `answer` is not the number of a choice: '5'"),
    ("pid_splits.json", lambda d: d.pop("test"), "should hold ScienceQA splits, this looks like an object with train"),
])
def test_damaged_scienceqa(tmp_path, file, change, sentence):
  edit(official_files.scienceqa(tmp_path) / file, change)
  with pytest.raises(InputError, match=sentence):
    scienceqa.scienceqa(str(tmp_path))


def test_visdial_rounds(tmp_path):
  official_files.visdial(tmp_path)
  items = visdial.visdial(str(tmp_path))
  check_pictures(items)
  assert [i.id for i in items] == ["574189_10", "284024_5", "185565_1"]  # the dense file's order
  first_round = items[2]
  assert first_round.context == "a red box, picture 0." and first_round.text == "is box 0 red?"
  for item, number, turn in zip(items, (2, 1, 0), (9, 4, 0)):
    # official_files: answer 7·turn + number, at place 3·turn + number of the hundred, which has relevance 1
    assert item.references == (f"answer number {7 * turn + number}",)
    place = 3 * turn + number
    assert item.choices[place] == item.references[0] and len(set(item.choices)) == 100
    assert item.relevance[place] == 1.0 and item.relevance[place + 1] == 0.4 and sum(item.relevance) == 1.4
    assert item.context.count("Question:") == turn


def test_visdial_context_in_words():
  assert visdial.context("a man on a bike ", [("is he old", "yes"), ("where?", "in a park, i think.")]) == (
      "a man on a bike. Question: is he old? The answer is yes. Question: where? The answer is in a park, i think.")


@pytest.mark.parametrize("file, change, sentence", [
    ("visdial_1.0_val_dense_annotations.json", lambda d: d[0].update(image_id=1), "1 pictures that visdial_1.0_val.json has no"),
    ("visdial_1.0_val_dense_annotations.json", lambda d: d[0].update(round_id=0), "picture 574189 has no round 0"),
    ("visdial_1.0_val_dense_annotations.json", lambda d: d[0]["gt_relevance"].pop(), "has 100 answers and 99 judgements"),
    ("visdial_1.0_val_dense_annotations.json", lambda d: d[0].update(gt_relevance=[0] * 100), "no answer of a relevance above 0"),
    ("visdial_1.0_val.json", lambda d: d["data"]["questions"].clear(), r"not of the official form \(IndexError"),
    ("visdial_1.0_val.json", lambda d: d.pop("data"), "should hold VisDial dialogs, this looks like an object with version"),
])
def test_damaged_visdial(tmp_path, file, change, sentence):
  edit(official_files.visdial(tmp_path) / file, change)
  with pytest.raises(InputError, match=sentence):
    visdial.visdial(str(tmp_path))
