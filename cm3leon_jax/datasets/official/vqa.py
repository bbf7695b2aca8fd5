"""VQA v2 and OK-VQA, whose files have one form: a file of questions and one of ten answers each.

    vqa2/v2_OpenEnded_mscoco_val2014_questions.json   vqa2/v2_mscoco_val2014_annotations.json
    okvqa/OpenEnded_mscoco_val2014_questions.json     okvqa/mscoco_val2014_annotations.json
    …/val2014/COCO_val2014_000000000042.jpg
"""

import sys

from cm3leon_jax.datasets.items import Item, Items
from cm3leon_jax.datasets.official import pictures
from cm3leon_jax.datasets.official.source import Source, one_of, sample
from cm3leon_jax.errors import InputError

VQA2_SPLITS = ("val2014", "train2014", "test-dev2015", "test2015")
OKVQA_SPLITS = ("val2014", "train2014")


def vqa2(root: str, split: str = "val2014", images: str = "") -> Items:
  """Questions of VQA v2.0; of the test splits without answers. category: answer type (yes/no, number, other).

  Args:
    root: folder with the unzipped question and annotation files, and COCO's pictures (`val2014/`, `test2015/`).
    split: `val2014`, `train2014`, `test-dev2015` or `test2015`.
    images: another folder with the pictures, at any depth.
  """
  source = Source(root, f"vqa2/{one_of(split, VQA2_SPLITS, 'VQA2.split')}")
  return _read(source, split, "v2_", images, lambda row, _: row.get("answer_type", ""))


def okvqa(root: str, split: str = "val2014", images: str = "") -> Items:
  """Questions of OK-VQA. category: the kind of knowledge, such as "Cooking and Food".

  Args:
    root: folder with the unzipped question and annotation files, and COCO's pictures (`val2014/`, `train2014/`).
    split: `val2014` (which the paper reports) or `train2014`.
    images: another folder with the pictures, at any depth.
  """
  source = Source(root, f"okvqa/{one_of(split, OKVQA_SPLITS, 'OKVQA.split')}")

  def category(row: dict, data: dict) -> str:  # rows say "one", the head of the file what that is
    return data.get("question_types", {}).get(row.get("question_type", ""), row.get("question_type", ""))

  return _read(source, split, "", images, category)


def _read(source: Source, split: str, prefix: str, images: str, category) -> Items:
  questions = source.find(f"{prefix}OpenEnded_mscoco_{split}_questions.json")
  rows = source.json(questions, "VQA questions")["questions"]
  answers, data = {}, {}
  if not split.startswith("test"):
    path = source.find(f"{prefix}mscoco_{split}_annotations.json")
    data = source.json(path, "VQA annotations")
    source.unique((row["question_id"] for row in data["annotations"]), "question ids", path)
    answers = {row["question_id"]: row for row in data["annotations"]}
    asked = {row["question_id"] for row in rows}
    unknown, without = [i for i in answers if i not in asked], [i for i in asked if i not in answers]
    if unknown or without:
      raise InputError(f"{path}: {len(without):,} questions without answers, {len(unknown):,} answers without a question "
                       f"({sample(without or unknown)}); the two files must be of one version and split")
  folder = "test2015" if split.startswith("test") else split  # test-dev's pictures are among those of test
  place = pictures.locator(source.root, images)
  given, kinds = {}, {}
  if answers:
    with source.reading(path):
      # Interned: two million answers are a few thousand words.
      given = {id_: tuple(sys.intern(a["answer"]) for a in row["answers"]) for id_, row in answers.items()}
      kinds = {id_: category(row, data) for id_, row in answers.items()}
  return source.finish([
      Item(row["question_id"], text=row["question"].strip(), image=place(pictures.coco_name(folder, row["image_id"])),
           image_id=row["image_id"], references=given.get(row["question_id"], ()),
           category=kinds.get(row["question_id"], "")) for row in rows])
