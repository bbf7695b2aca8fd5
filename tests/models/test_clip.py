"""CLIP: the public geometry, the towers' promises, the loss against a plain reference."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.models.clip import CLIP, DEMO, OPENAI_VIT_B_32, CLIPConfig, contrastive_loss

TINY = CLIPConfig(vocab_size=50, embed_dim=8, text_length=6, text_width=16, text_layers=1, text_heads=2, image_size=32,
                  patch_size=8, image_width=8, image_layers=1, image_heads=2)
CONFIGS = {"bag": dataclasses.replace(TINY, text_tower="bag", image_tower="conv"), "transformer": TINY}
IDS = np.array([[5, 7, 9, 0, 0, 0], [3, 4, 0, 0, 0, 0], [9, 7, 5, 0, 0, 0]])
MASK = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]], bool)
IMAGES = np.full((3, 32, 32, 3), 255, np.uint8)
IMAGES[0, :, :16] = IMAGES[2, :, 16:] = 0  # 0 and 2 are mirrored
IMAGES[1, 8:16, 8:16] = 90


class Towers:
  """Both towers of one config with random weights, compiled once for all tests."""

  def __init__(self, config):
    model = CLIP(config)
    rng = np.random.default_rng(0)  # any weights will do, and these need no compiling
    self.params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32),
                               jax.eval_shape(model.init, jax.random.key(0), IMAGES, IDS, MASK))
    self._apply = jax.jit(model.apply)

  def __call__(self, images=IMAGES, ids=IDS, mask=MASK):
    return [np.asarray(x) for x in self._apply(self.params, images, ids, mask)]


@pytest.fixture(scope="module", params=CONFIGS)
def towers(request):
  made = Towers(CONFIGS[request.param])
  made.ordered = request.param == "transformer"
  return made


# 151,277,313 is the published parameter count of OpenAI's CLIP ViT-B/32, logit scale among them.
def test_public_geometry_has_the_public_parameter_count():
  config = OPENAI_VIT_B_32
  shapes = jax.eval_shape(CLIP(config).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)),
                          jnp.zeros((1, 77), jnp.int32), jnp.ones((1, 77), bool))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 151_277_313


def test_vectors_are_unit_and_tell_inputs_apart(towers):
  images, texts, _ = towers()
  assert images.shape == texts.shape == (3, TINY.embed_dim)
  np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
  assert images[0] @ images[1] < 0.9999 and texts[0] @ texts[1] < 0.9999
  # Without places both would be equal to rounding, below 1e-5; random weights leave the ViT's apart by 2e-3 only.
  assert np.abs(images[0] - images[2]).max() > 1e-4, "an arrow to the left is not one to the right"


def test_padding_changes_nothing(towers):
  np.testing.assert_allclose(towers(ids=np.where(MASK, IDS, 11))[1], towers()[1], atol=1e-6)


def test_a_bag_has_no_order_and_a_transformer_has(towers):
  texts = towers()[1]
  assert np.allclose(texts[0], texts[2], atol=1e-6) != towers.ordered


def test_loss_equals_the_plain_definition():
  rng = np.random.default_rng(1)
  images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 5, 4)))
  positives = np.eye(5, dtype=bool)
  positives[0, 3] = positives[4, 1] = True
  logits = 10.0 * texts @ images.T
  total = 0.0
  for i in range(5):
    for row, true in ((logits[i], positives[i]), (logits[:, i], positives[:, i])):
      log_p = row - np.log(np.exp(row).sum())
      total -= log_p[true].mean()
  loss = jax.jit(contrastive_loss)(images, texts, 10.0, positives)
  assert float(loss) == pytest.approx(total / 10, rel=1e-5)


def test_a_true_pair_is_no_negative():
  """A text between two drawings of its thing stays there when both are told, and is torn to one when not."""
  images = np.eye(2, dtype=np.float32)
  texts = np.full((2, 2), 0.5**0.5, np.float32)
  gradient = jax.jit(jax.grad(contrastive_loss, argnums=1))
  told, untold = (np.asarray(gradient(images, texts, 20.0, p))[0] for p in (np.ones((2, 2), bool), np.eye(2, dtype=bool)))
  assert abs(told[0] - told[1]) < 1e-5
  assert abs(untold[0] - untold[1]) > 1


@pytest.mark.parametrize("wrong", [{"text_tower": "lstm"}, {"image_tower": "mlp"}, {"image_size": 60}, {"activation": "relu"},
                                   {"image_fit": "pad"}])
def test_wrong_geometry_is_named(wrong):
  with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
    dataclasses.replace(DEMO, **wrong)
