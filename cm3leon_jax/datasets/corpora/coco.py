"""COCO's annotation files: captions, and what instances stand in a picture.

    annotations/captions_train2014.json  annotations/instances_train2014.json  train2014/COCO_train2014_000000000009.jpg
"""

import collections
import dataclasses
import functools
import json
import os
from typing import Iterator

from cm3leon_jax.datasets.corpora import raw
from cm3leon_jax.datasets.corpora.raw import Raw
from cm3leon_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class CocoFiles:
  """A shard is a stretch of `shard_files` pictures, in the order of the file. A worker reads the JSON once.

  Attributes:
    captions: path of captions_*.json.
    images: folder with the pictures that its `file_name`s name.
    instances: path of instances_*.json; its objects are carried as `objects`: [name, left, top, width, height] of each,
      in pixels of the whole picture.
    each: a record for every caption (its id is the annotation's) instead of one a picture with its first caption.
    shard_files: pictures of a shard.
  """

  captions: str
  images: str
  instances: str = ""
  each: bool = False
  shard_files: int = 1000

  def shards(self) -> list[str]:
    return raw.ranges(self.captions, len(_rows(self.captions, "images")), self.shard_files)

  def read(self, shard: str) -> Iterator[Raw]:
    _, begin, end = raw.split_range(shard)
    captions = _by_image(self.captions)
    objects = _objects(self.instances) if self.instances else {}
    for row in _rows(self.captions, "images")[begin:end]:
      try:
        number, name = row["id"], row["file_name"]
      except (KeyError, TypeError) as error:
        yield Raw(f"{os.path.basename(self.captions)}/{row!r:.60}", None, None, {}, ("broken_record", f"no field {error}"))
        continue
      image, problem = raw.picture_bytes(os.path.join(self.images, name))
      extra = {"url": row.get("coco_url"), "license": row.get("license"), "objects": objects.get(number, [])}
      said = captions.get(number, [])
      if self.each and said:
        for annotation, caption in said:
          yield Raw(str(annotation), image, caption, extra, problem)
      else:
        yield Raw(str(number), image, said[0][1] if said else None, extra, problem)


@functools.lru_cache(4)
def _file(path: str) -> dict:
  try:
    with open(path, encoding="utf-8") as f:
      data = json.load(f)
  except (OSError, ValueError) as error:
    raise InputError(f"{path}: cannot be read as COCO's JSON ({error})") from error
  if not isinstance(data, dict) or not isinstance(data.get("images"), list) or not isinstance(data.get("annotations"), list):
    raise InputError(f"{path}: not a COCO annotation file: it has no lists `images` and `annotations`")
  return data


def _rows(path: str, field: str) -> list:
  rows = _file(path)[field]
  if not rows:
    raise InputError(f"{path}: its `{field}` is empty")
  return rows


@functools.lru_cache(4)
def _by_image(path: str) -> dict[int, list[tuple[int, str]]]:
  found = collections.defaultdict(list)
  for row in _file(path)["annotations"]:
    if "caption" in row:
      found[row["image_id"]].append((row["id"], row["caption"]))
  if not found:
    raise InputError(f"{path}: no annotation with a `caption`; CocoFiles.captions names captions_*.json")
  return {number: sorted(said) for number, said in found.items()}


@functools.lru_cache(4)
def _objects(path: str) -> dict[int, list[list]]:
  data = _file(path)
  try:
    names = {c["id"]: c["name"] for c in data["categories"]}
    found = collections.defaultdict(list)
    for row in data["annotations"]:
      found[row["image_id"]].append([names[row["category_id"]], *row["bbox"]])
  except (KeyError, TypeError) as error:
    raise InputError(f"{path}: not a COCO instances file (no {error}); CocoFiles.instances names instances_*.json") from error
  return dict(found)
