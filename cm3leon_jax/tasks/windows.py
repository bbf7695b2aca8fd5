"""Windows on disk, and the training input read from them: batch t is a pure function of (seed, t).

A task is drawn, packed and shuffled once (`write_windows`). A host then reads the rows of its share by
index and masks them with a stateless seed (`WindowSource`): resuming is a seek, and any number of hosts
sees the same global batches.
"""

import collections
from concurrent import futures
import contextlib
import dataclasses
import hashlib
import os
from pathlib import Path
import shutil
import struct
from typing import Iterable, Iterator, Mapping

from array_record.python import array_record_module
import numpy as np
import tensorflow as tf

from cm3leon_jax import manifest as manifests
from cm3leon_jax import records
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks import batches
from cm3leon_jax.tasks import objective as objective_lib
from cm3leon_jax.tasks import packing
from cm3leon_jax.vocabulary import Vocabulary

KIND = STEM = "windows"
FEATURES = ("tokens", "segment_ids", "positions", "loss_weights")
ANSWERS = "answers"  # a further feature, stored only where a window has an answer
PREFETCH = 2  # batches made ahead by a thread


def write_samples(
    samples: Iterable[Mapping[str, np.ndarray]], folder: str | os.PathLike, *, vocabulary: Vocabulary, layout: Layout,
    length: int, reserve: int = 0, packing_mode: str = "whole", pool: int = 64, shards: int = 16, seed: int = 0,
    about: Mapping[str, object] | None = None) -> dict:
  """Packs samples into windows, shuffles these globally and writes them; returns the manifest.

  The shuffle goes through `shards` temporary files, each sorted alone in memory by a hash of (seed, number).

  Args:
    samples: dicts of `tokens`, `positions` int32[N], `loss_weights` float32[N], perhaps `answers` int32[N].
    folder: where the `windows` folder appears.
    vocabulary: the id space.
    layout: the geometry of samples.
    length: tokens in a row of a batch.
    reserve: tokens kept free for masks (`CM3Objective.reserve`): windows have length + 1 - reserve tokens.
    packing_mode, pool: see `packing.pack`.
    shards: files to write; at least the number of hosts that will read.
    seed: of the shuffle.
    about: further fields for the manifest, read when the samples are used up.

  Raises:
    InputError: a sample does not fit a window, or there are no samples.
  """
  window = length + 1 - reserve
  if window < 2:
    raise InputError(f"length={length} leaves no room beside the {reserve} tokens reserved for masks: "
                     "raise it, or lower CM3Objective.max_spans")
  stats = packing.PackingStats()
  with manifests.writing(folder, KIND) as (temporary, manifest):
    buckets = temporary / "buckets"
    buckets.mkdir()
    writers = [array_record_module.ArrayRecordWriter(
        os.fspath(buckets / records.shard_name(f"b{i}", 0, 1)), "group_size:1") for i in range(shards)]
    sizes = [0] * shards
    has_answers = False
    packed = packing.pack(samples, window, layout=layout, mode=packing_mode, pool=pool, stats=stats)
    for number, row in enumerate(packed):
      key = hashlib.blake2b(struct.pack("<qq", seed, number), digest_size=8).digest()
      bucket = int.from_bytes(key, "big") * shards >> 64
      if ANSWERS in row and not row[ANSWERS].any():
        row.pop(ANSWERS)
      has_answers |= ANSWERS in row
      writers[bucket].write(records.encode({"key": key, **row}))
      sizes[bucket] += 1
    for writer in writers:
      writer.close()
    if not stats.windows:
      raise InputError(f"{folder}: no samples, so no windows to write")
    index = 0
    for i in range(shards):
      rows = list(records.Reader(buckets, f"b{i}")) if sizes[i] else []
      rows.sort(key=lambda row: row.pop("key"))
      index += records.write_shard(
          temporary / records.shard_name(STEM, i, shards), ({"index": index + j, **row} for j, row in enumerate(rows)))
    shutil.rmtree(buckets)
    manifest.update(
        about or {}, count=stats.windows, samples=stats.samples, tokens=stats.tokens, wasted=round(stats.wasted, 4),
        length=length, window=window, packing=packing_mode, seed=seed, answers=has_answers,
        layout=dataclasses.asdict(layout), vocabulary=vocabulary.fingerprint(), vocabulary_sizes=vocabulary.to_dict())
  return manifest


def write_windows(
    task: str, split: str, folder: str | os.PathLike, *, vocabulary: Vocabulary, layout: Layout, length: int,
    reserve: int = 0, epochs: int = 1, seed: int = 0, **options) -> dict:
  """Draws `epochs` epochs of a registered task or mixture and writes its windows; see `write_samples`."""
  from cm3leon_jax.tasks import seqio_adapter  # slow to import, and a training run needs it not

  about: dict[str, object] = {"task": task, "split": split, "epochs": epochs}

  def samples():
    yield from seqio_adapter.examples(task, split, seed=seed, epochs=epochs)
    about["counts"] = seqio_adapter.counts(task, split)

  return write_samples(samples(), folder, vocabulary=vocabulary, layout=layout, length=length, reserve=reserve,
                       seed=seed, about=about, **options)


class WindowSource:
  """Batches from a `windows` folder.

  Attributes:
    vocabulary, layout: what the windows were made with.
    length: L, tokens in a row of a batch.
    count: number of windows; an epoch is one pass over them.
  """

  def __init__(
      self, folder: str | os.PathLike, *, batch_size: int, seed: int = 0,
      objective: objective_lib.CM3Objective = objective_lib.CM3Objective(), vocabulary: Vocabulary | None = None,
      host_index: int = 0, host_count: int = 1):
    """Opens the folder.

    Args:
      folder: written by `write_windows`.
      batch_size: rows of the global batch.
      seed: of the order of windows and of the masks.
      objective: how to mask; `CM3Objective(mode="none")` for plain prediction.
      vocabulary: what the caller uses, to compare with the windows'.
      host_index, host_count: this host gets rows host_index·b … (host_index+1)·b - 1, b = batch_size / host_count.

    Raises:
      InputError: the folder is not there or was made with another vocabulary or too little room for masks, or the
        batch does not divide over the hosts.
    """
    with contextlib.suppress(RuntimeError):  # too late once TensorFlow runs; it must not take JAX's device memory
      tf.config.set_visible_devices([], "GPU")
    expect = {"vocabulary": vocabulary.fingerprint()} if vocabulary else None
    manifest = manifests.read(folder, KIND, expect=expect, rebuild="cm3leon data windows")
    self.vocabulary = Vocabulary(**manifest["vocabulary_sizes"])
    self.layout = Layout(**manifest["layout"])
    self.length, self.count = manifest["length"], manifest["count"]
    self._width, self._answers = manifest["window"], manifest["answers"]
    room = self.length + 1 - self._width
    if objective.reserve > room:
      raise InputError(f"{folder}: its windows leave room for {room // 3} masked spans, but CM3Objective.max_spans="
                       f"{objective.max_spans}: lower that, or make the windows again")
    if batch_size % host_count or not 0 <= host_index < host_count:
      raise InputError(f"batch_size={batch_size} does not divide over {host_count} hosts (this is host {host_index})")
    self._objective, self._seed = objective, seed
    self._batch_size, self._rows = batch_size, batch_size // host_count
    self._first_row = host_index * self._rows
    self._reader = records.Reader(Path(folder), STEM)
    self._mask = tf.function(self._mask_windows, autograph=False)

  def indices(self, step: int) -> tuple[np.ndarray, np.ndarray]:
    """This host's rows of batch `step`: epochs and window indices, int64 [rows]."""
    place = step * self._batch_size + self._first_row + np.arange(self._rows, dtype=np.int64)
    epochs, places = place // self.count, place % self.count
    indices = np.empty_like(places)
    for epoch in np.unique(epochs):
      at = epochs == epoch
      key, last = tf.constant([self._seed, epoch], tf.int64), tf.constant(self.count - 1, tf.int64)
      indices[at] = tf.random.experimental.index_shuffle(tf.constant(places[at]), key, last).numpy()
    return epochs, indices

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """This host's rows of batch `step`, [rows, length] each: `inputs`, `targets`, `loss_weights`, …"""
    return self._make(*self.indices(step))

  def iterate(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Batches start_step, start_step + 1, … without end; a thread makes the next ones meanwhile."""
    with futures.ThreadPoolExecutor(1, thread_name_prefix="windows") as executor:
      waiting = collections.deque(executor.submit(self.batch, start_step + i) for i in range(PREFETCH))
      step = start_step + PREFETCH
      while True:
        batch = waiting.popleft().result()
        waiting.append(executor.submit(self.batch, step))
        step += 1
        yield batch

  __call__ = iterate  # the `input_fn(start_step)` that a training loop asks for

  def once(self) -> Iterator[dict[str, np.ndarray]]:
    """Every window once, in order, for evaluation; the last batch is filled up with rows of padding."""
    for start in range(0, self.count, self._batch_size):
      places = start + self._first_row + np.arange(self._rows, dtype=np.int64)
      yield self._make(np.zeros_like(places), np.where(places < self.count, places, -1))

  def _make(self, epochs: np.ndarray, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Reads windows by index (-1: a row of padding), masks them, and shifts."""
    names = FEATURES + ((ANSWERS,) if self._answers else ())
    windows = {name: np.zeros([len(indices), self._width], np.float32 if name == "loss_weights" else np.int32)
               for name in names}
    there = np.flatnonzero(indices >= 0)
    for b, row in zip(there, self._reader.rows(indices[there])):
      for name in names:
        if name in row:
          windows[name][b] = row[name]
    if self._objective.mode != "none":
      masked = self._mask({k: tf.constant(v) for k, v in windows.items()}, tf.constant(self._seed, tf.int32),
                          tf.constant(epochs, tf.int32), tf.constant(np.maximum(indices, 0), tf.int32))
      windows = {name: masked[name].numpy() for name in FEATURES}
    padding = self.length + 1 - windows["tokens"].shape[1]
    windows = {name: np.pad(windows[name], ((0, 0), (0, padding))) for name in FEATURES}
    return batches.to_batch(windows)

  def _mask_windows(self, windows, seed, epochs, indices):
    draws = objective_lib.draw(self._objective, self._width, seed, epochs, indices)
    return objective_lib.mask_windows(self._objective, self.vocabulary, self.layout, windows, draws)
