"""Where a token stands: the position ids of documents, samples and infilled spans.

A sample is E (T b I b)×K T b I E (paper §2.1, Fig. 9). Two numberings:

* `sequence`: 0, 1, 2, … in order of appearance (the paper's).
* `document`: every (text, image) pair owns a slot of `stride` positions, and the same
  grid cell has the same offset in each slot, so that copying from a retrieved document is
  attention at a constant distance. The last pair always has the last slot. In a slot:

      0                 the delimiter before the pair (<eos> or <break>)
      1 … T             its text, counted from the left
      T+1               the <break> after the text
      T+2 … T+1+I       its image codes, in raster order
      stride = T+2+I    (the next slot's delimiter: a <break>, or the closing <eos>)
"""

import dataclasses

import numpy as np

NUMBERINGS = ("sequence", "document")


@dataclasses.dataclass(frozen=True)
class Layout:
  """Geometry of a sample; pure arithmetic.

  Attributes:
    image_tokens: I, codes in one image (a square number).
    text_tokens: T, the most text tokens that one text may have.
    max_documents: slots, the query pair included (K retrieved + 1).
    numbering: `sequence` or `document`.
  """

  image_tokens: int = 1024
  text_tokens: int = 128
  max_documents: int = 4
  numbering: str = "sequence"

  def __post_init__(self):
    if self.numbering not in NUMBERINGS:
      raise ValueError(f"numbering={self.numbering!r}; known: {NUMBERINGS}")
    if self.grid**2 != self.image_tokens:
      raise ValueError(f"image_tokens={self.image_tokens} is not a square number")

  @property
  def grid(self) -> int:
    """S, codes along one side of an image."""
    return int(round(self.image_tokens**0.5))

  @property
  def stride(self) -> int:
    return self.text_tokens + 2 + self.image_tokens

  @property
  def num_positions(self) -> int:
    """Positions that the `document` numbering uses: all slots and the closing <eos>."""
    return self.max_documents * self.stride + 1

  @property
  def max_sample_length(self) -> int:
    """Tokens in the longest unmasked sample: all slots full, and the closing <eos>."""
    return self.num_positions

  def slot(self, pair: int, num_pairs: int) -> int:
    """Slot of pair number `pair` (0-based) of `num_pairs`; the last pair has the last slot."""
    if num_pairs > self.max_documents:
      raise ValueError(f"{num_pairs} pairs (retrieved ones and the query) exceed max_documents={self.max_documents}")
    return self.max_documents - num_pairs + pair

  def text_positions(self, slot: int, length: int) -> np.ndarray:
    """int32[length] positions of a text in `slot` (document numbering)."""
    if length > self.text_tokens:
      raise ValueError(f"a text of {length} tokens exceeds text_tokens={self.text_tokens}")
    return np.arange(length, dtype=np.int32) + slot * self.stride + 1

  def break_position(self, slot: int) -> int:
    """Position of the <break> between text and image of `slot` (document numbering)."""
    return slot * self.stride + self.text_tokens + 1

  def image_positions(self, slot: int) -> np.ndarray:
    """int32[I] positions of the image cells of `slot` (document numbering)."""
    return np.arange(self.image_tokens, dtype=np.int32) + self.break_position(slot) + 1

  def sample_positions(self, text_lengths) -> np.ndarray:
    """int32[N] positions of E (T b I b)×K T b I E, given the length of each text.

    Raises:
      ValueError: more pairs than slots, or a text longer than `text_tokens`.
    """
    num_pairs = len(text_lengths)
    first = self.slot(0, num_pairs)
    if self.numbering == "sequence":
      return np.arange(sum(text_lengths) + num_pairs * (self.image_tokens + 2) + 1, dtype=np.int32)
    parts = []
    for i, length in enumerate(text_lengths):
      slot = first + i
      parts += [[slot * self.stride], self.text_positions(slot, length), [self.break_position(slot)],
                self.image_positions(slot)]
    parts.append([(first + num_pairs) * self.stride])
    return np.concatenate(parts).astype(np.int32)
