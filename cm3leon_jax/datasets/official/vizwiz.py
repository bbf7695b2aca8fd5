"""VizWiz-VQA: questions that blind people asked about their own photographs.

    root/val.json (or root/Annotations/val.json)   root/val/VizWiz_val_00000000.jpg
"""

from cm3leon_jax.datasets.items import Item, Items
from cm3leon_jax.datasets.official import pictures
from cm3leon_jax.datasets.official.source import Source, one_of

SPLITS = ("val", "test", "train")


def vizwiz(root: str, split: str = "val", images: str = "") -> Items:
  """Questions, each of one picture whose file name is the id; of `test` without answers.

  Answers that say "unanswerable" stay among the references, and such questions among the items: the official score
  counts them. category: answer type (other, unanswerable, yes/no, number).

  Args:
    root: folder in which Annotations.zip and the zip of pictures were unpacked.
    split: `val`, `test` or `train`.
    images: another folder with the pictures, at any depth.
  """
  source = Source(root, f"vizwiz/{one_of(split, SPLITS, 'VizWiz.split')}")
  path = source.find(f"{split}.json", f"Annotations/{split}.json")
  rows = source.json(path, "VizWiz questions")
  place = pictures.locator(source.root, images)
  with source.reading(path):
    items = [
        Item(row["image"], text=row["question"].strip(), image=place(f"{split}/{row['image']}"), image_id=row["image"],
             references=tuple(a["answer"] for a in row.get("answers", ())), category=row.get("answer_type", ""))
        for row in rows]
  return source.finish(items)
