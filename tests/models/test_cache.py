"""Decoding through the cache computes what the whole forward pass computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.models.cache import init_cache
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.transformer import Transformer, init_parameters

LEARNED = TransformerConfig(vocab_size=48, num_layers=2, model_dim=16, num_heads=4, max_positions=24,
                            dtype="float32", init_std=0.2, position_init_std=0.2)
ROTARY = TransformerConfig(vocab_size=48, num_layers=2, model_dim=16, num_heads=4, num_kv_heads=2, position="rope",
                           dtype="float32", init_std=0.2, qk_norm=True, norm="rmsnorm")


initial = jax.jit(init_parameters, static_argnums=0)


def run(model, variables, *args, **kwargs):
  """`model.apply`, compiled whole: op by op it takes many times longer."""
  return jax.jit(lambda v, *a: model.apply(v, *a, **kwargs))(variables, *args)


def _model(config):
  params = initial(config, jax.random.key(0))
  fill = lambda x: x if x.any() else 0.2 * jax.random.normal(jax.random.key(1), x.shape)
  return Transformer(config), jax.tree.map(fill, params)


@pytest.mark.parametrize("config", [LEARNED, ROTARY], ids=["learned", "rotary"])
def test_left_padded_prompts_then_single_steps_equal_the_whole(config):
  """Two rows of 9 and 6 tokens: prompts of 5 and 2 in one prefill (padded left), then 4 steps."""
  model, params = _model(config)
  ids = jax.random.randint(jax.random.key(2), (2, 9), 1, 48)
  lengths, prompt, steps = (9, 6), 5, 4
  whole = [run(model, {"params": params}, ids[i:i + 1, :n], jnp.arange(n)[None], jnp.ones((1, n), jnp.int32))[0]
           for i, n in enumerate(lengths)]

  padding = np.array([0, 3])
  places = np.arange(9)[None] - padding[:, None]  # token that stands at each place of the padded row
  valid = jnp.asarray(places >= 0)
  padded_ids = jnp.take_along_axis(ids, jnp.maximum(places, 0), axis=1)
  positions = jnp.maximum(places, 0)
  extend = jax.jit(lambda *args: run(model, {"params": params}, *args, method="extend"))
  cache = init_cache(config, 2, 11)
  hidden, cache = extend(padded_ids[:, :prompt], positions[:, :prompt], valid[:, :prompt], cache)
  parts = [hidden]
  for t in range(prompt, prompt + steps):
    hidden, cache = extend(padded_ids[:, t:t + 1], positions[:, t:t + 1], valid[:, t:t + 1], cache)
    parts.append(hidden)
  assert int(cache.length) == 9
  got = jnp.concatenate(parts, axis=1)
  for i in range(2):
    np.testing.assert_allclose(got[i, padding[i]:], whole[i], atol=2e-5)


def test_what_stands_in_the_padding_does_not_matter():
  model, params = _model(LEARNED)
  valid = jnp.asarray([[False, False, True, True]])
  positions = jnp.asarray([[0, 0, 0, 1]])
  outs = [run(model, {"params": params}, jnp.asarray([[junk, junk, 5, 6]]), positions, valid, init_cache(LEARNED, 1, 4),
                      method="extend")[0] for junk in (0, 40)]
  np.testing.assert_array_equal(outs[0][:, 2:], outs[1][:, 2:])
  assert np.isfinite(outs[0]).all()


def test_cache_has_the_models_shape():
  cache = init_cache(ROTARY, 3, 7)
  assert cache.keys.shape == cache.values.shape == (2, 3, 7, 2, 4)  # layers, batch, places, kv heads, width
  assert cache.valid.shape == (3, 7) and not cache.valid.any() and cache.keys.dtype == jnp.float32
