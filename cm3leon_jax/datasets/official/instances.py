"""COCO's instances: boxes and outlines of the things in each picture.

    root/annotations/instances_train2014.json   root/train2014/COCO_train2014_000000000009.jpg
"""

import dataclasses
from typing import Mapping

from cm3leon_jax.datasets.official import pictures
from cm3leon_jax.datasets.official.source import Source, one_of, sample
from cm3leon_jax.errors import InputError

YEARS = ("train2014", "val2014")


@dataclasses.dataclass(frozen=True)
class Pictured:
  """A picture and what was found in it.

  Attributes:
    id: COCO's image id.
    path: where it lies.
    width, height: pixels, as the annotations count them.
    annotations: rows of the file: `bbox` [x, y, width, height], `area`, `category_id`, `segmentation`, `iscrowd`.
  """

  id: int
  path: str
  width: int
  height: int
  annotations: tuple[Mapping, ...]


def coco_instances(root: str, year: str = "train2014", images: str = "") -> tuple[list[Pictured], dict[int, str]]:
  """Pictures that have at least one instance, in the order of the file, and the names of the categories.

  Args:
    root: folder in which COCO's archives were unpacked.
    year: `train2014` or `val2014`.
    images: another folder with the pictures, at any depth.

  Raises:
    InputError: the file is not there or not of the official form.
  """
  source = Source(root, f"coco_instances/{one_of(year, YEARS, 'year')}")
  path = source.find(f"annotations/instances_{year}.json", f"instances_{year}.json")
  data = source.json(path, "COCO instances")
  place = pictures.locator(source.root, images)
  with source.reading(path):
    names = {row["id"]: row["name"] for row in data["categories"]}
    found: dict[int, list] = {row["id"]: [] for row in data["images"]}
    unknown = [row["image_id"] for row in data["annotations"] if row["image_id"] not in found]
    if unknown:
      raise InputError(f"{path}: {len(unknown):,} instances of pictures that it does not list: {sample(unknown)}")
    for row in data["annotations"]:
      found[row["image_id"]].append(row)
    return [Pictured(row["id"], place(f"{year}/{row['file_name']}"), row["width"], row["height"], tuple(found[row["id"]]))
            for row in data["images"] if found[row["id"]]], names
