"""Cross-entropy against NumPy, whole and in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.transformer import Transformer, init_parameters
from cm3leon_jax.training.losses import LossConfig, loss_sums, metrics


def _loss(config):
  network = Transformer(tiny_run.model())
  batch = {k: jnp.asarray(v) for k, v in tiny_run.batch(3).items()}

  def loss(params):
    result = metrics(loss_sums(network, params, batch, config, tiny_run.VOCABULARY))
    return result["loss"], result
  return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module")
def params():
  params = init_parameters(tiny_run.model(), jax.random.key(0))
  return jax.tree.map(lambda x: x if x.any() else 0.1 * jax.random.normal(jax.random.key(1), x.shape), params)


def test_chunks_change_neither_loss_nor_gradient(params):
  settings = {"text_weight": 0.3, "z_loss": 1e-2}
  (whole, all_metrics), gradient = _loss(LossConfig(**settings))(params)
  (chunked, chunk_metrics), chunk_gradient = _loss(LossConfig(**settings, chunk=4))(params)
  np.testing.assert_allclose(chunked, whole, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), chunk_metrics, all_metrics)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), chunk_gradient, gradient)


def test_chunked_loss_never_holds_all_logits(params):
  """Full logits are [8, 16, 64]; with chunk=4 no array of that size exists in the compiled program."""
  def largest(config):
    text = _loss(config).lower(params).as_text()
    return "8x16x64xf32" in text
  assert largest(LossConfig()) and not largest(LossConfig(chunk=4))


def test_a_chunk_that_does_not_divide_is_named(params):
  with pytest.raises(InputError, match="Loss.chunk=5 does not divide the 16 tokens"):
    _loss(LossConfig(chunk=5))(params)


def test_loss_equals_numpy(params):
  config = LossConfig(text_weight=0.3, image_weight=0.8, z_loss=0.01)
  (loss, result), _ = _loss(config)(params)
  batch, vocabulary = tiny_run.batch(3), tiny_run.VOCABULARY
  network = Transformer(tiny_run.model())
  hidden = network.apply({"params": params}, batch["inputs"], batch["positions"], batch["segment_ids"])
  logits = np.asarray(hidden, np.float64) @ np.asarray(params["tokens"], np.float64).T
  log_z = np.log(np.exp(logits).sum(-1))
  nll = log_z - np.take_along_axis(logits, batch["targets"][..., None], -1)[..., 0]
  image = vocabulary.is_image(batch["targets"])
  weight = batch["loss_weights"] * np.where(image, 0.8, 0.3)
  assert loss == pytest.approx((weight * (nll + 0.01 * log_z**2)).sum() / weight.sum(), rel=1e-5)
  here = batch["loss_weights"] * image  # the reported nats know loss_weights, not the modality's weight
  assert result["loss_image"] == pytest.approx((here * nll).sum() / here.sum(), rel=1e-5)


def test_activation_rms_is_that_of_the_residual_stream(params):
  batch = tiny_run.batch(3)
  network = Transformer(tiny_run.model())
  _, seen = network.apply({"params": params}, batch["inputs"], batch["positions"], batch["segment_ids"],
                          mutable=["intermediates"])
  residual = np.asarray(seen["intermediates"]["residual"][0], np.float64)
  (_, result), _ = _loss(LossConfig())(params)
  assert result["activation_rms"] == pytest.approx(np.sqrt((residual**2).mean()), rel=1e-5)
  assert result["activation_rms"] > 0.1
