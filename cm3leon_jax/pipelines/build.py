"""All offline jobs of a corpus in order: corpus → documents → embeddings → index → neighbours → windows.

    D/corpus  D/documents/<split>  D/embeddings/<split>  D/index  D/neighbours/<split>  D/windows/<name>

A folder that is whole is not made again.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, Callable, Sequence

from cm3leon_jax import assets, manifest
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.retrieval.selection import Rules
from cm3leon_jax.vocabulary import Vocabulary

STAGES = ("corpus", "tokenize", "embed", "index", "neighbours", "windows")
TRAIN = "train"
HELD_OUT = ("heldout_drawings", "heldout_things")


@dataclasses.dataclass(frozen=True)
class Pipelines:
  """What the offline jobs need to know; bound in `configs/mixtures/`.

  Attributes:
    vocabulary: the one id space.
    layout: geometry of a sample.
    pixels: side of the pictures.
    source: the corpus to read, `@Corpus()`; None is the demo's.
    text_tokenizer: folder, absolute, shipped (`tokenizers/…`) or below the work folder.
    image_tokenizer: the same.
    encoder: the same; the CLIP that embeds documents and queries.
    num_shards: files per folder of the training split; held-out splits get one.
    query_dropout: share of a query's tokens dropped on the training split (paper §2.1: 0.2).
    candidates: neighbours asked of the index per query, before selection.
    rules: selection rules.
    framings: other framings of each training drawing, encoded as well; a sample uses one of them or the original.
    window_length: tokens a training batch row has after masking.
    packing: of training samples into windows: `whole`, or `straddle`, which cuts them where a window ends (the paper's).
    mask_reserve: ids kept free in a window for sentinels (3 a span).
    epochs: passes over the corpus written as windows, each with new draws of K and of order.
    held_out_samples: samples per held-out set that training evaluates on.
    document_counts: probabilities of K = 0, 1, 2, … retrieved documents in training.
    text_only: chance that a training sample's documents are those of the text query alone, as at test time.
    seed: of all draws.
  """

  vocabulary: Vocabulary
  layout: Layout
  pixels: int = 256
  source: Any = None  # pipelines.corpus.Corpus, which brings Beam
  text_tokenizer: str = "tokenizers/text"
  image_tokenizer: str = "tokenizers/image"
  encoder: str = "clip"
  num_shards: int = 8
  query_dropout: float = 0.2
  candidates: int = 32
  rules: Rules = Rules()
  framings: int = 0
  window_length: int = 4096
  packing: str = "whole"
  mask_reserve: int = 12
  epochs: int = 1
  held_out_samples: int = 512
  document_counts: Sequence[float] = (0.0, 0.0, 0.0, 1.0)
  text_only: float = 0.0
  seed: int = 0

  def run(self, stage: str, workdir: str | os.PathLike, beam_options: Sequence[str] = ()) -> None:
    """Runs one stage, or with `build` all that are not there yet."""
    if stage not in (*STAGES, "build"):
      raise InputError(f"{stage}: no such stage; known: {', '.join((*STAGES, 'build'))}")
    for name in STAGES if stage == "build" else (stage,):
      getattr(self, name)(Path(workdir), beam_options)

  def folder(self, name: str, workdir: Path) -> Path:
    """An asset: shipped, in the work folder, or absolute."""
    inside = workdir / name  # an absolute name stays itself
    return inside if manifest.exists(inside) or not name.startswith("tokenizers/") else assets.path(name)

  def corpus(self, workdir: Path, beam_options: Sequence[str] = ()) -> None:
    from cm3leon_jax.datasets import reader

    folder = workdir / "corpus"
    if self.source is not None:
      from cm3leon_jax.pipelines import corpus

      corpus.make(folder, self.source, self.pixels, beam_options)
      return
    if manifest.exists(folder):
      return
    about = reader.build(folder, self.pixels)  # TFDS's own layout; the manifest says that it is whole
    manifest.write_file(folder, "corpus", {**about, "pixels": self.pixels, "styles": sorted(about["drawings"][TRAIN])})

  def tokenize(self, workdir: Path, beam_options: Sequence[str] = ()) -> None:
    from cm3leon_jax.pipelines import tokenize

    self._each_split(workdir, "documents", lambda split, folder, num_shards: tokenize.tokenize(
        workdir / "corpus", split, folder, pixels=self.pixels, vocabulary=self.vocabulary,
        text_tokenizer=self.folder(self.text_tokenizer, workdir), image_tokenizer=self.folder(self.image_tokenizer, workdir),
        num_shards=num_shards, framings=self.framings if split == TRAIN else 0, beam_options=beam_options))

  def embed(self, workdir: Path, beam_options: Sequence[str] = ()) -> None:
    from cm3leon_jax.pipelines import embed

    self._each_split(workdir, "embeddings", lambda split, folder, num_shards: embed.embed(
        workdir / "corpus", split, folder, pixels=self.pixels, encoder=self.folder(self.encoder, workdir),
        num_shards=num_shards, beam_options=beam_options))

  def index(self, workdir: Path, beam_options: Sequence[str] = ()) -> None:
    import numpy as np

    from cm3leon_jax.pipelines import embed
    from cm3leon_jax.retrieval.encoder import Encoder
    from cm3leon_jax.retrieval.index import Index

    if manifest.exists(workdir / "index"):
      return
    encoder = Encoder.load(self.folder(self.encoder, workdir))
    ids, text, image = embed.load(workdir / "embeddings" / TRAIN, encoder.fingerprint)
    queries = np.concatenate([text, image])  # what it will be asked: one part of a document alone
    Index.build(workdir / "index", encoder.document(text, image), ids, encoder.fingerprint,
                rules=dataclasses.asdict(self.rules), queries=queries)

  def neighbours(self, workdir: Path, beam_options: Sequence[str] = ()) -> None:
    from cm3leon_jax.pipelines import neighbours

    self._each_split(workdir, "neighbours", lambda split, folder, num_shards: neighbours.neighbours(
        workdir / "corpus", split, folder, pixels=self.pixels, encoder=self.folder(self.encoder, workdir),
        index=workdir / "index", index_embeddings=workdir / "embeddings" / TRAIN,
        query_dropout=self.query_dropout if split == TRAIN else 0.0, candidates=self.candidates, rules=self.rules,
        seed=self.seed, num_shards=num_shards, beam_options=beam_options))

  def windows(self, workdir: Path, beam_options: Sequence[str] = ()) -> None:
    from cm3leon_jax.pipelines import windows

    if not manifest.exists(workdir / "windows"):
      windows.windows(workdir, text_tokenizer=self.folder(self.text_tokenizer, workdir), vocabulary=self.vocabulary,
                      layout=self.layout, length=self.window_length, packing=self.packing,
                      reserve=self.mask_reserve, epochs=self.epochs,
                      document_counts=self.document_counts, text_only=self.text_only,
                      held_out_samples=self.held_out_samples, seed=self.seed)

  def _each_split(self, workdir: Path, name: str, make: Callable[[str, Path, int], Path]) -> None:
    from cm3leon_jax.datasets import reader

    folder = workdir / name
    for split in reader.splits_of(workdir / "corpus"):
      if not manifest.exists(folder / split):
        make(split, folder / split, self.num_shards if split == TRAIN else 1)
