"""The transformer's few switches. CM3Leon's values are the defaults (paper §2.3), Chameleon's a choice of others."""

import dataclasses

CHOICES = {
  "position": ("learned", "rope"),
  "norm": ("layernorm_noaffine", "layernorm", "rmsnorm"),
  "norm_order": ("pre", "swin"),
  "activation": ("relu", "gelu", "swiglu"),
  "dtype": ("bfloat16", "float32"),
  "param_dtype": ("bfloat16", "float32"),
  "remat": ("none", "full", "dots", "projections", "attention"),
  "attention": ("auto", "xla", "cudnn", "splash"),
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Shape and switches of one decoder-only transformer.

  Attributes:
    vocab_size: rows of the embedding table (V).
    num_layers, model_dim, num_heads: depth, width D, query heads.
    num_kv_heads: key/value heads; 0 means `num_heads`.
    mlp_dim: width of the feed-forward layer; 0 means 4·D.
    max_positions: position ids lie in 0..max_positions-1.
    position: a learned table, or rotary embedding of queries and keys.
    position_period: learned positions only. Above 0 the table factorises: position p is embedded as
      offset_table[p % period] + slot_table[p // period], so that the same place in two documents has
      the same offset. 0 is the paper's one plain table.
    rope_theta: base of the rotary frequencies.
    norm: LayerNorm without gain and bias (the paper), with them, or RMSNorm; eps 1e-5.
    norm_order: `pre` is x + f(norm(x)); `swin` is x + norm(f(x)) (Chameleon 34B).
    qk_norm: LayerNorm over each head of queries and keys, with gain and bias (Chameleon).
    activation: of the feed-forward layer.
    tie_embeddings: the output head is the embedding table.
    dropout: after attention and feed-forward; the paper uses none.
    init_std: of the truncated normal (cut at 3 sigma); narrow models want more than the paper's 0.006.
    position_init_std: the same for learned positions.
    dtype: of the computation; softmax, norms' statistics and logits are float32 whatever it is.
    param_dtype: of the stored parameters.
    remat: what the backward pass finds stored: `none` recomputes nothing, `full` everything, `dots`
      keeps weight matmuls, `projections` keeps qkv, attention's output and the feed-forward's input projection, `attention`
      attention's output alone.
    attention: backend; `auto` picks by platform.
    scan_unroll: layers per iteration of the scan. On XLA:CPU the loop keeps every residual through a
      copy, so small CPU runs unroll all layers; compile time grows with it.
  """

  vocab_size: int
  num_layers: int
  model_dim: int
  num_heads: int
  num_kv_heads: int = 0
  mlp_dim: int = 0
  max_positions: int = 4096
  position: str = "learned"
  position_period: int = 0
  rope_theta: float = 1e4
  norm: str = "layernorm_noaffine"
  norm_order: str = "pre"
  qk_norm: bool = False
  activation: str = "relu"
  tie_embeddings: bool = True
  dropout: float = 0.0
  init_std: float = 0.006
  position_init_std: float = 0.0002
  dtype: str = "bfloat16"
  param_dtype: str = "float32"
  remat: str = "none"
  attention: str = "auto"
  scan_unroll: int = 1

  def __post_init__(self):
    if self.num_kv_heads == 0:
      object.__setattr__(self, "num_kv_heads", self.num_heads)
    if self.mlp_dim == 0:
      object.__setattr__(self, "mlp_dim", 4 * self.model_dim)
    for field, known in CHOICES.items():
      if getattr(self, field) not in known:
        raise ValueError(f"{field}={getattr(self, field)!r}; known: {', '.join(known)}")
    if self.model_dim % self.num_heads:
      raise ValueError(f"model_dim={self.model_dim} does not divide into num_heads={self.num_heads}")
    if self.num_heads % self.num_kv_heads:
      raise ValueError(f"num_heads={self.num_heads} does not divide into num_kv_heads={self.num_kv_heads}")
    if self.position == "rope" and self.position_period:
      raise ValueError(f"position_period={self.position_period} needs position='learned', not 'rope'")

  @property
  def head_dim(self) -> int:
    return self.model_dim // self.num_heads

  @property
  def queries_per_kv(self) -> int:
    """G, query heads that share one key/value head."""
    return self.num_heads // self.num_kv_heads
