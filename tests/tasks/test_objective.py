import dataclasses
import functools

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest
import tensorflow as tf

from cm3leon_jax.errors import InputError
from cm3leon_jax.tasks import objective as objective_lib
from cm3leon_jax.vocabulary import EOS_ID
import reference_objective as reference
from task_samples import LAYOUT, VOCABULARY, stack, window

CM3Objective = objective_lib.CM3Objective
SEQUENCE = dataclasses.replace(LAYOUT, numbering="sequence")
WIDTH = 160


@functools.cache
def compiled(objective, layout, answers=False):
  """mask_windows and its draws, compiled once a configuration."""

  @tf.function(autograph=False)
  def run(windows, seed, epochs, indices):
    draws = objective_lib.draw(objective, WIDTH, seed, epochs, indices)
    return objective_lib.mask_windows(objective, VOCABULARY, layout, windows, draws), draws

  return run


def run(objective, layout, windows, seed=0, epoch=0):
  batch = len(windows["tokens"])
  out, draws = compiled(objective, layout, "answers" in windows)(
      {k: tf.constant(v) for k, v in windows.items()}, seed, tf.fill([batch], epoch), tf.range(batch))
  return {k: v.numpy() for k, v in out.items()}, draws.numpy()


OBJECTIVES = [
    CM3Objective(max_spans=8, rate=3.0, whole_segment_probability=0.5, sentinel_loss_weight=0.0),
    CM3Objective(max_spans=3, rate=4.0, min_spans=1, whole_segment_probability=0.0),
    CM3Objective(max_spans=8, rate=2.0, whole_segment_probability=1.0),
]
texts = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=3), min_size=0, max_size=3)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(texts, min_size=4, max_size=4), seed=st.integers(0, 2**31 - 1), which=st.integers(0, 2),
       mode=st.sampled_from(["document", "sequence", "packed"]), answers=st.booleans())
def test_equals_the_reference_and_loses_nothing(texts, seed, which, mode, answers):
  objective, layout = OBJECTIVES[which], LAYOUT if mode == "document" else SEQUENCE
  rng = np.random.default_rng(seed)
  rows = [window(rng, t, WIDTH, layout, isolated=mode != "packed") for t in texts]
  for row in rows:
    row["answers"] = np.zeros(WIDTH, np.int32)
    for unit in reference.units_of(row["segment_ids"]):
      segments = reference.segments_of(VOCABULARY, row["tokens"], unit)
      if answers and segments and rng.random() < 0.7:
        a, b = segments[rng.integers(len(segments))]
        row["answers"][rng.integers(a, b):b] = 1
  out, draws = run(objective, layout, stack(rows), seed)
  for b, row in enumerate(rows):
    got = {k: v[b] for k, v in out.items()}
    want = reference.masked(objective, VOCABULARY, layout, row, draws[b])
    for name in want:
      np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    real = row["segment_ids"] > 0
    tokens, segments = reference.unmasked(VOCABULARY, got)
    np.testing.assert_array_equal(tokens, row["tokens"][real])
    np.testing.assert_array_equal(segments, row["segment_ids"][real])
    for span in tails(got):
      assert span, "an empty span"
      assert not set(span) & {EOS_ID, VOCABULARY.break_id}, "a span crosses a delimiter"
      assert len({bool(VOCABULARY.is_text(t)) for t in span}) == 1
    # Length grows by three a span, never beyond what was reserved.
    assert (got["segment_ids"] > 0).sum() == real.sum() + 3 * len(tails(got))
    assert got["tokens"].shape == (WIDTH + objective.reserve,)


def tails(row):
  """The spans in the tails of a masked window."""
  spans, seen = [], set()
  current = None
  for token, segment in zip(row["tokens"].tolist(), row["segment_ids"].tolist()):
    if VOCABULARY.is_sentinel(token):
      if (segment, token) in seen:
        current = []
        spans.append(current)
      seen.add((segment, token))
    elif token == VOCABULARY.eoss_id:
      current = None
    elif current is not None and segment:
      current.append(token)
  return spans


def test_positions_by_hand():
  # E t t t t b I(9) E in the last of 3 slots, stride 6 + 2 + 9 = 17: E at 34, text 35.., break 41, image 42.., E 51.
  layout = LAYOUT
  row = window(np.random.default_rng(0), [[4]], WIDTH)
  t = row["tokens"]
  starts, ends = [[2, 8, WIDTH]], [[4, 10, WIDTH]]  # the 2nd and 3rd text token; the 3rd and 4th cell
  windows = {k: tf.constant(v[None]) for k, v in row.items()}
  structure = objective_lib.structure_lib.analyse(VOCABULARY, windows["tokens"], windows["segment_ids"])
  out = objective_lib.rearrange.rearrange(
      VOCABULARY, layout, windows, structure, tf.constant(starts), tf.constant(ends), 1.0)
  s0, s1, eoss = VOCABULARY.sentinel(0), VOCABULARY.sentinel(1), VOCABULARY.eoss_id
  want = [
      (1, 34), (t[1], 35), (s0, 36), (t[4], 37), (t[5], 41), (t[6], 42), (t[7], 43), (s1, 44),
      (t[10], 46), (t[11], 47), (t[12], 48), (t[13], 49), (t[14], 50), (1, 51),
      (s0, 36), (t[2], 36), (t[3], 37), (eoss, 38), (s1, 44), (t[8], 44), (t[9], 45), (eoss, 46)]
  got = list(zip(out["tokens"][0].numpy().tolist(), out["positions"][0].numpy().tolist()))
  assert got[:len(want)] == want
  assert not any(out["segment_ids"][0, len(want):])


def test_stateless():
  rng = np.random.default_rng(1)
  rows = stack([window(rng, [[3, 4], [5]], WIDTH) for _ in range(6)])
  objective = OBJECTIVES[0]
  whole, draws = run(objective, LAYOUT, rows, seed=7, epoch=2)
  # A row alone, under its own index, gets the same masks; another epoch gets others.
  alone, _ = compiled(objective, LAYOUT)(
      {k: tf.constant(v[3:4]) for k, v in rows.items()}, 7, tf.constant([2]), tf.constant([3]))
  np.testing.assert_array_equal(alone["tokens"][0], whole["tokens"][3])
  other, other_draws = run(objective, LAYOUT, rows, seed=7, epoch=3)
  assert not np.array_equal(other["tokens"], whole["tokens"])
  assert len(np.unique(np.concatenate([draws, other_draws])[:, 0])) == 12


def test_statistics():
  """Shares of 4,000 samples of 3 pairs against arithmetic (a binomial standard error is ≤ 0.008; 4 allowed)."""
  count = 4000
  row = window(np.random.default_rng(2), [[6, 6, 6]], WIDTH)
  out, _ = run(CM3Objective(max_spans=8, whole_segment_probability=1.0), LAYOUT, stack([row] * count), seed=3)
  found = [tails({k: v[b] for k, v in out.items()}) for b in range(count)]
  # Poisson(1) is 0 in e^-1 = 36.8 %.
  assert abs(np.mean([not spans for spans in found]) - np.exp(-1)) < 0.032
  # n of 6 segments, 3 of them captions: P(at least one) = 1 - C(3,n)/C(6,n) = .5, .8, .95, 1, 1 for n = 1..5,
  # and P(n) = .368, .184, .061, .015, .003; six and more are rarer than 0.1 %.
  captions = [sum(len(s) == 6 and VOCABULARY.is_text(s[0]) for s in spans) for spans in found]
  want = 0.368 * 0.5 + 0.184 * 0.8 + 0.061 * 0.95 + 0.015 + 0.003
  assert abs(np.mean([c > 0 for c in captions]) - want) < 0.032
  # Uniform over segments, not by length: half of the segments chosen are captions.
  assert abs(sum(captions) / sum(map(len, found)) - 0.5) < 0.032


def test_answers_are_masked_with_their_probability_and_alone():
  rng = np.random.default_rng(4)
  row = window(rng, [[6], [5]], WIDTH)
  row["answers"] = np.zeros(WIDTH, np.int32)
  row["answers"][3:7] = 1
  rows = stack([row] * 2000)
  out, _ = run(CM3Objective(max_spans=8, rate=0.0, answer_mask_probability=0.3), LAYOUT, rows)
  hit = 0
  for b in range(2000):
    found = tails({k: v[b] for k, v in out.items()})
    assert found in ([], [row["tokens"][3:7].tolist()])
    hit += bool(found)
  assert abs(hit / 2000 - 0.3) < 0.042  # 4 standard errors


def test_bad_parameters():
  with pytest.raises(InputError, match="known: poisson, none"):
    CM3Objective(mode="fim")
  with pytest.raises(InputError, match="min_spans <= max_spans"):
    CM3Objective(min_spans=3, max_spans=2)
  rows = {k: v[None] for k, v in window(np.random.default_rng(0), [[1]], WIDTH).items()}
  with pytest.raises(InputError, match="max_spans=17 exceeds the vocabulary's 16 sentinels"):
    run(CM3Objective(max_spans=17), LAYOUT, rows)
