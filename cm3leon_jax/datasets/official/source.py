"""Official files in: found, parsed, told apart; everything that is wrong with one is said in a sentence."""

import contextlib
import dataclasses
import gc
import json
import os
from pathlib import Path
import sys
from typing import Any, Iterable, Iterator, Mapping, Sequence

from cm3leon_jax.datasets.items import Item, Items, digest
from cm3leon_jax.errors import InputError

_DOCS = "docs/evaluation_sets.md shows how its folder must lie"


class Source:
  """The folder of one set while it is read: remembers which files were read and what to warn of.

  Attributes:
    name: of the set and split, e.g. `vqa2/val2014`.
    read: names of the files that were read, relative to the folder where they lie in it; of others the name alone.
    warnings: sentences for a person.
  """

  def __init__(self, root: str | os.PathLike, name: str):
    self.root, self.name = Path(root), name
    self.read: list[str] = []
    self.warnings: list[str] = []
    if not self.root.is_dir():
      raise InputError(f"{root}: no such folder; {name} is to be read there ({_DOCS})")

  def find(self, *names: str) -> Path:
    """The first of several places that has the file.

    Raises:
      InputError: none has it; names all.
    """
    for name in names:
      if (self.root / name).is_file():
        return self.root / name
    raise InputError(f"{self.root}: no {' or '.join(names)} in it, which {self.name} needs; {_DOCS}")

  def text(self, path: Path) -> str:
    """A file's text; bytes that are not UTF-8 are read as Latin-1, with a warning."""
    data = path.read_bytes()
    self.read.append(_relative(path, self.root))
    try:
      return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
      self.warnings.append(f"{path} is not UTF-8 (byte {data[error.start]:#04x} at {error.start:,}): read as Latin-1")
      return data.decode("latin-1")

  def json(self, path: Path, kind: str) -> Any:
    """Parses a file of a known form.

    Args:
      path: the file.
      kind: a key of `FORMS`.

    Raises:
      InputError: not JSON, or the JSON of another task; says what it looks like.
    """
    text = self.text(path)
    collecting = gc.isenabled()
    gc.disable()  # hundreds of thousands of small objects: the collector would walk them again and again
    try:
      data = json.loads(text)
    except ValueError as error:
      pointer = "; it is a pointer of Git LFS: fetch the file itself" * text.startswith("version https://git-lfs")
      raise InputError(f"{path}: not valid JSON ({error}){pointer}") from error
    finally:
      if collecting:
        gc.enable()
    form = FORMS[kind]
    if not form.fits(data):
      raise InputError(f"{path}: should hold {kind}, this looks like {looks_like(data)}")
    if bad := form.bad(data):
      row = json.dumps(form.rows(data)[bad[0]], ensure_ascii=False)[:120]
      raise InputError(f"{path}: {len(bad):,} of {len(form.rows(data)):,} rows are not of the form of {kind}; the first is "
                       f"row {bad[0]}: {row}")
    return data

  @contextlib.contextmanager
  def reading(self, path: Path) -> Iterator[None]:
    """Around what is read from inside the rows of a file: a form that is not the official one is an InputError."""
    try:
      yield
    except (KeyError, IndexError, TypeError, AttributeError) as error:
      raise InputError(f"{path}: a row is not of the official form ({type(error).__name__}: {error})") from error

  def unique(self, ids: Iterable, what: str, path: str | os.PathLike) -> None:
    """Raises InputError where an id stands twice."""
    seen, twice = set(), []
    for i in ids:
      if i in seen:
        twice.append(i)
      seen.add(i)
    if twice:
      raise InputError(f"{path}: {len(twice):,} {what} stand there more than once: {sample(twice)}; get the official file again")

  def finish(self, items: list[Item], caption: str = "") -> Items:
    """Checks the count, prints it and the warnings on standard error, and gives the items.

    Raises:
      InputError: no item, or two of one id.
    """
    if not items:
      raise InputError(f"{self.root}: {self.name} has no item")
    self.unique((item.id for item in items), "ids", self.root)
    expected = EXPECTED.get(self.name)
    if expected is not None and expected != len(items):
      self.warnings.append(f"{len(items):,} items, but the official set has {expected:,}: "
                           "numbers of this do not compare with published ones")
    for warning in self.warnings:
      print(f"{self.name}: {warning}", file=sys.stderr)
    print(f"{self.name}: {len(items):,} items from {self.root} (hash {digest(items)})", file=sys.stderr)
    return Items(items, self.name, self.read, caption, expected, self.warnings)


def _relative(path: Path, root: Path) -> str:
  return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name  # where it lies changes no number


def sample(ids: Sequence, most: int = 5) -> str:
  """The first few ids, for a message."""
  return ", ".join(repr(i) for i in ids[:most]) + (", …" if len(ids) > most else "")


def one_of(value: str, known: Sequence[str], field: str) -> str:
  """The value, when it is known.

  Raises:
    InputError: it is not.
  """
  if value not in known:
    raise InputError(f"{field}={value!r}: known are {', '.join(known)}")
  return value


@dataclasses.dataclass(frozen=True)
class Form:
  """Rows of objects somewhere in a JSON.

  Attributes:
    fields: what every row has, with its type.
    at: keys that lead to the rows; none where the file is the rows. The values of an object are rows too where `values`.
  """

  fields: Mapping[str, type | tuple[type, ...]]
  at: tuple[str, ...] = ()
  values: bool = False

  def rows(self, data: Any) -> list | None:
    """The rows; None where the JSON has none at that place."""
    for key in self.at:
      data = data.get(key) if isinstance(data, dict) else None
    if self.values:
      data = list(data.values()) if isinstance(data, dict) else None
    return data if isinstance(data, list) else None

  def fits(self, data: Any) -> bool:
    """Whether the first row has the fields: enough to tell one official file from another."""
    rows = self.rows(data)
    return bool(rows) and isinstance(rows[0], dict) and rows[0].keys() >= self.fields.keys()

  def bad(self, data: Any) -> list[int]:
    """Numbers of the rows that lack a field or have it of another type."""
    fields = self.fields.items()
    return [n for n, row in enumerate(self.rows(data)) if not isinstance(row, dict) or
            any(not isinstance(row.get(name), kind) for name, kind in fields)]


class Ids(Form):
  """A list of numbers or names."""

  def fits(self, data: Any) -> bool:
    return bool(self.rows(data)) and not self.bad(data)

  def bad(self, data: Any) -> list[int]:
    return [n for n, i in enumerate(self.rows(data)) if not isinstance(i, (int, str)) or isinstance(i, bool)]


# What each official file looks like, most particular first.
FORMS: dict[str, Form] = {
    "Karpathy's split": Form({"split": str, "sentences": list, "filename": str}, ("images",)),
    "VQA annotations": Form({"question_id": int, "image_id": int, "answers": list}, ("annotations",)),
    "VQA questions": Form({"question_id": int, "image_id": int, "question": str}, ("questions",)),
    "COCO captions": Form({"id": int, "image_id": int, "caption": str}, ("annotations",)),
    "COCO instances": Form({"image_id": int, "category_id": int}, ("annotations",)),
    "COCO image info": Form({"id": int, "file_name": str}, ("images",)),
    "VisDial dialogs": Form({"image_id": int, "caption": str, "dialog": list}, ("data", "dialogs")),
    "VisDial dense annotations": Form({"image_id": int, "round_id": int, "gt_relevance": list}),
    "VizWiz questions": Form({"image": str, "question": str}),
    "image paragraphs": Form({"image_id": int, "url": str, "paragraph": str}),
    "ScienceQA problems": Form({"question": str, "choices": list, "answer": int}, values=True),
    "ScienceQA splits": Ids({}, ("test",)),
    "TextOCR words": Form({"image_id": str, "utf8_string": str, "bbox": list}, ("anns",), values=True),
    "predicted captions": Form({"image_id": (int, str), "caption": str}),
    "predicted answers": Form({"question_id": (int, str), "answer": str}),
    "a list of ids": Ids({}),
}


def looks_like(data: Any) -> str:
  """What a parsed JSON is, in words."""
  for kind, form in FORMS.items():
    if form.fits(data):
      return kind
  if isinstance(data, dict):
    return f"an object with {', '.join(list(data)[:6]) or 'nothing in it'}"
  if isinstance(data, list) and data and isinstance(data[0], dict):
    return f"a list of objects with {', '.join(list(data[0])[:6])}"
  return f"a JSON {type(data).__name__} of {len(data)}" if isinstance(data, (list, str)) else "a single value"


# How many items the whole sets have, from the pages and papers named.
EXPECTED = {
    # cocodataset.org, captions_{train,val}2014.json: images.
    "coco_captions/train2014": 82_783, "coco_captions/val2014": 40_504,
    # Karpathy and Fei-Fei 2015: 113,287 = train + restval; 5,000 and 5,000 held out.
    "coco_karpathy/train": 82_783, "coco_karpathy/restval": 30_504, "coco_karpathy/val": 5_000,
    "coco_karpathy/test": 5_000,
    "flickr30k/train": 29_000, "flickr30k/val": 1_014, "flickr30k/test": 1_000,
    "flickr30k/all": 31_783,  # Young et al. 2014: images of results_20130124.token
    # visualqa.org/download.html, v2.0; test-dev2015: its question file.
    "vqa2/train2014": 443_757, "vqa2/val2014": 214_354, "vqa2/test2015": 447_793, "vqa2/test-dev2015": 107_394,
    # vizwiz.org/tasks-and-datasets/vqa, since January 2023 the same.
    "vizwiz/train": 20_523, "vizwiz/val": 4_319, "vizwiz/test": 8_000,
    # okvqa.allenai.org, v1.1.
    "okvqa/train2014": 9_009, "okvqa/val2014": 5_046,
    # scienceqa.github.io, Table 1 of the paper; pictured: its split IMG.
    "scienceqa/train": 12_726, "scienceqa/val": 4_241, "scienceqa/test": 4_241, "scienceqa/test/pictured": 2_017,
    # visualdialog.org/data: one round of each of the 2,064 dialogues of val is annotated densely.
    "visdial/val": 2_064,
    # Krause et al. 2017, §3.
    "image_paragraph/train": 14_575, "image_paragraph/val": 2_487, "image_paragraph/test": 2_489,
}
