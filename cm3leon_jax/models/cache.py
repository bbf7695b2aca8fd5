"""The static key/value cache of decoding."""

import flax.struct
import jax
import jax.numpy as jnp

from cm3leon_jax.models.config import TransformerConfig


@flax.struct.dataclass
class KVCache:
  """Keys and values of the tokens so far, S places a row.

  Attributes:
    keys, values: [layers, batch, S, kv_heads, head_dim].
    valid: bool[batch, S]; False where a row is padded. Padding is never attended to.
    length: int32 scalar, places in use, the same for all rows (shorter prompts are left-padded).
  """

  keys: jax.Array
  values: jax.Array
  valid: jax.Array
  length: jax.Array


def init_cache(config: TransformerConfig, batch: int, size: int, dtype=None) -> KVCache:
  """An empty cache of `size` places; the caller sees to it that no more than `size` tokens are appended."""
  shape = (config.num_layers, batch, size, config.num_kv_heads, config.head_dim)
  dtype = jnp.dtype(dtype or config.dtype)
  return KVCache(keys=jnp.zeros(shape, dtype), values=jnp.zeros(shape, dtype),
                 valid=jnp.zeros((batch, size), bool), length=jnp.zeros((), jnp.int32))
