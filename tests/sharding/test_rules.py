"""The rule table is strict: nothing is replicated because of a misspelt name."""

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec as P
import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.init import abstract_parameters, logical_axes
from cm3leon_jax.sharding.mesh import AXES, MeshConfig, make_mesh
from cm3leon_jax.sharding.rules import DEFAULT_RULES, ShardingError, constrain, partition_spec, tree_shardings, use

MODEL = TransformerConfig(vocab_size=64, num_layers=2, model_dim=32, num_heads=4)


@pytest.fixture(scope="module")
def mesh():
  return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def test_mesh_states_its_axis_types(mesh):
  assert mesh.axis_names == AXES and tuple(mesh.shape.values()) == (2, 2, 2, 1)
  assert mesh.axis_types == (AxisType.Auto,) * 4


def test_minus_one_takes_the_rest():
  assert MeshConfig(fsdp=-1, tensor=2).shape(8) == (1, 4, 2, 1)
  assert MeshConfig(data=2, fsdp=2).shape(8) == (2, 2, 1, 1)


@pytest.mark.parametrize("config, message", [(MeshConfig(fsdp=-1, tensor=3), "3 does not divide the 8"),
                                             (MeshConfig(data=16, fsdp=1), "needs 16 devices, there are 8"),
                                             (MeshConfig(data=-1, fsdp=-1), "at most one"),
                                             (MeshConfig(data=0, fsdp=1), "1 or more")])
def test_a_mesh_that_does_not_fit_is_an_error(config, message):
  with pytest.raises(InputError, match=message):
    config.shape(8)


def test_names_become_mesh_axes(mesh):
  assert partition_spec(("batch", "length"), (8, 6), DEFAULT_RULES, mesh) == P(("data", "fsdp"), "sequence")
  assert partition_spec(("layers", "embed", "mlp"), (2, 32, 64), DEFAULT_RULES, mesh) == P(None, "fsdp", "tensor")


@pytest.mark.parametrize("names, shape, rules, words", [
  (("embed", "haeds"), (4, 4), DEFAULT_RULES, ["weight", "'haeds'", "kv_heads"]),  # logical name, known ones
  (("embed",), (4,), {"embed": "fsdq"}, ["weight", "'embed'", "'fsdq'", "tensor"]),  # mesh axis, known ones
  (("embed",), (5,), DEFAULT_RULES, ["weight", "'embed' of size 5", "2 devices", "fsdp", "does is 6"]),
  (("embed", "embed"), (4, 4), DEFAULT_RULES, ["weight", "'embed'", "both", "'fsdp'"]),
  (("embed",), (4, 4), DEFAULT_RULES, ["weight", "1 logical names"]),
])
def test_what_does_not_fit_is_an_error_that_names_both_sides(mesh, names, shape, rules, words):
  with pytest.raises(ShardingError) as error:
    partition_spec(names, shape, rules, mesh, "weight")
  for word in words:
    assert word in str(error.value)


def test_every_parameter_has_a_sharding_and_large_ones_are_split(mesh):
  shardings = tree_shardings(logical_axes(MODEL), abstract_parameters(MODEL), DEFAULT_RULES, mesh)
  for name in ("qkv", "attention_out", "mlp_in", "mlp_out"):
    assert {"fsdp", "tensor"} <= set(shardings["layers"][name].spec), name
  with pytest.raises(ShardingError, match="'layers'.*'mlp_in'"):
    tree_shardings(logical_axes(MODEL), abstract_parameters(MODEL), {**DEFAULT_RULES, "mlp": "rows"}, mesh)


def test_constrain_applies_only_inside_use(mesh):
  x = np.zeros((8, 4), np.float32)
  plain = jax.jit(lambda x: constrain(x, "batch", "width"))
  assert plain(x).sharding.is_fully_replicated
  with use(mesh, DEFAULT_RULES):
    split = jax.jit(lambda x: constrain(x, "batch", "width"))(x)
    with pytest.raises(ShardingError, match="'widht'"):
      jax.jit(lambda x: constrain(x, "batch", "widht"))(x)
  assert split.sharding.spec[0] == ("data", "fsdp")
  one = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)
  with use(one, DEFAULT_RULES):  # one device: nothing to fix
    assert jax.jit(lambda x: constrain(x, "batch", "width"))(x).sharding.is_fully_replicated
