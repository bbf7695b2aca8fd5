"""raw pairs → documents: captions to text ids, pictures to image ids."""

import dataclasses
import os
from pathlib import Path
import re
from typing import Iterator, Mapping

import numpy as np
from PIL import Image

from cm3leon_jax import records
from cm3leon_jax.datasets import reader
from cm3leon_jax.pipelines import shards
from cm3leon_jax.tokenizers.image import ImageTokenizer
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.vocabulary import Vocabulary

KIND = "documents"
# Fields of a raw pair that a document carries on where it has them, for the tasks that need exact answers.
CARRIED = ("id", "caption", "thing", "style", "name", "skin_tone", "gender", "category", "group")
# Other framings of a drawing: (mirrored, scale, pixels to the right, pixels down), pixels of a side of 64.
FRAMINGS = ((True, 1.0, 0, 0), (False, 1.0, 2, 2), (True, 1.0, -2, 2), (False, 1.0, -2, -2), (True, 1.0, 2, -2),
            (False, 0.92, 0, 0), (True, 0.92, 0, 0), (False, 1.06, 0, 0))
# What a mirror would change into another thing, or into none: letters, signs, flags, and words of direction.
_UNMIRRORED_CATEGORIES = ("symbols", "flags", "extras")
_SIDES = re.compile(r"\b(left|right|leftwards|rightwards|anticlockwise|clockwise|thirty)\b|o.clock")


def mirrorable(pair: Mapping[str, str]) -> bool:
  """Whether the mirror image is still what the caption says."""
  return pair.get("category") not in _UNMIRRORED_CATEGORIES and not _SIDES.search(pair["caption"])


def reframe(images: np.ndarray, scale: float, right: float, down: float) -> np.ndarray:
  """uint8[N, S, S, 3] scaled about the middle and moved, in pixels of a side of 64; what comes into view is white."""
  side = images.shape[1]
  middle = side / 2
  shift = [middle - (middle + d * side / 64) / scale for d in (right, down)]
  matrix = (1 / scale, 0, shift[0], 0, 1 / scale, shift[1])
  moved = [Image.fromarray(i).transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC,
                                        fillcolor="white") for i in images]
  return np.stack([np.asarray(m) for m in moved])


@dataclasses.dataclass
class TokenizeJob:
  """Encodes one split; see `shards.ShardJob`."""

  corpus: str
  split: str
  pixels: int
  count: int
  vocabulary: Vocabulary
  text_folder: str
  image_folder: str
  framings: int = 0

  def setup(self) -> None:
    self._text = TextTokenizer.load(self.text_folder)
    self._image = ImageTokenizer.load(self.image_folder)

  def records(self, shard: int, num_shards: int) -> Iterator[records.Record]:
    begin, end = shards.bounds(self.count, shard, num_shards)
    pairs = list(reader.read(self.corpus, self.split, self.pixels, begin, end))
    if not pairs:
      return
    texts = self._text.encode_batch([p["caption"] for p in pairs])
    images = np.stack([p["image"] for p in pairs])
    ids = self.vocabulary.image_ids(self._image.encode(images))
    sided = np.array([not mirrorable(p) for p in pairs])[:, None, None, None]
    framed = []
    for mirrored, *framing in FRAMINGS[:self.framings]:
      seen = np.where(sided, images, images[:, :, ::-1]) if mirrored else images
      framed.append(self.vocabulary.image_ids(self._image.encode(reframe(seen, *framing))))
    for i, (pair, text) in enumerate(zip(pairs, texts)):
      yield {**{k: pair[k] for k in CARRIED if k in pair}, "text": text, "image": ids[i], "framings": [f[i] for f in framed]}


def tokenize(corpus: str | os.PathLike, split: str, folder: str | os.PathLike, *, pixels: int, vocabulary: Vocabulary,
             text_tokenizer: str | os.PathLike, image_tokenizer: str | os.PathLike, num_shards: int,
             framings: int = 0, beam_options=()) -> Path:
  """Writes the `documents` folder of one split.

  Args:
    corpus: TFDS data_dir of the raw pairs.
    split: its split.
    folder: where the documents go.
    pixels: side of the pictures.
    vocabulary: the one id space.
    text_tokenizer: folder of the text tokenizer.
    image_tokenizer: folder of the image tokenizer.
    num_shards: files to write.
    framings: how many of `FRAMINGS` to encode as well, for training.
    beam_options: flags for Beam.
  """
  image = ImageTokenizer.load(image_tokenizer)
  text = TextTokenizer.load(text_tokenizer)
  job = TokenizeJob(str(corpus), split, pixels, reader.count(corpus, split, pixels), vocabulary, str(text_tokenizer),
                    str(image_tokenizer), framings)
  return shards.run(job, folder, KIND, num_shards, {
      "vocabulary": vocabulary.fingerprint(),
      "text_tokenizer": text.fingerprint,
      "image_tokenizer": image.fingerprint,
      "image_tokens": image.image_tokens,
      "image_size": image.image_size,
      "framings": framings,
      "split": split,
  }, beam_options)
