"""The items of a protocol through a model: pictures and `generations/*.jsonl`, one line an item as it finishes.

Item number n of the protocol belongs to process n mod N and is drawn with seed + n, so the same
pictures come from any number of processes, and what is in the files needs no second time. Items that
failed are tried again by the next run: their line holds an error until another one holds what was drawn.
"""

import json
from pathlib import Path
import sys
from typing import Iterator, Mapping

import numpy as np
from PIL import Image
from tqdm import tqdm

from cm3leon_jax import api, generate
from cm3leon_jax.datasets.items import Item
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import images
from cm3leon_jax.evaluation.run import pairs, wording
from cm3leon_jax.evaluation.run.protocol import PAIRS, Protocol

GENERATIONS = "generations"
PICTURES = "pictures"
AGAIN = "again"  # field of a line that says: this item failed before, and is being tried again
_BATCH = 128  # items laid out at a time
_IMPOSSIBLE = -1e9  # JSON has no infinity


def part(workdir: Path, process: int, processes: int) -> Path:
  return workdir / GENERATIONS / f"{process:05d}-of-{processes:05d}.jsonl"


def read(workdir: Path) -> dict[int, dict]:
  """Item number → its line, of all processes: one without an error before one with, then the latest."""
  rows: dict[int, dict] = {}
  for path in sorted((workdir / GENERATIONS).glob("*.jsonl")):
    for row, _ in _lines(path):
      if AGAIN not in row and ("error" not in row or "error" in rows.get(row["number"], row)):
        rows[row["number"]] = row
  return rows


class Progress:
  """Numbers of the items that have a line, of all processes; each look reads on from where the last one ended.

  Attributes:
    good: items with a line without an error.
    failed: items with a line with one, and no other; not those that are being tried again.
  """

  def __init__(self, workdir: Path):
    self._folder = workdir / GENERATIONS
    self._ends: dict[Path, int] = {}
    self.good: set[int] = set()
    self.failed: set[int] = set()

  def look(self) -> None:
    for path in sorted(self._folder.glob("*.jsonl")):
      for row, end in _lines(path, self._ends.get(path, 0)):
        if AGAIN in row:
          self.failed.discard(row["number"])
        else:
          (self.failed if "error" in row else self.good).add(row["number"])
        self._ends[path] = end
    self.failed -= self.good


def _lines(path: Path, start: int = 0) -> Iterator[tuple[dict, int]]:
  """(line, where it ends) from byte `start` on. A line cut short by a kill does not count."""
  with open(path, "rb") as file:
    file.seek(start)
    for line in file:
      if not line.endswith(b"\n"):
        return
      start += len(line)
      try:
        yield json.loads(line), start
      except ValueError as error:
        raise InputError(f"{path}: the line that ends at byte {start:,} is not JSON ({error}); delete the line and run "
                         "again") from error


def begin(workdir: Path, process: int, processes: int, count: int) -> None:
  """Makes the folders and the file of this process, in which its failed items of `count` are called open again."""
  (workdir / PICTURES).mkdir(parents=True, exist_ok=True)
  path = part(workdir, process, processes)
  path.parent.mkdir(exist_ok=True)
  if path.is_file():
    _cut_half_line(path)
  progress = Progress(workdir)
  progress.look()
  with open(path, "a", encoding="utf-8") as file:
    file.writelines(json.dumps({"number": n, AGAIN: True}) + "\n" for n in range(process, count, processes) if n in progress.failed)


def run(workdir: Path, protocol: Protocol, model: api.Model, about: Mapping, process: int, processes: int) -> None:
  """Generates this process' items that no file has yet.

  Args:
    workdir: W, in which `begin` was called.
    protocol: what to generate.
    model: opened, with what it must not retrieve.
    about: provenance for the PNGs (checkpoint, hash).
    process: number of this one, of `processes`.
  """
  progress = Progress(workdir)
  progress.look()
  mine = range(process, len(protocol.items), processes)
  todo = [n for n in mine if n not in progress.good]
  with (open(part(workdir, process, processes), "a", encoding="utf-8") as file,
        tqdm(total=len(mine), initial=len(mine) - len(todo), desc=protocol.name, unit="item", file=sys.stderr) as bar):
    for start in range(0, len(todo), _BATCH):
      for row in _batch(workdir, protocol, model, about, todo[start:start + _BATCH]):
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        bar.update()


def _cut_half_line(path: Path) -> None:
  """What a kill left of a line goes, so that the next line starts on its own."""
  with open(path, "rb+") as file:
    data = file.read()
    if not data.endswith(b"\n"):
      file.truncate(data.rfind(b"\n") + 1)


def _batch(workdir: Path, protocol: Protocol, model: api.Model, about: Mapping, numbers: list[int]) -> Iterator[dict]:
  """A line for each number, in the order in which they finish; a bad item alone fails, and its line says why."""
  jobs, kept, cuts, references = [], [], [], []
  for number in numbers:
    item = protocol.items[number]
    try:
      job, cut = _job(protocol, model, item, number)
      if protocol.metric in PAIRS:
        references.append(squared(item.image, model.image.image_size, protocol.reference))
        Image.fromarray(references[-1]).save(workdir / PICTURES / _real(number))
    except InputError as error:
      yield {**_head(protocol, number), "error": str(error), "candidates": []}
    else:
      jobs, kept, cuts = [*jobs, job], [*kept, number], [*cuts, cut]
  if protocol.metric == "perplexity" and kept:
    for number, job, cut, nats in zip(kept, jobs, cuts, pairs.fields(model, jobs, np.stack(references))):
      yield {**_head(protocol, number), "cut": cut, "prompt": job.text, "candidates": [], "real": _real(number),
             "retrieved": [{"id": d.id, "caption": d.caption, "score": d.score, "file": ""} for d in job.retrieved], **nats}
    return
  if protocol.metric == "visdial":
    for number, job, cut in zip(kept, jobs, cuts):
      yield {**_head(protocol, number), "cut": cut, "prompt": job.text, "candidates": [], "retrieved": [],
             "given": _given(workdir, number, job), "choice_log_probs": _ranked(protocol, model, job, number)}
    return
  for at, results in model.run(jobs):
    number = kept[at]
    row = generate.write_row(workdir / PICTURES, f"{number:06d}", jobs[at], results, about)
    yield {**row, **_head(protocol, number), "cut": cuts[at], "real": _real(number) if protocol.metric == "fid" else ""}


def _real(number: int) -> str:
  return f"{number:06d}_real.png"


def _head(protocol: Protocol, number: int) -> dict:
  item = protocol.items[number]
  return {"number": number, "id": item.id, "image_id": item.image_id, "category": item.category,
          "references": list(item.references), "choices": list(item.choices), "question": item.text}


def _ranked(protocol: Protocol, model: api.Model, job: api.Job, number: int) -> list[float]:
  """What orders the item's choices: their log-probabilities in nats, a token or in all."""
  reduce = {"mean": np.mean, "sum": np.sum}[protocol.rank_by]
  parts = model.answer_log_probs(job, protocol.items[number].choices)
  return [max(float(reduce(p, dtype=np.float64)), _IMPOSSIBLE) for p in parts]


def _given(workdir: Path, number: int, job: api.Job) -> str:
  name = f"{number:06d}_given.png"
  Image.fromarray(job.given).save(workdir / PICTURES / name)
  return name


def _job(protocol: Protocol, model: api.Model, item: Item, number: int) -> tuple[api.Job, bool]:
  """The item's job, and whether its text was cut to fit."""
  settings = {"docs": protocol.docs, "candidates": protocol.candidates, "seed": protocol.seed + number,
              "sampling": protocol.sampling}
  length = lambda text: len(model.text.encode(text))
  if protocol.metric in PAIRS:
    text, cut = wording.beginning(item.text, model.layout.text_tokens, length)
    return model.job("text_to_image", text=text, **settings), cut
  if protocol.metric == "captions":
    return model.job("image_to_text", text=protocol.query or api.CAPTION_QUERY, image=item.image, **settings), False
  image = item.image if item.image is not None else white(model.image.image_size)
  words, cut = wording.before(protocol.metric, item, wording.room(model), length)
  return model.job("image_to_text", text=words, image=image, **settings), cut


def white(size: int) -> np.ndarray:
  """uint8[size, size, 3]: stands where a question has no picture, since the model's infill needs one."""
  return np.full((size, size, 3), 255, np.uint8)


def squared(image: np.ndarray | str, size: int, how: str) -> np.ndarray:
  """A real picture as uint8[size, size, 3]: bicubic with antialias, of the middle square (`crop`) or of all (`stretch`)."""
  pixels = images.read_image(image) if isinstance(image, str) else image
  picture = Image.fromarray(pixels)
  if how == "crop":
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
  if picture.size != (size, size):
    picture = picture.resize((size, size), Image.Resampling.BICUBIC)
  return np.asarray(picture)
