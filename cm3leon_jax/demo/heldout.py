"""A finished run opened for looking at it: model, tokenizers, held-out drawings and what was retrieved for them."""

import dataclasses
from pathlib import Path
from typing import Sequence

import numpy as np

from cm3leon_jax import records
from cm3leon_jax.datasets import reader
from cm3leon_jax.decoding import prompts
from cm3leon_jax.decoding.engine import Engine, Request
from cm3leon_jax.decoding.prompts import Pair
from cm3leon_jax.decoding.rules import Sampling
from cm3leon_jax.evaluation import yardsticks
from cm3leon_jax.pipelines.build import Pipelines
from cm3leon_jax.retrieval.encoder import Encoder
from cm3leon_jax.retrieval.store import DocumentStore
from cm3leon_jax.tokenizers.image import ImageTokenizer
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.training import checkpoints

SPLIT = "heldout_drawings"


class HeldOut:
  """Held-out drawings of a demo workdir, the K best documents for each, and the frozen encoders.

  Attributes:
    text, image, encoder: the tokenizers and CLIP.
    ids: all held-out drawings without a skin tone, in the order of their documents.
  """

  def __init__(self, workdir: Path, pipelines: Pipelines):
    folder = lambda name: pipelines.folder(name, workdir)
    self.text = TextTokenizer.load(folder(pipelines.text_tokenizer))
    self.image = ImageTokenizer.load(folder(pipelines.image_tokenizer))
    self.encoder = Encoder.load(folder(pipelines.encoder))
    self._train = DocumentStore(workdir / "documents" / "train")
    self._held_out = DocumentStore(workdir / "documents" / SPLIT)
    self._neighbours = {n["id"]: n for n in records.Reader(workdir / "neighbours" / SPLIT, "neighbours")}
    # A drawing in five skin tones would count five times.
    self.ids = [i for i in self._neighbours if not self._held_out[i]["skin_tone"]]
    self._pixels = {p["id"]: p["image"] for p in reader.read(workdir / "corpus", SPLIT, pipelines.pixels)}

  def document(self, id_: str) -> dict:
    return self._held_out[id_]

  def drawing(self, id_: str) -> np.ndarray:
    """uint8[H, W, 3], as the artist drew it."""
    return self._pixels[id_]

  def retrieved(self, id_: str, k: int) -> list[tuple[dict, float]]:
    """The K best training documents by the caption, with their scores."""
    found = self._neighbours[id_]
    return [(self._train[i], float(s)) for i, s in zip(found["by_text_ids"][:k], found["by_text_scores"][:k])]

  def caption_of_nearest(self, id_: str) -> str:
    """The caption of the training document that the drawing itself retrieves: copying's answer to "describe it"."""
    found = self._neighbours[id_]["by_image_ids"]
    return self._train[found[0]]["caption"] if found else ""

  def nearest(self, ids: Sequence[str], vocabulary) -> np.ndarray:
    """The best training document of each, as a picture: what copying alone would draw."""
    return yardsticks.nearest([self._neighbours[i] for i in ids], self._train, self.image, vocabulary)

  def pictures(self, vocabulary, ids: Sequence[np.ndarray]) -> np.ndarray:
    """Image ids [N, I] → uint8[N, H, W, 3]."""
    return self.image.decode(vocabulary.image_codes(np.stack(ids)))


@dataclasses.dataclass
class Artist:
  """A trained model that draws, fills in, edits and describes."""

  folder: Path

  def __post_init__(self):
    self.config, self.vocabulary, self.layout, self.params, _ = checkpoints.load_for_inference(self.folder)
    self._engine = Engine(self.config, self.params)

  def draw(self, held_out: HeldOut, ids: Sequence[str], k: int, candidates: int, sampling: Sampling,
           seed: int = 0) -> list[np.ndarray]:
    """Text → image after K documents: for each id, image ids [candidates, I]."""
    requests = []
    for number, id_ in enumerate(ids):
      docs = [Pair(d["text"], d["image"]) for d, _ in held_out.retrieved(id_, k)]
      text = held_out.document(id_)["text"][:self.layout.text_tokens]
      requests.append(Request((prompts.text_to_image(self.vocabulary, self.layout, text, docs),
                               prompts.unconditional(self.vocabulary, self.layout)), sampling, seed + number, candidates))
    return self._images(requests)

  def fill(self, held_out: HeldOut, ids: Sequence[str], cells: np.ndarray, k: int, candidates: int, sampling: Sampling,
           seed: int = 0) -> list[np.ndarray]:
    """The masked cells of each drawing, bool[I], drawn again: image ids [candidates, I]."""
    requests, sources = [], []
    for number, id_ in enumerate(ids):
      document = held_out.document(id_)
      docs = [Pair(d["text"], d["image"]) for d, _ in held_out.retrieved(id_, k)]
      text = document["text"][:self.layout.text_tokens]
      streams = tuple(prompts.infill_image(self.vocabulary, self.layout, t, document["image"], cells, docs)
                      for t in (text, None))
      requests.append(Request(streams, sampling, seed + number, candidates))
      sources.append(document["image"])
    return self._images(requests, sources)

  def edit(self, query: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]], candidates: int, sampling: Sampling,
           seed: int = 0) -> list[np.ndarray]:
    """(image ids, instruction ids) → image ids [candidates, I] of the edited pictures, two-way guidance."""
    requests = []
    for number, (image, instruction) in enumerate(pairs):
      streams = (prompts.edit(self.vocabulary, self.layout, query, image, instruction),
                 prompts.edit_without_instruction(self.vocabulary, self.layout, query, image),
                 prompts.unconditional(self.vocabulary, self.layout))
      requests.append(Request(streams, sampling, seed + number, candidates))
    return self._images(requests)

  def describe(self, query: np.ndarray, images: Sequence[np.ndarray], sampling: Sampling, seed: int = 0) -> list[np.ndarray]:
    """Image ids → caption ids, by infill of what follows the query."""
    requests = [Request((prompts.image_to_text(self.vocabulary, self.layout, image, before=query),), sampling, seed + n)
                for n, image in enumerate(images)]
    outputs = self._engine.generate(requests)
    return [prompts.text_of(r.streams[0], o.tokens[0]) for r, o in zip(requests, outputs)]

  def _images(self, requests, sources=None) -> list[np.ndarray]:
    outputs = self._engine.generate(requests)
    sources = sources or [None] * len(requests)
    return [np.stack([prompts.image_of(r.streams[0], tokens, source) for tokens in o.tokens])
            for r, o, source in zip(requests, outputs, sources)]
