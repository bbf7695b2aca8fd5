"""The head's loss and the gradient made with it, against the plain definition, on one device and on meshes."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.sharding import rules as rules_lib
from cm3leon_jax.sharding.mesh import make_mesh, MeshConfig
from cm3leon_jax.training.head_loss import head_loss, token_losses

BATCH, LENGTH, WIDTH, VOCAB = 8, 16, 24, 40
Z_LOSS = 0.05


def case(dtype=jnp.float32):
  """hidden, table, targets, weights (some zero)."""
  keys = jax.random.split(jax.random.key(0), 4)
  hidden = jax.random.normal(keys[0], (BATCH, LENGTH, WIDTH), dtype)
  table = 0.5 * jax.random.normal(keys[1], (VOCAB, WIDTH))
  targets = jax.random.randint(keys[2], (BATCH, LENGTH), 0, VOCAB)
  return hidden, table, targets, jax.random.choice(keys[3], jnp.asarray([0.0, 0.3, 1.0]), (BATCH, LENGTH))


def plain(hidden, table, targets, weights):
  """The definition; JAX differentiates it."""
  logits = (hidden.astype(jnp.float32) @ table.T)
  log_z = jax.nn.logsumexp(logits, axis=-1)
  nll = log_z - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return (weights * (nll + Z_LOSS * log_z**2)).sum(), nll


def both(function, arguments):
  """((objective, nll), (d hidden, d table)) of three times the objective: the cotangent is not 1."""
  scaled = lambda *x: jax.tree.map(lambda y, s: y * s, function(*x), (3.0, 1.0))
  return jax.jit(jax.value_and_grad(scaled, argnums=(0, 1), has_aux=True))(*arguments)


def assert_equal(got, want, tolerance):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=tolerance, atol=tolerance), got, want)


# 2e-5: float32 sums of 40 and of 128 terms in another order.
@pytest.mark.parametrize("chunk", [0, 4, 16])
def test_value_and_gradient_are_those_of_the_definition(chunk):
  arguments = case()
  assert_equal(both(lambda *x: head_loss(*x, Z_LOSS, chunk), arguments), both(plain, arguments), 2e-5)


@pytest.mark.parametrize("mesh", [
    MeshConfig(data=1, fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=2, fsdp=1, tensor=2, sequence=2),
    MeshConfig(data=1, fsdp=2, tensor=1, sequence=4)], ids=str)
def test_a_mesh_changes_nothing(mesh):
  arguments = case()
  with rules_lib.use(make_mesh(mesh), rules_lib.DEFAULT_RULES):
    assert_equal(both(lambda *x: head_loss(*x, Z_LOSS, 4), arguments), both(plain, arguments), 2e-5)


def test_in_bfloat16_the_gradient_is_rounded_once():
  arguments = case(jnp.bfloat16)
  got, want = (both(f, arguments) for f in (lambda *x: head_loss(*x, Z_LOSS, 4), plain))
  assert_equal(got[0], want[0], 0.02)  # the table is rounded too: 2**-8 of logits up to about 5
  for a, b in zip(got[1], want[1]):
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    assert np.linalg.norm(a - b) < 0.02 * np.linalg.norm(b)


def test_without_a_gradient_none_is_made():
  """The evaluation's program has one matmul, the training's three."""
  arguments = case()
  function = functools.partial(head_loss, z_loss=Z_LOSS, chunk=0)
  count = lambda f: jax.jit(f).lower(*arguments).as_text().count("dot_general")
  assert count(function) == 1
  assert count(jax.value_and_grad(function, argnums=(0, 1), has_aux=True)) == 3


def test_a_chunk_that_does_not_divide_is_named():
  with pytest.raises(InputError, match="Loss.chunk=5 does not divide the 16 tokens"):
    head_loss(*case(), 0.0, 5)


def test_token_losses_are_exact_for_large_logits():
  nll, _ = token_losses(jnp.asarray([[1000.0, 0.0], [0.0, 1000.0]]), jnp.asarray([0, 0]))
  np.testing.assert_allclose(nll, [0.0, 1000.0])


PROGRAM = """
import hashlib, os
os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
import jax, jax.numpy as jnp
from cm3leon_jax.sharding import rules
from cm3leon_jax.sharding.mesh import make_mesh, MeshConfig
from cm3leon_jax.training.head_loss import head_loss
x, table, ids, weights = jnp.ones((8, 4, 8)), jnp.ones((16, 8)), jnp.ones((8, 4), jnp.int32), jnp.ones((8, 4))
with rules.use(make_mesh(MeshConfig(data=2, fsdp=2, sequence=2)), rules.DEFAULT_RULES):
  step = jax.jit(jax.grad(lambda *a: head_loss(*a, 0.0, 0)[0], argnums=(0, 1)))
  print(hashlib.sha256(step.lower(x, table, ids, weights).as_text().encode()).hexdigest())
"""


def test_every_process_compiles_the_same_program():
  """Python's order of sets differs from process to process; the order of mesh axes in a sum may not."""
  run = lambda seed: subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, "PYTHONHASHSEED": seed},
                                    capture_output=True, text=True, check=True).stdout
  assert len({run(seed) for seed in ("0", "2", "3")}) == 1
