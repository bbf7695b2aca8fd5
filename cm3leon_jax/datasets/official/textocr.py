"""TextOCR: the words that stand in pictures of OpenImages, each with its box.

    root/TextOCR_0.1_train.json   root/train_images/a4ea732cd3d5948a.jpg
"""

from cm3leon_jax.datasets.official import pictures
from cm3leon_jax.datasets.official.source import Source, one_of

SPLITS = ("train", "val")
UNREADABLE = "."  # how TextOCR writes a word that nobody could read


def textocr(root: str, split: str = "train", images: str = "") -> list[tuple[str, str, int, int, list[tuple[str, list[float]]]]]:
  """(id, path, width, height, words with their boxes [x, y, width, height]) of every picture with readable words.

  Args:
    root: folder with the JSON file and `train_images/`, which has the pictures of both splits.
    split: `train` or `val`.
    images: another folder with the pictures, at any depth.

  Raises:
    InputError: the file is not there or not of the official form.
  """
  source = Source(root, f"textocr/{one_of(split, SPLITS, 'split')}")
  path = source.find(f"TextOCR_0.1_{split}.json")
  data = source.json(path, "TextOCR words")
  place = pictures.locator(source.root, images)
  found = []
  with source.reading(path):
    for id_, picture in data["imgs"].items():
      rows = [data["anns"][i] for i in data["imgToAnns"].get(id_, ())]
      words = [(row["utf8_string"], row["bbox"]) for row in rows if row["utf8_string"] not in ("", UNREADABLE)]
      if words:
        name = f"train_images/{picture['file_name'].rsplit('/', 1)[-1]}"
        found.append((id_, place(name), picture["width"], picture["height"], words))
  return found
