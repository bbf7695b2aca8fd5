"""Retrieval-augmented pretraining on the emoji corpus or any other of pairs, and its evaluation with fixed K.

| name | splits | a sample |
|---|---|---|
| `emoji_retrieval` | train | K drawn from `k_probabilities`; neighbours in random choice and order, see `text_only` |
| `emoji_retrieval_pretrain` | train | the mixture to train on: that task |
| `emoji_retrieval_k0`, `_k1`, … | the demo's two, or `heldout` | the K best by text; loss on the query pair |
"""

import functools
import os
from pathlib import Path
from typing import Mapping, Sequence
import zlib

import numpy as np

from cm3leon_jax import manifest as manifests
from cm3leon_jax import records
from cm3leon_jax.errors import InputError
from cm3leon_jax.datasets import pairs
from cm3leon_jax.layout import Layout
from cm3leon_jax.retrieval.store import DocumentStore
from cm3leon_jax.tasks import documents
from cm3leon_jax.tasks import seqio_adapter
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.vocabulary import Vocabulary

TASK = "emoji_retrieval"
MIXTURE = "emoji_retrieval_pretrain"
HELD_OUT = ("heldout_drawings", "heldout_things")  # of the demo; another corpus has `pairs.HELD_OUT`
TONED_SHARE = 0.2  # of the training drawings with a skin tone
IN_MEMORY = 100_000  # records of a split; reading one from disk costs more than all the rest of a sample


class RetrievedDocuments:
  """The documents and neighbours of a workdir, joined: row i of a split is its i-th neighbours record.

  A drawing in five skin tones is five near duplicates, so of the toned ones a fifth is drawn in training, and none
  in the held-out splits. Folders are opened when first asked for. Neighbours of every split are documents of the
  train split.
  """

  def __init__(self, workdir: str | os.PathLike, vocabulary: Vocabulary):
    self._workdir = Path(workdir)
    self._vocabulary = vocabulary
    self._neighbours = functools.cache(self._open_neighbours)
    self._documents = functools.cache(self._open_documents)

  def _open_documents(self, split: str) -> Mapping[str, dict]:
    folder = self._workdir / "documents" / split
    about = manifests.read(folder, "documents", expect={"vocabulary": self._vocabulary.fingerprint()},
                           rebuild="cm3leon data tokenize")
    if about["count"] > IN_MEMORY:
      return DocumentStore(folder)
    return {d["id"]: d for d in records.Reader(folder, "documents")}

  def _open_neighbours(self, split: str) -> Sequence[dict]:
    folder = self._workdir / "neighbours" / split
    manifests.read(folder, "neighbours", rebuild="cm3leon data neighbours")
    documents = self._documents(split)
    share = TONED_SHARE if split == "train" else 0.0
    return [n for n in records.Reader(folder, "neighbours")
            if not documents[n["id"]].get("skin_tone") or zlib.crc32(n["id"].encode()) < share * 2**32]

  def size(self, split: str) -> int:
    return len(self._neighbours(split))

  def row(self, split: str, row: int) -> tuple[dict, dict]:
    """(query document, its neighbours record)."""
    neighbours = self._neighbours(split)[row]
    return self._documents(split)[neighbours["id"]], neighbours

  def retrieved(self, ids: Sequence[str]) -> list[dict]:
    """Documents of the train split."""
    return [self._documents("train")[i] for i in ids]


def register_emoji(
    workdir: str | os.PathLike, vocabulary: Vocabulary, layout: Layout, *,
    k_probabilities: Sequence[float] = (0.25, 0.25, 0.5), text_only: float = 0.0,
    text_tokenizer: TextTokenizer | None = None) -> None:
  """Registers the tasks and the mixture above over a workdir's `documents` and `neighbours`.

  Args:
    workdir: D, the folder with `documents/<split>` and `neighbours/<split>`.
    vocabulary: the id space.
    layout: the geometry of samples.
    k_probabilities: chance of 0, 1, 2, … retrieved documents in training.
    text_only: see `documents.choose_randomly`.
    text_tokenizer: to print text; training does not need it.

  Raises:
    InputError: more retrieved documents than the layout has slots for, or no valid probabilities.
  """
  if len(k_probabilities) > layout.max_documents:
    raise InputError(f"k_probabilities={tuple(k_probabilities)} asks for up to {len(k_probabilities) - 1} retrieved "
                     f"documents, but Layout.max_documents={layout.max_documents} has room for "
                     f"{layout.max_documents - 1}")
  if min(k_probabilities, default=0) < 0 or not sum(k_probabilities) > 0:
    raise InputError(f"k_probabilities={tuple(k_probabilities)}: at least one must be positive, none negative")
  data = RetrievedDocuments(workdir, vocabulary)
  builder = documents.SampleBuilder(vocabulary, layout)
  face = seqio_adapter.VocabularyFace(vocabulary, text_tokenizer)

  def training(split: str, row: int, rng: np.random.Generator):
    query, near = data.row(split, row)
    k = documents.number_of_documents(k_probabilities, rng)
    ids = documents.choose_randomly(near["by_text_ids"], near["by_image_ids"], k, rng, text_only)
    return builder.retrieval_sample(*documents.same_framing(query, data.retrieved(ids), rng))

  def evaluation(k: int, split: str, row: int, rng: np.random.Generator):
    del rng
    query, near = data.row(split, row)
    ids = documents.choose_top(near["by_text_ids"], k)
    return builder.retrieval_sample(query, data.retrieved(ids), query_loss_only=True)

  seqio_adapter.register_task(TASK, face, training, splits=("train",), size=data.size, counts=builder.counts)
  seqio_adapter.register_mixture(MIXTURE, {TASK: 1.0})
  held_out = (pairs.HELD_OUT,) if pairs.exists(Path(workdir) / "corpus") else HELD_OUT
  for k in range(layout.max_documents):
    seqio_adapter.register_task(f"{TASK}_k{k}", face, functools.partial(evaluation, k), splits=held_out,
                                size=data.size, counts=builder.counts)
