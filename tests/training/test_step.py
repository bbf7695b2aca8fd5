"""The gradient of a batch in parts, and how many parts there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_run
from cm3leon_jax.errors import InputError
from cm3leon_jax.models.transformer import init_parameters, Transformer
from cm3leon_jax.sharding import rules as rules_lib
from cm3leon_jax.sharding.mesh import abstract_mesh, make_mesh, MeshConfig
from cm3leon_jax.training.losses import LossConfig
from cm3leon_jax.training.step import gradient, make_sums_fn, parts_of_batch


def _gradient(parts):
  model = tiny_run.model()
  params = init_parameters(model, jax.random.key(0))
  params = jax.tree.map(lambda x: x if x.any() else 0.1 * jax.random.normal(jax.random.key(1), x.shape), params)
  batch = {name: jnp.asarray(x) for name, x in tiny_run.batch(3).items()}
  sums_fn = make_sums_fn(Transformer(model), LossConfig(text_weight=0.3), tiny_run.VOCABULARY, 0)
  return jax.jit(lambda: gradient(params, batch, jnp.int32(0), sums_fn, parts))()


@pytest.mark.parametrize("parts", [2, 8])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(parts):
  """The rows differ in weight, so a mean of the parts' losses would be another number. 1e-5: float32 sums in another order."""
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), _gradient(parts), _gradient(1))


def test_a_run_in_parts_has_the_losses_of_a_run_at_once(tmp_path):
  """Four devices, one row of the two that each has at a time; every device keeps its own rows."""
  read = lambda folder: [line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
  losses = []
  for name, rows in (("whole", 0), ("parts", 1)):
    tiny_run.run(tmp_path / name, 4, mesh=MeshConfig(data=1, fsdp=4), device_batch=rows)
    losses.append([float(line.split('"loss": ')[1].split(",")[0]) for line in read(tmp_path / name)])
  assert len(losses[0]) == 4
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.parametrize("batch, rows, parts", [(2048, 0, 1), (2048, 4, 2), (2048, 8, 1), (2048, 16, 1), (1024, 1, 4)])
def test_parts_follow_from_the_devices(batch, rows, parts):
  mesh = abstract_mesh(MeshConfig(data=2, fsdp=-1), 256)
  assert parts_of_batch(batch, rows, mesh, rules_lib.DEFAULT_RULES) == parts


@pytest.mark.parametrize("batch, rows, message", [
    (12, 1, "batch_size=12 does not divide over 8 shards.*next that does is 16"),
    (24, 2, "device_batch=2 does not divide the 3 rows")])
def test_what_does_not_divide_is_named(batch, rows, message):
  with pytest.raises(InputError, match=message):
    parts_of_batch(batch, rows, make_mesh(MeshConfig()), rules_lib.DEFAULT_RULES)
