"""OPT as Hugging Face writes it (`OPTForCausalLM`): CM3Leon's block with its biases and gains switched off."""

from typing import Callable

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.vocabulary import EOS_ID, PAD_ID
from cm3leon_jax.weights import mapping, names
from cm3leon_jax.weights.mapping import Piece

# What a config.json that leaves a field out means.
DEFAULTS = {"vocab_size": 50_272, "hidden_size": 768, "num_hidden_layers": 12, "ffn_dim": 3072,
            "max_position_embeddings": 2048, "do_layer_norm_before": True, "_remove_final_layer_norm": False,
            "num_attention_heads": 12, "activation_function": "relu", "dropout": 0.1, "enable_bias": True,
            "layer_norm_elementwise_affine": True, "tie_word_embeddings": True}
_COUNTS = ("vocab_size", "hidden_size", "num_hidden_layers", "ffn_dim", "max_position_embeddings", "num_attention_heads")
_OFFSET = 2  # OPT keeps position p in row p + 2
TIED_HEAD = "lm_head.weight"


def to_ours(config: dict, where: str) -> dict:
  """config.json → the fields of TransformerConfig that it decides.

  Raises:
    InputError: the model has something that ours has not.
  """
  c = DEFAULTS | config
  names.counts(c, _COUNTS, where)
  problems = []
  if c["enable_bias"]:
    problems.append("enable_bias=true (our projections have no biases)")
  if not c["do_layer_norm_before"] or c["_remove_final_layer_norm"]:
    problems.append("norms after the branches, or no final norm")
  if (c.get("word_embed_proj_dim") or c["hidden_size"]) != c["hidden_size"]:
    problems.append(f"word_embed_proj_dim={c['word_embed_proj_dim']} beside hidden_size={c['hidden_size']}")
  if c["activation_function"] not in ("relu", "gelu"):
    problems.append(f"activation_function={c['activation_function']!r} (known: relu, gelu)")
  if problems:
    raise InputError(f"{where}: this OPT cannot be a model of ours: {'; '.join(problems)}")
  return {"vocab_size": c["vocab_size"], "num_layers": c["num_hidden_layers"], "model_dim": c["hidden_size"],
          "num_heads": c["num_attention_heads"], "num_kv_heads": c["num_attention_heads"], "mlp_dim": c["ffn_dim"],
          "max_positions": c["max_position_embeddings"], "position": "learned", "position_period": 0,
          "norm": "layernorm" if c["layer_norm_elementwise_affine"] else "layernorm_noaffine", "norm_order": "pre",
          "qk_norm": False, "activation": c["activation_function"], "tie_embeddings": c["tie_word_embeddings"],
          "dropout": float(c["dropout"])}


def from_ours(c: TransformerConfig, where: str) -> dict:
  """TransformerConfig → config.json.

  Raises:
    InputError: OPT has no place for something of the model; all such switches are told.
  """
  needed = {"position": ("learned",), "norm": ("layernorm_noaffine", "layernorm"), "norm_order": ("pre",),
            "qk_norm": (False,), "activation": ("relu", "gelu"), "num_kv_heads": (c.num_heads,)}
  problems = [f"{name}={getattr(c, name)!r}" for name, known in needed.items() if getattr(c, name) not in known]
  if problems:
    raise InputError(f"{where}: OPT cannot express this model's {', '.join(problems)}; it has learned positions, LayerNorm "
                     "before each branch, relu or gelu, and neither QK-norm nor grouped heads: train with those switches "
                     "(such as --gin.Transformer.qk_norm=False)")
  return {"architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": c.vocab_size,
          "hidden_size": c.model_dim, "word_embed_proj_dim": c.model_dim, "num_hidden_layers": c.num_layers,
          "ffn_dim": c.mlp_dim, "num_attention_heads": c.num_heads, "max_position_embeddings": c.max_positions,
          "activation_function": c.activation, "do_layer_norm_before": True, "_remove_final_layer_norm": False,
          "enable_bias": False, "layer_norm_elementwise_affine": c.norm == "layernorm",
          "tie_word_embeddings": c.tie_embeddings, "dropout": c.dropout, "attention_dropout": 0.0, "layerdrop": 0.0,
          "init_std": c.init_std, "pad_token_id": PAD_ID, "bos_token_id": EOS_ID, "eos_token_id": EOS_ID,
          "use_cache": True}


def pieces(c: TransformerConfig) -> list[Piece]:
  """Every parameter; `position_period` must be 0 (see `plain_positions`)."""
  root, d = "model.decoder.", c.model_dim
  found = [mapping.same("tokens", None, f"{root}embed_tokens.weight", (c.vocab_size, d)),
           _positions(f"{root}embed_positions.weight", c.max_positions, d)]

  def norm(leaf, layer, name):
    if c.norm == "layernorm":
      for ours, theirs in (("scale", "weight"), ("bias", "bias")):
        found.append(mapping.same(f"{leaf}_{ours}", layer, f"{root}{name}.{theirs}", (d,)))

  norm("final_norm", None, "final_layer_norm")
  for i in range(c.num_layers):
    at = f"{root}layers.{i}."
    found.append(mapping.qkv(c, i, *(f"{at}self_attn.{x}_proj.weight" for x in "qkv")))
    found.append(mapping.attention_out(c, i, f"{at}self_attn.out_proj.weight"))
    norm("layers.attention_norm", i, f"layers.{i}.self_attn_layer_norm")
    found.append(mapping.linear("layers.mlp_in", i, f"{at}fc1.weight", (d,), (c.mlp_dim,)))
    found.append(mapping.linear("layers.mlp_out", i, f"{at}fc2.weight", (c.mlp_dim,), (d,)))
    norm("layers.mlp_norm", i, f"layers.{i}.final_layer_norm")
  if not c.tie_embeddings:
    found.append(mapping.same("head", None, TIED_HEAD, (c.vocab_size, d)))
  return found


def _positions(name: str, count: int, width: int) -> Piece:
  def split(x):
    return [np.concatenate([np.zeros((_OFFSET, width), x.dtype), x])]

  return Piece("positions", None, {name: (count + _OFFSET, width)}, lambda x: x[0][_OFFSET:], split)


def plain_positions(c: TransformerConfig, read: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
  """`read(leaf, layer)` that also gives "positions" where two tables make them (`position_period` above 0)."""

  def reading(leaf, layer=None):
    if leaf != "positions" or not c.position_period:
      return read(leaf, layer)
    offsets, slots = (np.asarray(read(name), np.float32) for name in ("position_offsets", "position_slots"))
    p = np.arange(c.max_positions)
    return offsets[p % c.position_period] + slots[p // c.position_period]

  return reading
