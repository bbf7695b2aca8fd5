"""Packs whole samples into windows, or concatenates and cuts them as the paper did.

seqio's own packer is not used: it casts weights to int32 and cuts features at their count of non-zeros.
"""

import dataclasses
from typing import Iterable, Iterator, Mapping

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout

Sample = Mapping[str, np.ndarray]
MODES = ("whole", "straddle")


@dataclasses.dataclass
class PackingStats:
  """Counts, filled in while packing."""

  samples: int = 0
  tokens: int = 0
  windows: int = 0
  slots: int = 0  # windows × window length

  @property
  def wasted(self) -> float:
    """Share of the windows that is padding."""
    return 1 - self.tokens / self.slots if self.slots else 0.0


def pack(samples: Iterable[Sample], window_length: int, *, layout: Layout, mode: str = "whole", pool: int = 64,
         stats: PackingStats | None = None) -> Iterator[dict[str, np.ndarray]]:
  """Yields windows: the samples' features [window_length], padded with zeros, and `segment_ids`.

  Args:
    samples: dicts of features of one length each: `tokens`, `loss_weights`, `positions`, perhaps others.
    window_length: tokens in a window.
    layout: straddling windows need its `sequence` numbering.
    mode: `whole` puts each sample, uncut, first-fit into one of `pool` open windows, and numbers the samples of a
      window 1, 2, … in `segment_ids`. `straddle` is the paper's stream: samples one after the other, cut every
      `window_length` tokens, one segment and positions 0, 1, 2, … in every window; the last, short one is padded.
    pool: open windows at a time; memory is pool × window_length.
    stats: counts to fill.

  Raises:
    InputError: an unknown mode, or a sample longer than a window.
  """
  stats = PackingStats() if stats is None else stats
  if mode not in MODES:
    raise InputError(f"packing mode {mode!r}; known: {', '.join(MODES)}")
  if mode == "straddle" and layout.numbering != "sequence":
    raise InputError(f"packing mode 'straddle' needs Layout.numbering='sequence', not {layout.numbering!r}")
  windows = (_first_fit if mode == "whole" else _straddle)(samples, window_length, pool, stats)
  for window in windows:
    stats.windows += 1
    stats.slots += window_length
    yield window


def _join(parts: list[Sample], window_length: int) -> dict[str, np.ndarray]:
  size = sum(len(p["tokens"]) for p in parts)
  window = {name: np.pad(np.concatenate([p[name] for p in parts]), (0, window_length - size)) for name in parts[0]}
  ids = np.repeat(np.arange(1, len(parts) + 1, dtype=np.int32), [len(p["tokens"]) for p in parts])
  window["segment_ids"] = np.pad(ids, (0, window_length - size))
  return window


def _first_fit(samples, window_length, pool, stats):
  contents: list[list[Sample]] = []
  room = np.zeros(0, np.int64)
  for sample in samples:
    size = len(sample["tokens"])
    if size > window_length:
      raise InputError(f"a sample of {size} tokens does not fit a window of {window_length}: "
                       "raise the length, or lower Layout.max_documents or CM3Objective.max_spans")
    stats.samples += 1
    stats.tokens += size
    fits = np.flatnonzero(room >= size)
    if not fits.size:
      if len(contents) == pool:  # the fullest window leaves
        i = int(np.argmin(room))
        yield _join(contents.pop(i), window_length)
        room = np.delete(room, i)
      contents.append([])
      room = np.append(room, window_length)
      fits = np.array([len(room) - 1])
    contents[fits[0]].append(sample)
    room[fits[0]] -= size
  for parts in contents:
    yield _join(parts, window_length)


def _straddle(samples, window_length, pool, stats):
  del pool
  waiting: list[Sample] = []
  size = 0

  def cut(window):
    length = int(np.count_nonzero(window["segment_ids"]))
    window["segment_ids"] = np.minimum(window["segment_ids"], 1)
    window["positions"] = np.pad(np.arange(length, dtype=np.int32), (0, window_length - length))
    return window

  for sample in samples:
    stats.samples += 1
    stats.tokens += len(sample["tokens"])
    waiting.append(sample)
    size += len(sample["tokens"])
    while size >= window_length:
      rest = size - window_length
      last = waiting[-1]
      kept = len(last["tokens"]) - rest
      head = {name: value[:kept] for name, value in last.items()}
      yield cut(_join(waiting[:-1] + [head], window_length))
      waiting = [{name: value[kept:] for name, value in last.items()}] if rest else []
      size = rest
  if size:
    yield cut(_join(waiting, window_length))
