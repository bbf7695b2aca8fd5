"""Checkpoints leave in a public layout, are opened by transformers, give the same logits, and come back bit for bit."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import random_model
from random_model import CHAMELEON, CM3LEON

from cm3leon_jax.models.transformer import Transformer
from cm3leon_jax.training import checkpoints
from cm3leon_jax.weights import exporter, importer
from cm3leon_jax.weights.stored import npz_leaves

LENGTH = 20
TOKENS = np.random.default_rng(1).integers(0, 96, (2, LENGTH)).astype(np.int32)
# Largest difference of logits of size 1 to 10 in float32 (seen: 8e-6).
TOLERANCE = 5e-5
# name: (layout, model, dtype of the stored weights, bytes of a shard)
KINDS = {
    "opt": ("opt", CM3LEON, np.float32, "5GB"),
    "opt_gains_gelu_own_head": ("opt", dataclasses.replace(CM3LEON, norm="layernorm", activation="gelu", tie_embeddings=False),
                                np.float32, "20KB"),
    "opt_bfloat16": ("opt", CM3LEON, ml_dtypes.bfloat16, "20KB"),
    "opt_float16": ("opt", CM3LEON, np.float16, "20KB"),
    "chameleon_7b": ("chameleon", CHAMELEON, np.float32, "40KB"),
    "chameleon_34b": ("chameleon", dataclasses.replace(CHAMELEON, norm_order="swin", num_kv_heads=2), np.float32, "5GB"),
}


def our_logits(folder):
  config, _, _, params, _ = checkpoints.load_for_inference(folder)
  positions = np.tile(np.arange(LENGTH, dtype=np.int32), (len(TOKENS), 1))
  model = Transformer(config)
  hidden = jax.jit(model.apply)({"params": params}, TOKENS, positions, np.ones_like(TOKENS))
  return np.asarray(model.apply({"params": params}, hidden, method="logits"))


def public_logits(folder, layout, tokens=TOKENS):
  torch = pytest.importorskip("torch", reason="in requirements-reference.txt")
  transformers = pytest.importorskip("transformers", reason="in requirements-reference.txt")
  kind = {"opt": transformers.OPTForCausalLM, "chameleon": transformers.ChameleonForConditionalGeneration}[layout]
  model = kind.from_pretrained(folder, dtype=torch.float32).eval()
  with torch.no_grad():
    return model(input_ids=torch.tensor(tokens).long()).logits.numpy()


def small_image_tokenizer(folder):
  """transformers makes the image tokenizer that is not in the folder, and the default one takes seconds."""
  path = folder / "config.json"
  config = json.loads(path.read_text())
  config["vq_config"] |= {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "latent_channels": 32,
                          "embed_dim": 8}
  path.write_text(json.dumps(config))


def assert_same_logits(ours, theirs, masked):
  """`masked`: ids whose logits the public model overwrites (Chameleon does not draw)."""
  assert (theirs[..., masked] == np.finfo(np.float32).min).all()
  kept = np.setdiff1d(np.arange(theirs.shape[-1]), masked)
  np.testing.assert_allclose(ours[..., kept], theirs[..., kept], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_model_gives_the_same_logits(kind, tmp_path):
  layout, config, dtype, size = KINDS[kind]
  random_model.write(tmp_path / "ours", config, dtype=dtype)
  exporter.export(tmp_path / "ours", tmp_path / "theirs", layout, shard_size=size)
  if layout == "chameleon":
    small_image_tokenizer(tmp_path / "theirs")
  v = random_model.VOCABULARY
  masked = np.arange(v.image_start, v.image_end) if layout == "chameleon" else np.arange(0)
  assert_same_logits(our_logits(tmp_path / "ours"), public_logits(tmp_path / "theirs", layout), masked)


@pytest.mark.parametrize("kind", KINDS)
def test_the_round_trip_is_bit_identical(kind, tmp_path):
  layout, config, dtype, size = KINDS[kind]
  arrays = random_model.write(tmp_path / "ours", config, dtype=dtype)
  exporter.export(tmp_path / "ours", tmp_path / "theirs", layout, shard_size=size)
  importer.import_(tmp_path / "theirs", tmp_path / "back", layout)
  assert (tmp_path / "back" / "model.json").read_text() == (tmp_path / "ours" / "model.json").read_text()
  back = npz_leaves(tmp_path / "back" / "weights.npz")
  assert back.keys() == arrays.keys()
  for name, x in arrays.items():
    assert back[name].dtype == x.dtype
    np.testing.assert_array_equal(back[name].read().view(np.uint8), x.view(np.uint8), err_msg=name)
  exporter.export(tmp_path / "back", tmp_path / "again", layout, shard_size=size)
  for path in sorted((tmp_path / "theirs").glob("*.safetensors")):
    assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_factorised_positions_become_one_table(tmp_path):
  layout = dataclasses.replace(random_model.LAYOUT, numbering="document")
  random_model.write(tmp_path / "ours", dataclasses.replace(CM3LEON, position_period=layout.stride), layout)
  fields = exporter.export(tmp_path / "ours", tmp_path / "theirs", "opt")
  assert any("became one" in note for note in fields["notes"]) and any("position_ids" in note for note in fields["notes"])
  ours = our_logits(tmp_path / "ours")
  np.testing.assert_allclose(public_logits(tmp_path / "theirs", "opt"), ours, rtol=0, atol=TOLERANCE)
  importer.import_(tmp_path / "theirs", tmp_path / "back", "opt")
  np.testing.assert_allclose(our_logits(tmp_path / "back"), ours, rtol=0, atol=TOLERANCE)


def test_a_cast_is_the_nearest_number(tmp_path):
  arrays = random_model.write(tmp_path / "ours", CM3LEON)
  exporter.export(tmp_path / "ours", tmp_path / "theirs", "opt", dtype="bfloat16")
  importer.import_(tmp_path / "theirs", tmp_path / "back", "opt")
  back = npz_leaves(tmp_path / "back" / "weights.npz")
  np.testing.assert_array_equal(back["layers.qkv"].read(), arrays["layers.qkv"].astype(ml_dtypes.bfloat16))
  # Half an ulp of bfloat16's 8 bits, summed over 32 wide dot products and 3 layers: seen 0.03 at logits of size 1.
  np.testing.assert_allclose(our_logits(tmp_path / "back"), our_logits(tmp_path / "ours"), rtol=0, atol=0.2)


def test_a_public_model_that_was_never_ours(tmp_path):
  """OPT's files do not say what ids mean: a model.json does."""
  torch = pytest.importorskip("torch", reason="in requirements-reference.txt")
  transformers = pytest.importorskip("transformers", reason="in requirements-reference.txt")
  torch.manual_seed(0)
  model = transformers.OPTForCausalLM(transformers.OPTConfig(
      vocab_size=96, hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=2, max_position_embeddings=24,
      enable_bias=False, layer_norm_elementwise_affine=False, init_std=0.3)).eval()
  model.save_pretrained(tmp_path / "theirs", max_shard_size="8KB")
  assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
  random_model.write(tmp_path / "known", CM3LEON)
  importer.import_(tmp_path / "theirs", tmp_path / "ours", "opt", like=str(tmp_path / "known"))
  with torch.no_grad():
    theirs = model(input_ids=torch.tensor(TOKENS).long()).logits.numpy()
  np.testing.assert_allclose(our_logits(tmp_path / "ours"), theirs, rtol=0, atol=TOLERANCE)


def test_a_public_chameleon_with_its_own_ids(tmp_path):
  """Its image codes come first, as in the released models; here they move behind the text."""
  torch = pytest.importorskip("torch", reason="in requirements-reference.txt")
  transformers = pytest.importorskip("transformers", reason="in requirements-reference.txt")
  names = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3} | {f"IMGIMG{'ABCDEFGHIJ'[i // 10]}{'ABCDEFGHIJ'[i % 10]}Z": 4 + i
                                                           for i in range(16)}
  names |= {"<eoss>": 20, "<racm3:break>": 21} | {f"<sentinel:{i}>": 22 + i for i in range(4)}
  names |= {"<reserved08706>": 26, "<image>": 27} | {f"piece{i}": i for i in range(28, 96)}
  torch.manual_seed(0)
  config = transformers.ChameleonConfig(
      vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
      num_key_value_heads=4, max_position_embeddings=24, vocabulary_map=names, initializer_range=0.3,
      vq_config={"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "latent_channels": 32,
                 "embed_dim": 8, "num_embeddings": 16})
  model = transformers.ChameleonForConditionalGeneration(config).eval()
  model.save_pretrained(tmp_path / "theirs")
  fields = importer.import_(tmp_path / "theirs", tmp_path / "ours", "chameleon")
  assert any("image tokenizer" in note for note in fields["notes"])
  kept = json.loads((tmp_path / "ours" / "vocabulary_map.json").read_text())
  theirs_of_ours = np.asarray(kept["theirs"])
  _, vocabulary, _, _, _ = checkpoints.load_for_inference(tmp_path / "ours")
  # 68 pieces, and <pad>, <eos>, <unk>.
  assert (vocabulary.text_size, vocabulary.image_size, vocabulary.num_sentinels) == (71, 16, 4)
  assert theirs_of_ours[vocabulary.image_ids(5)] == names["IMGIMGAFZ"]
  assert theirs_of_ours[vocabulary.break_id] == names["<racm3:break>"]
  with torch.no_grad():
    theirs = model(input_ids=torch.tensor(theirs_of_ours[TOKENS]).long()).logits.numpy()
  masked = np.arange(vocabulary.image_start, vocabulary.image_end)
  assert_same_logits(our_logits(tmp_path / "ours"), theirs[..., theirs_of_ours], masked)

  exporter.export(tmp_path / "ours", tmp_path / "back", "chameleon")
  again = transformers.ChameleonForConditionalGeneration.from_pretrained(tmp_path / "back", dtype=torch.float32)
  text = {name: x for name, x in model.state_dict().items() if not name.startswith("model.vqmodel.")}
  for name, x in text.items():
    assert torch.equal(again.state_dict()[name], x), name
  before, after = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("theirs", "back"))
  assert after["vocabulary_map"] == names and after["vq_config"] == before["vq_config"]
