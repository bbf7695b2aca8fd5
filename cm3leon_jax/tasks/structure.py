"""Where samples and segments lie in packed windows, as small dense tables (TensorFlow ops).

A *unit* is one sample in a window (one segment id), or the whole window when samples are not
isolated. A *segment* is a maximal run of tokens strictly between delimiters: <break>, <eos>
and the first token of a unit. Spans are chosen inside segments, so none crosses a delimiter.
"""

from typing import NamedTuple

import tensorflow as tf

from cm3leon_jax import vocabulary as vocabulary_lib


class Structure(NamedTuple):
  """Tables of a batch of windows; U and M are the largest numbers of units and segments in the batch.

  Ends are exclusive. Rows with fewer units or segments end in zeros (start = end = 0).
  """

  unit_starts: tf.Tensor  # int32 [B, U]
  unit_ends: tf.Tensor  # int32 [B, U]
  token_unit: tf.Tensor  # int32 [B, W], the unit of every token; meaningless on padding
  segment_starts: tf.Tensor  # int32 [B, M]
  segment_ends: tf.Tensor  # int32 [B, M]
  segment_unit: tf.Tensor  # int32 [B, M]
  token_segment: tf.Tensor  # int32 [B, W], meaningless on delimiters and padding
  unit_first_segment: tf.Tensor  # int32 [B, U], the number of segments before the unit
  unit_segments: tf.Tensor  # int32 [B, U], the number of segments in it


def take(table: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
  """table[b, index[b, ...]] for every row b."""
  return tf.gather(table, index, batch_dims=1)


def _table(flags: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
  """bool [B, W] → int32 [B, width]: the indices of the flagged tokens of each row, in order, then zeros."""
  where = tf.where(flags)
  rank = tf.cumsum(tf.cast(flags, tf.int32), axis=1) - 1
  cells = tf.stack([tf.cast(where[:, 0], tf.int32), tf.gather_nd(rank, where)], axis=1)
  return tf.scatter_nd(cells, tf.cast(where[:, 1], tf.int32) + 1, tf.stack([tf.shape(flags)[0], width]))


def analyse(vocabulary: vocabulary_lib.Vocabulary, tokens: tf.Tensor, segment_ids: tf.Tensor) -> Structure:
  """Finds units and segments in int32 [B, W] windows (segment id 0 = padding, which stands at the end)."""
  real = segment_ids > 0
  changes = segment_ids[:, 1:] != segment_ids[:, :-1]
  edge = tf.ones_like(real[:, :1])
  first = real & tf.concat([edge, changes], 1)
  last = real & tf.concat([changes, edge], 1)
  inside = real & ~first & (tokens != vocabulary.break_id) & (tokens != vocabulary_lib.EOS_ID)
  outside = tf.zeros_like(edge)
  opens = inside & ~tf.concat([outside, inside[:, :-1]], 1)
  closes = inside & ~tf.concat([inside[:, 1:], outside], 1)

  def count(flags):
    return tf.cumsum(tf.cast(flags, tf.int32), axis=1)

  units, segments = count(first), count(opens)
  num_units = tf.maximum(tf.reduce_max(units[:, -1]), 1)
  num_segments = tf.maximum(tf.reduce_max(segments[:, -1]), 1)
  # _table gives index + 1, so that the exclusive ends come for free; unused entries stay 0.
  unit_starts = tf.maximum(_table(first, num_units) - 1, 0)
  unit_ends = _table(last, num_units)
  segment_starts = tf.maximum(_table(opens, num_segments) - 1, 0)
  token_unit = tf.maximum(units - 1, 0)
  before = take(segments, unit_starts)  # a unit's first token is a delimiter, so this counts earlier units only
  inside_unit = take(segments, tf.maximum(unit_ends - 1, 0)) - before
  return Structure(
      unit_starts=unit_starts, unit_ends=unit_ends, token_unit=token_unit,
      segment_starts=segment_starts, segment_ends=_table(closes, num_segments),
      segment_unit=take(token_unit, segment_starts), token_segment=tf.maximum(segments - 1, 0),
      unit_first_segment=before, unit_segments=tf.where(unit_ends > 0, inside_unit, 0))
