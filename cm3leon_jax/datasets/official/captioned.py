"""Pictures with several captions, as two kinds of items: to be described, or to be drawn from one caption."""

import dataclasses
import hashlib
from typing import Callable, Sequence

from cm3leon_jax.datasets.items import Item
from cm3leon_jax.datasets.official.source import Source, sample
from cm3leon_jax.errors import InputError

CHOICE = ("images ordered by sha256(\"{seed}:<image id>\"), the first {count}; of each the caption whose "
          "sha256(\"{seed}:<caption id>\") is smallest, captions without a word left out")


@dataclasses.dataclass(frozen=True)
class Captioned:
  """A picture and its captions.

  Attributes:
    id: the picture's.
    path: where it lies.
    captions: (caption id, caption), stripped, in the order of the file.
  """

  id: int | str
  path: str
  captions: tuple[tuple[int | str, str], ...]


def captioning(source: Source, pictures: Sequence[Captioned]) -> list[Item]:
  """An item a picture: it is given, its captions are the references.

  Empty captions stay among the references, as they do in the official scorer, with a warning.

  Raises:
    InputError: pictures without any caption.
  """
  bare = [p.id for p in pictures if not any(text for _, text in p.captions)]
  if bare:
    raise InputError(f"{source.root}: {source.name} has {len(bare):,} pictures without a caption: {sample(bare)}")
  _warn_of_empty(source, pictures)
  return [Item(p.id, image=p.path, image_id=p.id, references=tuple(text for _, text in p.captions)) for p in pictures]


def prompts(source: Source, pictures: Sequence[Captioned], count: int, seed: int) -> tuple[list[Item], str]:
  """`count` items, one caption each of as many pictures; the picture is the real one that FID compares with.

  The choice depends on the ids and the seed alone, and that of a smaller count is the beginning of that of a larger.

  Returns:
    Items with the caption's id, and the choice in words.

  Raises:
    InputError: fewer pictures with a caption than `count`.
  """
  usable = [p for p in pictures if any(text for _, text in p.captions)]
  if not 0 < count <= len(usable):
    raise InputError(f"count={count}: {source.name} has {len(usable):,} pictures with a caption; give 1 to that many")
  _warn_of_empty(source, pictures)
  key = _order(seed)
  chosen = sorted(usable, key=lambda p: key(p.id))[:count]
  items = []
  for picture in chosen:
    id_, text = min((c for c in picture.captions if c[1]), key=lambda c: key(c[0]))
    items.append(_prompt(picture, id_, text))
  return items, CHOICE.format(seed=seed, count=f"{count:,}")


def listed(source: Source, pictures: Sequence[Captioned], rows: Sequence[tuple], listing: str) -> tuple[list[Item], str]:
  """The captions of a published list, in its order.

  Args:
    rows: (caption id, None, None), or (None, picture id, caption) where the list gives the caption itself.
    listing: the list's file, for messages.

  Returns:
    Items with the caption's id, and the choice in words.

  Raises:
    InputError: ids or captions that the set does not have, or one twice.
  """
  by_caption = {id_: (p, text) for p in pictures for id_, text in p.captions}
  by_picture = {p.id: p for p in pictures}
  items, unknown = [], []
  for caption_id, picture_id, text in rows:
    if caption_id is None:
      # Lists were written by many hands: spaces and letter case differ, the words do not.
      wanted = " ".join(text.lower().split())
      found = [c for c in getattr(by_picture.get(picture_id), "captions", ()) if " ".join(c[1].lower().split()) == wanted]
      caption_id = found[0][0] if found else None
    if caption_id in by_caption:
      items.append(_prompt(*_caption(by_caption, caption_id)))
    else:
      unknown.append(caption_id if text is None else (picture_id, text))
  if unknown:
    raise InputError(f"{listing}: {len(unknown):,} of {len(rows):,} captions are not in {source.name}: {sample(unknown, 3)}; "
                     "is the list of another year or split?")
  source.unique((item.id for item in items), "captions", listing)
  return items, f"the captions of the list {listing}, in its order"


def _caption(by_caption: dict, caption_id) -> tuple[Captioned, int | str, str]:
  picture, text = by_caption[caption_id]
  return picture, caption_id, text


def _prompt(picture: Captioned, id_: int | str, text: str) -> Item:
  return Item(id_, text=text, image=picture.path, image_id=picture.id, references=(text,))


def _order(seed: int) -> Callable[[int | str], bytes]:
  return lambda id_: hashlib.sha256(f"{seed}:{id_}".encode()).digest()


def _warn_of_empty(source: Source, pictures: Sequence[Captioned]) -> None:
  empty = sum(not text for p in pictures for _, text in p.captions)
  if empty:
    source.warnings.append(f"{empty:,} captions are empty")
