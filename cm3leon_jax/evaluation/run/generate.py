"""The items of a protocol through a model: pictures and `generations/*.jsonl`, one line an item as it finishes.

Item number n of the protocol belongs to process n mod N and is drawn with seed + n, so the same
pictures come from any number of processes, and what is in the files needs no second time.
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
from cm3leon_jax.evaluation.run import wording
from cm3leon_jax.evaluation.run.protocol import Protocol

GENERATIONS = "generations"
PICTURES = "pictures"
_BATCH = 128  # items laid out at a time
_IMPOSSIBLE = -1e9  # JSON has no infinity


def part(workdir: Path, process: int, processes: int) -> Path:
  return workdir / GENERATIONS / f"{process:05d}-of-{processes:05d}.jsonl"


def read(workdir: Path) -> dict[int, dict]:
  """Item number → its line, of all processes. A line cut short by a kill does not count."""
  rows = {}
  for path in sorted((workdir / GENERATIONS).glob("*.jsonl")):
    for row in _lines(path):
      rows[row["number"]] = row
  return rows


def _lines(path: Path) -> Iterator[dict]:
  with open(path, encoding="utf-8") as file:
    for line in file:
      if line.endswith("\n"):
        yield json.loads(line)


def run(workdir: Path, protocol: Protocol, model: api.Model, about: Mapping, process: int, processes: int) -> None:
  """Generates this process' items that no file has yet.

  Args:
    workdir: W; W/generations and W/pictures are written.
    protocol: what to generate.
    model: opened, with what it must not retrieve.
    about: provenance for the PNGs (checkpoint, hash).
    process: number of this one, of `processes`.
  """
  (workdir / PICTURES).mkdir(parents=True, exist_ok=True)
  path = part(workdir, process, processes)
  path.parent.mkdir(exist_ok=True)
  if path.is_file():
    _cut_half_line(path)
  done = read(workdir)
  mine = range(process, len(protocol.items), processes)
  todo = [n for n in mine if n not in done]
  with (open(path, "a", encoding="utf-8") as file,
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
  jobs, kept, cuts = [], [], []
  for number in numbers:
    item = protocol.items[number]
    try:
      job, cut = _job(protocol, model, item, number)
    except InputError as error:
      yield {**_head(protocol, number), "error": str(error), "candidates": []}
    else:
      jobs, kept, cuts = [*jobs, job], [*kept, number], [*cuts, cut]
  if protocol.metric == "visdial":
    for number, job, cut in zip(kept, jobs, cuts):
      yield {**_head(protocol, number), "cut": cut, "prompt": job.text, "candidates": [], "retrieved": [],
             "given": _given(workdir, number, job), "choice_log_probs": _ranked(protocol, model, job, number)}
    return
  for at, results in model.run(jobs):
    number = kept[at]
    row = generate.write_row(workdir / PICTURES, f"{number:06d}", jobs[at], results, about)
    real = ""
    if protocol.metric == "fid":
      real = f"{number:06d}_real.png"
      reference = squared(protocol.items[number].image, model.image.image_size, protocol.reference)
      Image.fromarray(reference).save(workdir / PICTURES / real)
    yield {**row, **_head(protocol, number), "cut": cuts[at], "real": real}


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
  if protocol.metric == "fid":
    return model.job("text_to_image", text=item.text, **settings), False
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
