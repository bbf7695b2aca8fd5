"""The engine against full forward passes, against itself in other batches, and against the grammar."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import LAYOUT, V, config, documents, image, parameters, pictures, text

from cm3leon_jax.decoding import prompts
from cm3leon_jax.decoding.engine import Engine, Request
from cm3leon_jax.decoding.rules import Sampling
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.models.transformer import Transformer

GREEDY = Sampling(guidance=1.0, temperature=0.0, top_p=1.0)
CONFIG = config()
PARAMS = parameters(CONFIG)
ENGINE = Engine(CONFIG, PARAMS)


@functools.partial(jax.jit, static_argnums=0)
def whole_pass(cfg, params, tokens, positions, segments):
  model = Transformer(cfg)
  return model.apply({"params": params}, model.apply({"params": params}, tokens, positions, segments), method="logits")


def forward(cfg, params, tokens, positions):
  """[V] logits after the last token, by the whole forward pass over the whole vocabulary (padded on the right)."""
  room = 64 - len(tokens)
  rows = [np.pad(x, (0, room))[None] for x in (tokens, positions, np.ones(len(tokens), np.int32))]
  return np.asarray(whole_pass(cfg, params, *rows)[0, len(tokens) - 1])


def decode_by_forward(cfg, params, streams, combine):
  """Greedy decoding without cache, batch or narrowed head; `combine` makes one [V] of the streams'."""
  tokens = [list(p.tokens) for p in streams]
  positions = [list(p.positions) for p in streams]
  out, log_probs = [], []
  ids = np.arange(cfg.vocab_size)
  for n in range(streams[0].steps):
    given = [int(p.given[n]) for p in streams]
    logits = [forward(cfg, params, np.array(t, np.int32), np.array(p, np.int32)) for t, p in zip(tokens, positions)]
    legal = np.zeros(cfg.vocab_size, bool)
    for low, high in streams[0].allowed[n]:
      legal |= (ids >= low) & (ids < high)
    token = int(np.argmax(np.where(legal, combine(*logits), -np.inf)))
    legal_logits = logits[0][legal].astype(np.float64)
    out.append(token)
    log_probs.append(0.0 if legal.sum() == 1 else logits[0][token] - np.log(np.exp(legal_logits).sum()))
    if token == streams[0].stop:
      break
    for s, prompt in enumerate(streams):
      tokens[s].append(given[s] if given[s] >= 0 else token)
      positions[s].append(prompt.planned_positions[n])
  return out, log_probs


def one(request, engine=ENGINE):
  return engine.generate([request])[0]


TASKS = {
    "text_to_image": lambda: (pictures(1, docs=2)[0],),
    "caption": lambda: (prompts.image_to_text(V, LAYOUT, image(3), docs=documents(1)),),
    "infill": lambda: (prompts.infill_image(V, LAYOUT, text(4), image(4), [0, 1, 1, 0, 1, 1, 0, 0, 0]),),
    "edit": lambda: (prompts.edit(V, LAYOUT, text(5), image(5), text(6)),),
}


@pytest.mark.parametrize("task", TASKS)
def test_decoding_equals_full_forward_passes(task):
  streams = TASKS[task]()
  expected, log_probs = decode_by_forward(CONFIG, PARAMS, streams, lambda c: c)
  output = one(Request(streams, GREEDY, candidates=2))
  for candidate in range(2):
    np.testing.assert_array_equal(output.tokens[candidate, :len(expected)], expected)
    assert (output.tokens[candidate, len(expected):] == 0).all()
    np.testing.assert_allclose(output.log_probs[candidate, :len(expected)], log_probs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [
    {"position": "rope", "position_period": 0, "norm": "rmsnorm", "activation": "swiglu", "qk_norm": True,
     "norm_order": "swin"},
    {"position_period": 0, "num_kv_heads": 4, "norm": "layernorm", "activation": "gelu", "tie_embeddings": False},
], ids=["chameleon", "opt"])
def test_decoding_equals_full_forward_passes_for_other_architectures(changes):
  layout = dataclasses.replace(LAYOUT, numbering="sequence")
  cfg = config(**changes)
  params = parameters(cfg)
  streams = pictures(1, docs=2, layout=layout)[:1]
  expected, _ = decode_by_forward(cfg, params, streams, lambda c: c)
  np.testing.assert_array_equal(one(Request(streams, GREEDY), Engine(cfg, params)).tokens[0], expected)


def test_guidance_and_two_way_guidance_equal_full_forward_passes():
  streams = pictures(2, docs=1)
  expected, _ = decode_by_forward(CONFIG, PARAMS, streams, lambda c, u: u + 3.0 * (c - u))
  greedy = dataclasses.replace(GREEDY, guidance=3.0)
  np.testing.assert_array_equal(one(Request(streams, greedy)).tokens[0], expected)
  plain, _ = decode_by_forward(CONFIG, PARAMS, streams[:1], lambda c: c)
  assert plain != expected  # guidance did something

  # A twin without the text counts its sentinels anew: what is given differs between the streams.
  cells = [0, 1, 1, 0, 1, 1, 0, 0, 0]
  streams = tuple(prompts.infill_image(V, LAYOUT, t, image(4), cells) for t in (text(4), None))
  assert (streams[0].given != streams[1].given).any()
  expected, _ = decode_by_forward(CONFIG, PARAMS, streams, lambda c, u: u + 3.0 * (c - u))
  np.testing.assert_array_equal(one(Request(streams, greedy)).tokens[0], expected)

  streams = (prompts.edit(V, LAYOUT, text(5), image(5), text(6)),
             prompts.edit_without_instruction(V, LAYOUT, text(5), image(5)), prompts.unconditional(V, LAYOUT))
  expected, _ = decode_by_forward(CONFIG, PARAMS, streams, lambda f, i, u: u + 1.5 * (i - u) + 3.0 * (f - i))
  two_way = Request(streams, dataclasses.replace(greedy, image_guidance=1.5))
  np.testing.assert_array_equal(one(two_way).tokens[0], expected)


def test_guidance_of_one_is_conditional_sampling():
  streams = pictures(2)
  settings = Sampling(guidance=1.0)
  with_twin = one(Request(streams, settings, seed=3, candidates=4))
  without = one(Request(streams[:1], settings, seed=3, candidates=4))
  np.testing.assert_array_equal(with_twin.tokens, without.tokens)


def test_a_request_draws_the_same_whatever_the_batch():
  requests = [Request(pictures(i, docs=i % 2 * 2), Sampling(top_p=0.8), seed=i, candidates=4) for i in range(5)]
  # A cache of one byte holds one request at a time: each is run alone.
  alone = Engine(CONFIG, PARAMS, cache_bytes=1).generate(requests)
  for expected, output in zip(alone, ENGINE.generate(requests)):
    np.testing.assert_array_equal(output.tokens, expected.tokens)


def test_settings_are_per_request_in_one_batch():
  mixed = [Sampling(temperature=0.0, top_p=1.0), Sampling(top_k=3), Sampling(contrast=0.5, guidance=1.5),
           Sampling(top_p=0.5)]
  requests = [Request(pictures(1), s, seed=9, candidates=4) for s in mixed]
  together = ENGINE.generate(requests)
  for i in (1, 2):
    np.testing.assert_array_equal(one(requests[i]).tokens, together[i].tokens)


def test_candidates_and_seeds_differ_and_more_candidates_keep_the_first_ones():
  streams = pictures(1)
  output = one(Request(streams, Sampling(guidance=1.0, temperature=1.0, top_p=1.0), seed=1, candidates=6))
  assert len({tuple(t) for t in output.tokens.tolist()}) == 6
  fewer = one(Request(streams, Sampling(guidance=1.0, temperature=1.0, top_p=1.0), seed=1, candidates=2))
  np.testing.assert_array_equal(fewer.tokens, output.tokens[:2])
  other = one(Request(streams, Sampling(guidance=1.0, temperature=1.0, top_p=1.0), seed=2, candidates=2))
  assert (other.tokens != fewer.tokens).any()


def test_first_token_follows_the_models_distribution():
  """6,000 candidates of one prompt against the softmax of the full forward pass, at temperature 1."""
  prompt = pictures(1)[0]
  logits = forward(CONFIG, PARAMS, prompt.tokens, prompt.positions)[V.image_start:V.image_end].astype(np.float64)
  p = np.exp(logits - logits.max())
  p /= p.sum()
  output = one(Request((prompt,), Sampling(temperature=1.0, top_p=1.0), candidates=6000))
  counts = np.bincount(output.tokens[:, 0] - V.image_start, minlength=V.image_size)
  np.testing.assert_allclose(counts / 6000, p, atol=4 * np.sqrt(0.25 / 6000))


def grammar(prompt) -> str:
  """What a decode must look like, as a regular expression over one letter a token."""
  if prompt.stop >= 0:
    return f"t{{1,{(prompt.given < 0).sum()}}}x0*"
  plan = letters(np.where(prompt.given >= 0, prompt.given, V.image_start))
  return re.sub(r"i+", lambda m: f"i{{{len(m.group())}}}", plan)


def letters(tokens) -> str:
  return "".join("0" if t == 0 else "x" if t == V.eoss_id else "s" if V.is_sentinel(t) else "i" if V.is_image(t) else
                 "t" if 3 <= t < V.image_start else "?" for t in tokens)


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_every_decode_of_random_logits_parses(scale):
  """2,800 decodes of nearly uniform and of wildly peaked logits, all kinds of task."""
  params = jax.tree.map(lambda x: x, PARAMS) | {"tokens": PARAMS["tokens"] * scale}
  hot = Sampling(guidance=1.0, temperature=3.0, top_p=1.0)
  requests = [Request(make(), hot, seed=s, candidates=100) for make in TASKS.values() for s in range(2)]
  requests += [Request((prompts.infill_image(V, LAYOUT, None, image(1), cells),), hot, candidates=100)
               for cells in np.random.default_rng(0).random((5, 9)) < 0.5]
  for request, output in zip(requests, Engine(CONFIG, params).generate(requests)):
    expected = re.compile(grammar(request.streams[0]))
    for tokens in output.tokens:
      assert expected.fullmatch(letters(tokens)), (expected, letters(tokens))


def test_infill_leaves_all_other_cells_untouched():
  cells = np.array([0, 1, 1, 0, 1, 1, 0, 0, 0], bool)
  prompt, source = TASKS["infill"]()[0], image(4)
  output = one(Request((prompt,), Sampling(), candidates=5))
  for tokens in output.tokens:
    drawn = prompts.image_of(prompt, tokens, source)
    np.testing.assert_array_equal(drawn[~cells], source[~cells])
    assert V.is_image(drawn).all()


def test_a_prompt_beyond_the_models_positions_is_refused_with_the_arithmetic():
  layout = Layout(image_tokens=9, text_tokens=5, max_documents=9, numbering="sequence")
  prompt = prompts.text_to_image(V, layout, text(0), documents(3))
  # E + 3 documents of (2, 3, 4) + 2·1 + 9 tokens + 3 + b = 47 read, 9 to come.
  with pytest.raises(InputError, match="47 tokens and 9 to generate need 56 positions, the model has 49"):
    one(Request((prompt,)))


def test_broken_weights_name_the_step_and_the_stream():
  params = PARAMS | {"position_offsets": PARAMS["position_offsets"].at[LAYOUT.break_position(0) + 4].set(jnp.nan)}
  with pytest.raises(InputError, match="not finite at step 4 of the conditional stream"):
    one(Request(pictures(1, docs=0)), Engine(CONFIG, params))


def test_bad_requests_are_refused():
  with pytest.raises(InputError, match="candidates=0"):
    Request(pictures(1), candidates=0)
  with pytest.raises(InputError, match="seed=-1"):
    Request(pictures(1), seed=-1)
  with pytest.raises(ValueError, match="same tokens"):
    Request((pictures(1)[0], TASKS["caption"]()[0]))


@pytest.mark.parametrize("count", [1, 5, 11])
def test_eight_devices_draw_what_one_draws(count):
  requests = [Request(pictures(n, docs=n % 3), Sampling(temperature=1.0), seed=n, candidates=2) for n in range(count)]
  requests += [Request((prompts.image_to_text(V, LAYOUT, image(n)),), GREEDY, seed=n) for n in range(3)]
  eight = Engine(CONFIG, PARAMS, devices=jax.devices())
  assert len(jax.devices()) == 8
  for one, other in zip(ENGINE.generate(requests), eight.generate(requests), strict=True):
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)
