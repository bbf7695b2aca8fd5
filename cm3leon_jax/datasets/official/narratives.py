"""Localized Narratives: what people said while they pointed at a picture, a line of JSON each.

    root/coco_train_localized_narratives-00000-of-00004.jsonl   root/flickr30k_train_localized_narratives.jsonl
"""

import json

from cm3leon_jax.datasets.official.source import Source, one_of
from cm3leon_jax.errors import InputError

PARTS = ("coco_train", "coco_val", "flickr30k_train", "flickr30k_val", "flickr30k_test")


def localized_narratives(root: str, part: str) -> dict[str, list[str]]:
  """Picture's id (as the file writes it: COCO's number, Flickr30k's file name without `.jpg`) → its narratives.

  Args:
    root: folder with the JSONL files.
    part: one of `PARTS`; all its shards must be there.

  Raises:
    InputError: no such file, a shard missing, or a line of another form.
  """
  source = Source(root, f"localized_narratives/{one_of(part, PARTS, 'part')}")
  paths = sorted(source.root.glob(f"{part}_localized_narratives*.jsonl"))
  if not paths:
    raise InputError(f"{root}: no {part}_localized_narratives*.jsonl in it; docs/fine_tuning.md says where it is from")
  if "-of-" in paths[0].stem and len(paths) != (count := int(paths[0].stem.rsplit("-", 1)[1])):
    raise InputError(f"{root}: {len(paths)} of the {count} files {part}_localized_narratives-…; get the others too")
  found: dict[str, list[str]] = {}
  for path in paths:
    for number, line in enumerate(source.text(path).split("\n"), 1):
      if not line.strip():
        continue
      try:
        row = json.loads(line)
        found.setdefault(str(row["image_id"]), []).append(row["caption"].strip())
      except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: line {number} is not a narrative ({type(error).__name__}: {error})") from error
  return found
