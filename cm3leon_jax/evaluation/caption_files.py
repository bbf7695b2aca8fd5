"""Files of captions: COCO results, and references in COCO's form or in that of Image Paragraph Captioning."""

import os

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import files

Id = int | str


def read_predictions(path: str | os.PathLike) -> dict[Id, str]:
  """COCO results `[{"image_id", "caption"}, …]` → image id → caption.

  Raises:
    InputError: another form, or an image stands twice.
  """
  predicted = files.rows(files.read_json(path), {"image_id": (int, str), "caption": str}, path, "results")
  files.check_unique([row["image_id"] for row in predicted], path, "image id")
  return {row["image_id"]: row["caption"] for row in predicted}


def read_references(path: str | os.PathLike, split: str | os.PathLike = "") -> dict[Id, list[str]]:
  """Image id → captions, in the order of the file.

  Args:
    path: COCO annotations `{"images": [{"id"}], "annotations": [{"image_id", "caption"}]}`, or the list
      `[{"image_id", "paragraph"}, …]` of `paragraphs_v1.json` (Krause et al. 2017).
    split: JSON list of image ids (`test_split.json`): only these, in its order; empty for all.

  Raises:
    InputError: another form; an image without a caption; an id of the split that the references lack.
  """
  data = files.read_json(path)
  captions = _paragraphs(data, path) if isinstance(data, list) else _coco(data, path)
  if split:
    ids = files.read_json(split)
    if not isinstance(ids, list) or not ids or any(isinstance(i, bool) or not isinstance(i, (int, str)) for i in ids):
      raise InputError(f"{split}: must be a list of image ids [2365091, …]{files.looks_like(ids)}")
    files.check_unique(ids, split, "image id")
    unknown = [i for i in ids if i not in captions]
    if unknown:
      raise InputError(f"{split}: {files.count(len(unknown), 'image id')} not in {path}: {files.sample(unknown)}")
    captions = {i: captions[i] for i in ids}
  bare = [i for i, texts in captions.items() if not texts]
  if bare:
    raise InputError(f"{path}: {files.count(len(bare), 'image')} without a caption: {files.sample(bare)}")
  return captions


def _coco(data, path) -> dict[Id, list[str]]:
  if not isinstance(data, dict) or "annotations" not in data:
    raise InputError(f"{path}: not a COCO captions file: it must hold {{\"images\": […], \"annotations\": […]}}"
                     f"{files.looks_like(data)}")
  annotations = files.rows(data["annotations"], {"image_id": (int, str), "caption": str}, path, "annotations", data)
  captions: dict[Id, list[str]] = {}
  for image in files.rows(data.get("images"), {"id": (int, str)}, path, "images") if "images" in data else ():
    captions[image["id"]] = []
  for row in annotations:
    captions.setdefault(row["image_id"], []).append(row["caption"])
  return captions


def _paragraphs(data, path) -> dict[Id, list[str]]:
  """A handful of pictures of paragraphs_v1.json stand twice, with two paragraphs: both are references."""
  if data and not (isinstance(data[0], dict) and "paragraph" in data[0]):
    raise InputError(f"{path}: not a COCO captions file, {{\"images\": […], \"annotations\": […]}}, nor one of "
                     f"paragraphs, [{{\"image_id\": …, \"paragraph\": …}}, …]{files.looks_like(data)}")
  captions: dict[Id, list[str]] = {}
  for row in files.rows(data, {"image_id": (int, str), "paragraph": str}, path, "paragraphs"):
    captions.setdefault(row["image_id"], []).append(row["paragraph"])
  return captions
