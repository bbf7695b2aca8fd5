"""raw pairs → embeddings: the text part and the image part of each document, separately."""

import dataclasses
import os
from pathlib import Path
from typing import Iterator

import numpy as np

from cm3leon_jax import manifest, records
from cm3leon_jax.datasets import reader
from cm3leon_jax.pipelines import shards
from cm3leon_jax.retrieval.encoder import Encoder

KIND = "embeddings"


@dataclasses.dataclass
class EmbedJob:
  """Embeds one split; see `shards.ShardJob`."""

  corpus: str
  split: str
  pixels: int
  count: int
  encoder_folder: str

  def setup(self) -> None:
    self._encoder = Encoder.load(self.encoder_folder)

  def records(self, shard: int, num_shards: int) -> Iterator[records.Record]:
    begin, end = shards.bounds(self.count, shard, num_shards)
    pairs = list(reader.read(self.corpus, self.split, self.pixels, begin, end))
    if not pairs:
      return
    text = self._encoder.encode_text([p["caption"] for p in pairs])
    image = self._encoder.encode_images(np.stack([p["image"] for p in pairs]))
    for i, pair in enumerate(pairs):
      yield {"id": pair["id"], "text": text[i].astype(np.float16), "image": image[i].astype(np.float16)}


def embed(corpus: str | os.PathLike, split: str, folder: str | os.PathLike, *, pixels: int, encoder: str | os.PathLike,
          num_shards: int, beam_options=()) -> Path:
  """Writes the `embeddings` folder of one split, in the order of its documents."""
  loaded = Encoder.load(encoder)
  job = EmbedJob(str(corpus), split, pixels, reader.count(corpus, split, pixels), str(encoder))
  return shards.run(job, folder, KIND, num_shards,
                    {"encoder": loaded.fingerprint, "dim": loaded.dim, "split": split}, beam_options)


def load(folder: str | os.PathLike, encoder: str) -> tuple[list[str], np.ndarray, np.ndarray]:
  """(ids, text f32[N, D], image f32[N, D]) of an `embeddings` folder made by the encoder of that fingerprint."""
  manifest.read(folder, KIND, expect={"encoder": encoder}, rebuild="cm3leon data embed")
  rows = list(records.Reader(folder, KIND))
  stack = lambda field: np.stack([r[field] for r in rows]).astype(np.float32)
  return [r["id"] for r in rows], stack("text"), stack("image")
