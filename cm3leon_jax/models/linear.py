"""Activations times a weight, and a table lookup: sums in float32, gradients in the form that backends like.

The gradient of a weight contracts the activations' leading axes. On XLA:CPU its form decides the kernel:

* bfloat16: batch and length contracted as two axes find the fast kernel (AMX where there is one, four
  times the speed of float32); flattened to one axis they are computed in float32.
* float32: one flattened axis is a tenth faster; and in the order contract(x, dy), not contract(dy, x)
  and a transpose as automatic differentiation has it, for which dy is copied with its columns apart.

Compilers for TPUs and GPUs choose the layout themselves, and sum in float32 whatever the result's dtype. There results are
asked for in bfloat16, so that sums over devices (of activations on a tensor axis, of gradients) carry half the bytes.
"""

import math

import jax
import jax.numpy as jnp


def contract(a: jax.Array, b: jax.Array, axes_a, axes_b) -> jax.Array:
  """float32 sums over the named axes."""
  return jax.lax.dot_general(a, b, ((axes_a, axes_b), ((), ())), preferred_element_type=jnp.float32)


def outer(a: jax.Array, b: jax.Array) -> jax.Array:
  """[..., I] and [..., O] → float32[I, O], summed over the leading axes."""
  if a.dtype == jnp.float32:
    a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
  leading = tuple(range(a.ndim - 1))
  return contract(a, b, leading, leading)


def _product(a, b, axes_a, axes_b):
  """In the dtype of `a`, with float32 sums inside; see above for what CPUs need to be told."""
  def stated(a, b):
    return contract(a, b, axes_a, axes_b).astype(a.dtype)

  def native(a, b):
    return jax.lax.dot_general(a, b, ((axes_a, axes_b), ((), ())), preferred_element_type=a.dtype)

  return stated(a, b) if a.dtype == jnp.float32 else jax.lax.platform_dependent(a, b, cpu=stated, default=native)


@jax.custom_vjp
def matmul(x: jax.Array, w_IxO: jax.Array) -> jax.Array:
  """x @ w in the dtype of x; [..., I] × [I, O] → [..., O]."""
  return _product(x, w_IxO, (x.ndim - 1,), (0,))


def _matmul_backward(saved, dy):
  x, w = saved
  leading = tuple(range(x.ndim - 1))
  dw = outer(x, dy) if x.dtype == jnp.float32 else _product(x, dy, leading, leading)
  return _product(dy, w, (dy.ndim - 1,), (1,)), dw.astype(w.dtype)


matmul.defvjp(lambda x, w: (matmul(x, w), (x, w)), _matmul_backward)


@jax.custom_vjp
def score(x: jax.Array, table_VxI: jax.Array) -> jax.Array:
  """float32[..., V]: products of x [..., I] with every row of a table [V, I]."""
  return contract(x, table_VxI, (x.ndim - 1,), (1,))


def _score_backward(saved, dy):
  x, table = saved
  dy = dy.astype(x.dtype)
  return contract(dy, table, (dy.ndim - 1,), (0,)).astype(x.dtype), outer(dy, x).astype(table.dtype)


score.defvjp(lambda x, table: (score(x, table), (x, table)), _score_backward)


def project(x: jax.Array, w: jax.Array, contracted: int = 1) -> jax.Array:
  """Contracts the last `contracted` axes of x [B, L, *I] with the first ones of w [*I, *O] → [B, L, *O]."""
  size = math.prod(w.shape[:contracted])
  y = matmul(x.reshape(*x.shape[:x.ndim - contracted], size), w.reshape(size, -1))
  return y.reshape(*x.shape[:x.ndim - contracted], *w.shape[contracted:])
