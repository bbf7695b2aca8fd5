"""What a CLIP of this corpus can do: find the drawing, find the same thing, know the artist."""

from typing import Mapping, Protocol, Sequence

import numpy as np

from cm3leon_jax.retrieval.encoder import Encoder


class Rows(Protocol):
  """Captioned drawings: see `train_clip.Drawings`."""

  images: np.ndarray
  captions: Sequence[str]
  plain: Sequence[str]
  styles: Sequence[str]
  things: Sequence[str]


def recall_at(queries: np.ndarray, gallery: np.ndarray, k: int) -> float:
  """Share of queries [N, D] whose own row of the gallery [N, D] is among the k most similar."""
  scores = queries @ gallery.T
  rank = (scores > np.diagonal(scores)[:, None]).sum(1)
  return float((rank < k).mean())


def same_thing_at(queries: np.ndarray, gallery: np.ndarray, query_things: Sequence[str], things: Sequence[str],
                  k: int) -> tuple[float, float]:
  """Over queries whose thing the gallery knows: share with it among the k best, and its share among the best 2."""
  query_things, things = np.asarray(query_things), np.asarray(things)
  known = np.isin(query_things, things)
  if not known.any():
    return float("nan"), float("nan")
  best = np.argsort(-(queries[known] @ gallery.T), axis=1, kind="stable")[:, :k]
  same = things[best] == query_things[known][:, None]
  return float(same.any(1).mean()), float(same[:, :2].mean())


def style_accuracy(image_vectors: np.ndarray, encoder: Encoder, plain: Sequence[str], styles: Sequence[str]) -> float:
  """Share of images whose own "name, style" scores best among that name with every style."""
  known = sorted(set(styles))
  texts = encoder.encode_text([f"{name}, {style}" for name in plain for style in known])
  scores = np.einsum("nsd,nd->ns", texts.reshape(len(plain), len(known), -1), image_vectors)
  return float((np.asarray(known)[scores.argmax(1)] == np.asarray(styles)).mean())


def measure(encoder: Encoder, train: Rows, heldout: Mapping[str, Rows]) -> dict[str, dict[str, float]]:
  """Split name → figures.

  `text_to_image_recall_at_10`: captions against the split's own images. `same_thing_at_10`,
  `same_thing_of_2`: captions against the training documents, as the retriever searches them (NaN
  where the split's things are unknown there). `style_accuracy`: which artist, the thing being given.
  """
  documents = encoder.document(encoder.encode_text(train.captions), encoder.encode_images(train.images))
  result = {}
  for split, rows in heldout.items():
    texts, images = encoder.encode_text(rows.captions), encoder.encode_images(rows.images)
    at_10, of_2 = same_thing_at(texts, documents, rows.things, train.things, 10)
    figures = {"count": len(rows.images), "text_to_image_recall_at_1": recall_at(texts, images, 1),
               "text_to_image_recall_at_10": recall_at(texts, images, 10), "same_thing_at_10": at_10,
               "same_thing_of_2": of_2, "style_accuracy": style_accuracy(images, encoder, rows.plain, rows.styles)}
    result[split] = {name: round(value, 4) for name, value in figures.items() if not np.isnan(value)}
  return result
