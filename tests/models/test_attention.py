"""Every attention backend computes what the plain form computes, gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.models import attention
from cm3leon_jax.sharding import rules as rules_lib
from cm3leon_jax.sharding.mesh import MeshConfig, make_mesh


def _case(length, heads, kv_heads, width, seed=0):
  """q, k, v, a cotangent, and segment ids with two samples and padding in a row."""
  keys = jax.random.split(jax.random.key(seed), 4)
  q, dout = (jax.random.normal(key, (2, length, heads, width)) for key in keys[:2])
  k, v = (jax.random.normal(key, (2, length, kv_heads, width)) for key in keys[2:])
  segments = np.ones((2, length), np.int32)
  segments[0, length // 3:] = 2
  segments[1, length - 3:] = 0
  return q, k, v, dout, jnp.asarray(segments)


def _value_and_gradients(f, q, k, v, dout):
  out, pull = jax.vjp(f, q, k, v)
  return out, *pull(dout)


def _assert_equal(f, case, tolerance):
  q, k, v, dout, segments = case
  bias = attention.bias_from_mask(attention.causal_mask(segments))
  want = _value_and_gradients(lambda *x: attention.attend_reference(*x, bias), q, k, v, dout)
  got = _value_and_gradients(f, q, k, v, dout)
  for name, a, b in zip(("output", "dq", "dk", "dv"), got, want):
    np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance, err_msg=name)


# 1e-5 is float32 reassociation over sums of ~50 terms; the lengths do and do not divide into the query blocks.
@pytest.mark.parametrize("length", [5, 12, 31])
@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 2), (4, 1)])
def test_xla_backend_equals_the_plain_form(length, heads, kv_heads):
  case = _case(length, heads, kv_heads, 8)
  _assert_equal(lambda q, k, v: attention.attend(q, k, v, case[-1], backend="xla"), case, 1e-5)


@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 2)])
def test_arguments_of_the_cudnn_backend_mean_the_same(heads, kv_heads):
  """The same call with JAX's own implementation in cuDNN's place."""
  case = _case(24, heads, kv_heads, 8)
  _assert_equal(lambda q, k, v: attention._attend_fused(q, k, v, case[-1], "xla"), case, 1e-5)


def _heads_first(f):
  """A backend on [B, H, L, Dh], called with [B, L, H, Dh]."""
  return lambda *x: f(*(a.swapaxes(1, 2) for a in x)).swapaxes(1, 2)


@pytest.mark.parametrize("heads, kv_heads", [(2, 2), (2, 1)])
def test_splash_in_interpret_mode_equals_the_plain_form(heads, kv_heads):
  """The TPU kernel, interpreted on the CPU."""
  case = _case(128, heads, kv_heads, 128)
  # 2e-2: the kernel rounds its matmul inputs as the TPU's matrix unit does.
  _assert_equal(_heads_first(lambda q, k, v: attention._attend_splash(q, k, v, case[-1], interpret=True)), case, 2e-2)


@pytest.mark.parametrize("mesh, kv_heads", [
    (MeshConfig(data=2, fsdp=1, tensor=2), 2), (MeshConfig(data=1, fsdp=1, tensor=2, sequence=2), 4)], ids=str)
def test_splash_on_a_mesh_equals_the_plain_form(mesh, kv_heads):
  """Each device runs the kernel on its own rows and heads; a split length is made whole, and heads are split for it."""
  case = _case(128, 4, kv_heads, 128)
  mesh = make_mesh(mesh)
  with rules_lib.use(mesh, rules_lib.DEFAULT_RULES):
    sharded = jax.jit(lambda q, k, v: attention._attend_splash_sharded(q, k, v, case[-1], interpret=True))
    _assert_equal(_heads_first(sharded), case, 2e-2)


def test_too_few_heads_for_the_sequence_axis_are_named():
  q, k, v, _, segments = _case(128, 4, 1, 128)
  with rules_lib.use(make_mesh(MeshConfig(data=1, fsdp=1, sequence=2)), rules_lib.DEFAULT_RULES):
    with pytest.raises(rules_lib.ShardingError, match="1 key/value heads do not divide over 2 devices"):
      attention._attend_splash_sharded(*(x.swapaxes(1, 2) for x in (q, k, v)), segments)


def test_a_row_with_nothing_to_attend_to_stays_finite():
  q, k, v, _, _ = _case(4, 2, 2, 8)
  bias = jnp.full((2, 1, 4, 4), attention.MASKED)
  assert np.isfinite(attention.attend_reference(q, k, v, bias)).all()


def test_an_unknown_backend_is_named():
  q, k, v, _, segments = _case(4, 2, 2, 8)
  with pytest.raises(ValueError, match="'flash'.*known"):
    attention.attend(q, k, v, segments, backend="flash")


def test_auto_is_the_reference_backend_on_the_cpu():
  assert attention.choose_backend("auto", jnp.bfloat16) == "xla"
  assert attention.choose_backend("splash", jnp.float32) == "splash"
