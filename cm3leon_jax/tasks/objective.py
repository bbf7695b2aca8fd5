"""The CM3 objective: which spans of a packed window are masked, drawn statelessly (paper §2.2).

Spans are drawn per unit: a sample of a packed window (its segment id), or the whole window when
samples share one segment id (the paper's packed stream). Of a unit of L tokens:

1. n ~ Poisson(rate), clamped to [min_spans, max_spans]; all units of a window together get at
   most max_spans, since a window is built 3·max_spans tokens shorter than the model's length
   (source sentinel, tail sentinel, <eoss>), so that nothing has to be cut.
2. With `whole_segment_probability` n distinct whole segments, chosen uniformly, are the spans (if
   n = 1, or n is less than the number of segments).
3. Otherwise n² intervals are drawn with two uniform endpoints each, clipped to the segment that
   they overlap most, and accepted greedily while disjoint, up to n; fewer is fine.
4. A unit with an answer (tokens marked in `answers`; the caption of an SFT sample) has, with
   `answer_mask_probability`, exactly this answer masked, as a prompt at inference has.

The rule is Meta's as coded, with <eos> as one more boundary; <break> and <eos> are never masked.
`tests/tasks/reference_objective.py` states the same rule in plain NumPy.
"""

import dataclasses
import math
from typing import Mapping

import numpy as np
import tensorflow as tf

from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks import rearrange
from cm3leon_jax.tasks import structure as structure_lib
from cm3leon_jax.vocabulary import Vocabulary

MODES = ("poisson", "none")
take = structure_lib.take


@dataclasses.dataclass(frozen=True)
class CM3Objective:
  """Parameters of the masks.

  Attributes:
    mode: `poisson`, or `none` for plain next-token prediction.
    rate: Poisson mean of the number of spans of a sample.
    min_spans: lower clamp of that number (CM3 paper: 1; Meta's code: 0, which leaves 37 % purely causal).
    max_spans: most spans in one window; 3·max_spans tokens of the window are reserved for them.
    whole_segment_probability: chance that spans are whole captions or images. Uniform endpoints practically never
      mask a whole caption, and guidance and captioning rely on that.
    answer_mask_probability: chance that a marked answer is masked as a whole.
    sentinel_loss_weight: weight of predicting a sentinel, in the source and in the tail (CM3: 0; Meta's code: 1).
  """

  mode: str = "poisson"
  rate: float = 1.0
  min_spans: int = 0
  max_spans: int = 16
  whole_segment_probability: float = 0.25
  answer_mask_probability: float = 0.5
  sentinel_loss_weight: float = 1.0

  def __post_init__(self):
    if self.mode not in MODES:
      raise InputError(f"CM3Objective.mode={self.mode!r}; known: {', '.join(MODES)}")
    if not 0 <= self.min_spans <= self.max_spans or self.rate < 0:
      raise InputError(f"CM3Objective needs 0 <= min_spans <= max_spans and rate >= 0: {self}")

  @property
  def reserve(self) -> int:
    """Tokens of the model's length kept free for masks."""
    return 0 if self.mode == "none" else 3 * self.max_spans

  @property
  def count_thresholds(self) -> np.ndarray:
    """float32 [max_spans]: P(X <= k). The number of spans is how many of these a uniform draw reaches."""
    terms = [math.exp(-self.rate) * self.rate**k / math.factorial(k) for k in range(self.max_spans)]
    return np.cumsum(terms).astype(np.float32)

  def num_draws(self, width: int) -> int:
    """Uniform numbers that one window of `width` tokens can need: three a unit, one a segment, two a candidate."""
    return 4 * width + 2 * self.max_spans**2


def draw(objective: CM3Objective, width: int, seed, epochs: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
  """Uniform numbers for windows, float32 [B, num_draws]: row b is a function of (seed, epoch, index) alone.

  Args:
    objective: the mask parameters.
    width: tokens in a window.
    seed: int scalar.
    epochs, indices: int32 [B].
  """
  size = objective.num_draws(width)

  def one(row):
    key = tf.random.fold_in(tf.stack([tf.cast(seed, tf.int32), row[0]]), row[1], alg="philox")
    return tf.random.stateless_uniform([size], key, alg="philox")

  rows = tf.stack([tf.cast(epochs, tf.int32), tf.cast(indices, tf.int32)], axis=1)
  return tf.map_fn(one, rows, fn_output_signature=tf.TensorSpec([size], tf.float32))


def choose_spans(
    objective: CM3Objective, structure: structure_lib.Structure, width: int, draws: tf.Tensor,
    answers: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
  """Draws disjoint spans.

  Args:
    objective: the mask parameters.
    structure: of the windows.
    width: W, tokens in a window.
    draws: float32 [B, num_draws(W)] uniform numbers.
    answers: int32 [B, W], nonzero on the tokens of a unit's answer (one run of tokens inside a segment), or None.

  Returns:
    starts, ends: int32 [B, max_spans], ascending; ends exclusive; unused entries are W, W.
  """
  s = structure
  num_units, num_segments = tf.shape(s.unit_starts)[1], tf.shape(s.segment_starts)[1]
  u_count, u_whole, u_answer, u_segment, u_candidate = tf.split(
      draws, [width, width, width, width, 2 * objective.max_spans**2], axis=1)

  # 1. How many spans each unit gets.
  exists = s.unit_ends > 0
  reached = u_count[:, :num_units, None] >= objective.count_thresholds
  n = tf.maximum(tf.reduce_sum(tf.cast(reached, tf.int32), 2), objective.min_spans)
  n = tf.where(exists, n, 0)
  if answers is not None:
    answer_starts, answer_ends = _answers(answers, s)
    answered = (answer_ends > 0) & (u_answer[:, :num_units] < objective.answer_mask_probability)
    n = tf.where(answered, 1, n)
  n = tf.clip_by_value(objective.max_spans - tf.cumsum(n, axis=1, exclusive=True), 0, n)

  # 2. Whole segments: those of the n smallest draws in their unit. Segments are in unit order, so sorting
  # by unit + draw keeps each unit's range, and a segment's rank in its unit is a subtraction.
  whole = (u_whole[:, :num_units] < objective.whole_segment_probability) & (n > 0)
  whole &= (n < s.unit_segments) | ((n == 1) & (s.unit_segments == 1))
  if answers is not None:
    whole &= ~answered
  segment_exists = s.segment_ends > 0
  key = tf.cast(s.segment_unit, tf.float64) + tf.cast(u_segment[:, :num_segments], tf.float64)
  key = tf.where(segment_exists, key, tf.cast(num_units + 1, tf.float64))
  rank = tf.argsort(tf.argsort(key, stable=True), stable=True) - take(s.unit_first_segment, s.segment_unit)
  picked = segment_exists & take(whole, s.segment_unit) & (rank < take(n, s.segment_unit))
  chosen = [(picked, s.segment_starts, s.segment_ends)]

  # 3. Uniform endpoints, n² candidates a unit.
  uniform = ~whole if answers is None else ~whole & ~answered
  chosen.append(_uniform_spans(s, tf.where(uniform, n, 0), tf.reshape(
      u_candidate, [-1, objective.max_spans**2, 2])))

  # 4. Answers.
  if answers is not None:
    chosen.append((answered & (n > 0), answer_starts, answer_ends))

  # Sort by start, both ends in one integer; unused ones sort last.
  keys = [tf.where(ok, starts * (width + 1) + ends, width * (width + 1) + width) for ok, starts, ends in chosen]
  keys.append(tf.fill([tf.shape(n)[0], objective.max_spans], width * (width + 1) + width))
  keys = tf.sort(tf.concat(keys, axis=1), axis=1)[:, :objective.max_spans]
  keys = tf.ensure_shape(keys, [None, objective.max_spans])
  return keys // (width + 1), keys % (width + 1)


def _uniform_spans(
    s: structure_lib.Structure, n: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Greedy disjoint spans with uniform endpoints.

  Args:
    s: structure of the windows.
    n: int32 [B, U] spans wanted in each unit.
    draws: float32 [B, C', 2] endpoints.

  Returns:
    accepted bool [B, C], starts and ends int32 [B, C], with C the most candidates that a window of the batch has.
  """
  last = tf.cumsum(n * n, axis=1)  # [B, U] one past the unit's last candidate
  num = tf.reduce_max(last[:, -1])
  index = tf.range(num)
  unit = tf.reduce_sum(tf.cast(last[:, None, :] <= index[None, :, None], tf.int32), 2)  # [B, C]
  valid = unit < tf.shape(n)[1]
  unit = tf.minimum(unit, tf.shape(n)[1] - 1)
  low = tf.reduce_min(draws[:, :num], 2)
  high = tf.reduce_max(draws[:, :num], 2)
  origin, length = take(s.unit_starts, unit), tf.cast(take(s.unit_ends - s.unit_starts, unit), tf.float32)
  starts = origin + tf.maximum(tf.cast(tf.floor(low * length), tf.int32), 1)
  ends = origin + tf.cast(tf.floor(high * length + 0.5), tf.int32)
  # Clip to the segment of the largest overlap (the first of equals); no overlap, no span.
  clipped_starts = tf.maximum(starts[:, :, None], s.segment_starts[:, None, :])  # [B, C, M]
  clipped_ends = tf.minimum(ends[:, :, None], s.segment_ends[:, None, :])
  best = tf.argmax(clipped_ends - clipped_starts, axis=2, output_type=tf.int32)
  starts = tf.maximum(starts, take(s.segment_starts, best))
  ends = tf.minimum(ends, take(s.segment_ends, best))
  valid &= ends > starts

  wanted = take(n, unit)
  overlap = (starts[:, :, None] < ends[:, None, :]) & (starts[:, None, :] < ends[:, :, None])  # [B, C, C]
  same_unit = unit[:, :, None] == unit[:, None, :]

  def accept(i, accepted):
    free = ~tf.reduce_any(accepted & overlap[:, i], 1)
    had = tf.reduce_sum(tf.cast(accepted & same_unit[:, i], tf.int32), 1)
    ok = valid[:, i] & free & (had < wanted[:, i])
    return i + 1, accepted | (ok[:, None] & (index == i)[None, :])

  none = tf.zeros_like(valid)
  _, accepted = tf.while_loop(lambda i, _: i < num, accept, (0, none),
                              shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None])))
  return accepted, starts, ends


def _answers(answers: tf.Tensor, s: structure_lib.Structure) -> tuple[tf.Tensor, tf.Tensor]:
  """int32 [B, U] start and end of each unit's answer; 0, 0 where it has none."""
  marked = answers > 0
  edge = tf.zeros_like(marked[:, :1])
  shape = tf.shape(s.unit_starts)
  ends = []
  for flags, offset in ((marked & ~tf.concat([edge, marked[:, :-1]], 1), 0),
                        (marked & ~tf.concat([marked[:, 1:], edge], 1), 1)):
    where = tf.where(flags)
    cells = tf.stack([tf.cast(where[:, 0], tf.int32), tf.gather_nd(s.token_unit, where)], axis=1)
    ends.append(tf.tensor_scatter_nd_max(tf.zeros(shape, tf.int32), cells, tf.cast(where[:, 1], tf.int32) + offset))
  return ends[0], ends[1]


def mask_windows(
    objective: CM3Objective, vocabulary: Vocabulary, layout: Layout, windows: Mapping[str, tf.Tensor],
    draws: tf.Tensor) -> dict[str, tf.Tensor]:
  """Masks spans of packed windows and appends them as tails.

  Args:
    objective: the mask parameters, of mode `poisson`.
    vocabulary: the id space.
    layout: says how positions are numbered.
    windows: `tokens`, `segment_ids`, `positions` int32 [B, W], `loss_weights` float32 [B, W], perhaps
      `answers` int32 [B, W]; W is static.
    draws: float32 [B, objective.num_draws(W)].

  Returns:
    `tokens`, `segment_ids`, `positions`, `loss_weights` [B, W + 3·max_spans], rearranged, then padding.
  """
  if objective.max_spans > vocabulary.num_sentinels:
    raise InputError(f"CM3Objective.max_spans={objective.max_spans} exceeds the vocabulary's "
                     f"{vocabulary.num_sentinels} sentinels")
  tokens = windows["tokens"]
  structure = structure_lib.analyse(vocabulary, tokens, windows["segment_ids"])
  starts, ends = choose_spans(objective, structure, tokens.shape[1], draws, windows.get("answers"))
  return rearrange.rearrange(vocabulary, layout, windows, structure, starts, ends, objective.sentinel_loss_weight)
