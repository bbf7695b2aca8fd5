"""The schedule, and Muon on stacked weights: every layer, and queries, keys and values, on their own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run

from cm3leon_jax.models.init import abstract_parameters
from cm3leon_jax.models.transformer import init_parameters
from cm3leon_jax.training.optimizer import OptimizerConfig, make_optimizer, schedule

MUON = OptimizerConfig("muon", muon_learning_rate=1.0, warmup_steps=0, end_fraction=1.0, weight_decay=0.0, clip=1e9)


def test_schedule_warms_up_and_decays_to_a_tenth():
  rate = schedule(OptimizerConfig(warmup_steps=10), steps=110, peak=1.0)
  assert float(rate(0)) == pytest.approx(0.1)  # the first step is not wasted on a rate of 0
  assert float(rate(9)) == float(rate(10)) == pytest.approx(1.0)
  assert float(rate(60)) == pytest.approx(0.55)
  assert float(rate(110)) == float(rate(500)) == pytest.approx(0.1)


def _update(config, model, gradients):
  params = init_parameters(model, jax.random.key(0))
  optimizer = make_optimizer(config, model, 10)
  return jax.jit(lambda g: optimizer.update(g, optimizer.init(params), params)[0])(gradients)


def _gradients(model, seed=0):
  leaves, tree = jax.tree.flatten(abstract_parameters(model))
  return tree.unflatten([jax.random.normal(jax.random.key(seed + i), x.shape) for i, x in enumerate(leaves)])


def test_muon_orthogonalises_each_matrix_alone():
  """Scaling one layer's gradient, or one of q, k, v, must change no update: each is a matrix of its own."""
  model = tiny_run.model(num_layers=3)
  gradients = _gradients(model)
  plain = _update(MUON, model, gradients)["layers"]
  scaled = dict(gradients["layers"])
  scaled["mlp_in"] = scaled["mlp_in"].at[1].multiply(50.0)
  scaled["qkv"] = scaled["qkv"].at[:, :, :, 2].multiply(50.0)  # the values
  other = _update(MUON, model, gradients | {"layers": scaled})["layers"]
  for name in plain:
    np.testing.assert_allclose(plain[name], other[name], atol=2e-3, err_msg=name)


def test_muon_updates_have_singular_values_near_one():
  model = tiny_run.model()
  update = _update(MUON, model, _gradients(model))["layers"]
  for name, matrix, gain in (("qkv", update["qkv"][1, :, :, 0].reshape(16, 16), 1.0),
                             ("mlp_in", update["mlp_in"][0], 3**0.5),  # sqrt(48 / 16)
                             ("mlp_out", update["mlp_out"][0], 1.0),
                             ("attention_out", update["attention_out"][0].reshape(16, 16), 1.0)):
    values = np.linalg.svd(np.asarray(matrix) / gain, compute_uv=False)
    # Five Newton-Schulz steps bring values to 0.7…1.2, save those that started near zero.
    assert values.max() < 1.3 and np.median(values) > 0.6, name


def test_muon_leaves_embeddings_to_adam():
  model = tiny_run.model(norm="rmsnorm")
  config = dataclasses.replace(MUON, learning_rate=1e-3)
  update = _update(config, model, _gradients(model))
  # One size in every entry: Adam with Nesterov momentum first moves 1 + 0.9·0.1/0.19 = 1.474 times the rate.
  np.testing.assert_allclose(np.abs(update["tokens"]), 1.474e-3, rtol=0.01)
  np.testing.assert_allclose(np.abs(update["layers"]["mlp_norm_scale"]), 1.474e-3, rtol=0.01)


def test_weight_decay_spares_the_norms():
  model = tiny_run.model(norm="layernorm", qk_norm=True)
  zero = jax.tree.map(lambda x: jnp.zeros(x.shape), abstract_parameters(model))
  config = OptimizerConfig(learning_rate=1.0, warmup_steps=0, end_fraction=1.0, weight_decay=0.1)
  update = _update(config, model, zero)
  params = init_parameters(model, jax.random.key(0))
  np.testing.assert_allclose(update["layers"]["qkv"], -0.1 * params["layers"]["qkv"], rtol=1e-5)
  np.testing.assert_array_equal(update["layers"]["q_norm_scale"], 0.0)
  np.testing.assert_array_equal(update["final_norm_scale"], 0.0)


def test_gradients_are_clipped_by_their_global_norm():
  model = tiny_run.model()
  params = init_parameters(model, jax.random.key(0))
  clipped = make_optimizer(OptimizerConfig(clip=1.0), model, 10)
  free = make_optimizer(OptimizerConfig(clip=1e9), model, 10)
  gradients = _gradients(model)
  norm = optax.tree.norm(gradients)
  want = free.update(jax.tree.map(lambda g: g / norm, gradients), free.init(params), params)[1]
  got = clipped.update(gradients, clipped.init(params), params)[1]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-9), got, want)


def test_an_unknown_optimizer_is_named():
  with pytest.raises(ValueError, match="'sgd'.*adamw, muon"):
    OptimizerConfig("sgd")
