"""Weights of the layers as int8, with a float32 scale for each output channel.

Symmetric, by the largest magnitude: w ≈ values · scale, scale = max |w| / 127 over the inputs of a channel. Embeddings, head
and norms stay as they are. A weight is made whole when its layer is reached, in the dtype of the computation: memory at
rest is a quarter of float32's (half of bfloat16's) for the layers, and one layer is whole at a time.
"""

import flax.struct
import jax
import jax.numpy as jnp

# Axes of the inputs of each weight of a layer; see `models/init.py`.
_INPUTS = {"qkv": (0,), "attention_out": (0, 1, 2), "mlp_in": (0,), "mlp_out": (0,)}


@flax.struct.dataclass
class Int8:
  """A weight of one layer; stands in for an array where `transformer.block` takes one, which calls `astype`.

  Attributes:
    values: int8[*I, *O].
    scale: float32, 1 for each axis of I, then [*O].
  """

  values: jax.Array
  scale: jax.Array

  @property
  def shape(self) -> tuple[int, ...]:
    return self.values.shape

  @property
  def dtype(self):
    return self.scale.dtype

  def astype(self, dtype) -> jax.Array:
    """The weight, up to half a step of its scale."""
    return (self.values * self.scale).astype(dtype)


def quantized(w: jax.Array, inputs: tuple[int, ...]) -> Int8:
  """`w` with the axes `inputs` summed over in its matmul; a channel of zeros stays zeros."""
  w = w.astype(jnp.float32)
  scale = jnp.max(jnp.abs(w), axis=inputs, keepdims=True) / 127
  return Int8(jnp.round(w / jnp.where(scale > 0, scale, 1)).astype(jnp.int8), scale)


def int8(params: dict) -> dict:
  """`params` made by `program.unstacked`, its layers' weights as `Int8`."""
  layers = tuple({name: quantized(w, _INPUTS[name]) if name in _INPUTS else w for name, w in layer.items()}
                 for layer in params["layers"])
  return params | {"layers": layers}
