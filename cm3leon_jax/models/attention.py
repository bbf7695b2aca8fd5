"""Causal attention within segments: one function, several backends; `xla` is the reference.

Letters: B batch, L queries, S keys, H query heads, K key/value heads, G = H/K, Dh head width.
"""

import functools
import math

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from cm3leon_jax.errors import InputError
from cm3leon_jax.sharding import rules as rules_lib

# Finite, so that a row with nothing to attend to (padding) gives numbers, not NaN.
MASKED = -1e9
# Blocks of queries in the `xla` backend; each leaves out the keys behind its end. Three save a third of the work.
QUERY_BLOCKS = 3
HEADS_FIRST = ("splash",)  # backends that take and give [B, H, L, Dh]
OUTPUT = "attention"  # the name that remat policies know the output by


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


def attend_reference(q_BxLxHxDh, k_BxSxKxDh, v_BxSxKxDh, bias) -> jax.Array:
  """Softmax attention in the plainest form; decoding uses it, and the backends are tested against it.

  Args:
    bias: float32[B, 1, L, S], added to the scores.

  Returns:
    [B, L, H, Dh]
  """
  batch, length, heads, width = q_BxLxHxDh.shape
  groups = k_BxSxKxDh.shape[2]
  q = (q_BxLxHxDh * width**-0.5).reshape(batch, length, groups, heads // groups, width)
  scores = jnp.einsum("blkgd,bskd->bkgls", q, k_BxSxKxDh, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(scores + bias[:, :, None], axis=-1).astype(v_BxSxKxDh.dtype)
  return jnp.einsum("bkgls,bskd->blkgd", weights, v_BxSxKxDh).reshape(q_BxLxHxDh.shape)


def _blocks(length: int) -> list[tuple[int, int]]:
  """[start, end) of each block of queries."""
  size = -(-length // QUERY_BLOCKS)
  return [(start, min(start + size, length)) for start in range(0, length, size)]


def _rows(x_BxKxGxLxDh):
  return x_BxKxGxLxDh.reshape(*x_BxKxGxLxDh.shape[:2], -1, x_BxKxGxLxDh.shape[-1])


def _grouped(x_BxLxHxDh, groups: int):
  """[B, L, H, Dh] → [B, K, G, L, Dh]."""
  batch, length, _, width = x_BxLxHxDh.shape
  return x_BxLxHxDh.reshape(batch, length, groups, -1, width).transpose(0, 2, 3, 1, 4)


def _ungrouped(blocks, shape):
  """Blocks of rows [B, K, G·L', Dh], in order of L → [B, L, H, Dh]."""
  batch, _, heads, width = shape
  groups = blocks[0].shape[1]
  parts = [x.reshape(batch, groups, heads // groups, -1, width) for x in blocks]
  return jnp.concatenate(parts, axis=3).transpose(0, 3, 1, 2, 4).reshape(shape)


@jax.custom_vjp
def _attend_blocks(q_BxLxHxDh, k_BxLxKxDh, v_BxLxKxDh, bias):
  """The same as `attend_reference`, for causal masks; its gradient is written out.

  In every matmul the large operand, the [L, S] weights, stands as it lies in memory, so that only
  narrow arrays are transposed; the weights stay unnormalised, and their sums divide the narrow output.
  On XLA:CPU this halves the time of the plain form and its automatic gradient.
  """
  return _attend_forward(q_BxLxHxDh, k_BxLxKxDh, v_BxLxKxDh, bias)[0]


def _attend_forward(q, k, v, bias):
  groups = k.shape[2]
  q_BxKxGxLxDh = _grouped(q * q.shape[-1]**-0.5, groups)
  kT_BxKxDhxS, v_BxKxSxDh = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)
  blocks, outs = [], []
  for start, end in _blocks(q.shape[1]):
    rows = _rows(q_BxKxGxLxDh[:, :, :, start:end])
    scores = jnp.matmul(rows, kT_BxKxDhxS[..., :end], preferred_element_type=jnp.float32)
    by_head = scores.reshape(*scores.shape[:2], -1, end - start, end) + bias[:, :, None, start:end, :end]
    scores = by_head.reshape(scores.shape)
    e = jnp.exp(scores - scores.max(-1, keepdims=True))
    inverse = 1.0 / e.sum(-1, keepdims=True)
    e = e.astype(v.dtype)
    out = jnp.matmul(e, v_BxKxSxDh[:, :, :end], preferred_element_type=jnp.float32) * inverse
    outs.append(out.astype(v.dtype))
    blocks.append((e, inverse))
  return _ungrouped(outs, q.shape), (q_BxKxGxLxDh, k, v, blocks, outs)


def _attend_backward(saved, dout):
  q_BxKxGxLxDh, k, v, blocks, outs = saved
  length, groups = dout.shape[1], k.shape[2]
  dout_BxKxGxLxDh = _grouped(dout, groups)
  k_BxKxSxDh, vT_BxKxDhxS = k.swapaxes(1, 2), v.transpose(0, 2, 3, 1)
  dqs, dkT, dvT = [], 0.0, 0.0
  for (start, end), (e, inverse), out in zip(_blocks(length), blocks, outs):
    behind = ((0, 0), (0, 0), (0, 0), (0, length - end))
    g32 = _rows(dout_BxKxGxLxDh[:, :, :, start:end]) * inverse
    delta = (g32 * out).sum(-1, keepdims=True)
    g = g32.astype(v.dtype)
    dvT += jnp.pad(jnp.matmul(g.swapaxes(2, 3), e, preferred_element_type=jnp.float32), behind)
    dweights = jnp.matmul(g, vT_BxKxDhxS[..., :end], preferred_element_type=jnp.float32)
    dscores = (e * (dweights - delta)).astype(v.dtype)
    dqs.append(jnp.matmul(dscores, k_BxKxSxDh[:, :, :end]) * k.shape[-1]**-0.5)
    rows = _rows(q_BxKxGxLxDh[:, :, :, start:end])
    dkT += jnp.pad(jnp.matmul(rows.swapaxes(2, 3), dscores, preferred_element_type=jnp.float32), behind)
  dk, dv = (x.transpose(0, 3, 1, 2).astype(k.dtype) for x in (dkT, dvT))
  return _ungrouped(dqs, dout.shape), dk, dv, None


_attend_blocks.defvjp(_attend_forward, _attend_backward)


def _attend_fused(q, k, v, segment_ids, implementation: str) -> jax.Array:
  """JAX's own entry to cuDNN; `implementation="xla"` lets the arguments be tested anywhere."""
  return jax.nn.dot_product_attention(q, k, v, mask=causal_mask(segment_ids), implementation=implementation)


def _attend_splash(q_BxHxLxDh, k_BxKxLxDh, v_BxKxLxDh, segment_ids, interpret: bool = False) -> jax.Array:
  """The TPU kernel that skips blocks above the diagonal: [B, H, L, Dh]. L must be a multiple of 128."""
  heads, length, width = q_BxHxLxDh.shape[1:]
  groups = k_BxKxLxDh.shape[1]
  if length % 128:
    raise InputError(f"rows of {length} tokens: attention's TPU kernel needs a multiple of 128 (or Transformer.attention='xla')")
  # 512 fits the VMEM of v4, v5e, v5p and v6e at head widths 64 and 128.
  block = next(size for size in (512, 384, 256, 128) if length % size == 0)
  sizes = splash.BlockSizes(block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block,
                            block_kv_dkv=block, block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block)
  # Grouped queries: one multi-query call a key/value head.
  make = splash.make_splash_mha if groups == heads else splash.make_splash_mqa
  mask = splash_mask.MultiHeadMask([splash_mask.CausalMask((length, length))] * (heads if groups == heads else heads // groups))
  kernel = make(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret,
                residual_checkpoint_name=OUTPUT)

  def one_row(q_HxLxDh, k_KxLxDh, v_KxLxDh, segments_L):
    ids = splash.SegmentIds(q=segments_L, kv=segments_L)
    if groups == heads:
      return kernel(q_HxLxDh, k_KxLxDh, v_KxLxDh, segment_ids=ids)
    grouped = q_HxLxDh.reshape(groups, -1, length, width)
    return jax.vmap(functools.partial(kernel, segment_ids=ids))(grouped, k_KxLxDh, v_KxLxDh).reshape(q_HxLxDh.shape)

  return jax.vmap(one_row)(q_BxHxLxDh * width**-0.5, k_BxKxLxDh, v_BxKxLxDh, segment_ids)


def _attend_splash_sharded(q, k, v, segment_ids, interpret: bool = False) -> jax.Array:
  """The kernel on each device's own rows and heads: the compiler cannot partition a Mosaic kernel by itself.

  Where the length is split (a `sequence` axis), heads are split over that axis too while attention lasts: two
  all-to-alls in place of a gather of keys and values and a mask that knows its place (DeepSpeed-Ulysses, 2309.14509).
  """
  active = rules_lib.active()
  if active is None or active[0].size == 1:
    return _attend_splash(q, k, v, segment_ids, interpret)
  mesh, rules = active
  names = ("batch", "kv_heads", "length", "head_dim")
  rows, heads, length, _ = rules_lib.partition_spec(names, k.shape, rules, mesh, "keys")
  split = tuple(axis for part in (heads, length) if part for axis in ((part,) if isinstance(part, str) else part))
  shards = math.prod(mesh.shape[axis] for axis in split)
  if k.shape[1] % shards:
    raise rules_lib.ShardingError(f"{k.shape[1]} key/value heads do not divide over {shards} devices of mesh axes "
                                  f"{' × '.join(split)}; attention splits heads over the sequence axis too")
  per_head, per_row = PartitionSpec(rows, split or None, None, None), PartitionSpec(rows, None)
  return jax.shard_map(lambda *x: _attend_splash(*x, interpret), mesh=mesh, in_specs=(per_head,) * 3 + (per_row,),
                       out_specs=per_head, check_vma=False)(q, k, v, segment_ids)


def attend(q_BxLxHxDh, k_BxLxKxDh, v_BxLxKxDh, segment_ids_BxL, *, backend: str, bias=None) -> jax.Array:
  """Self-attention of packed rows, causal by index and within equal segment ids.

  Args:
    q_BxLxHxDh, k_BxLxKxDh, v_BxLxKxDh: H a multiple of K; for backends in `HEADS_FIRST` [B, H, L, Dh], [B, K, L, Dh].
    segment_ids_BxL: int32.
    backend: a result of `choose_backend`.
    bias: for `xla`, `bias_from_mask(causal_mask(segment_ids))` if already made.

  Returns:
    The shape of q; named `OUTPUT` for remat policies.
  """
  if backend == "xla":
    bias = bias_from_mask(causal_mask(segment_ids_BxL)) if bias is None else bias
    return checkpoint_name(_attend_blocks(q_BxLxHxDh, k_BxLxKxDh, v_BxLxKxDh, bias), OUTPUT)
  if backend == "cudnn":
    return checkpoint_name(_attend_fused(q_BxLxHxDh, k_BxLxKxDh, v_BxLxKxDh, segment_ids_BxL, "cudnn"), OUTPUT)
  if backend == "splash":
    return _attend_splash_sharded(q_BxLxHxDh, k_BxLxKxDh, v_BxLxKxDh, segment_ids_BxL)
  raise ValueError(f"attention backend {backend!r}; known: xla, cudnn, splash")
