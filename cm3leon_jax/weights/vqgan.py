"""VQGANs of the taming-transformers layout (CompVis f = 8 and 16, Chameleon's `vqgan.ckpt`) → an image tokenizer's folder.

The network in models/vqgan.py is the same one, block by block; the 1×1 convolutions of an attention block are matrices
here. Weights are kept in float32, as codes
near a border between two entries depend on the last digits.
"""

import os
import re
from typing import Mapping

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.vqgan import VQGAN, VQGANConfig
from cm3leon_jax.tokenizers.image import ImageTokenizer
from cm3leon_jax.weights import blocks, partial, state as state_file

CODEBOOK = "quantize.embedding.weight"
_NOT_THE_NETWORK = ("loss.", "model_ema.", "discriminator.")  # what training kept beside it
_PREFIXES = ("model.vqmodel.", "first_stage_model.", "module.")  # a VQGAN inside another model's file
_GUMBEL = "quantize.embed.weight"
_RENAMES = ((r"(down|up)_(\d+)_(block|attn)_(\d+)", r"\1.\2.\3.\4"), (r"(down|up)_(\d+)_(down|up)sample", r"\1.\2.\3sample.conv"),
            (r"mid_(block|attn)_(\d+)", r"mid.\1_\2"))


def import_vqgan(source: str, out: str, image_size: int = 256) -> dict:
  """Writes the folder of an `ImageTokenizer`.

  Args:
    source: a `.ckpt`/`.pt` of torch (a state_dict, alone or in a Lightning checkpoint), or a `.safetensors` file.
    out: the folder to write.
    image_size: pixels a side of the pictures that it is to read; the weights do not say.

  Returns:
    What was written, flat, for printing.

  Raises:
    InputError: no such file, another network, or `out` is there already.
  """
  partial.check_free(out)
  state = state_file.read(source, _PREFIXES)
  state = {name: x for name, x in state.items() if not name.startswith(_NOT_THE_NETWORK)}
  config = _geometry(state, source, image_size)
  tokenizer = ImageTokenizer(config, _parameters(state, config, source))
  digest = blocks.sha256(source)
  tokenizer.save(out, dtype=np.float32, source={os.path.basename(source): digest})
  return {"image_size": config.image_size, "image_tokens": tokenizer.image_tokens, "codebook_size": config.codebook_size,
          "pixels_a_code": config.cell, "sha256": digest}


def _geometry(state: Mapping[str, np.ndarray], where: str, image_size: int) -> VQGANConfig:
  """What the shapes tell."""
  if _GUMBEL in state:
    raise InputError(f"{where}: a Gumbel-softmax quantiser ({_GUMBEL}); only nearest-neighbour codebooks ({CODEBOOK}) are read")
  for name in ("encoder.conv_in.weight", "encoder.conv_out.weight", CODEBOOK):
    if name not in state:
      raise InputError(f"{where}: no {name}, so it is no VQGAN of the taming-transformers layout; it has "
                       f"{', '.join(list(state)[:3]) or 'nothing'}")
  if "decoder.conv_in.weight" not in state:
    raise InputError(f"{where}: an encoder without a decoder, so no codes could be drawn (Hugging Face's Chameleon keeps only "
                     "that half; the model's own vqgan.ckpt has both)")
  for name, dims in (("encoder.conv_in.weight", 4), ("encoder.conv_out.weight", 4), (CODEBOOK, 2)):
    if state[name].ndim != dims or not state[name].size:
      raise InputError(f"{where}: {name} has the shape {state[name].shape}, not {dims} dimensions")
  if image_size < 1:
    raise InputError(f"--image_size={image_size}: pixels a side, above 0")
  channels = state["encoder.conv_in.weight"].shape[0]
  found = [re.fullmatch(r"encoder\.down\.(\d+)\.(block|attn)\.(\d+)\.(conv1|norm)\.weight", name) for name in state]
  found = [(int(m[1]), m[2], int(m[3]), state[m[0]].shape[0]) for m in found if m and state[m[0]].ndim]
  if not any(kind == "block" for _, kind, *_ in found):
    raise InputError(f"{where}: no encoder.down.0.block.0.conv1.weight, so it is no VQGAN of the taming-transformers layout")
  levels = 1 + max(level for level, *_ in found)
  widths = {level: width for level, kind, _, width in found if kind == "block"}
  attention = {level for level, kind, *_ in found if kind == "attn"}
  try:
    return VQGANConfig(
        image_size=image_size, channels=channels, ch_mult=tuple(widths[level] // channels for level in range(levels)),
        res_blocks=1 + max(block for _, kind, block, _ in found if kind == "block"),
        attention_resolutions=tuple(sorted(image_size >> level for level in attention)),
        z_channels=state["encoder.conv_out.weight"].shape[0], embed_dim=state[CODEBOOK].shape[1],
        codebook_size=state[CODEBOOK].shape[0], encoder_attention="encoder.mid.attn_1.norm.weight" in state)
  except (KeyError, ValueError) as error:
    raise InputError(f"{where}: its blocks make no VQGAN of {image_size} px ({error})") from error


def _public_name(ours: str) -> str:
  """`encoder/down_0_block_1/conv1/kernel` → `encoder.down.0.block.1.conv1.weight`."""
  if ours == "codebook":
    return CODEBOOK
  for pattern, replacement in _RENAMES:
    ours = re.sub(pattern, replacement, ours)
  *modules, leaf = ours.split("/")
  return ".".join([*modules, {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)])


def _parameters(state: Mapping[str, np.ndarray], config: VQGANConfig, where: str) -> dict:
  """Nested parameters of `VQGAN(config)`, float32."""
  image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
  ours = jax.eval_shape(lambda x: VQGAN(config).init(jax.random.key(0), x)["params"], image)
  ours = {name: x.shape for name, x in traverse_util.flatten_dict(ours, sep="/").items()}
  return state_file.parameters(state, {name: _public_name(name) for name in ours}, ours, where)
