"""The cache of many continuations of few prompts.

A prompt's keys and values are computed once and lie once in memory, whatever the number of its
candidates; each row (a continuation) owns only the places after the prompt. A decoding step so
reads the prompt once per prompt instead of once per candidate, as one matrix product.

Letters: G prompts, N rows a prompt, B = G·N rows (those of a prompt are neighbours), P prompt
places, S own places, K key/value heads, Q query heads a key/value head, Dh head width.
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
  """One new token a row: stores its key and value at `place`, attends to the prompt and to the own places so far.

  Args:
    q: [B, 1, H, Dh].
    k, v: [B, 1, K, Dh].
    layer: index of the layer.
    cache: updated for this layer.
    place: int32 scalar in 0..S-1, the same for all rows.

  Returns:
    ([B, 1, H, Dh], cache)
  """
  prompt_k, prompt_v = cache.prompt_keys[layer], cache.prompt_values[layer]
  (groups, kv_heads), rows, width = prompt_k.shape[:2], len(q), q.shape[-1]
  own_k = jax.lax.dynamic_update_slice(cache.keys[layer], jnp.swapaxes(k, 1, 2), (0, 0, place, 0))
  own_v = jax.lax.dynamic_update_slice(cache.values[layer], jnp.swapaxes(v, 1, 2), (0, 0, place, 0))

  q = (q * width**-0.5).reshape(groups, rows // groups, kv_heads, -1, width)
  q_own = q.reshape(rows, kv_heads, -1, width)
  to_prompt = jnp.einsum("gnkqd,gkpd->gnkqp", q, prompt_k, preferred_element_type=jnp.float32) + cache.prompt_bias
  to_own = jnp.einsum("bkqd,bksd->bkqs", q_own, own_k, preferred_element_type=jnp.float32)
  to_own = jnp.where(jnp.arange(own_k.shape[2]) <= place, to_own, MASKED)

  scores = jnp.concatenate([to_prompt.reshape(*to_own.shape[:3], -1), to_own], axis=-1)
  weights = jax.nn.softmax(scores, axis=-1).astype(prompt_v.dtype)
  prompt_size = prompt_k.shape[2]
  from_prompt = jnp.einsum("gnkqp,gkpd->gnkqd", weights[..., :prompt_size].reshape(to_prompt.shape), prompt_v)
  from_own = jnp.einsum("bkqs,bksd->bkqd", weights[..., prompt_size:], own_v)
  out = (from_prompt.reshape(from_own.shape) + from_own).reshape(rows, 1, -1, width)

  def put(entries, value):
    return entries[:layer] + (value,) + entries[layer + 1:]

  return out, cache.replace(keys=put(cache.keys, own_k), values=put(cache.values, own_v))
