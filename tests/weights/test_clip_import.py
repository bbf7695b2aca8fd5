"""Public CLIPs give here the embeddings of the code that they were published with; wrong files are told by name."""

import dataclasses
import hashlib
import json

import clip_reference as reference
from clip_reference import IMAGE_SIZE, VOCAB, inputs, normalised, unit
import jax
import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.clip import CLIP, OPEN_CLIP_VIT_H_14, OPENAI_VIT_L_14_336, PUBLIC
from cm3leon_jax.retrieval.encoder import Encoder
from cm3leon_jax.weights import clip, clip_names

TOLERANCE = 5e-6  # of unit vectors in float32, sums of a few thousand terms in another order
both_activations = pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])


def ours(config, params, images, ids, mask):
  image, text, _ = jax.jit(CLIP(config).apply)({"params": jax.tree.map(lambda x: x.astype(np.float32), params)}, images, ids, mask)
  return np.asarray(image), np.asarray(text)


def openai_vectors(model, images, ids):
  import torch

  with torch.no_grad():
    return unit(model.encode_image(normalised(images))), unit(model.encode_text(torch.tensor(ids)))


def hugging_face_vectors(model, images, ids):
  import torch

  with torch.no_grad():
    made = model(input_ids=torch.tensor(ids), pixel_values=normalised(images))
  return unit(made.image_embeds), unit(made.text_embeds)


def save_open_clip(model, folder, activation):
  import safetensors.torch

  folder.mkdir()
  safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
  vision = {"image_size": IMAGE_SIZE, "layers": 2, "width": 128, "patch_size": 8}
  text = {"context_length": 12, "vocab_size": VOCAB, "width": 64, "heads": 1, "layers": 2}
  (folder / "open_clip_config.json").write_text(json.dumps({
      "model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "quick_gelu": activation == "quick_gelu"}}))
  reference.write_vocabulary(folder)


@both_activations
def test_hugging_face_layout(tmp_path, activation):
  model = reference.hugging_face_model(activation)
  model.save_pretrained(tmp_path / "hf")
  config, params = clip.read(tmp_path / "hf")
  assert (config.activation, config.image_heads, config.text_heads, config.embed_dim) == (activation, 3, 4, 24)
  images, ids, mask = inputs()
  for got, want in zip(ours(config, params, images, ids, mask), hugging_face_vectors(model, images, ids), strict=True):
    np.testing.assert_allclose(got, want, atol=TOLERANCE)


@both_activations
def test_open_clip_layout(tmp_path, activation):
  model = reference.openai_model(activation)
  save_open_clip(model, tmp_path / "oc", activation)
  config, params = clip.read(tmp_path / "oc")
  images, ids, mask = inputs()
  for got, want in zip(ours(config, params, images, ids, mask), openai_vectors(model, images, ids), strict=True):
    np.testing.assert_allclose(got, want, atol=TOLERANCE)


def test_openai_archive(tmp_path):
  """The published form: TorchScript, float16; the folder keeps the file's own numbers and opens as an encoder."""
  model = reference.openai_model()
  reference.save_torchscript(model, tmp_path / "ViT.pt")
  reference.write_vocabulary(tmp_path)
  printed = clip.import_clip(str(tmp_path / "ViT.pt"), str(tmp_path / "clip"))
  images, ids, mask = inputs()
  config, params = clip.read(tmp_path / "ViT.pt")
  assert params["image"]["block_0"]["qkv"]["kernel"].dtype == np.float16
  vectors = openai_vectors(model, images, ids)
  for got, want in zip(ours(config, params, images, ids, mask), vectors, strict=True):
    np.testing.assert_allclose(got, want, atol=TOLERANCE)
  encoder = Encoder.load(tmp_path / "clip")
  assert encoder.fingerprint == printed["fingerprint"] and not printed["openai_published_file"]
  digest = hashlib.sha256((tmp_path / "ViT.pt").read_bytes()).hexdigest()
  assert json.loads((tmp_path / "clip" / "manifest.json").read_text())["source"] == {"ViT.pt": digest}
  np.testing.assert_allclose(encoder.encode_images(images), vectors[0], atol=TOLERANCE)
  np.testing.assert_allclose(encoder.encode_text([np.array(i[1:-1], int) for i in reference.IDS]), vectors[1], atol=TOLERANCE)
  assert encoder.encode_text(["abc of the", "ABC  of the", "x" * 100]).shape == (3, 24)
  many = encoder.encode_images(np.concatenate([images] * 22))  # 66 rows: a whole chunk and a padded one
  np.testing.assert_allclose(many, np.concatenate([vectors[0]] * 22), atol=TOLERANCE)
  np.testing.assert_allclose(encoder.encode_images(images[:1]), vectors[0][:1], atol=TOLERANCE)
  np.testing.assert_array_equal(*encoder.encode_text(["abc of the", "ABC  of the"]))
  wide = np.zeros((2, 50, 90, 3), np.uint8)
  wide[:, :, 15:75] = 255  # white in and around the centre, black at the ends, which are cropped
  np.testing.assert_allclose(encoder.encode_images(wide), encoder.encode_images(np.full((2, 32, 32, 3), 255, np.uint8)),
                             atol=TOLERANCE)


def test_a_training_checkpoint_with_the_activation_by_flag(tmp_path):
  import torch

  model = reference.openai_model("gelu")
  state = {f"module.{k}": v for k, v in model.state_dict().items()}
  torch.save({"epoch": 3, "state_dict": state}, tmp_path / "oc.pt")
  with pytest.raises(InputError, match="not the geometry of a known model.*no open_clip_config.json"):
    clip.read(tmp_path / "oc.pt")
  save_open_clip(model, tmp_path / "oc", "quick_gelu")
  torch.save({"epoch": 3, "state_dict": state}, tmp_path / "oc" / "epoch_3.pt")
  assert clip.read(tmp_path / "oc" / "epoch_3.pt", activation="gelu")[0].activation == "gelu"


def test_hugging_face_pickles_and_what_they_carry_besides(tmp_path):
  import torch

  model = reference.hugging_face_model("gelu")
  model.config.save_pretrained(tmp_path)
  state = model.state_dict() | {"text_model.embeddings.position_ids": torch.arange(12)[None]}
  torch.save({k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "pytorch_model.bin")
  (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}')
  config, params = clip.read(tmp_path)
  assert config.image_mean == (0.5,) * 3 and config.image_std == (0.25,) * 3 and config.image_size == IMAGE_SIZE
  want = model.text_model.embeddings.token_embedding.weight.detach().bfloat16().float().numpy()
  np.testing.assert_array_equal(params["text"]["pieces"]["embedding"], want)


def damaged(tmp_path, change):
  import safetensors.torch

  model = reference.hugging_face_model()
  model.config.save_pretrained(tmp_path)
  state = {k: v.contiguous() for k, v in model.state_dict().items() if "position_ids" not in k}
  change(state)
  safetensors.torch.save_file(state, tmp_path / "model.safetensors")
  reference.write_vocabulary(tmp_path)
  return str(tmp_path)


FC1 = "vision_model.encoder.layers.1.mlp.fc1.weight"


@pytest.mark.parametrize("change, message", [
    (lambda s: s.update({FC1.replace("fc1", "fc_1"): s.pop(FC1)}), rf"{FC1} \(the file has vision_model.*fc_1.weight\)"),
    (lambda s: s.pop("text_projection.weight"), r"missing \(1\):\n *text_projection.weight"),
    (lambda s: s.update(extra=s[FC1].clone()), r"unknown \(1\):\n *extra"),
    (lambda s: s.update({FC1: s[FC1][:100].contiguous()}), rf"{FC1} is 100×48 instead of 192×48"),
    (lambda s: s.update({FC1: s[FC1].int()}), rf"{FC1} is int32"),
    (lambda s: s[FC1].fill_(float("nan")), rf"{FC1} holds NaN"),
])
def test_wrong_tensors_are_told_by_name(tmp_path, change, message):
  source = damaged(tmp_path, change)
  with pytest.raises(InputError, match=message):
    clip.import_clip(source, str(tmp_path / "out"))
  assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))


def test_wrong_sources_are_told(tmp_path):
  safetensors = pytest.importorskip("safetensors.numpy", reason="in requirements-reference.txt")

  out = str(tmp_path / "out")
  with pytest.raises(InputError, match="none: no such file or folder"):
    clip.import_clip(str(tmp_path / "none"), out)
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match="no CLIP weights in it.*name the file"):
    clip.import_clip(str(tmp_path / "empty"), out)
  safetensors.save_file({"conv.weight": np.zeros(2, np.float32)}, tmp_path / "other.safetensors")
  with pytest.raises(InputError, match="not a CLIP.*it has conv.weight"):
    clip.import_clip(str(tmp_path / "other.safetensors"), out)
  with pytest.raises(InputError, match="--activation=relu"):
    clip.import_clip(str(tmp_path / "empty"), out, activation="relu")
  with pytest.raises(InputError, match="empty: is there already|other.safetensors: is there already"):
    clip.import_clip(str(tmp_path / "empty"), str(tmp_path / "other.safetensors"))
  safetensors.save_file({"visual.layer1.0.conv1.weight": np.zeros(2, np.float32)}, tmp_path / "resnet.safetensors")
  with pytest.raises(InputError, match=r"missing \(1\):\n *visual.conv1.weight \(the file has visual.layer1.0.conv1.weight\)"):
    clip.import_clip(str(tmp_path / "resnet.safetensors"), out)


def test_the_vocabulary_must_be_the_models(tmp_path):
  source = damaged(tmp_path, lambda s: None)
  (tmp_path / "merges.txt").write_text("#version: 0.2\na b")
  with pytest.raises(InputError, match="1 merges, 515 ids; the model has 520"):
    clip.import_clip(source, str(tmp_path / "out"))
  (tmp_path / "merges.txt").unlink()
  with pytest.raises(InputError, match="holds no CLIP vocabulary.*--vocabulary"):
    clip.import_clip(source, str(tmp_path / "out"))


def test_a_configuration_that_is_not_clips(tmp_path):
  source = damaged(tmp_path, lambda s: None)
  about = json.loads((tmp_path / "config.json").read_text())
  about["text_config"]["layer_norm_eps"] = 1e-6
  (tmp_path / "config.json").write_text(json.dumps(about))
  with pytest.raises(InputError, match="layer_norm_eps is 1e-06 for text and 1e-05"):
    clip.read(source)
  about["text_config"]["layer_norm_eps"] = 1e-5
  about["text_config"]["num_attention_heads"] = 5
  (tmp_path / "config.json").write_text(json.dumps(about))
  with pytest.raises(InputError, match="text tower has 5 heads for a width of 32"):
    clip.read(source)
  about["text_config"]["num_attention_heads"] = 4
  (tmp_path / "config.json").write_text(json.dumps(about))
  for prepared, message in (({"resample": 2}, "resample=2; known is 3"), ({"image_mean": 0.5}, "image_mean is 0.5"),
                            ({"image_std": [1, 0, 1]}, "image_std is .* above 0"), ({"image_mean": [float("nan")] * 3}, "nan"),
                            ({"do_center_crop": False}, "do_center_crop=False"), ({"size": {"height": 32, "width": 32}}, "size="),
                            ({"crop_size": 30}, "crop_size=30, where the model reads 32 pixels")):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepared))
    with pytest.raises(InputError, match=message):
      clip.read(source)
  (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 32}, "crop_size": 32, "resample": 3}))
  clip.read(source)
  for about, message in (({"text_config": [1]}, "not one of a CLIP"), ("[" * 100_000, "not a configuration"),
                         ({"text_config": {"num_attention_heads": "4"}, "vision_config": {"num_attention_heads": 3}}, "'4' heads")):
    (tmp_path / "config.json").write_text(about if isinstance(about, str) else json.dumps(about))
    with pytest.raises(InputError, match=message):
      clip.read(source)
  (tmp_path / "config.json").unlink()
  with pytest.raises(InputError, match="no config.json beside"):
    clip.read(source)


@pytest.mark.parametrize("tower, change, message", [
    ("vision_cfg", {"pool_type": "avg"}, "vision_cfg has pool_type='avg', which is another computation"),
    ("vision_cfg", {"norm_kwargs": {"eps": 1e-6}}, "norm_kwargs="), ("text_cfg", {"no_causal_mask": True}, "no_causal_mask=True"),
    ("text_cfg", {"pool_type": "last", "tokenizer_kwargs": {"clean": "canonicalize"}}, "pool_type='last', tokenizer_kwargs="),
    ("text_cfg", {"hf_tokenizer_name": "bert-base-uncased"}, "hf_tokenizer_name"), ("text_cfg", 3, "not a model of OpenCLIP"),
])
def test_an_open_clip_that_computes_something_else(tmp_path, tower, change, message):
  """Its tensors are those of a CLIP, so that only the configuration tells."""
  save_open_clip(reference.openai_model(), tmp_path / "oc", "quick_gelu")
  path = tmp_path / "oc" / "open_clip_config.json"
  about = json.loads(path.read_text())
  about["model_cfg"][tower] = about["model_cfg"][tower] | change if isinstance(change, dict) else change
  path.write_text(json.dumps(about))
  with pytest.raises(InputError, match=message):
    clip.read(tmp_path / "oc")


class Shapes:
  """A tensor of which only the shape counts."""

  def __init__(self, shape):
    self.shape, self.dtype = shape, np.dtype(np.float16)


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("layout", ["openai", "hugging_face"])
def test_public_geometries_are_known_by_their_shapes(tmp_path, name, layout):
  wanted = clip_names.sources(PUBLIC[name], layout)
  tensors = {part: Shapes(shape) for source in wanted.values() for part, shape in source.parts.items()}
  assert clip._geometry(clip._Weights(tmp_path, tensors, []), layout) == PUBLIC[name]
  size = PUBLIC[name].image_size
  shapes = jax.eval_shape(CLIP(PUBLIC[name]).init, jax.random.key(0), np.zeros((1, size, size, 3)), np.zeros((1, 77), np.int32),
                          np.ones((1, 77), bool))["params"]
  assert {"/".join(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)} == set(wanted)


def test_published_sizes():
  """Parameters as OpenAI's and OpenCLIP's model cards count them (428 M with 336 px: 427.9; H/14: 986.1)."""
  for config, millions in ((OPENAI_VIT_L_14_336, 427.9), (OPEN_CLIP_VIT_H_14, 986.1)):
    total = sum(np.prod(shape) for s in clip_names.sources(config, "openai").values() for shape in s.parts.values())
    assert round(float(total) / 1e6, 1) == millions


@pytest.mark.slow
def test_a_model_of_real_size(tmp_path):
  """ViT-B/32 as OpenAI made it, random weights: archive in, both towers as OpenAI's code has them."""
  import torch

  model = reference.openai_model(embed=512, size=224, image_layers=12, image_width=768, patch=32, length=77, vocab=49_408,
                                 text_width=512, text_layers=12)
  reference.save_torchscript(model, tmp_path / "ViT-B-32.pt")
  printed = clip.import_clip(str(tmp_path / "ViT-B-32.pt"), str(tmp_path / "clip"),
                             str(reference.clip_package() / "bpe_simple_vocab_16e6.txt.gz"))
  assert printed["model"] == "vit_b_32" and printed["parameters"] == 151_277_313
  encoder = Encoder.load(tmp_path / "clip")
  images, ids, _ = inputs(224, 77, [[49406, 320, 1125, 539, 320, 2368, 49407]])
  vectors = openai_vectors(model, images, ids)
  np.testing.assert_allclose(encoder.encode_images(images), vectors[0], atol=TOLERANCE)
  np.testing.assert_allclose(encoder.encode_text(["a photo of a cat"]), vectors[1], atol=TOLERANCE)
  assert dataclasses.asdict(encoder.config) == dataclasses.asdict(PUBLIC["vit_b_32"])
  assert torch.is_tensor(model.logit_scale)
