"""Who is held out: whole things, single drawings, and nothing that leaks between splits. Pure.

Units of splitting:

* A *family* is all drawings of one base thing (every style, skin tone, gender, direction),
  joined with families that share a pixel-identical or mirrored drawing. Held-out things are
  whole families.
* A *group* is a family's drawings in one style, joined in the same way. Held-out drawings are
  whole groups, taken only where each of their things stays in training in two other styles.

Held-out drawings that nearly equal a training drawing, or its mirror image, are dropped.
"""

import dataclasses
import hashlib
from typing import Hashable, Iterable, Sequence

import numpy as np

TRAIN, DRAWINGS, THINGS, DROPPED = "train", "heldout_drawings", "heldout_things", "dropped"
SPLITS = (TRAIN, DRAWINGS, THINGS)


@dataclasses.dataclass(frozen=True)
class Item:
  """What a split needs to know of a drawing. `pixels`: `pixel_key` of its picture."""

  id: str
  style: str
  thing: str
  base: str
  pixels: str


@dataclasses.dataclass(frozen=True)
class Assignment:
  """For each item: its split (or `DROPPED`) and its group, which never straddles two splits."""

  splits: list[str]
  groups: list[str]

  def indices(self, split: str) -> list[int]:
    return [i for i, s in enumerate(self.splits) if s == split]


def pixel_key(image: np.ndarray) -> str:
  """Equal for pixel-identical and for mirrored pictures (uint8 [height, width, channels])."""
  both = (np.ascontiguousarray(x).tobytes() for x in (image, image[:, ::-1]))
  return min(hashlib.sha256(raw).hexdigest() for raw in both)


def thumbnail(image: np.ndarray, side: int = 16) -> np.ndarray:
  """uint8[H, W, 3] → float32[side, side, 3] in [0, 1], by area average; H and W are multiples of `side`."""
  height, width, channels = image.shape
  blocks = image.reshape(side, height // side, side, width // side, channels)
  return blocks.mean(axis=(1, 3), dtype=np.float32) / 255


def stable_fraction(key: str, salt: str) -> float:
  """A number in [0, 1) that depends on its arguments alone."""
  return int.from_bytes(hashlib.sha256(f"{salt}\0{key}".encode()).digest()[:8], "big") / 2**64


def components(nodes: Sequence[Iterable[Hashable]]) -> list[int]:
  """Joins items that share a key (union-find): for each item, the index of its component's first item."""
  parent = list(range(len(nodes)))

  def find(i: int) -> int:
    while parent[i] != i:
      parent[i] = parent[parent[i]]
      i = parent[i]
    return i

  first: dict[Hashable, int] = {}
  for i, keys in enumerate(nodes):
    for key in keys:
      a, b = find(first.setdefault(key, i)), find(i)
      parent[max(a, b)] = min(a, b)
  return [find(i) for i in range(len(nodes))]


def near_twins(queries: np.ndarray, others: np.ndarray, limit: float, chunk: int = 512) -> np.ndarray:
  """bool[N]: some row of `others` or its mirror image has mean squared error below `limit` to the query.

  Args:
    queries: float32[N, side, side, 3] in [0, 1].
    others: float32[M, side, side, 3].
    limit: mean squared error.
    chunk: queries a time; bounds memory to chunk × M floats.
  """
  if not len(queries) or not len(others):
    return np.zeros(len(queries), bool)
  # Centred on white: most of a picture is background, so the dot products lose less to rounding.
  flat = 1 - others.reshape(len(others), -1)
  norms = np.square(flat).sum(1)
  size = flat.shape[1]
  found = np.zeros(len(queries), bool)
  for view in (queries, queries[:, :, ::-1]):
    rows = 1 - view.reshape(len(view), -1)
    for start in range(0, len(rows), chunk):
      part = rows[start:start + chunk]
      distance = np.square(part).sum(1, keepdims=True) + norms - 2 * part @ flat.T
      found[start:start + chunk] |= distance.min(1) < limit * size
  return found


def assign(items: Sequence[Item], thumbnails: np.ndarray, *, things: float = 0.03, drawings: float = 0.06,
           near: float = 0.004, other_styles: int = 2, salt: str = "emoji_styles") -> Assignment:
  """Splits drawings; the same drawing gets the same split whatever the order of `items`.

  Args:
    items: the drawings.
    thumbnails: float32[N, side, side, 3] in [0, 1], `thumbnail` of each.
    things: share of families held out in every style.
    drawings: share of the other groups held out.
    near: held-out drawings with a training drawing below this mean squared error are dropped.
    other_styles: styles in which each thing of a held-out drawing must remain in training.
    salt: another one gives another split.
  """
  families = components([(("base", x.base), ("pixels", x.pixels)) for x in items])
  groups = components([(("base", x.base, x.style), ("pixels", x.pixels)) for x in items])
  family_name = _names(families, [x.base for x in items])
  group_name = _names(groups, [f"{x.base}@{x.style}" for x in items])

  splits = [THINGS if stable_fraction(name, salt + "/things") < things else TRAIN for name in family_name]
  members: dict[str, list[int]] = {}
  for i, name in enumerate(group_name):
    members.setdefault(name, []).append(i)
  styles: dict[str, dict[str, int]] = {}  # thing → style → its drawings in training
  for i, x in enumerate(items):
    if splits[i] == TRAIN:
      by_style = styles.setdefault(x.thing, {})
      by_style[x.style] = by_style.get(x.style, 0) + 1
  chance = {name: stable_fraction(name, salt + "/drawings") for name in members}
  for name in sorted(members, key=chance.get):
    group = members[name]
    if chance[name] >= drawings:
      break
    if splits[group[0]] != TRAIN:
      continue
    own = {(items[i].thing, items[i].style) for i in group}
    if all(sum((x, s) not in own for s in styles[x]) >= other_styles for x, _ in own):
      for i in group:
        splits[i] = DRAWINGS
      for thing, style in own:
        styles[thing].pop(style)

  train = np.array([s == TRAIN for s in splits])
  held = np.flatnonzero(~train)
  for i in held[near_twins(thumbnails[held], thumbnails[train], near)]:
    splits[i] = DROPPED
  return Assignment(splits, group_name)


def _names(roots: Sequence[int], names: Sequence[str]) -> list[str]:
  """For each item the smallest name in its component: independent of the order of items."""
  smallest: dict[int, str] = {}
  for root, name in zip(roots, names):
    smallest[root] = min(name, smallest.get(root, name))
  return [smallest[root] for root in roots]
