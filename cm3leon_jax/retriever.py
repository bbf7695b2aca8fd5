"""What a model reads before it draws: the best legal documents of an index, as text, codes and pictures."""

import dataclasses
import os
from pathlib import Path
from typing import Collection, Sequence

import numpy as np

from cm3leon_jax.decoding.prompts import Pair
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.retrieval import selection
from cm3leon_jax.retrieval.encoder import Encoder
from cm3leon_jax.retrieval.index import Index
from cm3leon_jax.retrieval.store import DocumentStore
from cm3leon_jax.tokenizers.image import ImageTokenizer
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.vocabulary import Vocabulary

_FOUND = 32  # documents asked of the index at first, as for training


@dataclasses.dataclass(frozen=True, eq=False)
class Document:
  """A retrieved document that the model read: id, caption, score of the search (None: given by id), uint8[H, W, 3]."""

  id: str
  caption: str
  score: float | None
  image: np.ndarray
  pair: Pair


class Retriever:
  """An index folder with the documents beside it (D/index, D/documents/train).

  Attributes:
    folder: of the index.
    index, store: as opened.
    vocabulary, image, encoder: of the model.
    documents: folder of the store.
    exclude: ids that no search returns; evaluation sets theirs (`evaluation.contamination.exclusions`).
  """

  def __init__(self, index: str | os.PathLike, vocabulary: Vocabulary, layout: Layout, text: TextTokenizer,
               image: ImageTokenizer, encoder: Encoder, exclude: Collection[str] = ()):
    """Opens the folders.

    Args:
      index: the index folder.
      vocabulary, layout, text, image, encoder: the model's.
      exclude: ids of documents that are never found.

    Raises:
      InputError: a folder is missing, or was made by something else than the model's tokenizers and CLIP.
    """
    self.vocabulary, self._layout, self.image, self.encoder = vocabulary, layout, image, encoder
    self.folder, self.index = Path(index), Index.load(index)
    self.exclude = frozenset(exclude)
    made_by = self.index.manifest["encoder"]
    if made_by != encoder.fingerprint:
      raise InputError(f"{index}: made with another encoder ({made_by}, the model's is {encoder.fingerprint}); "
                       "give the index that the model was trained with")
    self.documents = Path(index).resolve().parent / "documents" / "train"
    self.store = DocumentStore(self.documents)
    for name, value in (("text_tokenizer", text.fingerprint), ("image_tokenizer", image.fingerprint)):
      if self.store.manifest.get(name) != value:
        raise InputError(f"{self.documents}: made with another {name.replace('_', ' ')} "
                         f"({self.store.manifest.get(name)}, the model's is {value}); make the documents again")
    self._rules = selection.Rules(**self.index.manifest["rules"])

  def search(self, query: str | np.ndarray, k: int, exclude: Collection[str] = ()) -> tuple[Document, ...]:
    """The k best legal documents for a text, or for a picture uint8[H, W, 3]; fewer only where the index has fewer.

    Args:
      exclude: ids that may not be found, besides those of `self.exclude`.
    """
    vector = self.encoder.encode_text([query]) if isinstance(query, str) else self.encoder.encode_images(query[None])
    excluded = self.exclude.union(exclude) if exclude else self.exclude  # the latter may be large: no copy a search
    chosen = selection.best(lambda n: self.index.candidates(vector, n)[0], len(self.index),
                            dataclasses.replace(self._rules, per_query=k), excluded=excluded, first=_FOUND)
    return self.get([c.id for c in chosen], [c.score for c in chosen])

  def get(self, ids: Sequence[str], scores: Sequence[float | None]) -> tuple[Document, ...]:
    """Documents by id, with their pictures as the model sees them."""
    if not ids:
      return ()
    rows = self.store.get(ids)
    images = self.image.decode(self.vocabulary.image_codes(np.stack([row["image"] for row in rows])))
    longest = self._layout.text_tokens  # longer texts are cut, as in training
    pairs = [Pair(*(row[part].astype(np.int32) for part in ("text", "image"))) for row in rows]
    return tuple(Document(row["id"], row["caption"], score, image, Pair(pair.text[:longest], pair.image))
                 for row, pair, score, image in zip(rows, pairs, scores, images))
