"""Evaluation items among the documents of retrieval: by id, by the codes of their picture, by CLIP, by caption.

The documents are read once, in chunks, past the codes of the items: memory is O(items), some kilobytes each,
whatever the number of documents.
"""

import dataclasses
import os
from pathlib import Path
from typing import Callable, Iterable, Iterator, Protocol, Sequence
import unicodedata

import numpy as np

from cm3leon_jax import api, assets, records
from cm3leon_jax.datasets.items import Item
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import copying, picture_hash
from cm3leon_jax.retrieval import search, store
from cm3leon_jax.retrieval.encoder import Encoder
from cm3leon_jax.retrieval.index import Index
from cm3leon_jax.tokenizers import image as image_tokenizers
from cm3leon_jax.tokenizers.image import ImageTokenizer
from cm3leon_jax.vocabulary import Vocabulary

CODES = 0.95  # share of equal drawn codes from which two pictures count as one
COPY = 0.99  # cosine of CLIP's image vectors from which they do: what is left of a copy saved again as JPEG
_FOUND = 16  # documents asked of the index for each picture
_ITEMS = 256  # pictures held at a time
_ROWS = 16_384  # documents held at a time


class Library(Protocol):
  """What retrieval reads: `retriever.Retriever` is one, `open_library` gives one."""
  index: Index
  store: store.DocumentStore
  documents: Path
  image: ImageTokenizer
  encoder: Encoder
  vocabulary: Vocabulary


@dataclasses.dataclass(frozen=True)
class _Opened:
  index: Index
  store: store.DocumentStore
  documents: Path
  image: ImageTokenizer
  encoder: Encoder
  vocabulary: Vocabulary


def open_library(index: str | os.PathLike) -> Library:
  """D/index with D/documents/train, and the tokenizer and CLIP that made them; errors as `search.open_workdir`'s."""
  index = assets.find(index)
  searcher, workdir = search.open_workdir(index), Path(index).resolve().parent
  made_by = searcher.store.manifest["image_tokenizer"]
  image = ImageTokenizer.load(search.find_asset(image_tokenizers.KIND, made_by, workdir))
  vocabulary = Vocabulary(text_size=search.text_size(searcher.store, workdir), image_size=image.codebook_size,
                          num_sentinels=1, total_size=0)
  return _Opened(searcher.index, searcher.store, workdir / "documents" / "train", image, searcher.encoder, vocabulary)


@dataclasses.dataclass(frozen=True)
class Exclusions:
  """Documents that an evaluation keeps out of retrieval.

  Attributes:
    ids: of the documents.
    by_id: how many bear the id of an item, of its picture, or the picture's file name.
    by_hash: how many more show an item's picture: 95 % of its drawn codes are equal, or CLIP's cosine is 0.99.
  """

  ids: frozenset[str]
  by_id: int
  by_hash: int


def exclusions(items: Iterable[Item], library: Library | str | os.PathLike) -> Exclusions:
  """The documents that are items of the evaluation, by id and by content.

  Args:
    items: the evaluation set; pictures that cannot be read have no content to compare.
    library: a retriever, or the folder of an index.
  """
  library = open_library(library) if isinstance(library, (str, os.PathLike)) else library
  return find(list(items), library).exclusions


@dataclasses.dataclass(frozen=True)
class Match:
  """A picture of the evaluation set found among the documents.

  Attributes:
    picture: its number among the pictures looked for.
    id: of the document.
    score: similarity, at most 1; of what, the list says that holds it.
  """

  picture: int
  id: str
  score: float


@dataclasses.dataclass(frozen=True)
class Found:
  """What `find` found.

  Attributes:
    shown: an item for each different picture that could be read.
    by_id: documents named as an item is.
    by_codes: of `by_codes`.
    by_clip: of `by_clip`.
  """

  shown: list[Item]
  by_id: set[str]
  by_codes: list[Match]
  by_clip: list[Match]

  @property
  def exclusions(self) -> Exclusions:
    by_hash = {m.id for m in self.by_codes} | {m.id for m in self.by_clip if m.score >= COPY}
    by_hash -= self.by_id
    return Exclusions(frozenset(self.by_id | by_hash), len(self.by_id), len(by_hash))


def find(items: Sequence[Item], library: Library, each: Callable[["Rows"], None] = lambda rows: None) -> Found:
  """Looks for the items in all documents.

  Args:
    items: the evaluation set.
    library: where to look.
    each: called with each chunk of documents, for who wants to see more of them in the same reading.
  """
  every, shown, codes, vectors = pictures(items), [], [], []
  for numbers, images in chunks(every, library.image.image_size):
    shown += [every[n] for n in numbers]
    codes.append(library.image.encode(images))
    vectors.append(library.encoder.encode_images(images))
  empty = np.zeros((0, library.image.image_tokens), np.int32)
  return Found(shown, {name for name in names(items) if name in library.store},
               by_codes(np.concatenate([empty, *codes]), library, each),
               by_clip(np.concatenate(vectors), library) if vectors else [])


@dataclasses.dataclass(frozen=True)
class Rows:
  """Some documents that have a picture: ids, captions, int32[N, I] codes."""

  ids: list[str]
  captions: list[str]
  codes: np.ndarray


def documents(library: Library) -> Iterator[Rows]:
  """All documents with a picture, in chunks."""
  reader = records.Reader(library.documents, store.KIND)
  for start in range(0, len(reader), _ROWS):
    rows = [row for row in reader[start:start + _ROWS] if len(row["image"])]
    if rows:
      codes = library.vocabulary.image_codes(np.stack([row["image"] for row in rows]))
      yield Rows([row["id"] for row in rows], [row["caption"] for row in rows], codes)


def by_codes(codes: np.ndarray, library: Library, each: Callable[[Rows], None]) -> list[Match]:
  """Documents with at least 95 % of the drawn codes of a picture, int32[N, I]; scored by that share."""
  near, found = picture_hash.NearCodes(codes, copying.blank_codes(library.image), CODES), []
  for rows in documents(library):
    (i, j), shares = near.find(rows.codes)
    found += [Match(int(a), rows.ids[b], float(s)) for a, b, s in zip(i, j, shares)]
    each(rows)
  return found


def by_clip(vectors: np.ndarray, library: Library) -> list[Match]:
  """The documents that the index finds for each picture, scored by the cosine of CLIP's image vectors.

  The index holds a document's vector d alone, the bisector of its text's t and its picture's: mirrored in d, t becomes
  the picture's vector, 2 (d·t) d − t. Looked at are the 16 documents that the index finds for the picture.

  Args:
    vectors: float32[N, D], unit norm, of the pictures.
    library: where to look.
  """
  found = []
  for start in range(0, len(vectors), _ITEMS):
    part = library.index.candidates(vectors[start:start + _ITEMS], _FOUND)
    ids = sorted({c.id for candidates in part for c in candidates})
    texts = library.encoder.encode_text([row["caption"] for row in library.store.get(ids)])
    text_of = dict(zip(ids, texts, strict=True))
    for number, candidates in enumerate(part, start):
      d, t = np.stack([c.vector for c in candidates]), np.stack([text_of[c.id] for c in candidates])
      cosines = (2 * (d * t).sum(1, keepdims=True) * d - t) @ vectors[number]
      found += [Match(number, c.id, float(cosine)) for c, cosine in zip(candidates, cosines, strict=True)]
  return found


def pictures(items: Iterable[Item]) -> list[Item]:
  """One item for each different picture: the first one with that path, or that `image_id`."""
  different = {}
  for item in items:
    if item.image is not None:
      own = item.image if isinstance(item.image, str) else item.id if item.image_id is None else ("id", item.image_id)
      different.setdefault(own, item)
  return list(different.values())


def chunks(shown: Sequence[Item], size: int) -> Iterator[tuple[list[int], np.ndarray]]:
  """Numbers and pictures, uint8[≤ 256, size, size, 3]: the middle square, as a model is shown them.

  What cannot be read is left out: the run that needs it says so.
  """
  for start in range(0, len(shown), _ITEMS):
    numbers, images = [], []
    for number, item in enumerate(shown[start:start + _ITEMS], start):
      try:
        images.append(api.squared(api.open_picture(item.image), size))
      except InputError:
        continue
      numbers.append(number)
    if numbers:
      yield numbers, np.stack(images)


def names(items: Iterable[Item]) -> set[str]:
  """What the items may be called as documents: their ids, those of their pictures, file names without the ending."""
  found = set()
  for item in items:
    found.add(str(item.id))
    if item.image_id is not None:
      found.add(str(item.image_id))
    if isinstance(item.image, str):
      found.add(Path(item.image).stem)
  return found


def captions(item: Item) -> tuple[str, ...]:
  """What a training caption may repeat: the prompt or the question, else people's captions."""
  return (item.text,) if item.text else item.references


def normalise(text: str) -> str:
  """Lower case, every run of punctuation and white space one space, none at the ends."""
  kept = ("".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in text.casefold()))
  return " ".join(kept.split())
