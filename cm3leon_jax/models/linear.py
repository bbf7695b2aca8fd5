"""Matmul of activations with a weight, and a table lookup, with gradients in the order that backends like."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def matmul(x_NxI: jax.Array, w_IxO: jax.Array) -> jax.Array:
  """x @ w; [N, I] × [I, O] → [N, O].

  The gradient of w is written as contract(x, dy) → [I, O]. Automatic differentiation writes
  contract(dy, x) → [O, I] and transposes, for which XLA:CPU copies dy with its columns apart: a fifth
  of a training step there. On other platforms both forms compile to the same matmul.
  """
  return x_NxI @ w_IxO


def _matmul_forward(x, w):
  return x @ w, (x, w)


def _matmul_backward(saved, dy):
  x, w = saved
  dx = jax.lax.dot_general(dy, w, (((1,), (1,)), ((), ())))
  dw = jax.lax.dot_general(x, dy, (((0,), (0,)), ((), ())), preferred_element_type=w.dtype)
  return dx, dw


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def _score(x_NxI: jax.Array, table_VxI: jax.Array) -> jax.Array:
  return jax.lax.dot_general(x_NxI, table_VxI, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)


def _score_backward(saved, dy):
  x, table = saved
  dy = dy.astype(x.dtype)
  return dy @ table, jax.lax.dot_general(dy, x, (((0,), (0,)), ((), ())), preferred_element_type=table.dtype)


_score.defvjp(lambda x, table: (_score(x, table), (x, table)), _score_backward)


def score(x: jax.Array, table_VxI: jax.Array) -> jax.Array:
  """float32[..., V] products of x [..., I] with every row of a table; gradients as in `matmul`."""
  return _score(x.reshape(-1, x.shape[-1]), table_VxI).reshape(*x.shape[:-1], -1)


def project(x: jax.Array, w: jax.Array, contracted: int = 1) -> jax.Array:
  """Contracts the last `contracted` axes of x [B, L, *I] with the first ones of w [*I, *O] → [B, L, *O]."""
  inner, outer = w.shape[:contracted], w.shape[contracted:]
  size = 1
  for dim in inner:
    size *= dim
  y = matmul(x.reshape(-1, size), w.reshape(size, -1))
  return y.reshape(*x.shape[:x.ndim - contracted], *outer)
