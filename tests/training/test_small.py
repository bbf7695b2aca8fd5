"""The small training loop: it learns, resumes exactly, and says when it cannot go on."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cm3leon_jax.training import small


def _loss(params, state, batch, key):
  x, y = batch
  noise = 0.01 * jax.random.normal(key, y.shape)
  loss = jnp.mean((x @ params["w"] + params["b"] - y - noise) ** 2)
  return loss, ({"seen": state["seen"] + x.shape[0]}, {"weight": jnp.linalg.norm(params["w"])})


def _batches(first=0):
  step = first
  while True:
    rng = np.random.default_rng(step)
    x = rng.normal(size=(16, 3)).astype(np.float32)
    yield x, x @ np.array([1.0, -2.0, 0.5], np.float32) + 0.25
    step += 1


def _params():
  return {"w": jnp.zeros(3), "b": jnp.zeros(())}


def _fit(steps, **kwargs):
  return small.fit(_loss, _params(), optax.adam(0.05), _batches(), steps, key=jax.random.key(1),
                   state={"seen": jnp.zeros((), jnp.int32)}, **kwargs)


def test_learns_a_line_and_carries_state():
  logs = []
  done = _fit(300, log_every=40, on_log=lambda step, metrics, fitted: logs.append((step, metrics, int(fitted.step))))
  np.testing.assert_allclose(done.params["w"], [1.0, -2.0, 0.5], atol=0.02)  # the line of _batches
  np.testing.assert_allclose(done.params["b"], 0.25, atol=0.02)
  assert int(done.state["seen"]) == 300 * 16
  assert [step for step, _, _ in logs] == [40, 80, 120, 160, 200, 240, 280, 300]
  assert all(step == at for step, _, at in logs)
  assert logs[-1][1]["loss"] < 0.01 < logs[0][1]["loss"]
  assert set(logs[0][1]) == {"loss", "weight"}


def test_logged_loss_is_the_mean_since_the_last_log():
  single, double = [], []
  _fit(4, log_every=1, on_log=lambda step, metrics, _: single.append(metrics["loss"]))
  _fit(4, log_every=2, on_log=lambda step, metrics, _: double.append(metrics["loss"]))
  np.testing.assert_allclose(double, [np.mean(single[:2]), np.mean(single[2:])], rtol=1e-6)


def test_resumed_run_equals_unbroken_run():
  whole = _fit(30)
  half = jax.device_get(_fit(12))
  rest = small.resume(_loss, half, optax.adam(0.05), _batches(first=12), 30, key=jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(rest))


def test_callers_parameters_survive():
  params = _params()
  small.fit(_loss, params, optax.sgd(0.1), _batches(), 3, key=jax.random.key(0), state={"seen": jnp.zeros((), jnp.int32)})
  np.testing.assert_array_equal(params["w"], np.zeros(3))


def test_stops_when_the_loss_is_not_finite():
  with pytest.raises(FloatingPointError, match="line: the loss is"):
    small.fit(_loss, _params(), optax.sgd(1e30), _batches(), 20, key=jax.random.key(0), log_every=10, label="line",
              state={"seen": jnp.zeros((), jnp.int32)})


def test_says_when_batches_end_early():
  with pytest.raises(ValueError, match="ended after 2 of 5"):
    small.fit(_loss, _params(), optax.sgd(0.1), [next(_batches())] * 2, 5,
              key=jax.random.key(0), state={"seen": jnp.zeros((), jnp.int32)})


def test_imports_no_tensorflow():
  code = "import sys; import cm3leon_jax.training.small; assert not {'tensorflow', 'seqio', 'gin'} & set(sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True)
