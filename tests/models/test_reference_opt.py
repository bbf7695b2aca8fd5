"""CM3Leon's block is OPT's without biases and without gains: numerical parity with transformers' `OPTForCausalLM`."""

import numpy as np
import pytest
from torch_parity import (PACKED, VOCABULARY, WHOLE, assert_equal, forward, randomise, rows, run_ours, run_torch,
                          to_tree, whole_forward, without_weights)

from cm3leon_jax.models import init
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.weights.opt import pieces

pytestmark = pytest.mark.slow  # it needs requirements-reference.txt

OURS = TransformerConfig(vocab_size=VOCABULARY.total_size, num_layers=3, model_dim=32, num_heads=4, max_positions=24,
                         dtype="float32")


def public(c: TransformerConfig):
  """The same network as OPT. A pad id would keep the gradient of lookups from that row, so there is none."""
  from transformers import OPTConfig, OPTForCausalLM

  return OPTForCausalLM(OPTConfig(
      vocab_size=c.vocab_size, hidden_size=c.model_dim, num_hidden_layers=c.num_layers, ffn_dim=c.mlp_dim,
      num_attention_heads=c.num_heads, max_position_embeddings=c.max_positions, activation_function="relu",
      enable_bias=False, layer_norm_elementwise_affine=False, do_layer_norm_before=True, dropout=0.0, pad_token_id=None,
      attn_implementation="eager"))


def to_ours(weights: dict[str, np.ndarray]) -> dict:
  """OPT's parameters (or their gradients) by name → our tree."""
  return to_tree(pieces(OURS), weights)


@pytest.fixture(scope="module")
def opt():
  return randomise(public(OURS))


@pytest.fixture(scope="module")
def params(opt):
  return to_ours({name: x.detach().numpy() for name, x in opt.named_parameters()})


def test_logits_loss_and_gradients(opt, params):
  theirs = run_torch(opt, opt.model.decoder, WHOLE)
  assert_equal(run_ours(OURS, params, WHOLE), theirs, to_ours, WHOLE)
  # What was compared is what the public model returns.
  np.testing.assert_array_equal(whole_forward(opt, WHOLE), theirs.logits)


def test_padding_on_either_side(opt, params):
  """OPT takes a mask of the real tokens and counts positions from the first of them."""
  batch = rows([1] * 14 + [0] * 6, [0] * 5 + [1] * 15)
  theirs = run_torch(opt, opt.model.decoder, batch, attention_mask=batch["segment_ids"])
  assert_equal(run_ours(OURS, params, batch), theirs, to_ours, batch)


def test_packed_segments(opt, params):
  """OPT takes a whole mask, added to the scores, and positions."""
  segment = PACKED["segment_ids"]
  sees = np.tril(segment[:, :, None] == segment[:, None, :])[:, None]
  mask = np.where(sees, np.float32(0), np.finfo(np.float32).min)
  theirs = run_torch(opt, opt.model.decoder, PACKED, attention_mask=mask, position_ids=PACKED["positions"])
  assert_equal(run_ours(OURS, params, PACKED), theirs, to_ours, PACKED)


def test_every_weight_is_where_it_belongs(params):
  """Each of these slips of the mapping moves a logit by far more than the tolerance."""
  right = forward(OURS, params, WHOLE)[1]
  layers = params["layers"]
  slips = {
      "queries and keys swapped": {"qkv": layers["qkv"][:, :, :, [1, 0, 2]]},
      "heads reversed in qkv only": {"qkv": layers["qkv"][:, :, ::-1]},
      "layers reversed": {name: x[::-1] for name, x in layers.items()},
  }
  for slip, change in slips.items():
    wrong = forward(OURS, params | {"layers": layers | change}, WHOLE)[1]
    assert np.abs(wrong - right).max() > 0.1, slip
  shifted = forward(OURS, params | {"positions": np.roll(params["positions"], 2, axis=0)}, WHOLE)[1]
  assert np.abs(shifted - right).max() > 0.1


# PAPER §4.1: layers, width, heads of the 350M, 760M and 7B models; 65,536 ids, 4,096 positions.
@pytest.mark.parametrize("layers, width, heads", [(24, 1024, 16), (24, 1536, 16), (32, 4096, 32)],
                         ids=["350m", "760m", "7b"])
def test_the_papers_shapes_have_as_many_parameters(layers, width, heads):
  config = TransformerConfig(vocab_size=65_536, num_layers=layers, model_dim=width, num_heads=heads)
  theirs = sum(x.numel() for x in without_weights(lambda: public(config)).parameters())
  # A layer has 4·D² in attention and 2·4·D² in the feed-forward; tables of 65,536 tokens and 4,096 positions.
  arithmetic = layers * 12 * width**2 + (65_536 + 4_096) * width
  # OPT's table of positions has two rows more than there are positions.
  assert init.count_parameters(config) == arithmetic == theirs - 2 * width
