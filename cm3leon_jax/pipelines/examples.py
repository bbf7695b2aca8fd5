"""official files → examples: pictures to codes, each with its words (see `tasks/official`).

    D/examples/<set>/<split>/examples-00000-of-00008.arrayrecord    texts.npy    manifest.json
                             examples-00000-of-00008.aside.jsonl    what could not be used, and why

A shard depends on its number alone, so a run that was stopped goes on where it was (`pipelines/shards.py`). A picture
that is missing or broken, or a text of no words, is kept aside with its reason and counted in the manifest; when more
than a hundredth of a set is (and more than ten), or all of it, the run ends: then a folder is wrong, not a picture.
"""

import collections
from concurrent import futures
import dataclasses
import functools
import itertools
import json
import os
from pathlib import Path
import sys
from typing import Iterator, Mapping

import numpy as np

from cm3leon_jax import manifest as manifests
from cm3leon_jax import records
from cm3leon_jax.errors import InputError
from cm3leon_jax.pipelines import shards
from cm3leon_jax.tasks.official import sources, square
from cm3leon_jax.tasks.official.store import KIND, write_texts
from cm3leon_jax.tokenizers.image import KIND as IMAGE_KIND
from cm3leon_jax.tokenizers.image import ImageTokenizer

CHUNK = 64  # examples whose pictures are in memory at once
THREADS = 8  # that read and scale pictures; PIL lets them run side by side
MOST_ASIDE, FEW_ASIDE = 0.01, 10


@functools.lru_cache(1)
def _read(set_: str, split: str, folders: tuple[tuple[str, str], ...]) -> sources.Read:
  """Once a process: the one that plans and its workers are often the same."""
  return sources.read(set_, split, dict(folders))


@functools.lru_cache(1)
def _tokenizer(folder: str, weights: str) -> ImageTokenizer:
  """Loaded and compiled once a process for all sets; `weights`: their hash, so that another one is not taken for it."""
  del weights
  return ImageTokenizer.load(folder)


@dataclasses.dataclass
class ExamplesJob:
  """Encodes one split of a set; see `shards.ShardJob`."""

  set: str
  split: str
  folders: tuple[tuple[str, str], ...]
  image_folder: str
  image_weights: str
  folder: str

  def setup(self) -> None:
    self._image = _tokenizer(self.image_folder, self.image_weights)
    self._examples = _read(self.set, self.split, self.folders).examples

  def records(self, shard: int, num_shards: int) -> Iterator[records.Record]:
    begin, end = shards.bounds(len(self._examples), shard, num_shards)
    aside = Path(self.folder) / records.shard_name(KIND, shard, num_shards).replace(".arrayrecord", ".aside.jsonl")
    mine = iter(self._examples[begin:end])
    with futures.ThreadPoolExecutor(THREADS) as threads, aside.open("w", encoding="utf-8") as out:
      while chunk := list(itertools.islice(mine, CHUNK)):
        ready = list(threads.map(self._prepare, chunk))
        pictures = [p for r in ready if not isinstance(r, str) for p in r[0]]
        codes = iter(self._image.encode(np.stack(pictures)).astype(np.uint16) if pictures else ())
        for example, result in zip(chunk, ready):
          if isinstance(result, str):
            out.write(json.dumps({"id": example.id, "why": result}, ensure_ascii=False) + "\n")
          else:
            yield {"id": example.id, "images": np.stack([next(codes) for _ in result[0]]), "texts": list(result[1])}

  def _prepare(self, example: sources.Example) -> tuple[list[np.ndarray], tuple] | str:
    """Pictures uint8[S, S, 3] and texts; or why the example cannot be used."""
    size = self._image.image_size
    try:
      texts = example.texts() if callable(example.texts) else example.texts
      if not texts:
        return "no words"
      image = square.read(example.image, size, example.size)
      if example.first is None:
        return [image], texts
      first = example.first(image) if callable(example.first) else square.read(example.first, size)
      return [first, image], texts
    except InputError as error:
      return str(error)


def examples(set_: str, split: str, folder: str | os.PathLike, *, folders: Mapping[str, str],
             image_tokenizer: str | os.PathLike, num_shards: int, beam_options=()) -> Path:
  """Writes the `examples` folder of one split of a set.

  Args:
    set_: a key of `sources.SETS`.
    split: `train` or `validation`.
    folder: where the examples go.
    folders: where the official files lie, see `sources.FOLDERS`.
    image_tokenizer: folder of the image tokenizer.
    num_shards: files to write.
    beam_options: flags for Beam.

  Raises:
    InputError: a set is missing or broken, or too many of its pictures are.
  """
  _read.cache_clear()  # files may have been mended since
  where = tuple(sorted((name, str(path)) for name, path in folders.items()))
  found = _read(set_, split, where)
  image = _tokenizer(str(image_tokenizer), manifests.read(image_tokenizer, IMAGE_KIND)["weights"])
  folder, num_shards = Path(folder), min(num_shards, len(found.examples))
  left_out = {reason: n for reason, n in sorted(found.left_out.items()) if n}
  job = ExamplesJob(set_, split, where, str(image_tokenizer), image.fingerprint, str(folder))
  fields = {"set": set_, "split": split, "image_tokenizer": image.fingerprint, "image_tokens": image.image_tokens,
            "image_size": image.image_size, "codebook_size": image.codebook_size, "left_out": left_out}
  shards.run(job, folder, KIND, num_shards, fields, beam_options)
  aside = [json.loads(line) for path in sorted(folder.glob("*.aside.jsonl"))
           for line in path.read_text(encoding="utf-8").splitlines()]
  if len(aside) > max(MOST_ASIDE * len(found.examples), FEW_ASIDE) or len(aside) == len(found.examples):
    (folder / manifests.FILE_NAME).unlink()
    for path in folder.glob(f"{KIND}-*"):  # begun again when the pictures are there
      path.unlink()
    raise InputError(f"{set_}, {split}: {len(aside):,} of {len(found.examples):,} examples cannot be used, the first "
                     f"because of: {aside[0]['why']}; is the folder right?")
  texts = write_texts(folder)
  about = manifests.read(folder, KIND)
  manifests.write_file(folder, KIND, {**{k: v for k, v in about.items() if k not in ("kind", "format_version")},
                                      "texts": texts, "aside": len(aside)})
  said = collections.Counter(left_out) + collections.Counter({"kept aside": len(aside)})
  print(f"  {folder}: {about['count']:,} pictures, {texts:,} texts" + "".join(f"; {n:,} {r}" for r, n in said.items()),
        file=sys.stderr)
  return folder
