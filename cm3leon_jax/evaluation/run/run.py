"""`cm3leon eval run`: a protocol on a checkpoint, from its items to result.json and the page."""

import contextlib
import dataclasses
import functools
import hashlib
import os
from pathlib import Path
import shlex
import sys
import time
from typing import Callable, Iterator, Mapping

import jax

from cm3leon_jax import api, assets, generate, manifest
from cm3leon_jax.datasets import items as items_lib
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import contamination, fid, files
from cm3leon_jax.evaluation.run import generate as generation
from cm3leon_jax.evaluation.run import page, pairs, protocol as protocols, score, wording
from cm3leon_jax.evaluation.run.protocol import Protocol
from cm3leon_jax.retrieval.encoder import Encoder

RESULT = "result.json"
FAILED = ".failed"  # ending of the file that says why a process stopped
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
    InputError: W holds another evaluation; pictures, index or weights are missing; items failed, or another process.
  """
  if not 0 <= process < processes:
    raise InputError(f"--process_id={process} must lie in 0..{processes - 1} (--num_processes={processes})")
  workdir = Path(workdir)
  files.check_writable(workdir / RESULT)
  with _telling(workdir, process, processes):
    return _run(protocol, checkpoint, workdir, operative, index, process, processes, allow_missing)


@contextlib.contextmanager
def _telling(workdir: Path, process: int, processes: int) -> Iterator[None]:
  """Leaves a file where one of several processes fails, so that process 0 does not wait for it; the next run takes it away."""
  path = generation.part(workdir, process, processes).with_suffix(FAILED)
  path.unlink(missing_ok=True)
  try:
    yield
  except Exception as error:
    if processes > 1:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(f"{error}\n" if isinstance(error, InputError) else f"{type(error).__name__}: {error}\n", "utf-8")
    raise


def _run(protocol: Protocol, checkpoint: str, workdir: Path, operative: Callable[[], str], index: str, process: int,
         processes: int, allow_missing: bool) -> dict:
  items_lib.check_pictures(protocol.items)
  network = fid.network(protocol.network) if protocol.metric == "fid" else None
  checkpoint = str(assets.find(checkpoint))
  generation.begin(workdir, process, processes, len(protocol.items))
  model = api.load(checkpoint, index=index or None, devices=jax.local_devices())
  room = model.layout.max_documents - 1
  if protocol.docs > room:
    raise InputError(f"Protocol.docs={protocol.docs}: this model reads at most {room} documents before a prompt")
  excluded = _exclusions(workdir, protocol, model.retriever) if protocol.exclude and protocol.docs else None
  if excluded:
    model.retriever.exclude = excluded.ids
  encoder = Encoder.load(protocol.clip) if protocol.clip else model.encoder if protocol.metric == "fid" else None
  about = {"checkpoint": os.path.basename(os.path.abspath(checkpoint)), "model": generate.model_hash(checkpoint, model.meta)}
  description = describe(protocol, model, about, network, encoder, excluded)
  protocols.fix(workdir, description)
  if not process:
    command = {"gin_file": workdir.absolute() / "operative.gin", "checkpoint": os.path.abspath(checkpoint),
               **({"index": model.retriever.folder.absolute()} if protocol.docs else {}), "workdir": "ANOTHER_FOLDER"}
    command = shlex.join(f"--{name}={value}" for name, value in command.items())
    (workdir / "operative.gin").write_text(f"# Run: cm3leon eval run {command}\n{operative()}", encoding="utf-8")
  generation.run(workdir, protocol, model, about, process, processes)
  if process:
    return {}
  rows = _wait(workdir, len(protocol.items), processes)
  good, counts = score.complete(rows, protocol.items, allow_missing)
  numbers, per_item, notes = {}, {}, list(protocol.items.warnings)
  cut = sum(row["cut"] for row in good)
  if cut:
    notes.append(f"{files.count(cut, 'text')} cut to the model's {model.layout.text_tokens} text tokens")
  score.write_predictions(workdir, protocol.metric, protocol.items, good)
  if protocol.metric not in protocols.PAIRS and not any(row["references"] for row in good):
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
      "perplexity": pairs.score,
      "captions": functools.partial(score.texts, tokenizer=protocol.tokenizer),
      "vqa": functools.partial(score.answers, items=protocol.items), "scienceqa": score.science,
      "visdial": functools.partial(score.dialogues, items=protocol.items)}


def describe(protocol: Protocol, model: api.Model, about: Mapping, network, encoder, excluded) -> dict:
  """What protocol.json holds: all that fixes the numbers."""
  step = model.meta.get("step")
  size = model.image.image_size
  how = {"crop": f"middle square, bicubic with antialias to {size} px", "stretch": f"bicubic with antialias to {size} px"}
  index = {"hash": _index_hash(model.retriever), "count": len(model.retriever.index)} if protocol.docs else None
  sampling = dataclasses.asdict(protocol.sampling)
  return {
      "format": protocols.FORMAT, "name": protocol.name, "task": protocol.task,
      "metric": protocol.metric,
      "items": protocol.items.about(),
      "reference": {"preprocessing": how[protocol.reference]} if protocol.metric in protocols.PAIRS else None,
      "sampling": {"docs": protocol.docs, "candidates": protocol.candidates, "seed": protocol.seed,
                   "pick": "clip" if protocol.metric == "fid" else "log-probability", **sampling},
      "query": protocol.query or api.CAPTION_QUERY if protocol.metric == "captions" else wording.TEMPLATES.get(protocol.metric),
      "exclude": protocol.exclude if protocol.docs else None,
      "rank_by": protocol.rank_by if protocol.metric == "visdial" else None,
      "tokenizer": protocol.tokenizer if protocol.metric == "captions" else None,
      "model": {"checkpoint": about["checkpoint"], "hash": about["model"], "step": None if step is None else int(step)},
      "index": index,
      "excluded": {"by_id": excluded.by_id, "by_hash": excluded.by_hash} if excluded else None,
      "network": {"name": network.name, "key": network.key, "weights_hash": network.weights_hash,
                  "published": network.published, "preprocessing": network.preprocessing} if network else None,
      "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint} if encoder else None}


def _index_hash(retriever: api.Retriever) -> str:
  return manifest.hash_file(retriever.folder / manifest.FILE_NAME)


def _exclusions(workdir: Path, protocol: Protocol, retriever: api.Retriever) -> contamination.Exclusions:
  """What retrieval leaves out. The first process to know writes it to W, and all keep to that: looking takes as long as
  reading all documents, and pictures that are nearly alike may be told apart differently on another device."""
  made_of = hashlib.sha256(f"{items_lib.digest(protocol.items)} {_index_hash(retriever)}".encode()).hexdigest()[:16]
  path = workdir / f"excluded_{made_of}.json"
  if not path.is_file():
    found = contamination.exclusions(protocol.items, retriever)
    files.write_json_once(path, dataclasses.asdict(found) | {"ids": sorted(found.ids)})
  there = files.read_json(path)
  return contamination.Exclusions(frozenset(there["ids"]), there["by_id"], there["by_hash"])


def _wait(workdir: Path, count: int, processes: int) -> dict[int, dict]:
  """Lines of all processes, once each has a line for its every item.

  Raises:
    InputError: another process failed.
  """
  said, progress = 0.0, generation.Progress(workdir)
  while processes > 1:
    progress.look()
    missing = [n for n in range(count) if n not in progress.good and n not in progress.failed]
    if not missing:
      break
    late = sorted({n % processes for n in missing})
    for process in late:
      with contextlib.suppress(FileNotFoundError):  # nothing failed
        told = generation.part(workdir, process, processes).with_suffix(FAILED).read_text("utf-8").strip()
        raise InputError(f"process {process} of {processes} failed: {told}; start it and process 0 again, what is there is "
                         "not made twice")
    if time.monotonic() - said > 60:
      print(f"waiting for {len(missing)} of {count} items, of the processes {files.sample(late)}", file=sys.stderr)
      said = time.monotonic()
    time.sleep(_POLL_SECONDS)
  return generation.read(workdir)
