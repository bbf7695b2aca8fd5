"""One thing to evaluate: what the model is given, and what people answered.

Every reader of an evaluation set gives a list of these, in the order of the official file.
"""

import dataclasses
import hashlib
import json
import os
from typing import Iterable, Sequence

import numpy as np

from cm3leon_jax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
  """A prompt, a picture to describe, or a question.

  Attributes:
    id: as in the official file; unique in the set. Predictions are keyed by it.
    text: the caption to draw, or the question; empty for captioning.
    image: path of the picture, or uint8[H, W, 3]; None where there is none. Of a prompt to draw: the real
      picture, the reference of FID.
    image_id: the picture's own id, for leaving it out of retrieval and for grouping; None where there is none.
    references: people's captions or answers.
    category: type of the question or answer, for tables by category; may be empty.
    context: what stands before the question in the words the model reads (a hint, the dialogue so far); may be empty.
    choices: answers to choose from or to rank; empty where the answer is free.
    relevance: VisDial: people's relevance of each choice, in 0..1; empty otherwise.
  """

  id: int | str
  text: str = ""
  image: str | np.ndarray | None = None
  image_id: int | str | None = None
  references: tuple[str, ...] = ()
  category: str = ""
  context: str = ""
  choices: tuple[str, ...] = ()
  relevance: tuple[float, ...] = ()


class Items(list):
  """A list of `Item`s that knows where it comes from.

  Attributes:
    name: of the set and split, e.g. `coco_karpathy/test`.
    source: the files that were read, as a person would find them again.
    caption: of prompts: which caption was chosen, in words; empty for other sets.
    expected: how many items the whole official set has; None where it is not known.
    warnings: what a person should know: another number than expected, empty captions, bytes that are not UTF-8.
  """

  def __init__(self, items: Iterable[Item], name: str, source: Sequence[str], caption: str = "",
               expected: int | None = None, warnings: Sequence[str] = ()):
    super().__init__(items)
    self.name, self.source, self.caption = name, tuple(source), caption
    self.expected, self.warnings = expected, tuple(warnings)

  def __getitem__(self, at):
    """An item; of a slice, the same set with fewer items."""
    found = super().__getitem__(at)
    if not isinstance(at, slice):
      return found
    return Items(found, self.name, self.source, self.caption, self.expected, self.warnings)

  def about(self) -> dict:
    """What fixes the items, for a result's JSON: `count`, `hash`, `source`, `caption`, `expected`."""
    return {"count": len(self), "hash": digest(self), "source": ", ".join(self.source), "caption": self.caption,
            "expected": self.expected}


def digest(items: Iterable[Item]) -> str:
  """16 hex digits of a sha256 over ids, texts and references, in their order; pictures do not count."""
  hashed = hashlib.sha256()
  for item in items:
    hashed.update(json.dumps([item.id, item.text, list(item.references)], ensure_ascii=False).encode("utf-8", "replace"))
  return hashed.hexdigest()[:16]


def check_pictures(items: Iterable[Item]) -> None:
  """Looks for the pictures of all items before a run begins; each folder is listed once.

  Raises:
    InputError: some are not there; says how many and the first ones.
  """
  paths = dict.fromkeys(item.image for item in items if isinstance(item.image, str))
  folders: dict[str, set[str]] = {}
  missing = []
  for path in paths:
    folder, name = os.path.split(path)
    if folder not in folders:
      try:
        folders[folder] = set(os.listdir(folder or "."))
      except (FileNotFoundError, NotADirectoryError):
        folders[folder] = set()
      except PermissionError as error:
        raise InputError(f"{folder}: the folder cannot be read ({error.strerror})") from error
    if name not in folders[folder]:
      missing.append(path)
  if missing:
    first = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    raise InputError(f"{len(missing):,} of {len(paths):,} pictures are not there: {first}; unpack the pictures there, or "
                     "give the reader's `images` folder (docs/evaluation_sets.md shows how the folders lie)")
