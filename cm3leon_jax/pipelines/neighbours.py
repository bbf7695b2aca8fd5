"""embeddings + index → neighbours: for each document, what retrieval would put before it.

Queries are the text part alone and the image part alone, each with 20 % of its tokens
dropped on the training split (paper §2.1); the selector then applies the rules of DESIGN §4.
Training never calls an index: it reads these records.
"""

import dataclasses
import os
from pathlib import Path
from typing import Iterator

import numpy as np

from cm3leon_jax import manifest, records
from cm3leon_jax.datasets import reader
from cm3leon_jax.pipelines import embed, shards
from cm3leon_jax.retrieval import query, selection
from cm3leon_jax.retrieval.encoder import Encoder
from cm3leon_jax.retrieval.index import Index

KIND = "neighbours"


@dataclasses.dataclass
class NeighboursJob:
  """Finds the neighbours of one split in the index; see `shards.ShardJob`."""

  corpus: str
  split: str
  pixels: int
  count: int
  encoder_folder: str
  index_folder: str
  index_embeddings: str  # embeddings of the indexed documents, for the redundancy rule
  query_dropout: float
  candidates: int
  rules: selection.Rules
  seed: int

  def setup(self) -> None:
    self._encoder = Encoder.load(self.encoder_folder)
    self._index = Index.load(self.index_folder)
    ids, text, image = embed.load(self.index_embeddings, self._encoder.fingerprint)
    self._row = {id_: i for i, id_ in enumerate(ids)}
    self._vectors = self._encoder.document(text, image)

  def records(self, shard: int, num_shards: int) -> Iterator[records.Record]:
    begin, end = shards.bounds(self.count, shard, num_shards)
    pairs = list(reader.read(self.corpus, self.split, self.pixels, begin, end))
    if not pairs:
      return
    rows = range(begin, end)
    captions = [p["caption"] for p in pairs]
    images = np.stack([p["image"] for p in pairs])
    texts = [query.drop_text(self._encoder.text.encode(c), self.query_dropout, (self.seed, r)) for c, r in zip(captions, rows)]
    holed = np.stack([query.drop_patches(i, self.query_dropout, (self.seed, r)) for i, r in zip(images, rows)])
    found = {}
    for name, vectors in (("by_text", self._encoder.encode_text(texts)), ("by_image", self._encoder.encode_images(holed))):
      found[name] = self._index.search(vectors, self.candidates)
    for i, pair in enumerate(pairs):
      record = {"id": pair["id"]}
      row = self._row.get(pair["id"])  # None: a held-out drawing, whose picture a query may not know
      chosen = selection.select(pair["id"], *[self._candidates(*found[n], i) for n in ("by_text", "by_image")], self.rules,
                                query_vector=None if row is None else self._vectors[row])
      for name, picks in zip(("by_text", "by_image"), chosen):
        record[f"{name}_ids"] = [p.id for p in picks]
        record[f"{name}_scores"] = np.array([p.score for p in picks], np.float32)
      yield record

  def _candidates(self, ids, scores, i):
    return [selection.Candidate(id_, float(s), self._vectors[self._row[id_]]) for id_, s in zip(ids[i], scores[i])]


def neighbours(corpus: str | os.PathLike, split: str, folder: str | os.PathLike, *, pixels: int,
               encoder: str | os.PathLike, index: str | os.PathLike, index_embeddings: str | os.PathLike,
               query_dropout: float, candidates: int, rules: selection.Rules, seed: int, num_shards: int,
               beam_options=()) -> Path:
  """Writes the `neighbours` folder of one split.

  Args:
    query_dropout: share of a query's tokens that is dropped; 0 for held-out splits.
    candidates: how many the index is asked for, per query, before selection.
    rules: the selection rules.
    seed: of the dropout.
  """
  loaded = Encoder.load(encoder)
  manifest.read(index, "index", expect={"encoder": loaded.fingerprint}, rebuild="cm3leon data index")
  job = NeighboursJob(str(corpus), split, pixels, reader.count(corpus, split, pixels), str(encoder), str(index),
                      str(index_embeddings), query_dropout, candidates, rules, seed)
  return shards.run(job, folder, KIND, num_shards, {
      "encoder": loaded.fingerprint,
      "split": split,
      "query_dropout": query_dropout,
      "rules": dataclasses.asdict(rules),
  }, beam_options)
