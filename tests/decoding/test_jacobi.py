"""Decoding several tokens a pass against one token a pass: the same tokens, seed by seed, under every rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from small import LAYOUT, V, config, image, parameters, pictures, text

from cm3leon_jax.decoding import prompts
from cm3leon_jax.decoding.engine import Engine, Request
from cm3leon_jax.decoding.rules import Sampling
from cm3leon_jax.errors import InputError
from cm3leon_jax.models.transformer import Transformer
from cm3leon_jax.vocabulary import Vocabulary

CONFIG = config()
PARAMS = parameters(CONFIG)
PLAIN = Engine(CONFIG, PARAMS)
JACOBI = {window: Engine(CONFIG, PARAMS, jacobi_window=window) for window in (2, 4, 16)}  # 16: more than the image has

GREEDY = Sampling(guidance=1.0, temperature=0.0, top_p=1.0)
RULES = {
    "greedy": GREEDY,
    "temperature": Sampling(guidance=1.0, temperature=1.0, top_p=1.0),
    "guidance, top-p": Sampling(guidance=3.0, temperature=0.9, top_p=0.8),
    "guidance, top-k": Sampling(guidance=2.0, temperature=1.2, top_p=1.0, top_k=5),
    "CD-K for half": Sampling(contrast=0.5, guidance=2.0),
}


def assert_same(one, other):
  np.testing.assert_array_equal(one.tokens, other.tokens)
  np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", JACOBI)
def test_every_rule_draws_the_tokens_of_plain_decoding(window):
  """5 rules × 2 seeds × 40 candidates × 9 tokens."""
  requests = [Request(pictures(seed, docs=seed), s, seed=seed, candidates=40) for s in RULES.values() for seed in (0, 1)]
  for plain, jacobi in zip(PLAIN.generate(requests), JACOBI[window].generate(requests), strict=True):
    assert_same(plain, jacobi)
    assert (plain.passes == 9).all()
    assert (jacobi.passes <= 9).all() and (jacobi.passes >= -(-9 // window)).all()


def test_two_way_guidance_and_given_tokens_draw_the_same():
  cells = [0, 1, 1, 0, 1, 1, 0, 0, 0]  # two spans: <eoss> and <sentinel:1> between them are given, the latter by stream
  infill = tuple(prompts.infill_image(V, LAYOUT, t, image(4), cells) for t in (text(4), None))
  assert (infill[0].given != infill[1].given).any()
  edit = (prompts.edit(V, LAYOUT, text(5), image(5), text(6)),
          prompts.edit_without_instruction(V, LAYOUT, text(5), image(5)), prompts.unconditional(V, LAYOUT))
  for streams in (infill, edit):
    request = Request(streams, Sampling(temperature=1.0), seed=4, candidates=20)
    assert_same(PLAIN.generate([request])[0], JACOBI[4].generate([request])[0])


def test_texts_are_written_one_token_a_pass():
  request = Request((prompts.image_to_text(V, LAYOUT, image(3)),), RULES["temperature"], candidates=8)
  plain, jacobi = PLAIN.generate([request])[0], JACOBI[4].generate([request])[0]
  assert_same(plain, jacobi)
  np.testing.assert_array_equal(plain.passes, (plain.tokens != 0).sum(axis=1))  # done at <eoss>
  np.testing.assert_array_equal(jacobi.passes, plain.passes)


def test_eight_devices_draw_what_one_draws():
  requests = [Request(pictures(n, docs=n % 3), RULES["guidance, top-p"], seed=n, candidates=2) for n in range(5)]
  eight = Engine(CONFIG, PARAMS, devices=jax.devices(), jacobi_window=4)
  for one, other in zip(JACOBI[4].generate(requests), eight.generate(requests), strict=True):
    assert_same(one, other)
    np.testing.assert_array_equal(one.passes, other.passes)


def test_pairs_of_tokens_follow_the_models_distribution():
  """Chi-square of 20,000 drawn pairs against the exact joint distribution of whole passes; fails below p = 0.001.

  Pairs expected less than 5 times are counted together. The seed is fixed, so that it always draws the same.
  """
  v = Vocabulary(text_size=40, image_size=6, num_sentinels=8, total_size=0)
  cfg = config(vocab_size=v.total_size)
  params, sampling = parameters(cfg), RULES["temperature"]
  prompt = prompts.text_to_image(v, LAYOUT, text(1))
  codes = np.arange(v.image_start, v.image_end)
  tokens = np.stack([np.append(prompt.tokens, code) for code in codes]).astype(np.int32)
  positions = np.tile(np.append(prompt.positions, prompt.planned_positions[0]), (6, 1)).astype(np.int32)
  model, variables = Transformer(cfg), {"params": params}
  hidden = model.apply(variables, tokens, positions, jnp.ones_like(tokens))
  logits = np.asarray(model.apply(variables, hidden[:, -2:], method="logits"), np.float64)[..., codes]
  p = np.exp(logits - logits.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  joint = (p[0, 0][:, None] * p[:, 1]).reshape(-1)
  count = 20_000
  drawn = Engine(cfg, params, jacobi_window=3).generate([Request((prompt,), sampling, seed=7, candidates=count)])[0].tokens
  first, second = drawn[:, 0] - v.image_start, drawn[:, 1] - v.image_start
  observed = np.bincount(first * 6 + second, minlength=36)
  often = joint * count >= 5
  assert often.sum() > 10  # the test sees more than a few pairs
  observed, expected = (np.append(x[often], x[~often].sum()) for x in (observed, joint * count))
  assert scipy.stats.chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_a_model_that_hears_no_neighbour_needs_few_passes():
  """Without attention's output a token depends on the one read last alone; greedy, that one soon repeats itself."""
  params = jax.tree.map(lambda x: x, PARAMS)
  params["layers"] = params["layers"] | {"attention_out": 0 * PARAMS["layers"]["attention_out"],
                                         "mlp_out": 0 * PARAMS["layers"]["mlp_out"]}
  params = params | {"tokens": 0.01 * params["tokens"]}  # positions decide
  request = Request(pictures(1)[:1], RULES["temperature"], candidates=4)
  plain, jacobi = (Engine(CONFIG, params, jacobi_window=w).generate([request])[0] for w in (0, 16))
  np.testing.assert_array_equal(plain.tokens, jacobi.tokens)
  assert jacobi.passes.max() <= 4, jacobi.passes


def test_broken_weights_name_the_stream_and_a_step_within_the_window():
  params = PARAMS | {"position_offsets": PARAMS["position_offsets"].at[LAYOUT.break_position(0) + 4].set(jnp.nan)}
  with pytest.raises(InputError, match="not finite at step [1-4] of the conditional stream"):
    Engine(CONFIG, params, jacobi_window=4).generate([Request(pictures(1, docs=0))])


@pytest.mark.parametrize("window", [1, -3])
def test_a_window_of_one_token_is_refused(window):
  with pytest.raises(InputError, match=f"jacobi_window={window}"):
    Engine(CONFIG, PARAMS, jacobi_window=window)
