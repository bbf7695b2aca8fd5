"""Small CLIPs with random weights in the public layouts, made by OpenAI's own code and by transformers."""

import importlib.util
from pathlib import Path
import warnings

import numpy as np
import pytest

VOCAB, LENGTH, IMAGE_SIZE = 520, 12, 32
MERGES = ["a b", "ab c</w>", "d e", "t h", "th e</w>", "o f</w>"]  # 512 bytes, these, 2 specials: 520 ids
IDS = [[518, 5, 300, 512, 519], [518, 519], [518, *range(40, 50), 519]]


def clip_package():
  """Folder of the package openai-clip, OpenAI's code as published; not imported: its __init__ wants torchvision."""
  spec = importlib.util.find_spec("clip")
  if spec is None:
    pytest.skip("the package openai-clip holds OpenAI's code")
  return Path(spec.origin).parent


def openai_model(activation="quick_gelu", *, embed=24, size=IMAGE_SIZE, image_layers=2, image_width=128, patch=8, length=LENGTH,
                 vocab=VOCAB, text_width=64, text_layers=2):
  """OpenAI's module, float32; OpenCLIP's is the same with GELU."""
  torch = pytest.importorskip("torch", reason="in requirements-reference.txt")
  spec = importlib.util.spec_from_file_location("openai_clip_model", clip_package() / "model.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  torch.manual_seed(0)
  model = module.CLIP(embed, size, image_layers, image_width, patch, length, vocab, text_width, text_width // 64, text_layers)
  randomise(model)
  if activation == "gelu":
    for tower in (model.visual.transformer, model.transformer):
      for block in tower.resblocks:
        block.mlp.gelu = torch.nn.GELU()
  return model.eval()


def hugging_face_model(activation="quick_gelu", **image):
  torch = pytest.importorskip("torch", reason="in requirements-reference.txt")
  transformers = pytest.importorskip("transformers", reason="in requirements-reference.txt")
  torch.manual_seed(0)
  text = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
              max_position_embeddings=LENGTH, hidden_act=activation, bos_token_id=VOCAB - 2, eos_token_id=VOCAB - 1,
              projection_dim=24)
  image = dict(hidden_size=48, intermediate_size=192, num_hidden_layers=3, num_attention_heads=3, image_size=IMAGE_SIZE,
               patch_size=8, hidden_act=activation, projection_dim=24) | image
  model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=24))
  randomise(model)
  return model.eval()


def randomise(model):
  """Adds noise to every parameter: norms of one and biases of nought would hide a wrong place."""
  import torch

  with torch.no_grad():
    for parameter in model.parameters():
      if parameter.ndim:
        parameter += 0.05 * torch.randn_like(parameter)


def save_torchscript(model, path):
  """As OpenAI published: traced, with float16 where `convert_weights` puts it. The numbers become those of `model`, too."""
  import torch

  for name, parameter in model.named_parameters():
    if parameter.ndim > 1 and "embedding" not in name:
      parameter.data = parameter.data.half().float()
  half = {name for name, parameter in model.named_parameters() if parameter.ndim > 1 and "embedding" not in name}
  images = torch.zeros(1, 3, model.visual.input_resolution, model.visual.input_resolution)
  model.register_buffer("input_resolution", torch.tensor(model.visual.input_resolution))
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # tracing's, and that newer torch would rather export
    traced = torch.jit.trace(model, (images, torch.zeros(1, model.context_length, dtype=torch.long)), check_trace=False)
    for name, parameter in traced.named_parameters():
      if name in half:
        parameter.data = parameter.data.half()
    torch.jit.save(traced, path)
  model.float()  # the two share their parameters


def write_vocabulary(folder):
  path = Path(folder) / "merges.txt"
  path.write_text("\n".join(["#version: 0.2", *MERGES]))
  return path


def inputs(size=IMAGE_SIZE, length=LENGTH, ids=IDS):
  """uint8[3, size, size, 3], int[3, length] padded with noughts, bool mask."""
  images = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
  padded, mask = np.zeros((len(ids), length), np.int64), np.zeros((len(ids), length), bool)
  for row, text in enumerate(ids):
    padded[row, :len(text)] = text
    mask[row, :len(text)] = True
  return images, padded, mask


def normalised(images, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)):
  """What the references read: float32[N, 3, H, W]."""
  import torch

  return torch.tensor(((images / 255 - mean) / std).transpose(0, 3, 1, 2), dtype=torch.float32)


def unit(x):
  x = x.detach().numpy()
  return x / np.linalg.norm(x, axis=1, keepdims=True)
