"""Names of CLIP's tensors in the two public layouts, and how they make up ours (`CLIP(config)`'s parameters).

`openai`: OpenAI's archives and OpenCLIP's files. `hugging_face`: CLIPModel. A torch `Linear` stores [out, in],
ours [in, out].
"""

from typing import Callable, NamedTuple, Sequence

import numpy as np

from cm3leon_jax.models.clip import CLIPConfig

LAYOUTS = {"visual.": "openai", "vision_model.": "hugging_face"}  # a name that begins so tells the layout
SKIPPED = ("attn_mask", "position_ids", "input_resolution", "context_length", "vocab_size")  # last parts; no weights


class Source(NamedTuple):
  """One of our arrays: its public tensors (name → shape), and what joins them."""

  parts: dict[str, tuple[int, ...]]
  join: Callable[[Sequence[np.ndarray]], np.ndarray]


class _Block(NamedTuple):
  """Names inside one transformer block."""

  norm_1: str
  qkv: tuple[str, ...]  # of the weights; three where they are apart
  out: str
  norm_2: str
  mlp_in: str
  mlp_out: str


_BLOCKS = {
    "openai": _Block("ln_1", ("attn.in_proj_weight",), "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"),
    "hugging_face": _Block("layer_norm1", tuple(f"self_attn.{x}_proj.weight" for x in "qkv"), "self_attn.out_proj",
                           "layer_norm2", "mlp.fc1", "mlp.fc2"),
}


def _same(name: str, *shape: int) -> Source:
  return Source({name: shape}, lambda x: x[0])


def _transposed(name: str, *shape: int) -> Source:
  return Source({name: shape}, lambda x: x[0].T)


def _norm(ours: str, name: str, width: int) -> dict[str, Source]:
  return {f"{ours}/scale": _same(f"{name}.weight", width), f"{ours}/bias": _same(f"{name}.bias", width)}


def _linear(ours: str, name: str, inputs: int, outputs: int) -> dict[str, Source]:
  return {f"{ours}/kernel": _transposed(f"{name}.weight", outputs, inputs), f"{ours}/bias": _same(f"{name}.bias", outputs)}


def _block(ours: str, name: str, width: int, layout: str) -> dict[str, Source]:
  b = _BLOCKS[layout]
  weights = [f"{name}.{x}" for x in b.qkv]
  rows = 3 * width // len(weights)
  return {
      **_norm(f"{ours}/norm_1", f"{name}.{b.norm_1}", width),
      f"{ours}/qkv/kernel": Source({x: (rows, width) for x in weights}, lambda x: np.concatenate(x).T),
      f"{ours}/qkv/bias": Source({x.removesuffix("weight") + "bias": (rows,) for x in weights}, np.concatenate),
      **_linear(f"{ours}/out", f"{name}.{b.out}", width, width),
      **_norm(f"{ours}/norm_2", f"{name}.{b.norm_2}", width),
      **_linear(f"{ours}/mlp_in", f"{name}.{b.mlp_in}", width, 4 * width),
      **_linear(f"{ours}/mlp_out", f"{name}.{b.mlp_out}", 4 * width, width),
  }


def sources(c: CLIPConfig, layout: str) -> dict[str, Source]:
  """Our name, as "image/patches/kernel" → where its numbers come from."""
  hf = layout == "hugging_face"
  image, text = ("vision_model.", "text_model.") if hf else ("visual.", "")
  embeddings = "embeddings." if hf else ""
  blocks = "encoder.layers." if hf else "transformer.resblocks."
  places = "position_embedding.weight" if hf else "positional_embedding"
  projection = _transposed if hf else (lambda name, outputs, inputs: _same(name, inputs, outputs))
  found = {
      "logit_scale": _same("logit_scale"),
      "image/patches/kernel": Source(
          {f"{image}{embeddings}{'patch_embedding' if hf else 'conv1'}.weight": (c.image_width, 3, c.patch_size, c.patch_size)},
          lambda x: x[0].transpose(2, 3, 1, 0)),
      "image/class_embedding": _same(f"{image}{embeddings}class_embedding", c.image_width),
      "image/positions": _same(f"{image}{embeddings}{places}", (c.image_size // c.patch_size)**2 + 1, c.image_width),
      **_norm("image/norm_pre", f"{image}{'pre_layrnorm' if hf else 'ln_pre'}", c.image_width),
      **_norm("image/norm_post", f"{image}{'post_layernorm' if hf else 'ln_post'}", c.image_width),
      "image/projection/kernel": projection("visual_projection.weight" if hf else "visual.proj", c.embed_dim, c.image_width),
      "text/pieces/embedding": _same(f"{text}{embeddings}token_embedding.weight", c.vocab_size, c.text_width),
      "text/positions": _same(f"{text}{embeddings}{places}", c.text_length, c.text_width),
      **_norm("text/norm_final", f"{text}{'final_layer_norm' if hf else 'ln_final'}", c.text_width),
      "text/projection/kernel": projection("text_projection.weight" if hf else "text_projection", c.embed_dim, c.text_width),
  }
  for i in range(c.image_layers):
    found |= _block(f"image/block_{i}", f"{image}{blocks}{i}", c.image_width, layout)
  for i in range(c.text_layers):
    found |= _block(f"text/block_{i}", f"{text}{blocks}{i}", c.text_width, layout)
  return found
