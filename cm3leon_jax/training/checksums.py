"""Checksums of arrays, made where they lie: equal on any mesh, changed by any single damaged value."""

import jax
import jax.numpy as jnp
import numpy as np


def _one(x: jax.Array) -> jax.Array:
  """Sum of the values' bits, each times an odd number given by its place, modulo 2^32.

  Integers add up to the same in any order, so the layout on the mesh does not matter; nor is anything gathered.
  """
  bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{x.dtype.itemsize * 8}")).astype(jnp.uint32)
  place = jnp.zeros(x.shape, jnp.uint32)
  for axis in range(x.ndim):
    place = place * np.uint32(65537) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)


_all = jax.jit(lambda arrays: {name: _one(x) for name, x in arrays.items()})


def checksums(arrays: dict[str, jax.Array]) -> dict[str, int]:
  """Of each of the arrays, of at most 32 bits a value. All processes that hold parts of them must call it."""
  return {name: int(value) for name, value in jax.device_get(_all(arrays)).items()}
