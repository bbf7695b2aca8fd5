"""From official files to examples: which pictures a set has, and the words that belong to each.

No picture is opened here, so reading a set takes seconds.
"""

import collections
import dataclasses
import functools
import os
from pathlib import Path
from typing import Callable, Iterable, Mapping

import numpy as np

from cm3leon_jax.datasets.items import Item
from cm3leon_jax.datasets.official import (instances, instruct_pix2pix, karpathy, narratives, paragraphs, pictures, scienceqa,
                                           textocr, vizwiz, vqa)
from cm3leon_jax.errors import InputError
from cm3leon_jax.tasks.official import controls, wording
from cm3leon_jax.tasks.official.square import Square, box

TRAIN, VALIDATION = "train", "validation"
SPLITS = (TRAIN, VALIDATION)
Fields = dict[str, object]  # str, or a list of [str, number, …]
BOXES = 16  # largest boxes that are kept of a picture; a prompt says as many of them as fit
WORDS = 32  # words that are kept of a picture, in reading order

# What a person must have where `SFT.folders` names it; see docs/evaluation_sets.md and docs/fine_tuning.md.
FOLDERS = {
    "coco": "COCO 2014, with Karpathy's dataset_coco.json and the JSON files of VQA v2 and OK-VQA",
    "flickr30k": "Flickr30k, with Karpathy's dataset_flickr30k.json",
    "paragraphs": "Image Paragraph, with Visual Genome's pictures",
    "narratives": "Localized Narratives, the JSONL files of its parts coco and flickr30k",
    "vizwiz": "VizWiz-VQA",
    "scienceqa": "ScienceQA",
    "instruct_pix2pix": "InstructPix2Pix, clip-filtered-dataset",
    "textocr": "TextOCR with its pictures",
    "controls": "control pictures made by networks: a folder each, named as in SETS, with a PNG for each COCO picture",
}


@dataclasses.dataclass(frozen=True)
class Example:
  """A picture and its words, before encoding.

  Attributes:
    id: unique in the set.
    image: path of the picture to draw or to speak of.
    texts: the fields of each text; or a function that reads them, where each stands in a file of its own.
    first: the picture before it: a path, or a function of the square that the model sees, uint8[S, S, 3] → the same.
    size: (width, height) that the annotations were made for, to be compared with the picture's.
  """

  id: str
  image: str
  texts: tuple[Fields, ...] | Callable[[], tuple[Fields, ...]]
  first: str | Callable[[np.ndarray], np.ndarray] | None = None
  size: tuple[int, int] | None = None


@dataclasses.dataclass
class Read:
  """The examples of a set's split, and how many things were left out, by reason."""

  examples: list[Example]
  left_out: collections.Counter = dataclasses.field(default_factory=collections.Counter)


Folders = Mapping[str, str]


class MissingFolder(InputError):
  """`SFT.folders` does not say where a set lies."""


def folder(folders: Folders, name: str, reader: str) -> str:
  """Where a set lies.

  Raises:
    MissingFolder: `SFT.folders` does not say; names what it needs.
  """
  if not folders.get(name):
    raise MissingFolder(f"{reader} needs SFT.folders[{name!r}] ({FOLDERS[name]}): docs/fine_tuning.md says how to get it; "
                     "or leave its tasks out with SFT.skip_missing = True")
  return folders[name]


def read(name: str, split: str, folders: Folders) -> Read:
  """All examples of a set's split.

  Args:
    name: a key of `SETS`.
    split: `train` or `validation`.
    folders: name in `FOLDERS` → where it lies.

  Raises:
    InputError: an unknown name, a folder that is not given, or a file that is missing or broken.
  """
  if name not in SETS or split not in SPLITS:
    raise InputError(f"no set {name!r} with split {split!r}; known: {', '.join(SETS)}, each {' and '.join(SPLITS)}")
  found = SETS[name](split, folders)
  if not found.examples:
    raise InputError(f"{name}, {split}: no example is left; left out: {dict(found.left_out) or 'none'}")
  return found


def _captioned(items: Iterable[Item]) -> Read:
  out = Read([])
  for item in items:
    texts = tuple({"caption": c} for c in item.references if c.strip())
    out.left_out["empty captions"] += len(item.references) - len(texts)
    if texts:
      out.examples.append(Example(str(item.id), item.image, texts))
  return out


def coco_captions(split: str, folders: Folders) -> Read:
  """Karpathy's train and restval (113,287 pictures). The paper's 591k are the captions of train2017, which has pictures
  of the test split that its Table 2 reports; this set does not."""
  root = folder(folders, "coco", "coco_captions")
  parts = ("train", "restval") if split == TRAIN else ("val",)
  return _captioned(item for part in parts for item in karpathy.coco_karpathy(root, part))


def flickr30k(split: str, folders: Folders) -> Read:
  return _captioned(karpathy.flickr30k(folder(folders, "flickr30k", "flickr30k"), _short(split)))


def image_paragraph(split: str, folders: Folders) -> Read:
  return _captioned(paragraphs.image_paragraph(folder(folders, "paragraphs", "image_paragraph"), _short(split)))


def localized_narratives(split: str, folders: Folders) -> Read:
  """The parts over COCO and Flickr30k; pictures of Karpathy's val and test splits are left out of training."""
  root = folder(folders, "narratives", "localized_narratives")
  coco, flickr = (folder(folders, n, "localized_narratives") for n in ("coco", "flickr30k"))
  out = Read([])
  for set_, base, reader in (("coco", coco, karpathy.coco_karpathy), ("flickr30k", flickr, karpathy.flickr30k)):
    parts = {part: {_number(i.id): i for i in reader(base, part)} for part in (
        ("train", "restval") if set_ == "coco" and split == TRAIN else (_short(split),))}
    known = {key: item for items in parts.values() for key, item in items.items()}
    # Pictures of COCO 2017 are those of 2014, split in another way.
    files = ("coco_train", "coco_val") if set_ == "coco" else (f"flickr30k_{_short(split)}",)
    for file in files:
      for id_, texts in narratives.localized_narratives(root, file).items():
        item = known.get(_number(id_))
        if item is None:
          out.left_out["pictures of another split"] += 1
          continue
        kept = tuple({"caption": t} for t in texts if t)
        out.left_out["empty captions"] += len(texts) - len(kept)
        if kept:
          out.examples.append(Example(f"{file}/{id_}", item.image, kept))
  return out


def _number(id_: object) -> str:
  """A picture's id without its zeros and suffix, as both files write it."""
  return os.path.splitext(str(id_))[0].lstrip("0")


def _questions(items: Iterable[Item]) -> Read:
  """Groups questions by picture; of each all different answers with how many people gave them, most first."""
  out, grouped = Read([]), collections.defaultdict(list)
  for item in items:
    answers = collections.Counter(a.strip() for a in item.references if a.strip())
    out.left_out["empty answers"] += len(item.references) - sum(answers.values())
    if answers and item.text:
      grouped[item.image_id, item.image].append(
          {"question": item.text, "answers": [[a, n] for a, n in answers.most_common()]})
    else:
      out.left_out["questions without an answer"] += 1
  out.examples = [Example(str(id_), image, tuple(texts)) for (id_, image), texts in grouped.items()]
  return out


def vqa2(split: str, folders: Folders) -> Read:
  return _questions(vqa.vqa2(folder(folders, "coco", "vqa2"), _year(split)))


def okvqa(split: str, folders: Folders) -> Read:
  return _questions(vqa.okvqa(folder(folders, "coco", "okvqa"), _year(split)))


def vizwiz_vqa(split: str, folders: Folders) -> Read:
  return _questions(vizwiz.vizwiz(folder(folders, "vizwiz", "vizwiz"), _short(split)))


def scienceqa_pictured(split: str, folders: Folders) -> Read:
  """Questions with a picture; the explanation is the file's `solution`."""
  root = folder(folders, "scienceqa", "scienceqa")
  solutions, out = scienceqa.solutions(root), Read([])
  for item in scienceqa.scienceqa(root, _short(split), pictured=True):
    if not solutions[item.id]:
      out.left_out["questions without an explanation"] += 1  # they stay for the task that asks for the answer alone
    out.examples.append(Example(str(item.id), item.image, ({
        "question": item.text, "context": item.context, "options": wording.options(item.choices),
        "answer": item.references[0], "explanation": solutions[item.id]},)))
  return out


def edits(split: str, folders: Folders) -> Read:
  root = folder(folders, "instruct_pix2pix", "instruct_pix2pix")

  def texts(name):
    text = instruct_pix2pix.instruction(root, name)
    return ({"instruction": text},) if text else ()

  return Read([Example(f"{name}/{seed}", str(Path(root, name, f"{seed}_1.jpg")), functools.partial(texts, name),
                       first=str(Path(root, name, f"{seed}_0.jpg")))
               for name, seed in instruct_pix2pix.instruct_pix2pix(root, _short(split))])


def detection(split: str, folders: Folders) -> Read:
  """Pictures of COCO with their boxes, largest first, in pixels 0..255 of the square; crowds have no box of one thing."""
  out = Read([])
  for picture, captions, names in _instances(split, folders, "detection", out):
    square, boxes = Square.of(picture.width, picture.height), []
    for row in sorted(picture.annotations, key=lambda a: -a["area"]):
      x, y, width, height = row["bbox"]
      if row["iscrowd"]:
        out.left_out["boxes of crowds"] += 1
      elif not (0 <= x and 0 <= y and x + width <= picture.width + 1 and y + height <= picture.height + 1):
        out.left_out["boxes outside the picture"] += 1  # a pixel of grace: the file rounds
      elif (found := box(square, (x, y, x + width, y + height))) is None:
        out.left_out["boxes outside the middle square"] += 1
      else:
        boxes.append([names[row["category_id"]], *found])
    if boxes:
      out.examples.append(Example(str(picture.id), picture.path, tuple(
          {"caption": c, "boxes": boxes[:BOXES]} for c in captions), size=(picture.width, picture.height)))
    else:
      out.left_out["pictures without a box"] += 1
  return out


def segmentation(split: str, folders: Folders) -> Read:
  """Pictures of COCO with their instances drawn in the colours of their categories."""
  out = Read([])
  for picture, captions, _ in _instances(split, folders, "segmentation", out):
    draw = functools.partial(_segmented, picture.annotations, picture.width, picture.height)
    out.examples.append(Example(str(picture.id), picture.path, tuple({"caption": c} for c in captions), first=draw,
                                size=(picture.width, picture.height)))
  return out


def _segmented(annotations, width: int, height: int, square: np.ndarray) -> np.ndarray:
  return controls.segmentation(annotations, width, height, len(square))


def computed(kind: str, split: str, folders: Folders) -> Read:
  """COCO's captioned pictures, each behind a control picture that OpenCV computes."""
  out = coco_captions(split, folders)
  out.examples = [dataclasses.replace(e, first=getattr(controls, kind)) for e in out.examples]
  return out


def precomputed(kind: str, split: str, folders: Folders) -> Read:
  """COCO's captioned pictures, each behind `<controls>/<kind>/<picture's name>.png`."""
  base = Path(folder(folders, "controls", kind), kind)
  place = pictures.locator(base, str(base))
  out = coco_captions(split, folders)
  out.examples = [dataclasses.replace(e, first=place(Path(e.image).stem + ".png")) for e in out.examples]
  return out


def writing(split: str, folders: Folders) -> Read:
  """Pictures with the words in them: in reading order, those outside the middle square left out."""
  out = Read([])
  for id_, path, width, height, words in textocr.textocr(folder(folders, "textocr", "textocr"), _short(split)):
    square, seen = Square.of(width, height), []
    for word, (x, y, w, h) in words:
      if (found := box(square, (x, y, x + w, y + h))) is None:
        out.left_out["words outside the middle square"] += 1
      else:
        seen.append((found, word))
    if seen:
      out.examples.append(Example(id_, path, ({"words": " ".join(_in_reading_order(seen)[:WORDS])},), size=(width, height)))
    else:
      out.left_out["pictures without a word"] += 1
  return out


def _in_reading_order(words: list[tuple[tuple[int, int, int, int], str]]) -> list[str]:
  """Lines from the top, words from the left; a word stands in a line when its middle lies in its first word's height."""
  lines: list[list] = []
  for corners, word in sorted(words, key=lambda w: w[0][1]):
    middle = (corners[1] + corners[3]) / 2
    line = next((l for l in lines if l[0][0][1] <= middle <= l[0][0][3]), None)
    if line is None:
      lines.append([(corners, word)])
    else:
      line.append((corners, word))
  return [word for line in lines for _, word in sorted(line)]


def _instances(split: str, folders: Folders, reader: str, out: Read):
  """(picture, its captions, names of categories) of COCO's instances; train2014, or val2014 less Karpathy's test."""
  root = folder(folders, "coco", reader)
  found, names = instances.coco_instances(root, _year(split))
  captions = {str(i.id): [c for c in i.references if c.strip()]
              for i in karpathy.coco_karpathy(root, "train" if split == TRAIN else "val")}
  for picture in found:
    if captions.get(str(picture.id)):
      yield picture, captions[str(picture.id)], names
    else:
      out.left_out["pictures of another split"] += 1


def _short(split: str) -> str:
  return "train" if split == TRAIN else "val"


def _year(split: str) -> str:
  return "train2014" if split == TRAIN else "val2014"


SETS: dict[str, Callable[[str, Folders], Read]] = {
    "coco_captions": coco_captions, "flickr30k": flickr30k, "image_paragraph": image_paragraph,
    "localized_narratives": localized_narratives, "vqa2": vqa2, "vizwiz": vizwiz_vqa, "okvqa": okvqa,
    "scienceqa": scienceqa_pictured, "instruct_pix2pix": edits, "detection": detection, "textocr": writing,
    "segmentation": segmentation,
    **{kind: functools.partial(computed, kind) for kind in ("canny", "scribble")},
    **{kind: functools.partial(precomputed, kind) for kind in ("hed", "pose", "depth", "normal")},
}
