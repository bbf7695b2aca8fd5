"""Moves masked spans to the end of the window, with their sentinels and positions (TensorFlow ops).

    source:  each span replaced by <sentinel:i>, numbered from 0 within its unit
    tails:   after the last token, span by span:  <sentinel:i> span <eoss>,  in the segment of its sample

Positions: with `sequence` numbering 0, 1, 2, … over the unit's source and then its tails. With
`document` numbering every token keeps its position, except that text after a masked text span
closes up behind the sentinel, so that no length leaks; a sentinel stands where the first token
that it replaces would, in the source and in the tail, text of the span counts up from there, image
codes keep their cell's position, and <eoss> follows the last token of the span.
"""

from typing import Mapping

import tensorflow as tf

from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks.structure import Structure, take
from cm3leon_jax.vocabulary import EOS_ID, Vocabulary


def rearrange(
    vocabulary: Vocabulary, layout: Layout, windows: Mapping[str, tf.Tensor], structure: Structure,
    starts: tf.Tensor, ends: tf.Tensor, sentinel_loss_weight: float) -> dict[str, tf.Tensor]:
  """Rearranges windows [B, W] by N disjoint, ascending spans; returns [B, W + 3N], padded with zeros.

  Args:
    vocabulary: the id space.
    layout: its numbering says how positions go.
    windows: `tokens`, `segment_ids`, `positions` int32, `loss_weights` float32, all [B, W].
    structure: of these windows.
    starts, ends: int32 [B, N]; unused spans are W, W.
    sentinel_loss_weight: factor on the weight of sentinels.
  """
  s = structure
  tokens, segment_ids = windows["tokens"], windows["segment_ids"]
  width, num_spans = tokens.shape[1], starts.shape[1]
  out_width = width + 3 * num_spans
  batch = tf.shape(tokens)[0]
  where = tf.range(width)[None, :]
  valid = starts < width
  first, last = tf.minimum(starts, width - 1), tf.maximum(ends - 1, 0)  # safe to gather at

  def flag(index):  # int32 [B, N] → int32 [B, W], ones there; index W is dropped
    cells = tf.stack([tf.repeat(tf.range(batch), num_spans), tf.reshape(index, [-1])], axis=1)
    return tf.scatter_nd(cells, tf.ones_like(cells[:, 0]), tf.stack([batch, width + 1]))[:, :width]

  opens = flag(starts)
  spans_so_far = tf.cumsum(opens, axis=1)  # spans that start at or before the token
  masked = tf.cumsum(opens - flag(ends), axis=1) > 0
  masked_int = tf.cast(masked, tf.int32)
  masked_before = tf.cumsum(masked_int, axis=1, exclusive=True)
  token_span = tf.maximum(spans_so_far - 1, 0)

  lengths = ends - starts
  lengths_before = tf.cumsum(lengths, axis=1, exclusive=True)
  number = tf.range(num_spans)[None, :]
  real = segment_ids > 0
  source_length = tf.reduce_sum(tf.cast(real, tf.int32) - masked_int + opens, axis=1, keepdims=True)
  tail_starts = source_length + lengths_before + 2 * number

  # Where each of the W + 3N things (tokens, source sentinels, tail sentinels, <eoss>) goes.
  span_of_token = lambda table: take(table, token_span)
  to_source = where - masked_before + spans_so_far
  to_tail = span_of_token(tail_starts) + 1 + where - span_of_token(starts)
  targets = tf.concat([
      tf.where(real, tf.where(masked, to_tail, to_source), out_width),
      tf.where(valid, starts - lengths_before + number, out_width),
      tf.where(valid, tail_starts, out_width),
      tf.where(valid, tail_starts + 1 + lengths, out_width)], axis=1)

  # Numbering within the unit.
  unit = take(s.token_unit, first)
  unit_span = take(spans_so_far - opens, take(s.unit_starts, unit))  # number of the unit's first span
  sentinels = vocabulary.sentinel_start + number - unit_span

  if layout.numbering == "sequence":
    unit_last = tf.maximum(s.unit_ends - 1, 0)
    unit_masked = take(masked_before + masked_int, unit_last) - take(masked_before, s.unit_starts)
    unit_spans = take(spans_so_far, unit_last) - take(spans_so_far - opens, s.unit_starts)
    unit_source = s.unit_ends - s.unit_starts - unit_masked + unit_spans  # source length of the unit
    unit_target = take(to_source, s.unit_starts)  # where its source begins
    tail_shift = take(unit_source, unit) - take(tail_starts, tf.minimum(unit_span, num_spans - 1))  # [B, N]
    source_shift = take(unit_target, s.token_unit)
    moved = tf.where(masked, targets[:, :width] + span_of_token(tail_shift), targets[:, :width] - source_shift)
    source_positions = targets[:, width:width + num_spans] - take(unit_target, unit)
    tail_positions = tail_starts + tail_shift
    eoss_positions = tail_positions + 1 + lengths
  else:
    # How far text has closed up: text tokens gone without a sentinel in their place, since the segment began.
    gone = tf.cumsum(tf.where(masked & vocabulary.is_text(tokens), 1 - opens, 0), axis=1, exclusive=True)
    shift = gone - take(gone, take(s.segment_starts, s.token_segment))
    shift = tf.where(vocabulary.is_text(tokens) & ~_is_delimiter(vocabulary, tokens), shift, 0)
    positions = windows["positions"]
    moved = positions - tf.where(masked, span_of_token(take(shift, first)), shift)
    source_positions = tail_positions = take(moved, first)
    eoss_positions = take(moved, last) + 1

  weights = windows["loss_weights"]
  sentinel_weights = sentinel_loss_weight * take(weights, first)
  span_segments = take(segment_ids, first)
  things = {
      "tokens": [tokens, sentinels, sentinels, tf.fill(tf.shape(starts), vocabulary.eoss_id)],
      "loss_weights": [weights, sentinel_weights, sentinel_weights, take(weights, last)],
      "segment_ids": [segment_ids, span_segments, span_segments, span_segments],
      "positions": [moved, source_positions, tail_positions, eoss_positions],
  }
  # Invert the permutation once, then gather every feature; column out_width of the things is padding.
  cells = tf.reshape(targets + (out_width + 1) * tf.range(batch)[:, None], [-1, 1])
  source = tf.tensor_scatter_nd_update(
      tf.fill([batch * (out_width + 1)], out_width), cells, tf.tile(tf.range(out_width), [batch]))
  source = tf.reshape(source, [batch, out_width + 1])[:, :out_width]
  rows = {}
  for name, parts in things.items():
    padding = tf.zeros([batch, 1], parts[0].dtype)
    rows[name] = tf.ensure_shape(take(tf.concat(parts + [padding], axis=1), source), [None, out_width])
  return rows


def _is_delimiter(vocabulary: Vocabulary, tokens: tf.Tensor) -> tf.Tensor:
  return (tokens == EOS_ID) | (tokens == vocabulary.break_id)
