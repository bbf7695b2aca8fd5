"""One Beam pipeline shape for all offline jobs: shard number → records → one ArrayRecord file.

A shard is the unit of work, of retry and of resume. Its content depends on its number alone,
so the output is the same for any runner and any number of workers; a shard that exists is
whole (written under a temporary name, then renamed) and is not made again. The manifest is
written when all shards are there.
"""

import contextlib
import json
import logging
import os
from pathlib import Path
import sys
import time
from typing import Any, Iterable, Iterator, Protocol, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from cm3leon_jax import manifest as manifest_lib
from cm3leon_jax import records
from cm3leon_jax.errors import InputError


class ShardJob(Protocol):
  """A picklable job: small fields only; models and readers are loaded in `setup`."""

  def setup(self) -> None:
    """Called once a worker."""

  def records(self, shard: int, num_shards: int) -> Iterable[records.Record]:
    """All records of one shard, in their final order."""


class _WriteShard(beam.DoFn):
  """Runs a job on one shard number; yields the number of records."""

  def __init__(self, job: ShardJob, folder: str, stem: str, num_shards: int):
    self._job, self._folder, self._stem, self._num_shards = job, folder, stem, num_shards
    self._ready = False

  def process(self, shard: int):
    final = Path(self._folder) / records.shard_name(self._stem, shard, self._num_shards)
    if not self._ready:  # late, so that a run with nothing to do loads nothing
      self._job.setup()
      self._ready = True
    begin = time.time()
    temporary = final.with_name(f"{final.name}.partial-{os.getpid()}")
    try:
      count = records.write_shard(temporary, self._job.records(shard, self._num_shards))
      temporary.replace(final)
    except OSError as error:
      if error.errno == 28:  # ENOSPC
        raise InputError(f"no space left while writing {final}: free some and run again; finished shards are kept") from error
      raise
    finally:
      temporary.unlink(missing_ok=True)
    print(f"  {self._stem} shard {shard + 1} of {self._num_shards}: {count} records, {time.time() - begin:.1f} s",
          file=sys.stderr, flush=True)
    yield count


def run(job: ShardJob, folder: str | os.PathLike, kind: str, num_shards: int, manifest: dict[str, Any],
        beam_options: Sequence[str] = ()) -> Path:
  """Runs `job` over all shards that are missing and writes the manifest last.

  Args:
    job: what to do with one shard.
    folder: where the shards go.
    kind: kind of the folder, also the stem of its files.
    num_shards: number of files.
    manifest: fields for `manifest.json`; `count` is added. An unfinished folder begun with
      other fields is begun again.
    beam_options: Beam's own flags, such as `--runner=DataflowRunner`.

  Returns:
    The folder.

  Raises:
    InputError: a record could not be made because of the input, or the disk is full.
  """
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  plan = json.dumps({"kind": kind, "num_shards": num_shards, **manifest}, sort_keys=True)
  plan_path = folder / "plan.json"
  if not plan_path.is_file() or plan_path.read_text() != plan:
    for stale in [*folder.glob(f"{kind}-*"), folder / manifest_lib.FILE_NAME]:
      stale.unlink(missing_ok=True)
    plan_path.write_text(plan)
  missing = [s for s in range(num_shards) if not (folder / records.shard_name(kind, s, num_shards)).exists()]
  if missing:
    with pipeline(beam_options) as begun:
      _ = (begun | beam.Create(missing, reshuffle=True)
           | beam.ParDo(_WriteShard(job, str(folder), kind, num_shards)))
  for left_over in folder.glob("*.partial-*"):  # of workers that were killed
    left_over.unlink()
  manifest_lib.write_file(folder, kind, {"count": len(records.Reader(folder, kind)), "num_shards": num_shards, **manifest})
  plan_path.unlink(missing_ok=True)
  return folder


@contextlib.contextmanager
def pipeline(beam_options: Sequence[str] = ()) -> Iterator[beam.Pipeline]:
  """A Beam pipeline that runs when the block ends, by default in this process.

  Raises:
    InputError: a worker's, as it raised it.
  """
  logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # the exception itself says what went wrong, once
  try:
    with beam.Pipeline(options=PipelineOptions(list(beam_options) or ["--runner=FnApiRunner"])) as begun:
      yield begun
  except Exception as error:  # Beam wraps what a worker raises
    _raise_input_error(error)
    raise


def _raise_input_error(error: BaseException) -> None:
  seen: BaseException | None = error
  while seen is not None:
    if isinstance(seen, InputError):
      # Beam appends the step's name to the message; the sentence alone is what a person needs.
      raise InputError(str(seen).split(" [while running")[0]) from error
    seen = seen.__cause__ or seen.__context__


def bounds(count: int, shard: int, num_shards: int) -> tuple[int, int]:
  """Rows [begin, end) of `shard`: contiguous, sizes differ by at most one."""
  return shard * count // num_shards, (shard + 1) * count // num_shards
