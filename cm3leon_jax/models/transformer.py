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
from cm3leon_jax.sharding.rules import constrain, summed_over

REMAT = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
  "projections": jax.checkpoint_policies.save_only_these_names("qkv", attention.OUTPUT, "mlp_in"),
  "attention": jax.checkpoint_policies.save_only_these_names(attention.OUTPUT),
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


def rotate(x, positions, theta: float):
  """Rotary embedding of x [..., Dh] at `positions` [...] (axes of 1 broadcast); pairs are (i, i + Dh/2), as in Llama."""
  half = x.shape[-1] // 2
  angles = positions[..., None] * theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


@jax.custom_vjp
def project_heads(x_BxLxD, qkv_DxKxGxDh):
  """q [B, H, L, Dh] and k, v [B, K, L, Dh], each written by a matmul of its own, as the TPU kernel reads them.

  Taken out of one fused matmul they would be copied twice, 7 % of a 7B step. Args: x, and w["qkv"] [D, K, G + 2, Dh].
  """
  width = qkv_DxKxGxDh.shape[-1]
  return tuple(jnp.einsum("bld,dhk->bhlk", x_BxLxD, part.reshape(part.shape[0], -1, width))
               for part in _query_key_value(qkv_DxKxGxDh))


def _query_key_value(qkv_DxKxGxDh):
  return jax.lax.split(qkv_DxKxGxDh, (qkv_DxKxGxDh.shape[2] - 2, 1, 1), axis=2)


def _project_heads_backward(saved, cotangents):
  x, qkv = saved
  parts = _query_key_value(qkv)
  dws = [jnp.einsum("bld,bhlk->dhk", x, dy).reshape(part.shape) for dy, part in zip(cotangents, parts)]
  flat = [part.reshape(part.shape[0], -1, part.shape[-1]) for part in parts]
  # On a tensor axis: summed on each device first, then once over devices, not once for each of the three.
  dx = summed_over("kv_heads", 1, lambda dys, ws: sum(jnp.einsum("bhlk,dhk->bld", dy, w) for dy, w in zip(dys, ws)),
                         tuple(cotangents), tuple(flat))
  return dx, jnp.concatenate(dws, axis=2)


project_heads.defvjp(lambda x, qkv: (project_heads(x, qkv), (x, qkv)), _project_heads_backward)


def queries_keys_values(c: TransformerConfig, w: dict, x_BxLxD, positions_BxL, heads_first: bool = False):
  """q [B, L, H, Dh] and k, v [B, L, K, Dh] of one fused matmul; with `heads_first` [B, H, L, Dh] and [B, K, L, Dh]."""
  if heads_first:
    q, k, v = (checkpoint_name(x, "qkv") for x in project_heads(x_BxLxD, w["qkv"]))
    flat = lambda p: p.reshape(-1, 1, c.head_dim)  # a gain or bias of each head
    place = positions_BxL[:, None, :]
  else:
    qkv = checkpoint_name(project(x_BxLxD, w["qkv"]), "qkv")
    qkv = constrain(qkv, "batch", "length", "kv_heads", "qkv", "head_dim")
    q, k, v = (part.reshape(*qkv.shape[:2], -1, c.head_dim)
               for part in jax.lax.split(qkv, (c.queries_per_kv, 1, 1), axis=3))
    flat = lambda p: p.reshape(-1, c.head_dim)
    place = positions_BxL[:, :, None]
  if c.qk_norm:
    q = normalise("layernorm", q, flat(w["q_norm_scale"]), flat(w["q_norm_bias"]))
    k = normalise("layernorm", k, flat(w["k_norm_scale"]), flat(w["k_norm_bias"]))
  if c.position == "rope":
    q, k = rotate(q, place, c.rope_theta), rotate(k, place, c.rope_theta)
  return q, k, v


@jax.custom_vjp
def relu(x):
  """max(x, 0). Its gradient multiplies by 0 or 1, made from the output, which the next matmul keeps anyway.

  A comparison instead is packed to bits and kept by XLA:TPU, which costs 1.7 % of a 7B step.
  """
  return jnp.maximum(x, 0)


def _relu_backward(y, dy):
  return (dy * jnp.minimum(y * jnp.asarray(_HUGE, y.dtype), 1),)


_HUGE = 1e38  # takes every normal positive bfloat16 or float32 to 1 or more
relu.defvjp(lambda x: (relu(x),) * 2, _relu_backward)


def feed_forward(c: TransformerConfig, w: dict, x_BxLxD):
  if c.activation == "swiglu":
    gate, up = jnp.moveaxis(checkpoint_name(project(x_BxLxD, w["mlp_in"]), "mlp_in"), 2, 0)
    h = jax.nn.silu(gate) * up
  else:
    h = checkpoint_name(project(x_BxLxD, w["mlp_in"]), "mlp_in")
    h = relu(h) if c.activation == "relu" else jax.nn.gelu(h, approximate=False)
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


def block(c: TransformerConfig, w: dict, x_BxLxD, positions_BxL, attend, dropout_key=None, heads_first: bool = False):
  """One layer.

  Args:
    w: this layer's parameters, without the `layers` axis.
    attend: (q, k, v) → [B, L, H, Dh]; decoding passes one that reads the cache.
    heads_first: whether `attend` takes and gives [B, H, L, Dh].
  """
  def norm(name, x):
    return normalise(c.norm, x, w.get(f"{name}_scale"), w.get(f"{name}_bias"))

  def attention_branch(x):
    heads = attend(*queries_keys_values(c, w, x, positions_BxL, heads_first))
    if heads_first:
      return jnp.einsum("bhlk,hkd->bld", heads, w["attention_out"].reshape(c.num_heads, c.head_dim, c.model_dim))
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
      return block(c, w, x, positions, attend, layer_key, backend in attention.HEADS_FIRST), None

    if c.remat != "none":
      layer = jax.checkpoint(layer, policy=REMAT[c.remat], prevent_cse=False)
    x, _ = jax.lax.scan(layer, x, (dict(self.weights["layers"]), jnp.arange(c.num_layers)), unroll=c.scan_unroll)
    self.sow("intermediates", "residual", x)  # kept only for those who ask (`mutable`)
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
