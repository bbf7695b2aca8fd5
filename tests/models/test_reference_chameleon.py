"""Chameleon's switches give Chameleon's text model: numerical parity with transformers' (7B and 34B kinds)."""

import dataclasses

import numpy as np
import pytest
from torch_parity import (PACKED, VALUES, VOCABULARY, WHOLE, assert_equal, forward, randomise, run_ours, run_torch,
                          to_tree, whole_forward, without_weights)

from cm3leon_jax import config as gin_config
from cm3leon_jax.models import init
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.weights.chameleon import pieces

pytestmark = pytest.mark.slow  # it needs requirements-reference.txt

KIND_7B = TransformerConfig(vocab_size=VOCABULARY.total_size, num_layers=3, model_dim=32, num_heads=4, mlp_dim=88,
                            max_positions=24, position="rope", norm="rmsnorm", qk_norm=True, activation="swiglu",
                            tie_embeddings=False, dtype="float32")
# The 34B normalises after each branch, and two query heads share a key/value head here.
KIND_34B = dataclasses.replace(KIND_7B, norm_order="swin", num_kv_heads=2)
KINDS = pytest.mark.parametrize("kind", [KIND_7B, KIND_34B], ids=["7b", "34b"])

# The ids of image codes, whose logits the public model overwrites; their names are a code's digits as letters.
IMAGE_IDS = np.arange(VOCABULARY.image_start, VOCABULARY.image_end)
VOCABULARY_MAP = {"<image>": 3} | {f"IMGIMG{chr(ord('A') + i // 10)}{chr(ord('A') + i % 10)}Z": int(id_)
                                   for i, id_ in enumerate(IMAGE_IDS)}
# The image tokenizer that comes with the public model takes no part here; a small one is quick to make.
SMALL_TOKENIZER = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "latent_channels": 32,
                   "embed_dim": 8, "num_embeddings": len(IMAGE_IDS)}


def public(c: TransformerConfig):
  """The same network as Chameleon."""
  from transformers import ChameleonConfig, ChameleonForConditionalGeneration

  return ChameleonForConditionalGeneration(ChameleonConfig(
      vocab_size=c.vocab_size, hidden_size=c.model_dim, intermediate_size=c.mlp_dim, num_hidden_layers=c.num_layers,
      num_attention_heads=c.num_heads, num_key_value_heads=c.num_kv_heads, max_position_embeddings=c.max_positions,
      swin_norm=c.norm_order == "swin", vq_config=SMALL_TOKENIZER, vocabulary_map=VOCABULARY_MAP,
      attn_implementation="eager"))


def text_parameters(model) -> dict:
  """Name → torch parameter, without the image tokenizer's."""
  return {name: x for name, x in model.named_parameters() if not name.startswith("model.vqmodel.")}


def to_ours(c: TransformerConfig, weights: dict[str, np.ndarray]) -> dict:
  """Chameleon's parameters (or their gradients) by name → our tree."""
  return to_tree(pieces(c), weights)


def both(kind: TransformerConfig):
  """The public model with random weights, and ours with the same."""
  model = randomise(public(kind))
  return model, to_ours(kind, {name: x.detach().numpy() for name, x in text_parameters(model).items()})


@KINDS
def test_hidden_states_logits_loss_and_gradients(kind):
  model, params = both(kind)
  theirs = run_torch(model, model.model, WHOLE)
  assert_equal(run_ours(kind, params, WHOLE), theirs, lambda g: to_ours(kind, g), WHOLE)


@KINDS
def test_packed_segments(kind):
  """The public model finds the segments by itself, where positions start again."""
  model, params = both(kind)
  theirs = run_torch(model, model.model, PACKED, position_ids=PACKED["positions"])
  assert_equal(run_ours(kind, params, PACKED), theirs, lambda g: to_ours(kind, g), PACKED)


def test_only_the_mask_of_image_ids_parts_the_public_forward_from_ours():
  """The tests above compare logits before this mask; the released model must not draw."""
  model, params = both(KIND_7B)
  ours = forward(KIND_7B, params, WHOLE)[1]
  theirs = whole_forward(model, WHOLE)
  masked = np.isin(np.arange(VOCABULARY.total_size), IMAGE_IDS)
  assert (theirs[..., masked] == np.finfo(np.float32).min).all()
  np.testing.assert_allclose(ours[..., ~masked], theirs[..., ~masked], rtol=0, atol=VALUES)


@pytest.mark.parametrize("change", [{"norm_order": "swin"}, {"rope_theta": 1e3}, {"qk_norm": False}])
def test_each_switch_matters(change):
  """A wrong switch moves a logit by far more than the tolerance."""
  _, params = both(KIND_7B)
  wrong = dataclasses.replace(KIND_7B, **change)
  known = init.parameter_table(wrong)["layers"]
  kept = params | {"layers": {name: x for name, x in params["layers"].items() if name in known}}
  moved = forward(wrong, kept, WHOLE)[1] - forward(KIND_7B, params, WHOLE)[1]
  assert np.abs(moved).max() > 0.1


def test_the_shipped_7b_is_the_public_one():
  """transformers' defaults are those of facebook/chameleon-7b."""
  from transformers import ChameleonConfig, ChameleonForConditionalGeneration

  gin_config.load(["configs/models/chameleon_7b.gin"])
  ours, theirs = gin_config.configured("Transformer"), ChameleonConfig(vocabulary_map={"<image>": 3})
  assert theirs.hidden_act == "silu" and theirs.rms_norm_eps == 1e-5  # ours has no other
  assert not (theirs.attention_bias or theirs.mlp_bias)
  assert {
      "vocab_size": theirs.vocab_size, "num_layers": theirs.num_hidden_layers, "model_dim": theirs.hidden_size,
      "num_heads": theirs.num_attention_heads, "num_kv_heads": theirs.num_key_value_heads,
      "mlp_dim": theirs.intermediate_size, "max_positions": theirs.max_position_embeddings,
      "rope_theta": theirs.rope_parameters["rope_theta"], "norm_order": "swin" if theirs.swin_norm else "pre",
      "tie_embeddings": theirs.tie_word_embeddings, "position": "rope", "norm": "rmsnorm", "qk_norm": True,
      "activation": "swiglu",
  }.items() <= dataclasses.asdict(ours).items()
  public_model = without_weights(lambda: ChameleonForConditionalGeneration(theirs))
  count = sum(x.numel() for x in text_parameters(public_model).values())
  # A layer: 4·D² in attention, 3·D·M in the feed-forward, gain and bias of q and k norms (4·D), two gains (2·D).
  arithmetic = 32 * (4 * 4096**2 + 3 * 4096 * 11_008 + 6 * 4096) + 4096 + 2 * 65_536 * 4096
  assert init.count_parameters(ours) == count == arithmetic
