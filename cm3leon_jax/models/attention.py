"""Causal attention within segments: one function, several backends; `xla` is the reference.

Letters: B batch, L queries, S keys, H query heads, K key/value heads, G = H/K, Dh head width.
"""

import functools

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
import jax.numpy as jnp

# Finite, so that a row with nothing to attend to (padding) gives numbers, not NaN.
MASKED = -1e9


def choose_backend(name: str, dtype) -> str:
  """`auto` → the backend of this platform. cuDNN computes in 16 bits only."""
  if name != "auto":
    return name
  platform = jax.default_backend()
  if platform == "tpu":
    return "splash"
  return "cudnn" if platform == "gpu" and jnp.dtype(dtype).itemsize == 2 else "xla"


def causal_mask(segment_ids_BxL: jax.Array) -> jax.Array:
  """bool[B, 1, L, L]: key at or before the query, in the same segment."""
  length = segment_ids_BxL.shape[1]
  causal_LxL = jnp.tril(jnp.ones((length, length), bool))
  same_BxLxL = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
  return (same_BxLxL & causal_LxL)[:, None]


def bias_from_mask(mask: jax.Array) -> jax.Array:
  """float32: 0 where True, very negative where False; made once, added in every layer."""
  return jnp.where(mask, 0.0, MASKED).astype(jnp.float32)


def attend_xla(q_BxLxHxDh, k_BxSxKxDh, v_BxSxKxDh, bias) -> jax.Array:
  """Softmax attention with an additive bias float32[B, 1, L, S]. Returns [B, L, H, Dh]."""
  batch, length, heads, width = q_BxLxHxDh.shape
  groups = k_BxSxKxDh.shape[2]
  q = (q_BxLxHxDh * width**-0.5).reshape(batch, length, groups, heads // groups, width)
  scores = jnp.einsum("blkgd,bskd->bkgls", q, k_BxSxKxDh, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(scores + bias[:, :, None], axis=-1).astype(v_BxSxKxDh.dtype)
  return jnp.einsum("bkgls,bskd->blkgd", weights, v_BxSxKxDh).reshape(q_BxLxHxDh.shape)


def _attend_fused(q, k, v, segment_ids, implementation: str) -> jax.Array:
  """JAX's own entry to cuDNN; `implementation="xla"` lets the arguments be tested anywhere."""
  return jax.nn.dot_product_attention(q, k, v, mask=causal_mask(segment_ids), implementation=implementation)


def _attend_splash(q, k, v, segment_ids, interpret: bool = False) -> jax.Array:
  """The TPU kernel that skips blocks above the diagonal. L must be a multiple of 128."""
  length, heads, width = q.shape[1:]
  mask = splash_mask.MultiHeadMask([splash_mask.CausalMask((length, length))] * heads)
  block = min(length, 512)  # 512 fits the VMEM of v4, v5e, v5p and v6e at head widths 64 and 128
  sizes = splash.BlockSizes(block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block,
                            block_kv_dkv=block, block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block)
  make = splash.make_splash_mha if k.shape[2] == heads else splash.make_splash_mqa
  if k.shape[2] != heads:  # grouped queries: one multi-query call a key/value head
    groups = k.shape[2]
    mask = splash_mask.MultiHeadMask([splash_mask.CausalMask((length, length))] * (heads // groups))
  kernel = make(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)

  def one_row(q_LxHxDh, k_LxKxDh, v_LxKxDh, segments_L):
    ids = splash.SegmentIds(q=segments_L, kv=segments_L)
    q_HxLxDh, k_KxLxDh, v_KxLxDh = (x.swapaxes(0, 1) for x in (q_LxHxDh, k_LxKxDh, v_LxKxDh))
    if k.shape[2] == heads:
      return kernel(q_HxLxDh, k_KxLxDh, v_KxLxDh, segment_ids=ids).swapaxes(0, 1)
    grouped = q_HxLxDh.reshape(k.shape[2], -1, length, width)
    out = jax.vmap(functools.partial(kernel, segment_ids=ids))(grouped, k_KxLxDh, v_KxLxDh)
    return out.reshape(heads, length, width).swapaxes(0, 1)

  return jax.vmap(one_row)(q * width**-0.5, k, v, segment_ids)


def attend(q_BxLxHxDh, k_BxLxKxDh, v_BxLxKxDh, segment_ids_BxL, *, backend: str, bias=None) -> jax.Array:
  """Self-attention of packed rows, causal by index and within equal segment ids.

  Args:
    q_BxLxHxDh, k_BxLxKxDh, v_BxLxKxDh: H a multiple of K.
    segment_ids_BxL: int32.
    backend: a result of `choose_backend`.
    bias: for `xla`, `bias_from_mask(causal_mask(segment_ids))` if already made.

  Returns:
    [B, L, H, Dh]
  """
  if backend == "xla":
    bias = bias_from_mask(causal_mask(segment_ids_BxL)) if bias is None else bias
    return attend_xla(q_BxLxHxDh, k_BxLxKxDh, v_BxLxKxDh, bias)
  if backend == "cudnn":
    return _attend_fused(q_BxLxHxDh, k_BxLxKxDh, v_BxLxKxDh, segment_ids_BxL, "cudnn")
  if backend == "splash":
    return _attend_splash(q_BxLxHxDh, k_BxLxKxDh, v_BxLxKxDh, segment_ids_BxL)
  raise ValueError(f"attention backend {backend!r}; known: xla, cudnn, splash")
