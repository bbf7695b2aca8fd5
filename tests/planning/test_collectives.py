"""One layer's collectives in the step compiled for TPU, against the arithmetic of docs/sharding.md: kind, group and bytes."""

import collections

import pytest

from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.planning import hlo_cost, machines
from cm3leon_jax.planning import plan as planning
from cm3leon_jax.sharding.mesh import make_mesh, MeshConfig
from cm3leon_jax.training.losses import LossConfig
from cm3leon_jax.training.optimizer import make_optimizer, OptimizerConfig
from cm3leon_jax.training.state import abstract_state, state_shardings
from cm3leon_jax.vocabulary import Vocabulary

pytestmark = pytest.mark.slow

WIDTH, LENGTH, VOCABULARY, BATCH = 512, 512, 4096, 16
WEIGHTS = 12 * WIDTH**2 * 2  # bytes of a layer in bfloat16: attention 4·D², feed-forward 8·D²
OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000}  # as in configs/hardware/v5e.gin


def all_bytes(mesh: MeshConfig, layers: int, remat: str) -> collections.Counter:
  """(kind, devices in a group) → bytes of the operands' whole (all-gather: of the result), one step, one device."""
  model = TransformerConfig(VOCABULARY, layers, WIDTH, 4, max_positions=LENGTH, remat=remat, attention="splash")
  run = planning.Run(model=model, vocabulary=Vocabulary(2048, 1024, 16, VOCABULARY), optimizer=OptimizerConfig(),
                     loss=LossConfig(chunk=128), mesh=mesh, batch_size=BATCH, length=LENGTH, steps=10)
  devices = make_mesh(mesh, machines.load("v5e:2x4", compiler=True).devices)
  update = make_optimizer(run.optimizer, model, 10)
  state = abstract_state(model, update, False)
  lowered = planning.lower(run, devices, update, state, state_shardings(model, state, devices, run.rules), 1)
  total = collections.Counter()
  for row in hlo_cost.analyze(lowered.compile(compiler_options=OPTIONS).as_text(), "v5e")["collectives"]:
    total[row["kind"], row["group"]] += row["bytes"]
  return total


def a_layer(mesh: MeshConfig, remat: str) -> dict:
  """Between four layers and two: what is outside of the layers falls out. Below 16 kB there are only scalars and ids."""
  four, two = all_bytes(mesh, 4, remat), all_bytes(mesh, 2, remat)
  return {key: (four[key] - two[key]) / 2 for key in four | two if abs(four[key] - two[key]) > 2 * 16_384}


def activations(mesh: MeshConfig) -> int:
  """Bytes of a device's [rows, length, width], the length whole."""
  return BATCH // (mesh.data * mesh.fsdp) * LENGTH * WIDTH * 2


@pytest.mark.parametrize("remat", ["none", "attention"])
def test_fsdp_gathers_weights_twice_and_sums_gradients_once(remat):
  assert a_layer(MeshConfig(data=1, fsdp=8), remat) == {
      ("all-gather", 8): 2 * WEIGHTS, ("all-reduce", 8): WEIGHTS}


@pytest.mark.parametrize("remat, again", [("none", 0), ("attention", 1)])
def test_a_tensor_axis_adds_two_sums_a_pass(remat, again):
  """Forward: after attention's and the feed-forward's output projection; backward: before their inputs. Recomputing
  the layer repeats the first."""
  mesh = MeshConfig(data=1, fsdp=4, tensor=2)
  assert a_layer(mesh, remat) == {
      ("all-gather", 4): 2 * WEIGHTS / 2, ("all-reduce", 4): WEIGHTS / 2,
      ("all-reduce", 2): (4 + again) * activations(mesh)}


def test_a_data_axis_sums_shards_of_gradients():
  """Over `fsdp` a device's whole part, over `data` what it keeps of it; both groups have two devices here."""
  mesh = MeshConfig(data=2, fsdp=2, tensor=2)
  assert a_layer(mesh, "none") == {
      ("all-gather", 2): 2 * WEIGHTS / 2,
      ("all-reduce", 2): 4 * activations(mesh) + WEIGHTS / 2 + WEIGHTS / 4}


def test_a_sequence_axis_splits_attention_by_heads():
  """Gathered over it are activations, never scores or keys of every head; the feed-forward's weights stay whole."""
  mesh = MeshConfig(data=1, fsdp=4, sequence=2)
  layer = a_layer(mesh, "none")
  attention, feed_forward = WEIGHTS / 3, WEIGHTS * 2 / 3
  assert layer["all-gather", 4] == 2 * (attention / 2 + feed_forward)
  assert layer["all-reduce", 4] == attention / 2 + feed_forward
  # Inputs and cotangents of attention's two projections, forward and backward, and its weights' gradients put together.
  assert layer["all-gather", 2] <= 4 * activations(mesh) + attention
  assert sum(size for (kind, group), size in layer.items() if group == 2) <= 8 * activations(mesh) + WEIGHTS
