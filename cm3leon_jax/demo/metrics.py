"""The demo's numbers on held-out drawings: K = 0, 1, 2 beside two yardsticks, all measured the same way."""

import dataclasses
import json
from pathlib import Path
import sys
from typing import Mapping, Sequence

import numpy as np

from cm3leon_jax.demo import pictures
from cm3leon_jax.demo.heldout import Artist, HeldOut
from cm3leon_jax.evaluation import bootstrap, captions, copying, likelihood, protocol, ptb, yardsticks
from cm3leon_jax.evaluation.networks import efficientnet_lite0
from cm3leon_jax.evaluation.report_data import Interval, MetricRow, write_metrics
from cm3leon_jax.pipelines.build import Pipelines

DRAWINGS = 256  # held-out drawings that are drawn and scored
CANDIDATES = 4  # per drawing; the best by CLIP is scored


def evaluate(workdir: Path, pipelines: Pipelines, quick: bool) -> None:
  """Writes D/evaluation/metrics.json (for the page) and comparisons.json (paired differences between K)."""
  held_out = HeldOut(workdir, pipelines)
  count = 16 if quick else DRAWINGS
  ids = held_out.ids[::max(1, len(held_out.ids) // count)][:count]
  artist = Artist(workdir / "pretrain")
  documents = [held_out.document(i) for i in ids]
  prompts = [d["caption"] for d in documents]
  reference = protocol.Reference(np.stack([held_out.drawing(i) for i in ids]), prompts, held_out.encoder,
                                 efficientnet_lite0.load())
  blank = copying.blank_codes(held_out.image)
  most = artist.layout.max_documents - 1
  retrieved = {k: [[d for d, _ in held_out.retrieved(i, k)] for i in ids] for k in range(most + 1)}
  codes_of = lambda docs: [artist.vocabulary.image_codes([d["image"] for d in found]) for found in docs]

  rows, sides, losses = [], {}, {}
  for k in range(most + 1):
    _say(f"{count} drawings with {k} documents")
    batches = likelihood.query_batches(documents, retrieved[k], artist.vocabulary, artist.layout)
    losses[k] = likelihood.score(artist.config, artist.params, artist.vocabulary, batches)
    picked = _best(held_out, artist, prompts, artist.draw(held_out, ids, k, CANDIDATES, pictures.SAMPLING))
    sides[k] = reference.evaluate(held_out.image.decode(picked))
    numbers = {**sides[k].intervals, **losses[k].intervals()}
    if k:
      numbers["copying_share"] = _copied(picked, codes_of(retrieved[k]), blank)
    rows.append(_row("model", k, numbers))

  truth = np.stack([artist.vocabulary.image_codes(d["image"]) for d in documents])
  _say("yardsticks and captions")
  said = pictures.describe(held_out, Artist(workdir / "sft"), ids)
  rows[-1] = dataclasses.replace(rows[-1], metrics={**rows[-1].metrics, **_cider(said, prompts)})
  ceiling = yardsticks.reconstructions(documents, held_out.image, artist.vocabulary)
  rows.append(_row("tokenizer", None, reference.evaluate(ceiling).intervals))
  copies = reference.evaluate(held_out.nearest(ids, artist.vocabulary)).intervals
  neighbour_captions = [held_out.caption_of_nearest(i) for i in ids]
  rows.append(MetricRow("nearest", None, {**_row("", None, copies).metrics, **_cider(neighbour_captions, prompts)}))
  rows.append(_row("real", None, {"copying_share": _copied(truth, codes_of(retrieved[most]), blank)}))

  differences = {f"k{k} minus k{k - 1}": {**_plain(reference.differences(sides[k], sides[k - 1])),
                                         **_plain(losses[k].differences(losses[k - 1]))} for k in range(1, most + 1)}
  (workdir / "evaluation").mkdir(exist_ok=True)
  (workdir / "evaluation" / "comparisons.json").write_text(json.dumps(differences, indent=2) + "\n")
  write_metrics(workdir, rows)


def _say(text: str) -> None:
  print(f"  {text}", file=sys.stderr, flush=True)


def _best(held_out: HeldOut, artist: Artist, prompts: Sequence[str], drawn: Sequence[np.ndarray]) -> np.ndarray:
  """The candidate with the highest CLIP score of each prompt: codes int32[N, I]."""
  codes = artist.vocabulary.image_codes(np.stack(drawn))  # [N, candidates, I]
  images = held_out.encoder.encode_images(held_out.image.decode(codes.reshape(-1, codes.shape[-1])))
  texts = held_out.encoder.encode_text(prompts)
  scores = np.einsum("ncd,nd->nc", images.reshape(*codes.shape[:2], -1), texts)
  return codes[np.arange(len(codes)), scores.argmax(1)]


def _copied(codes: np.ndarray, retrieved: Sequence[np.ndarray], blank: np.ndarray) -> bootstrap.Interval:
  shares = copying.copied_shares(codes, retrieved, blank)
  return bootstrap.mean_interval(np.nan_to_num(shares) > copying.COPIED)  # without documents nothing is copied


def _cider(said: Sequence[str], truths: Sequence[str]) -> dict[str, Interval]:
  """CIDEr-D over these drawings, one reference each."""
  scores = captions.cider(captions.corpus([ptb.tokenize(c) for c in said], [[ptb.tokenize(c)] for c in truths]))
  interval = bootstrap.mean_interval(scores)
  return {"cider": Interval(interval.value, interval.low, interval.high)}


def _plain(intervals: Mapping[str, bootstrap.Interval]) -> dict:
  return {name: interval._asdict() for name, interval in intervals.items()}


def _row(name: str, k: int | None, numbers: Mapping[str, bootstrap.Interval]) -> MetricRow:
  names = {efficientnet_lite0.KEY: "fd"}  # the page's name of the distance
  return MetricRow(name, k, {names.get(key, key): Interval(i.value, i.low, i.high) for key, i in numbers.items()})
