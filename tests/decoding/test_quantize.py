"""int8 weights: the rounding against NumPy, and the engine's tokens against those of the rounded weights in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import config, parameters, pictures

from cm3leon_jax.decoding import program, quantize
from cm3leon_jax.decoding.engine import Engine, Request
from cm3leon_jax.decoding.rules import Sampling
from cm3leon_jax.errors import InputError


@pytest.mark.parametrize("shape, inputs", [((6, 5), (0,)), ((2, 3, 4, 5), (0, 1, 2)), ((6, 2, 5), (0,))])
def test_rounding_per_output_channel(shape, inputs):
  w = np.random.default_rng(0).normal(size=shape)
  w[..., 1] = 0  # a dead channel stays zero
  scale = np.abs(w).max(axis=inputs, keepdims=True) / 127
  expected = np.round(np.divide(w, scale, out=np.zeros_like(w), where=scale > 0))
  got = quantize.quantized(jnp.asarray(w, jnp.float32), inputs)
  assert got.values.dtype == jnp.int8
  np.testing.assert_array_equal(got.values, expected)
  np.testing.assert_allclose(got.scale, scale, rtol=1e-6)
  assert (np.abs(got.astype(jnp.float32) - w) <= scale / 2 * (1 + 1e-5)).all()
  assert np.abs(got.values).max() == 127


@pytest.mark.parametrize("changes", [{}, {"activation": "swiglu", "norm": "rmsnorm", "qk_norm": True}],
                         ids=["cm3leon", "chameleon"])
def test_every_matmul_of_the_layers_is_rounded_and_decodes_as_its_rounded_self(changes):
  cfg = config(**changes)
  params = parameters(cfg)
  layers = quantize.int8(program.unstacked(cfg, params))["layers"]
  assert {name for name, w in layers[0].items() if isinstance(w, quantize.Int8)} == {
      "qkv", "attention_out", "mlp_in", "mlp_out"}
  rounded = params | {"layers": {name: jnp.stack([w[name].astype(jnp.float32) for w in layers]) for name in layers[0]}}
  requests = [Request(pictures(n), Sampling(temperature=1.0), seed=n, candidates=8) for n in range(2)]
  outputs = zip(Engine(cfg, params, weights="int8").generate(requests), Engine(cfg, rounded).generate(requests))
  for int8, expected in outputs:
    np.testing.assert_array_equal(int8.tokens, expected.tokens)
  plain = Engine(cfg, params).generate(requests)
  assert any((a.log_probs != b.log_probs).any() for a, b in zip(plain, Engine(cfg, rounded).generate(requests)))


def test_the_weights_of_layers_take_a_quarter_of_their_memory():
  cfg = config(model_dim=64)
  params = program.unstacked(cfg, parameters(cfg))
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree["layers"]))
  # A scale of 4 bytes stands for 64 weights or more of one byte.
  assert size(quantize.int8(params)) <= size(params) / 4 * (1 + 4 / 64)


def test_unknown_weights_are_refused():
  with pytest.raises(InputError, match="weights=int4"):
    Engine(config(), parameters(config()), weights="int4")
