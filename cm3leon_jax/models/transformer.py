"""The decoder-only transformer of CM3Leon (paper §2.3): one file, top to bottom.

Pre-norm blocks without biases, LayerNorm without gain and bias, relu, learned positions, one table
for input and output. Letters: B batch, L length, D width, V vocabulary, K key/value heads,
G query heads a key/value head, Dh head width, M feed-forward width.
"""

import functools

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from cm3leon_jax.models import attention
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.init import init_entry, parameter_table
from cm3leon_jax.models.linear import project, score
from cm3leon_jax.sharding.rules import constrain

REMAT = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
  "projections": jax.checkpoint_policies.save_only_these_names("qkv", "mlp_in"),
}


def normalise(kind: str, x, scale=None, bias=None, eps: float = 1e-5):
  """LayerNorm or RMSNorm over the last axis, statistics in float32."""
  x32 = x.astype(jnp.float32)
  square = (x32 * x32).mean(-1, keepdims=True)
  if kind == "rmsnorm":
    x32 = x32 * jax.lax.rsqrt(square + eps)
  else:
    # Variance as E[x²] − E[x]², so that both statistics come from one pass (as Flax's LayerNorm does).
    mean = x32.mean(-1, keepdims=True)
    x32 = (x32 - mean) * jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0.0) + eps)
  x32 = x32 if scale is None else x32 * scale
  return (x32 if bias is None else x32 + bias).astype(x.dtype)


def rotate(x_BxLxHxDh, positions_BxL, theta: float):
  """Rotary embedding; the pairs are (i, i + Dh/2), as in Llama's public weights."""
  half = x_BxLxHxDh.shape[-1] // 2
  angles = positions_BxL[..., None, None] * theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  a, b = jnp.split(x_BxLxHxDh.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BxLxHxDh.dtype)


def queries_keys_values(c: TransformerConfig, w: dict, x_BxLxD, positions_BxL):
  """One fused matmul; returns q [B, L, H, Dh] and k, v [B, L, K, Dh]."""
  qkv = checkpoint_name(project(x_BxLxD, w["qkv"]), "qkv")
  qkv = constrain(qkv, "batch", "length", "kv_heads", "qkv", "head_dim")
  q, k, v = jax.lax.split(qkv, (c.queries_per_kv, 1, 1), axis=3)
  k, v = k.squeeze(3), v.squeeze(3)
  if c.qk_norm:
    q = normalise("layernorm", q, w["q_norm_scale"], w["q_norm_bias"])
    k = normalise("layernorm", k, w["k_norm_scale"], w["k_norm_bias"])
  q = q.reshape(*q.shape[:2], c.num_heads, c.head_dim)
  if c.position == "rope":
    q, k = rotate(q, positions_BxL, c.rope_theta), rotate(k, positions_BxL, c.rope_theta)
  return q, k, v


def feed_forward(c: TransformerConfig, w: dict, x_BxLxD):
  if c.activation == "swiglu":
    gate, up = jnp.moveaxis(checkpoint_name(project(x_BxLxD, w["mlp_in"]), "mlp_in"), 2, 0)
    h = jax.nn.silu(gate) * up
  else:
    h = checkpoint_name(project(x_BxLxD, w["mlp_in"]), "mlp_in")
    h = jax.nn.relu(h) if c.activation == "relu" else jax.nn.gelu(h, approximate=False)
  h = constrain(h, "batch", "length", "mlp")
  return project(h, w["mlp_out"])


def take_rows(table_VxD, ids):
  """[..., D]; ids outside the table are clipped."""
  return jnp.take(table_VxD, ids, axis=0, mode="clip")


def dropped(x, rate: float, key):
  """Dropout; the whole of x when `key` is None."""
  if key is None or rate == 0.0:
    return x
  return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


def block(c: TransformerConfig, w: dict, x_BxLxD, positions_BxL, attend, dropout_key=None):
  """One layer. `attend(q, k, v)` returns [B, L, H, Dh]; decoding passes one that reads the cache.

  Args:
    w: this layer's parameters, without the `layers` axis.
  """
  def norm(name, x):
    return normalise(c.norm, x, w.get(f"{name}_scale"), w.get(f"{name}_bias"))

  def attention_branch(x):
    heads = attend(*queries_keys_values(c, w, x, positions_BxL))
    heads = heads.reshape(*heads.shape[:2], c.num_kv_heads, c.queries_per_kv, c.head_dim)
    return project(heads, w["attention_out"], 3)

  w = {name: value.astype(x_BxLxD.dtype) for name, value in w.items()}
  keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
  branches = (("attention_norm", attention_branch), ("mlp_norm", functools.partial(feed_forward, c, w)))
  for (name, branch), key in zip(branches, keys):
    y = branch(norm(name, x_BxLxD)) if c.norm_order == "pre" else norm(name, branch(x_BxLxD))
    x_BxLxD = constrain(x_BxLxD + dropped(y, c.dropout, key), "batch", "length", "width")
  return x_BxLxD


class Transformer(nn.Module):
  """Token ids → hidden states → logits. Parameters are stacked over layers, and the layers scanned."""

  config: TransformerConfig

  def setup(self):
    # One Flax parameter a top-level entry of the table in init.py; `layers` is a dict of stacked arrays.
    c = self.config
    self.weights = {name: self.param(name, lambda key, name=name: init_entry(c, name, key))
                    for name in parameter_table(c)}

  def embed(self, inputs_BxL, positions_BxL):
    """[B, L, D] in the computation's dtype."""
    c, w = self.config, self.weights
    x = take_rows(w["tokens"], inputs_BxL)
    if c.position == "learned" and c.position_period:
      x += take_rows(w["position_offsets"], positions_BxL % c.position_period)
      x += take_rows(w["position_slots"], positions_BxL // c.position_period)
    elif c.position == "learned":
      x += take_rows(w["positions"], positions_BxL)
    return constrain(x.astype(c.dtype), "batch", "length", "width")

  def final_norm(self, x):
    w = self.weights
    return normalise(self.config.norm, x, w.get("final_norm_scale"), w.get("final_norm_bias"))

  def __call__(self, inputs, positions, segment_ids, *, deterministic: bool = True):
    """Hidden states of packed rows, after the final norm.

    Args:
      inputs: int32[B, L] token ids.
      positions: int32[B, L] in 0..max_positions-1.
      segment_ids: int32[B, L]; a token sees earlier tokens of its own segment.
      deterministic: False applies dropout, and needs `rngs={"dropout": key}`.

    Returns:
      [B, L, D] in the computation's dtype.
    """
    c = self.config
    x = self.embed(inputs, positions)
    backend = attention.choose_backend(c.attention, c.dtype)
    bias = attention.bias_from_mask(attention.causal_mask(segment_ids)) if backend == "xla" else None
    attend = functools.partial(attention.attend, segment_ids_BxL=segment_ids, backend=backend, bias=bias)
    dropping = c.dropout > 0.0 and not deterministic
    key = self.make_rng("dropout") if dropping else None

    def layer(x, scanned):
      w, index = scanned
      layer_key = jax.random.fold_in(key, index) if dropping else None
      return block(c, w, x, positions, attend, layer_key), None

    if c.remat != "none":
      layer = jax.checkpoint(layer, policy=REMAT[c.remat], prevent_cse=False)
    x, _ = jax.lax.scan(layer, x, (dict(self.weights["layers"]), jnp.arange(c.num_layers)), unroll=c.scan_unroll)
    return self.final_norm(x)

  def logits(self, hidden, start: int = 0, size: int | None = None):
    """float32[..., size] scores of the ids start..start+size-1 (all ids by default); only these rows are multiplied."""
    w = self.weights
    table = w["tokens"] if self.config.tie_embeddings else w["head"]
    size = table.shape[0] - start if size is None else size
    rows = jax.lax.slice_in_dim(table, start, start + size).astype(hidden.dtype)
    return score(hidden, rows)


def init_parameters(config: TransformerConfig, key: jax.Array) -> dict:
  """Initial `params`: what `Transformer.init` gives, for any shape of input."""
  one = jnp.zeros((1, 1), jnp.int32)
  return Transformer(config).init(key, one, one, method="embed")["params"]
