"""Chameleon as Hugging Face writes it (`ChameleonForConditionalGeneration`): its text model, of the 7B or 34B kind."""

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.weights import mapping, names
from cm3leon_jax.weights.mapping import Piece

# What a config.json that leaves a field out means.
DEFAULTS = {"vocab_size": 65_536, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_act": "silu", "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "rope_theta": 1e4, "attention_bias": False,
            "mlp_bias": False, "swin_norm": False}
_COUNTS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
           "max_position_embeddings")
SKIPPED = "model.vqmodel."  # the image tokenizer's tensors
TIED_HEAD = "lm_head.weight"


def to_ours(config: dict, where: str) -> dict:
  """config.json → the fields of TransformerConfig that it decides.

  Raises:
    InputError: the model has something that ours has not.
  """
  c = DEFAULTS | config
  c["num_key_value_heads"] = c["num_attention_heads"] if c["num_key_value_heads"] is None else c["num_key_value_heads"]
  names.counts(c, _COUNTS, where)
  ropes = [c.get("rope_parameters") or {}, c.get("rope_scaling") or {}]  # of transformers 5, and before
  rope = {"rope_theta": c["rope_theta"]} | ropes[0] | ropes[1]
  kinds = [found.get("rope_type", found.get("type", "default")) for found in ropes]
  problems = [f"{name}={c[name]!r}" for name, value in (("hidden_act", "silu"), ("attention_bias", False),
                                                        ("mlp_bias", False), ("rms_norm_eps", 1e-5)) if c[name] != value]
  problems += [f"rope_type={kind!r}" for kind in kinds if kind != "default"]
  if problems:
    raise InputError(f"{where}: this Chameleon cannot be a model of ours: {', '.join(problems)}")
  return {"vocab_size": c["vocab_size"], "num_layers": c["num_hidden_layers"], "model_dim": c["hidden_size"],
          "num_heads": c["num_attention_heads"], "num_kv_heads": c["num_key_value_heads"],
          "mlp_dim": c["intermediate_size"], "max_positions": c["max_position_embeddings"], "position": "rope",
          "position_period": 0, "rope_theta": float(rope["rope_theta"]), "norm": "rmsnorm",
          "norm_order": "swin" if c["swin_norm"] else "pre", "qk_norm": True, "activation": "swiglu",
          "tie_embeddings": c["tie_word_embeddings"]}


def from_ours(c: TransformerConfig, where: str) -> dict:
  """TransformerConfig → config.json, without the vocabulary's part.

  Raises:
    InputError: Chameleon has no place for something of the model; all such switches are told.
  """
  needed = {"position": "rope", "norm": "rmsnorm", "qk_norm": True, "activation": "swiglu"}
  problems = [f"{name}={getattr(c, name)!r}" for name, value in needed.items() if getattr(c, name) != value]
  if problems:
    raise InputError(f"{where}: Chameleon cannot express this model's {', '.join(problems)}; it has rotary positions, "
                     "RMSNorm, QK-norm and SwiGLU (configs/models/chameleon_7b.gin)")
  return {"architectures": ["ChameleonForConditionalGeneration"], "model_type": "chameleon", "vocab_size": c.vocab_size,
          "hidden_size": c.model_dim, "intermediate_size": c.mlp_dim, "num_hidden_layers": c.num_layers,
          "num_attention_heads": c.num_heads, "num_key_value_heads": c.num_kv_heads, "hidden_act": "silu",
          "max_position_embeddings": c.max_positions, "rms_norm_eps": 1e-5, "tie_word_embeddings": c.tie_embeddings,
          "rope_theta": c.rope_theta, "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
          "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "swin_norm": c.norm_order == "swin",
          "use_cache": True}


def pieces(c: TransformerConfig, theirs: np.ndarray | None = None) -> list[Piece]:
  """Every parameter.

  Args:
    c: the model.
    theirs: int[V], the public id of each of our ids; None where they are the same.
  """
  d, kv, g, h = c.model_dim, c.num_kv_heads, c.queries_per_kv, c.head_dim
  found = [mapping.rows("tokens", "model.embed_tokens.weight", (c.vocab_size, d), theirs)]
  for i in range(c.num_layers):
    at = f"model.layers.{i}."
    found += [
        mapping.qkv(c, i, *(f"{at}self_attn.{x}_proj.weight" for x in "qkv")),
        mapping.attention_out(c, i, f"{at}self_attn.o_proj.weight"),
        # Both rotate the pairs (i, i + H/2) of a head, so that nothing is permuted within heads.
        *(mapping.same(f"layers.q_norm_{ours}", i, f"{at}self_attn.q_norm.{name}", (c.num_heads, h), (kv, g, h))
          for ours, name in (("scale", "weight"), ("bias", "bias"))),
        *(mapping.same(f"layers.k_norm_{ours}", i, f"{at}self_attn.k_norm.{name}", (kv, h))
          for ours, name in (("scale", "weight"), ("bias", "bias"))),
        mapping.gate_and_up(c, i, f"{at}mlp.gate_proj.weight", f"{at}mlp.up_proj.weight"),
        mapping.linear("layers.mlp_out", i, f"{at}mlp.down_proj.weight", (c.mlp_dim,), (d,)),
        mapping.same("layers.attention_norm_scale", i, f"{at}input_layernorm.weight", (d,)),
        mapping.same("layers.mlp_norm_scale", i, f"{at}post_attention_layernorm.weight", (d,)),
    ]
  found.append(mapping.same("final_norm_scale", None, "model.norm.weight", (d,)))
  if not c.tie_embeddings:
    found.append(mapping.rows("head", TIED_HEAD, (c.vocab_size, d), theirs))
  return found
