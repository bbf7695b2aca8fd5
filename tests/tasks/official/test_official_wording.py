"""The templates of PAPER §7.2, word for word, and how they are filled."""

import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation.run import wording as asked
from cm3leon_jax.datasets.items import Item
from cm3leon_jax.tasks.official import tasks, wording

FIELDS = {"caption": "A red box.", "question": "What is it?", "answer": "box", "context": "A hint.", "options": "(A) box (B) cat",
          "explanation": "It has corners.", "words": "SALE now!", "instruction": "make it blue",
          "objects": wording.objects([["bottle", 199, 130, 204, 150], ["sink", 1, 2, 3, 4]], "figure")}
SCIENCE = "Question: What is it?\nContext: A hint.\nOptions: (A) box (B) cat\n"
PAPER = {  # Table 5; "|" opens the answer
    "coco_captions": [("A red box.",), ("Describe the given picture.|A red box.",)],
    "flickr30k": [("A red box.",), ("Describe the given picture.|A red box.",)],
    "image_paragraph": [("Describe the given picture in very detail.|A red box.",),
                        ("Describe all the objects in the given image in very detail.|A red box.",),
                        ("Generate a long caption for the given image.|A red box.",)],
    "localized_narratives": [("Describe the given picture in very detail.|A red box.",),
                             ("Generate a long narration of what is happening in the given image.|A red box.",),
                             ("Generate a long caption for the given image.|A red box.",)],
    "vqa2": [("Question: What is it? Answer:|box.",), ("Question: What is it?\n|box.",),
             ("Question: What is it? The answer is|box.",)],
    "scienceqa": [(SCIENCE + "Answer:|box.",)],
    "scienceqa_explained": [(SCIENCE + "Let's think step-by-step:|It has corners. So the answer is box.",)],
    "detection": [("Generate high quality image of A red box. with bottle at location (199, 130) -> (204, 150) and with sink at "
                   "location (1, 2) -> (3, 4)|",)],
    "textocr": [('draw "SALE now!"|',)],
    "instruct_pix2pix": [("Edit first image following the instruction|", "make it blue|")],
    "canny": [("Make high quality image from canny edge features|", "A red box.|")],
    "segmentation": [("Make high quality image from a segmentation map|", "A red box.|")],
    "hed": [("Make high quality image from hed features|", "A red box.|")],
    "pose": [("Make high quality image from openpose features|", "A red box.|")],
    "depth": [("Make high quality image from depth features|", "A red box.|")],
    "normal": [("Make high quality image from 3D norm features|", "A red box.|")],
    "scribble": [("Make high quality image from children's scribbles|", "A red box.|")],
}


@pytest.mark.parametrize("name", PAPER)
def test_table_5(name):
  found = [tuple("|".join(wording.fill(text, FIELDS)) for text in template) for template in tasks.known()[name].templates]
  assert found == [tuple(t if "|" in t else t + "|" for t in template) for template in PAPER[name]]


def test_every_task_of_the_table_is_known():
  same = {"vizwiz": "vqa2", "okvqa": "vqa2"}
  known = tasks.known()
  assert {n for n in known if not n.startswith("image_to_")} == {*PAPER, *same}
  assert all(known[n].templates == known[m].templates for n, m in same.items())
  assert {n for n in known if n.startswith("image_to_")} == {f"image_to_{k}" for k in wording.CONTROLS}


def test_where_the_paper_disagrees_both_can_be_had():
  other = tasks.known(tasks.Options(edit_query="text", boxes="table"))
  assert other["instruct_pix2pix"].templates[0][0] == "Edit the image following the text instruction"
  fields = {**FIELDS, "objects": wording.objects([["cup", 1, 2, 3, 4], ["fork", 5, 6, 7, 8]], "table")}
  assert wording.fill(other["detection"].templates[0][0], fields)[0] == (
      "Generate high quality image of A red box. with segmentations cup at (1, 2) -> (3, 4), fork at (5, 6) -> (7, 8)")
  with pytest.raises(InputError, match="SFT.boxes='fig': known are figure, table"):
    tasks.Options(boxes="fig")


def test_values_are_words_whatever_they_hold():
  fields = {"question": "What is {answer} | 2?", "answer": "St. {x}."}
  assert wording.fill("Question: {question} The answer is |{answer}.", fields) == (
      "Question: What is {answer} | 2? The answer is", "St. {x}.")


def test_the_evaluation_asks_with_a_prompt_of_training():
  item = Item("1", text="What is it?", context="A hint.", choices=("box", "cat"))
  trained = lambda name: [wording.fill(t, FIELDS)[0] for (t,) in tasks.known()[name].templates]
  assert asked.before("vqa", item, 999, len)[0] in trained("vqa2")
  assert asked.before("scienceqa", item, 999, len)[0] in trained("scienceqa")
