"""Against plain einsum and JAX's own gradients, for both forms of the weight's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.models import linear


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


# bfloat16 rounds to 2^-8 of a value; sums of 24 terms of order 1 stay within 0.1 of the exact ones.
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.1)])
@pytest.mark.parametrize("function, equation, weight", [
    (linear.matmul, "...i,io->...o", (5, 7)), (linear.score, "...i,oi->...o", (7, 5))])
@pytest.mark.parametrize("leading", [(4,), (4, 6)])
def test_values_and_gradients_are_those_of_einsum(function, equation, weight, leading, dtype, tolerance):
  x, w, dy = normal(0, *leading, 5), normal(1, *weight), normal(2, *leading, 7)
  want, pull = jax.vjp(lambda x, w: jnp.einsum(equation, x, w), x, w)
  got, pull_got = jax.vjp(function, x.astype(dtype), w.astype(dtype))
  assert got.dtype == (jnp.float32 if function is linear.score else dtype)
  np.testing.assert_allclose(got, want, atol=tolerance)
  for mine, exact in zip(pull_got(dy.astype(got.dtype)), pull(dy), strict=True):
    assert mine.dtype == dtype
    np.testing.assert_allclose(mine.astype(jnp.float32), exact, atol=tolerance)


def test_project_contracts_the_last_axes_with_the_first():
  x, w = normal(0, 2, 3, 4, 5), normal(1, 4, 5, 6, 7)
  np.testing.assert_allclose(linear.project(x, w, 2), jnp.einsum("blij,ijop->blop", x, w), atol=1e-5)
