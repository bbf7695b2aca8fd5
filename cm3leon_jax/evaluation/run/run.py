"""`cm3leon eval run`: a protocol on a checkpoint, from its items to result.json and the page."""

import dataclasses
import functools
import os
from pathlib import Path
import sys
import time
from typing import Callable, Mapping

import jax

from cm3leon_jax import api, assets, generate, manifest
from cm3leon_jax.datasets import items as items_lib
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import contamination, fid, files
from cm3leon_jax.evaluation.run import generate as generation
from cm3leon_jax.evaluation.run import page, protocol as protocols, score
from cm3leon_jax.evaluation.run.protocol import Protocol
from cm3leon_jax.retrieval.encoder import Encoder

RESULT = "result.json"
_POLL_SECONDS = 5


def run(protocol: Protocol, checkpoint: str, workdir: str | os.PathLike, *, operative: Callable[[], str], index: str = "",
        process: int = 0, processes: int = 1, allow_missing: bool = False) -> dict:
  """Generates what is missing, then scores it and writes the page. Safe to kill; run again to go on.

  Args:
    protocol: what to evaluate.
    checkpoint: run folder or released checkpoint.
    workdir: W, of this protocol and model alone.
    operative: gives the configuration that was used, for W/operative.gin.
    index: folder of the retrieval index; by default the checkpoint's own.
    process, processes: this one generates items n with n mod processes == process; process 0 waits for the others'
      and scores. They share nothing but W.
    allow_missing: score without the items that failed, and write the share into the result.

  Returns:
    The flat numbers of result.json; empty for processes that do not score.

  Raises:
    InputError: W holds another evaluation; pictures, index or weights are missing; items failed.
  """
  if not 0 <= process < processes:
    raise InputError(f"--process_id={process} must lie in 0..{processes - 1} (--num_processes={processes})")
  items_lib.check_pictures(protocol.items)
  workdir = Path(workdir)
  network = fid.network(protocol.network) if protocol.metric == "fid" else None
  checkpoint = str(assets.find(checkpoint))
  model = api.load(checkpoint, index=index or None, devices=jax.local_devices())
  excluded = contamination.exclusions(protocol.items, model.retriever) if protocol.exclude and protocol.docs else None
  if excluded:
    model.retriever.exclude = excluded.ids
  encoder = Encoder.load(protocol.clip) if protocol.clip else model.encoder if protocol.metric == "fid" else None
  about = {"checkpoint": os.path.basename(os.path.abspath(checkpoint)), "model": generate.model_hash(checkpoint, model.meta)}
  description = describe(protocol, model, about, network, encoder, excluded)
  protocols.fix(workdir, description)
  (workdir / "operative.gin").write_text(operative(), encoding="utf-8")
  generation.run(workdir, protocol, model, about, process, processes)
  if process:
    return {}
  rows = _wait(workdir, len(protocol.items), processes)
  good, counts = score.complete(rows, protocol.items, allow_missing)
  numbers, per_item, notes = {}, {}, list(protocol.items.warnings)
  cut = sum(row["cut"] for row in good)
  if cut:
    notes.append(f"{cut} questions were cut to the model's {model.layout.text_tokens} text tokens")
  score.write_predictions(workdir, protocol.metric, protocol.items, good)
  if protocol.metric != "fid" and not any(row["references"] for row in good):
    notes.append(f"these items have no answers: hand in {workdir / score.PREDICTIONS} where the set's makers score it")
  else:
    numbers, per_item = _scorers(workdir, protocol, network, encoder)[protocol.metric](rows=good)
  score.write_per_item(workdir, good, per_item)
  notes += [numbers.pop("note")] if "note" in numbers else []
  result = {**numbers, **counts, **({"note": "; ".join(notes)} if notes else {})}
  files.write_json(workdir / RESULT, {**result, "protocol": description})
  result = {key: value for key, value in result.items() if not isinstance(value, list)}  # without the half samples
  print(f"{page.write(workdir)}", file=sys.stderr)
  return result


def _scorers(workdir: Path, protocol: Protocol, network, encoder) -> dict:
  return {
      "fid": functools.partial(score.pictures, workdir, network=network, encoder=encoder),
      "captions": functools.partial(score.texts, tokenizer=protocol.tokenizer),
      "vqa": functools.partial(score.answers, items=protocol.items), "scienceqa": score.science,
      "visdial": functools.partial(score.dialogues, items=protocol.items)}


def describe(protocol: Protocol, model: api.Model, about: Mapping, network, encoder, excluded) -> dict:
  """What protocol.json holds: all that fixes the numbers."""
  step = model.meta.get("step")
  size = model.image.image_size
  how = {"crop": f"middle square, bicubic with antialias to {size} px", "stretch": f"bicubic with antialias to {size} px"}
  index = None
  if protocol.docs:
    found = model.retriever
    index = {"hash": manifest.hash_file(found.folder / manifest.FILE_NAME), "count": len(found.index)}
  sampling = dataclasses.asdict(protocol.sampling)
  return {
      "format": protocols.FORMAT, "name": protocol.name, "task": protocol.task,
      "metric": protocol.metric,
      "items": protocol.items.about(),
      "reference": {"preprocessing": how[protocol.reference]} if protocol.metric == "fid" else None,
      "sampling": {"docs": protocol.docs, "candidates": protocol.candidates, "seed": protocol.seed,
                   "pick": "clip" if protocol.metric == "fid" else "log-probability", **sampling},
      "query": protocol.query or api.CAPTION_QUERY if protocol.metric == "captions" else None,
      "rank_by": protocol.rank_by if protocol.metric == "visdial" else None,
      "tokenizer": protocol.tokenizer if protocol.metric == "captions" else None,
      "model": {"checkpoint": about["checkpoint"], "hash": about["model"], "step": None if step is None else int(step)},
      "index": index,
      "excluded": {"by_id": excluded.by_id, "by_hash": excluded.by_hash} if excluded else None,
      "network": {"name": network.name, "key": network.key, "weights_hash": network.weights_hash,
                  "published": network.published, "preprocessing": network.preprocessing} if network else None,
      "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint} if encoder else None}


def _wait(workdir: Path, count: int, processes: int) -> dict[int, dict]:
  """Lines of all processes, once each has a line for its every item."""
  said = 0.0
  while True:
    rows = generation.read(workdir)
    if len(rows) == count or processes == 1:
      return rows
    if time.monotonic() - said > 60:
      print(f"waiting for the other processes: {len(rows)} of {count} items are there", file=sys.stderr)
      said = time.monotonic()
    time.sleep(_POLL_SECONDS)
