"""COCO 2014: captions of pictures, and the 30,000 prompts of the text-to-image protocol.

    root/annotations/captions_val2014.json   root/val2014/COCO_val2014_000000000042.jpg
"""

import csv
import io
import json
import os
from pathlib import Path

from cm3leon_jax.datasets.items import Items
from cm3leon_jax.datasets.official import captioned, pictures
from cm3leon_jax.datasets.official.captioned import Captioned
from cm3leon_jax.datasets.official.source import Source, one_of, sample
from cm3leon_jax.errors import InputError

YEARS = ("val2014", "train2014")
# Names that published lists give their columns.
_CAPTION_ID = ("annotation_id", "ann_id", "caption_id")
_PICTURE_ID = ("image_id", "coco_id", "uid")
_CAPTION = ("caption", "prompt", "text")


def coco_captions(root: str, year: str = "val2014", images: str = "") -> Items:
  """Every picture of a year with its captions, to be described.

  Args:
    root: folder in which COCO's archives were unpacked.
    year: `val2014` or `train2014`.
    images: another folder with the pictures, at any depth.
  """
  source = Source(root, f"coco_captions/{one_of(year, YEARS, 'CocoCaptions.year')}")
  return source.finish(captioned.captioning(source, _read(source, year, images)))


def coco_prompts(root: str, count: int = 30_000, seed: int = 0, ids_file: str = "", year: str = "val2014",
                 images: str = "") -> Items:
  """Captions to draw, one each of `count` pictures; by a rule that depends on the seed alone, or from a list.

  Args:
    root: folder in which COCO's archives were unpacked.
    count: captions; with a list, all of the list are taken.
    seed: of the rule; `Items.caption` says it in words.
    ids_file: a published list instead of the rule: JSON `[annotation id, …]`, or CSV with a heading and a column
      `annotation_id` (or `ann_id`, `caption_id`), or columns `image_id` (or `coco_id`, or `uid` = <image
      id>_mscoco_<n>) and `caption` (or `prompt`, `text`).
    year: `val2014` or `train2014`.
    images: another folder with the pictures, at any depth.
  """
  source = Source(root, f"coco_prompts/{one_of(year, YEARS, 'CocoPrompts.year')}")
  read = _read(source, year, images)
  if ids_file:
    return source.finish(*captioned.listed(source, read, _list(source, Path(ids_file)), os.path.basename(ids_file)))
  return source.finish(*captioned.prompts(source, read, count, seed))


def _read(source: Source, year: str, images: str) -> list[Captioned]:
  """The pictures of a captions file, in its order."""
  path = source.find(f"annotations/captions_{year}.json", f"captions_{year}.json")
  data = source.json(path, "COCO captions")
  place = pictures.locator(source.root, images)
  rows = data.get("images")
  if not rows:
    raise InputError(f"{path}: has no `images`; get the official file again")
  with source.reading(path):
    read = [(row["id"], place(f"{year}/{row['file_name']}")) for row in rows]
  source.unique((id_ for id_, _ in read), "image ids", path)
  source.unique((row["id"] for row in data["annotations"]), "annotation ids", path)
  captions = {id_: [] for id_, _ in read}
  unknown = [row["image_id"] for row in data["annotations"] if row["image_id"] not in captions]
  if unknown:
    raise InputError(f"{path}: {len(unknown):,} captions of pictures that it does not list: {sample(unknown)}")
  for row in data["annotations"]:
    captions[row["image_id"]].append((row["id"], row["caption"].strip()))
  return [Captioned(id_, file, tuple(captions[id_])) for id_, file in read]


def _list(source: Source, path: Path) -> list[tuple]:
  """Rows of a published list, as `captioned.listed` reads them."""
  if not path.is_file():
    raise InputError(f"ids_file={path}: no such file")
  if path.suffix.lower() == ".json":
    ids = source.json(path, "a list of ids")
    return [(int(i), None, None) for i in _numbers(ids, path)]
  table = csv.DictReader(io.StringIO(source.text(path)), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
  columns = table.fieldnames or []
  pick = lambda names: next((n for n in names if n in columns), "")
  caption_id, picture, text = pick(_CAPTION_ID), pick(_PICTURE_ID), pick(_CAPTION)
  rows = list(table)
  if caption_id:
    return [(int(i), None, None) for i in _numbers([row[caption_id] for row in rows], path)]
  if picture and text:
    ids = _numbers([(row[picture] or "").split("_")[0] for row in rows], path)
    return [(None, int(i), row[text] or "") for i, row in zip(ids, rows)]
  raise InputError(f"{path}: its heading has {', '.join(columns) or 'nothing'}; a list of captions has a column "
                   f"{json.dumps(_CAPTION_ID[0])}, or the columns {json.dumps(_PICTURE_ID[0])} and {json.dumps(_CAPTION[0])}")


def _numbers(ids: list, path: Path) -> list:
  bad = [i for i in ids if not str(i).strip().isdigit()]
  if bad:
    raise InputError(f"{path}: {len(bad):,} ids are not numbers: {sample(bad)}")
  return ids
