"""Karpathy's splits of COCO and Flickr30k: `dataset_coco.json`, `dataset_flickr30k.json` of caption_datasets.zip.

    coco/dataset_coco.json           coco/val2014/COCO_val2014_000000391895.jpg   coco/train2014/…
    flickr30k/dataset_flickr30k.json flickr30k/flickr30k-images/1000092795.jpg
    flickr30k/results_20130124.token   (the authors' own file, without splits)
"""

from cm3leon_jax.datasets.items import Items
from cm3leon_jax.datasets.official import captioned, pictures
from cm3leon_jax.datasets.official.captioned import Captioned
from cm3leon_jax.datasets.official.source import Source, one_of
from cm3leon_jax.errors import InputError

COCO_SPLITS = ("test", "val", "restval", "train")
FLICKR_SPLITS = ("test", "val", "train", "all")
_FLICKR_FOLDER = "flickr30k-images"


def coco_karpathy(root: str, split: str = "test", images: str = "") -> Items:
  """COCO's pictures of a split with their captions, to be described; id: COCO's image id.

  Args:
    root: folder with `dataset_coco.json`, and with COCO's pictures of 2014 unpacked.
    split: `test` or `val` (5,000 pictures each), `restval` or `train`.
    images: another folder with the pictures, at any depth.
  """
  source = Source(root, f"coco_karpathy/{one_of(split, COCO_SPLITS, 'CocoKarpathy.split')}")
  return source.finish(captioned.captioning(source, _coco(source, split, images)))


def coco_karpathy_prompts(root: str, count: int = 5_000, seed: int = 0, split: str = "test", images: str = "") -> Items:
  """One caption each of `count` pictures of a split, to be drawn; id: the caption's `sentid`.

  Args:
    root, split, images: as `coco_karpathy`'s.
    count: captions.
    seed: of the choice, see `captioned.prompts`.
  """
  source = Source(root, f"coco_karpathy_prompts/{one_of(split, COCO_SPLITS, 'CocoKarpathyPrompts.split')}")
  return source.finish(*captioned.prompts(source, _coco(source, split, images), count, seed))


def flickr30k(root: str, split: str = "test", images: str = "") -> Items:
  """Flickr30k's pictures of a split with their captions, to be described; id: the file name.

  Args:
    root: folder with `dataset_flickr30k.json` (Karpathy's) and `flickr30k-images/`.
    split: `test`, `val`, `train`; or `all`, which reads the authors' own `results_20130124.token`.
    images: another folder with the pictures, at any depth.
  """
  source = Source(root, f"flickr30k/{one_of(split, FLICKR_SPLITS, 'Flickr30k.split')}")
  return source.finish(captioned.captioning(source, _flickr(source, split, images)))


def flickr30k_prompts(root: str, count: int = 1_000, seed: int = 0, split: str = "test", images: str = "") -> Items:
  """One caption each of `count` pictures of a split, to be drawn; id: `sentid`, or `<file>#<n>` of the token file.

  Args:
    root, split, images: as `flickr30k`'s.
    count: captions.
    seed: of the choice, see `captioned.prompts`.
  """
  source = Source(root, f"flickr30k_prompts/{one_of(split, FLICKR_SPLITS, 'Flickr30kPrompts.split')}")
  return source.finish(*captioned.prompts(source, _flickr(source, split, images), count, seed))


def _coco(source: Source, split: str, images: str) -> list[Captioned]:
  return _read(source, "dataset_coco.json", split, images, lambda row: (row["cocoid"], f"{row['filepath']}/{row['filename']}"))


def _flickr(source: Source, split: str, images: str) -> list[Captioned]:
  if split == "all":
    return _tokens(source, images)
  return _read(source, "dataset_flickr30k.json", split, images,
               lambda row: (row["filename"], f"{_FLICKR_FOLDER}/{row['filename']}"))


def _read(source: Source, file: str, split: str, images: str, name) -> list[Captioned]:
  path = source.find(file, f"annotations/{file}", f"caption_datasets/{file}")
  rows = source.json(path, "Karpathy's split")["images"]
  place = pictures.locator(source.root, images)
  with source.reading(path):
    found = [Captioned((about := name(row))[0], place(about[1]),
                       tuple((s["sentid"], s["raw"].strip()) for s in row["sentences"]))
             for row in rows if row["split"] == split]
  source.unique((p.id for p in found), "pictures", path)
  return found


def _tokens(source: Source, images: str) -> list[Captioned]:
  """`1000092795.jpg#0<tab>Two young guys …`, a caption a line."""
  path = source.find("results_20130124.token", "flickr30k/results_20130124.token")
  place = pictures.locator(source.root, images)
  captions: dict[str, list[tuple[str, str]]] = {}
  for number, line in enumerate(source.text(path).split("\n"), 1):
    if not line.strip():
      continue
    id_, tab, caption = line.partition("\t")
    file, hash_, _ = id_.partition("#")
    if not tab or not hash_:
      raise InputError(f"{path}: line {number} is not `<file>#<n><tab><caption>`: {line[:60]!r}")
    captions.setdefault(file, []).append((id_, caption.strip()))
  source.unique((id_ for rows in captions.values() for id_, _ in rows), "captions", path)
  return [Captioned(file, place(f"{_FLICKR_FOLDER}/{file}"), tuple(rows)) for file, rows in captions.items()]
