"""What a number may be compared with: the tokenizer's ceiling, and copying the nearest neighbour."""

from typing import Any, Mapping, Protocol, Sequence

import numpy as np

from cm3leon_jax.vocabulary import Vocabulary


class Tokenizer(Protocol):
  """What is needed of `tokenizers.image.ImageTokenizer`."""
  image_size: int

  def decode(self, codes: np.ndarray) -> np.ndarray:
    ...


def reconstructions(documents: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, vocabulary: Vocabulary) -> np.ndarray:
  """The documents' own pictures after coding, uint8[N, S, S, 3]: no model over these codes can draw them better."""
  return tokenizer.decode(vocabulary.image_codes(np.stack([d["image"] for d in documents])))


def nearest(neighbours: Sequence[Mapping[str, Any]], store: Mapping[str, Mapping[str, Any]], tokenizer: Tokenizer,
            vocabulary: Vocabulary) -> np.ndarray:
  """The best neighbour by text of each record, uint8[N, S, S, 3]: what copying alone would score.

  A record without a neighbour by text gets a white picture.

  Args:
    neighbours: records of the `neighbours` kind.
    store: id → document.
  """
  size = tokenizer.image_size
  images = np.full((len(neighbours), size, size, 3), 255, np.uint8)
  found = [i for i, record in enumerate(neighbours) if len(record["by_text_ids"])]
  if found:
    documents = [store[neighbours[i]["by_text_ids"][0]] for i in found]
    images[found] = reconstructions(documents, tokenizer, vocabulary)
  return images
