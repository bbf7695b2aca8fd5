"""The cache of many continuations of few prompts.

A prompt's keys and values are computed once and lie once in memory, whatever the number of its
candidates; each row (a continuation) owns only the places after the prompt. A decoding step so
reads the prompt once per prompt instead of once per candidate, as one matrix product.

Letters: G prompts, N rows a prompt, B = G·N rows (those of a prompt are neighbours), L new tokens,
P prompt places, S own places, K key/value heads, Q query heads a key/value head, Dh head width.
"""

import flax.struct
import jax
import jax.numpy as jnp

from cm3leon_jax.models.attention import MASKED
from cm3leon_jax.models.config import TransformerConfig


@flax.struct.dataclass
class SharedCache:
  """One entry a layer, so that no step copies a layer out of a stack.

  Attributes:
    prompt_keys, prompt_values: per layer [G, K, P, Dh].
    prompt_bias: float32[G, 1, 1, 1, P], very negative where the prompt is padded.
    keys, values: per layer [B, K, S, Dh].
  """

  prompt_keys: tuple[jax.Array, ...]
  prompt_values: tuple[jax.Array, ...]
  prompt_bias: jax.Array
  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]


def share(config: TransformerConfig, prefilled, valid: jax.Array, groups: jax.Array, rows_per_prompt: int,
          size: int) -> SharedCache:
  """A cache for `rows_per_prompt` continuations of up to `size` tokens of each prompt.

  Args:
    config: of the model.
    prefilled: per layer (keys, values) of D distinct prompts, [D, P, K, Dh].
    valid: bool[D, P]; False where a prompt is padded.
    groups: int32[G]: the row of each prompt among the distinct ones.
    rows_per_prompt: N.
    size: S.
  """
  keys, values = (tuple(jnp.swapaxes(part[groups], 1, 2) for part in parts) for parts in zip(*prefilled))
  bias = jnp.where(valid[groups], 0.0, MASKED).astype(jnp.float32)[:, None, None, None]
  own = jnp.zeros((len(groups) * rows_per_prompt, config.num_kv_heads, size, config.head_dim), keys[0].dtype)
  return SharedCache(keys, values, bias, (own,) * config.num_layers, (own,) * config.num_layers)


def attend(q, k, v, layer: int, cache: SharedCache, place) -> tuple[jax.Array, SharedCache]:
  """New tokens of each row: stores keys and values from `place` on, attends to the prompt and the own places so far.

  Args:
    q: [B, L, H, Dh].
    k, v: [B, L, K, Dh].
    layer: index of the layer.
    cache: updated for this layer.
    place: of the first new token, in 0..S-L: one int32 for all rows, or int32[B].

  Returns:
    ([B, L, H, Dh], cache)
  """
  prompt_k, prompt_v = cache.prompt_keys[layer], cache.prompt_values[layer]
  (groups, kv_heads), (rows, length), width = prompt_k.shape[:2], q.shape[:2], q.shape[-1]
  own_k, own_v = (_stored(entries[layer], jnp.swapaxes(new, 1, 2), place)
                  for entries, new in ((cache.keys, k), (cache.values, v)))

  q = (q * width**-0.5).reshape(rows, length, kv_heads, -1, width)
  by_prompt = q.reshape(groups, -1, *q.shape[2:])
  to_prompt = jnp.einsum("gnkqd,gkpd->gnkqp", by_prompt, prompt_k, preferred_element_type=jnp.float32) + cache.prompt_bias
  to_own = jnp.einsum("blkqd,bksd->blkqs", q, own_k, preferred_element_type=jnp.float32)
  places = jnp.reshape(place, (-1, 1)) + jnp.arange(length)  # [B or 1, L]
  to_own = jnp.where(jnp.arange(own_k.shape[2]) <= places[..., None, None, None], to_own, MASKED)

  scores = jnp.concatenate([to_prompt.reshape(*to_own.shape[:4], -1), to_own], axis=-1)
  weights = jax.nn.softmax(scores, axis=-1).astype(prompt_v.dtype)
  prompt_size = prompt_k.shape[2]
  from_prompt = jnp.einsum("gnkqp,gkpd->gnkqd", weights[..., :prompt_size].reshape(to_prompt.shape), prompt_v)
  from_own = jnp.einsum("blkqs,bksd->blkqd", weights[..., prompt_size:], own_v)
  out = (from_prompt.reshape(from_own.shape) + from_own).reshape(rows, length, -1, width)

  def put(entries, value):
    return entries[:layer] + (value,) + entries[layer + 1:]

  return out, cache.replace(keys=put(cache.keys, own_k), values=put(cache.values, own_v))


def _stored(entries, new, place):
  """[B, K, S, Dh] with `new` [B, K, L, Dh] from `place` on: an int32 for all rows, or int32[B]."""
  if jnp.ndim(place) == 0:
    return jax.lax.dynamic_update_slice(entries, new, (0, 0, place, 0))
  return jax.vmap(lambda row, new, at: jax.lax.dynamic_update_slice(row, new, (0, at, 0)))(entries, new, place)
