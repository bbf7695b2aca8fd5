"""Samples from documents: E (T b I b)×K T b I E, and which retrieved documents go in front."""

import collections
import functools
from typing import Mapping, Sequence

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.vocabulary import EOS_ID, Vocabulary

Document = Mapping[str, object]


class SampleBuilder:
  """Lays (text, image) pairs out as samples.

  Attributes:
    counts: `texts` laid out, and `truncated_texts` among them (longer than `layout.text_tokens`).
  """

  def __init__(self, vocabulary: Vocabulary, layout: Layout):
    self.vocabulary = vocabulary
    self.layout = layout
    self.counts = collections.Counter(texts=0, truncated_texts=0)
    self._positions = functools.lru_cache(4096)(layout.sample_positions)  # half of the time of a sample otherwise

  def build(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, query_loss_only: bool = False,
            answer: slice | None = None) -> dict[str, np.ndarray]:
    """One sample.

    Args:
      pairs: (text ids int32[T], image ids int32[I]) of the documents, the query pair last.
      query_loss_only: loss weight 1 on the query pair (its text, <break> and image) and 0 elsewhere; otherwise every
        token weighs 1, as in the paper.
      answer: which tokens of the last text are an answer that the objective may mask as a whole.

    Returns:
      `tokens`, `positions`, `answers` int32[N], `loss_weights` float32[N].

    Raises:
      InputError: an image with another number of codes than the layout's, or more pairs than it has slots.
    """
    layout, break_id = self.layout, self.vocabulary.break_id
    if len(pairs) > layout.max_documents:
      raise InputError(f"a sample of {len(pairs)} pairs exceeds Layout.max_documents={layout.max_documents}")
    parts, lengths = [[EOS_ID]], []
    for i, (text, image) in enumerate(pairs):
      if len(image) != layout.image_tokens:
        raise InputError(f"an image of {len(image)} codes, but Layout.image_tokens={layout.image_tokens}: "
                         "tokenize the documents again with this layout")
      self.counts["texts"] += 1
      self.counts["truncated_texts"] += len(text) > layout.text_tokens
      text = text[:layout.text_tokens]
      lengths.append(len(text))
      parts += [text, [break_id], image, [break_id if i + 1 < len(pairs) else EOS_ID]]
    tokens = np.concatenate(parts).astype(np.int32)
    query = len(tokens) - 2 - layout.image_tokens - lengths[-1]  # where the query's text begins
    weights = np.ones(len(tokens), np.float32)
    if query_loss_only:
      weights[:query] = weights[-1] = 0
    answers = np.zeros(len(tokens), np.int32)
    if answer is not None:
      answers[query:query + lengths[-1]][answer] = 1
    return {"tokens": tokens, "loss_weights": weights, "positions": self._positions(tuple(lengths)), "answers": answers}

  def retrieval_sample(self, query: Document, retrieved: Sequence[Document], *,
                       query_loss_only: bool = False) -> dict[str, np.ndarray]:
    """A sample of retrieved documents, in this order, and the query document."""
    return self.build([(d["text"], d["image"]) for d in (*retrieved, query)], query_loss_only=query_loss_only)


def number_of_documents(probabilities: Sequence[float], rng: np.random.Generator) -> int:
  """K, drawn: probabilities[k] is the chance of k retrieved documents (they are normalised)."""
  thresholds = np.cumsum(probabilities)
  return min(int(np.searchsorted(thresholds, rng.random() * thresholds[-1], side="right")), len(probabilities) - 1)


def choose_randomly(by_text: Sequence[str], by_image: Sequence[str], k: int, rng: np.random.Generator,
                    text_only: float = 0.0) -> list[str]:
  """For training: k ids (all, if there are fewer) of both queries' lists, in random choice and order (paper §2.1).

  Args:
    text_only: chance that the text query's list alone is chosen from. What the image query found resembles the
      picture to be drawn more than anything will at test time.
  """
  alone = text_only > 0 and rng.random() < text_only
  pool = list(dict.fromkeys(by_text if alone else [*by_text, *by_image]))
  return [pool[i] for i in rng.permutation(len(pool))[:k]]


def same_framing(query: Document, retrieved: Sequence[Document], rng: np.random.Generator) -> tuple[Document, list[Document]]:
  """For training: half of the samples as they are, half with all documents in one of their `framings`, drawn alike.

  Mirrored, moved and scaled together, what can be copied from where stays the same (but for drawings that have no
  mirror image beside ones that have).
  """
  number = min(len(d.get("framings", ())) for d in (query, *retrieved))
  if not number or rng.random() < 0.5:
    return query, list(retrieved)
  framing = int(rng.integers(number))
  query, *retrieved = ({**d, "image": d["framings"][framing]} for d in (query, *retrieved))
  return query, retrieved


def choose_top(by_text: Sequence[str], k: int) -> list[str]:
  """For evaluation: the k best of the text query, as there is no image to query with at test time."""
  return list(by_text[:k])
