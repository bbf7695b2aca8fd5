"""The only file that imports seqio: vocabulary face, registering, and reading tasks and mixtures.

A task here is a pure function `sample(split, row, rng) -> features`, where `rng` is seeded by (seed, task, epoch,
row) alone; seqio holds the registry, mixes, and runs it inside tf.data (statelessly, so that iterators can be
checkpointed with `experimental_symbolic_checkpoint`).
"""

import collections
import contextlib
import difflib
from typing import Callable, Iterator, Mapping, Sequence
import zlib

from absl import logging
import numpy as np
import seqio
import tensorflow as tf

from cm3leon_jax.errors import InputError
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.vocabulary import EOS_ID, UNK_ID, Vocabulary

with contextlib.suppress(RuntimeError):  # too late once TensorFlow runs; it must not take JAX's device memory
  tf.config.set_visible_devices([], "GPU")

FEATURES = {"tokens": tf.int32, "loss_weights": tf.float32, "positions": tf.int32, "answers": tf.int32}
READ_BATCH = 64
SampleFn = Callable[[str, int, np.random.Generator], Mapping[str, np.ndarray]]

_sizes: dict[str, Callable[[str], int]] = {}
_counts: dict[str, collections.Counter] = {}
_failures: dict[str, Exception] = {}


class VocabularyFace(seqio.Vocabulary):
  """`seqio.Vocabulary` over the one id space; text goes through SentencePiece, other ids decode to their names."""

  def __init__(self, vocabulary: Vocabulary, text_tokenizer: TextTokenizer | None = None):
    super().__init__()
    self.vocabulary = vocabulary
    self.text_tokenizer = text_tokenizer

  @property
  def eos_id(self) -> int:
    return EOS_ID

  @property
  def unk_id(self) -> int:
    return UNK_ID

  @property
  def _base_vocab_size(self) -> int:
    return self.vocabulary.total_size

  def _encode(self, s: str) -> list[int]:
    if self.text_tokenizer is None:
      raise InputError("this vocabulary has no text tokenizer: pass one to VocabularyFace")
    return self.text_tokenizer.encode(s).tolist()

  def _decode(self, ids) -> str:
    parts, text = [], []

    def flush():
      if text:
        parts.append(self.text_tokenizer.decode(text))
        text.clear()

    for i in map(int, ids):
      if self.text_tokenizer is not None and UNK_ID < i < self.vocabulary.text_size:
        text.append(i)
      else:
        flush()
        parts.append(self.vocabulary.name(i))
    flush()
    return " ".join(parts)

  def decode(self, ids) -> str:
    """All of the ids: an <eos> opens a sample here, so decoding cannot stop at the first one."""
    return self._decode(np.asarray(ids).reshape(-1).tolist())

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    ids = tf.numpy_function(lambda b: np.array(self._encode(b.decode()), np.int32), [s], tf.int32, stateful=False)
    return tf.ensure_shape(ids, [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    rows = tf.reshape(ids, [-1, tf.shape(ids)[-1]])
    text = tf.numpy_function(lambda a: np.array([self._decode(r).encode() for r in a], object), [rows], tf.string,
                             stateful=False)
    return tf.reshape(text, tf.shape(ids)[:-1])

  decode_tf = _decode_tf

  def __eq__(self, other) -> bool:
    fingerprint = lambda v: (v.vocabulary, v.text_tokenizer and v.text_tokenizer.fingerprint)
    return isinstance(other, VocabularyFace) and fingerprint(self) == fingerprint(other)


def register_task(
    name: str, vocabulary: VocabularyFace, sample: SampleFn, *, splits: Sequence[str], size: Callable[[str], int],
    counts: collections.Counter | None = None) -> None:
  """Registers a task, in place of one of the same name.

  Args:
    name: the task's name.
    vocabulary: of its tokens.
    sample: (split, row, rng) → `tokens`, `positions` int32[N], `loss_weights` float32[N], perhaps `answers` int32[N].
    splits: names of its splits.
    size: split → number of rows.
    counts: what `sample` counts on its way, for reports.
  """
  def rows(split, shuffle_files, seed=None):
    """One element a row: its place, and what the drawing needs to know."""
    count = size(split)
    about = {"split": split, "size": np.int64(count), "shuffle": bool(shuffle_files), "seed": np.int64(seed or 0)}
    return tf.data.Dataset.range(count).map(lambda place: {"place": place, **about})

  def draw_one(split, row, epoch, seed):
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(
        [int(seed), zlib.crc32(name.encode()), int(epoch), int(row)])))
    try:
      features = sample(split.decode(), int(row), rng)
    except Exception as error:
      _failures[name] = error
      raise
    answers = features.get("answers", np.zeros(len(features["tokens"]), np.int32))
    return [np.asarray({**features, "answers": answers}[f], t.as_numpy_dtype) for f, t in FEATURES.items()]

  def draw(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """seqio repeats a dataset before its preprocessors, so counting here tells the epoch."""

    def one(visit, about):
      epoch, last = visit // about["size"], about["size"] - 1
      shuffled = tf.random.experimental.index_shuffle(about["place"], tf.stack([about["seed"], epoch]), last)
      row = tf.where(about["shuffle"], shuffled, about["place"])
      values = tf.numpy_function(draw_one, [about["split"], row, epoch, about["seed"]], list(FEATURES.values()),
                                 stateful=False)
      return {f: tf.ensure_shape(v, [None]) for f, v in zip(FEATURES, values)}

    return dataset.enumerate().map(one)

  plain = seqio.PassThroughVocabulary(vocabulary.vocab_size)
  seqio.TaskRegistry.remove(name)
  seqio.TaskRegistry.add(
      name, source=seqio.FunctionDataSource(rows, splits=tuple(splits)), preprocessors=[draw],
      output_features={
          f: seqio.Feature(vocabulary if f == "tokens" else plain, add_eos=False, dtype=dtype)
          for f, dtype in FEATURES.items()},
      shuffle_buffer_size=1)  # rows are already drawn in a stateless random order
  _sizes[name] = size
  _counts[name] = collections.Counter() if counts is None else counts


def register_mixture(name: str, rates: Mapping[str, float]) -> None:
  """Registers a mixture of tasks, in place of one of the same name; `rates` are relative."""
  seqio.MixtureRegistry.remove(name)
  seqio.MixtureRegistry.add(name, [(task, float(rate)) for task, rate in rates.items()])


def names() -> list[str]:
  """Registered tasks and mixtures."""
  return sorted(set(seqio.TaskRegistry.names()) | set(seqio.MixtureRegistry.names()))


def _find(name: str, split: str) -> tuple[seqio.Task | seqio.Mixture, list[seqio.Task]]:
  if name not in names():
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.3) or names()
    raise InputError(f"no task or mixture is named {name!r}; nearest: {', '.join(near) or 'none is registered'}")
  found = seqio.get_mixture_or_task(name)
  tasks = list(found.tasks) if isinstance(found, seqio.Mixture) else [found]
  tasks = [task for task in tasks if split in task.splits]
  if not tasks:
    raise InputError(f"{name} has no split {split!r}; it has: {', '.join(found.splits)}")
  return found, tasks


def splits(name: str, default: str = "train") -> list[str]:
  """Splits of a task or mixture; `default` first if it is one of them."""
  if name not in names():
    _find(name, default)
  return sorted(seqio.get_mixture_or_task(name).splits, key=lambda s: (s != default, s))


def counts(name: str, split: str) -> dict[str, int]:
  """What the samples of a task, or of a mixture's tasks, counted so far."""
  total = {}
  for counter in {id(c): c for c in (_counts[t.name] for t in _find(name, split)[1])}.values():  # tasks may share one
    total.update({key: total.get(key, 0) + value for key, value in counter.items()})
  return total


def size(name: str, split: str) -> int:
  """Rows of a split: of a task, or of all tasks of a mixture together."""
  return sum(_sizes[t.name](split) for t in _find(name, split)[1])


def dataset(name: str, split: str, *, seed: int, epochs: int | None = 1, shuffle: bool = True) -> tf.data.Dataset:
  """Samples of a task or mixture as a tf.data.Dataset of `FEATURES`; None: without end.

  An epoch of a mixture is as many samples as its tasks have rows, whatever the rates. (seqio's own `num_epochs` ends
  a mixture at the first task that empties.)
  """
  found, _ = _find(name, split)
  options = {"split": split, "shuffle": shuffle, "seed": seed, "try_in_mem_cache": False}
  with _quiet():
    if isinstance(found, seqio.Mixture):
      samples = found.get_dataset(None, num_epochs=None, log_mixing_proportions=False, **options)
      return samples if epochs is None else samples.take(epochs * size(name, split))
    return found.get_dataset(None, num_epochs=epochs, **options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without seqio's warning that a function source shuffles badly: rows are drawn statelessly here."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(before)


def examples(name: str, split: str, *, seed: int = 0, epochs: int | None = 1,
             shuffle: bool = True) -> Iterator[dict[str, np.ndarray]]:
  """Samples as NumPy dicts: the same ones, in the same order, for the same arguments.

  Raises:
    InputError: unknown name or split (with the nearest known), or whatever the task's `sample` raised.
  """
  _, tasks = _find(name, split)
  for task in tasks:
    _failures.pop(task.name, None)
  try:
    # Through ragged batches: a Python iteration of tf.data costs as much as drawing a sample.
    for batch in dataset(name, split, seed=seed, epochs=epochs, shuffle=shuffle).ragged_batch(READ_BATCH):
      bounds = batch["tokens"].row_splits.numpy()
      values = {f: v.values.numpy() for f, v in batch.items()}
      for start, end in zip(bounds[:-1], bounds[1:]):
        yield {f: v[start:end] for f, v in values.items()}
  except tf.errors.OpError:
    for task in tasks:
      if task.name in _failures:
        raise _failures.pop(task.name) from None
    raise
