"""`plan` against arithmetic, on small steps compiled for TPU v5e slices."""

import dataclasses
import functools

import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.init import count_parameters
from cm3leon_jax.planning import plan as planning
from cm3leon_jax.planning import show, topology
from cm3leon_jax.sharding.mesh import MeshConfig
from cm3leon_jax.training.losses import LossConfig
from cm3leon_jax.training.optimizer import OptimizerConfig
from cm3leon_jax.vocabulary import Vocabulary

LENGTH, WIDTH, VOCABULARY = 256, 128, 1024


@functools.cache
def small(slice_: str = "v5e:1x1", layers: int = 2, batch_size: int = 2, **changes):
  pytest.importorskip("libtpu")
  model = TransformerConfig(VOCABULARY, layers, WIDTH, 4, max_positions=LENGTH, attention="xla")
  return planning.plan(run(dataclasses.replace(model, **changes), batch_size), slice_)


def run(model: TransformerConfig, batch_size: int, **changes) -> planning.Run:
  fields = dict(model=model, vocabulary=Vocabulary(512, 256, 16, VOCABULARY), optimizer=OptimizerConfig(), loss=LossConfig(),
                mesh=MeshConfig(), batch_size=batch_size, length=LENGTH, steps=1000)
  return planning.Run(**(fields | changes))


def test_one_chip():
  result = small()
  assert result.parameters == count_parameters(TransformerConfig(VOCABULARY, 2, WIDTH, 4, max_positions=LENGTH))
  assert (result.devices, result.tokens_per_step, result.collective_bytes) == (1, 2 * LENGTH, {})
  # float32 parameters and two moments, at the least; far below a chip's 16 GiB.
  assert result.fits and 12 * result.parameters < result.peak_bytes_per_device < 2**30
  # Attention may compute the masked half too: 6·layers·L·D a token more than the model needs.
  more = 6 * 2 * LENGTH * WIDTH * result.tokens_per_step
  assert 0.9 * result.model_flops_per_device < result.flops_per_device < 1.02 * (result.model_flops_per_device + more)
  assert result.mfu == pytest.approx(result.model_flops_per_device / 197e12 / result.step_seconds)
  assert result.days == pytest.approx(1000 * result.step_seconds / 86400)
  assert result.tokens_per_second == pytest.approx(result.tokens_per_step / result.step_seconds)


def test_scanned_layers_count_each_time():
  two, six = small(), small(layers=6)
  # A token and layer: 6 FLOPs for each of 12·D² weights, and attention over something between half the square (the
  # model's need, 6·L·D) and all of it, as the backend skips what is masked.
  weights, attention = 6 * 12 * WIDTH**2, 6 * LENGTH * WIDTH
  a_layer = (six.flops_per_device - two.flops_per_device) / 4 / two.tokens_per_step
  assert 0.99 * (weights + attention) < a_layer < 1.01 * (weights + 2 * attention)
  assert six.model_flops_per_device - two.model_flops_per_device == 4 * two.tokens_per_step * (weights + attention)


def test_recomputation_costs_flops_but_is_not_the_models():
  kept, again = small(), small(remat="full")
  assert again.model_flops_per_device == kept.model_flops_per_device
  assert again.flops_per_device > 1.15 * kept.flops_per_device  # a third of the layers' share


def test_fsdp_over_four_chips_gathers_the_weights():
  one, four = small(), small("v5e:2x2", batch_size=8)
  assert (four.devices, four.mesh) == (4, {"fsdp": 4})
  assert four.model_flops_per_device == one.model_flops_per_device  # four times the batch on four times the chips
  layer_bytes = 2 * 2 * 12 * WIDTH**2  # bfloat16, two layers
  assert four.collective_bytes["all-gather"] > layer_bytes * 3 / 4  # three quarters of them come from elsewhere
  text = show.table(four)
  assert "all-gather" in text and "4 devices" in text and "fits            yes" in text


def test_two_slices_are_crossed_by_the_data_axis():
  pytest.importorskip("libtpu")
  model = TransformerConfig(VOCABULARY, 2, WIDTH, 4, max_positions=LENGTH, attention="xla")
  result = planning.plan(run(model, 8, mesh=MeshConfig(data=2, fsdp=-1)), "2*v5e:2x2")
  assert (result.devices, result.mesh) == (8, {"data": 2, "fsdp": 4}) and result.fits
  assert any("2 slices" in warning for warning in result.warnings)
  shapes = planning.plan(run(model, 8, mesh=MeshConfig(data=2, fsdp=-1)), "2*v5e:2x2", analytic=True)
  assert shapes.devices == 8 and shapes.bytes_by_kind["parameters"] == result.bytes_by_kind["parameters"]
  with pytest.raises(InputError, match="`data` must be a multiple of 2"):
    planning.plan(run(model, 8), "2*v5e:2x2")


def test_too_large_for_the_chip_says_so():
  result = small(num_layers=24, model_dim=4096, num_heads=32, mlp_dim=16384)
  assert not result.fits and result.step_seconds is None
  assert result.peak_bytes_per_device is None or result.peak_bytes_per_device > 15.75 * 2**30
  assert "NO" in show.table(result) and "memory" in result.warnings[0]


def test_a_batch_that_does_not_divide_is_named():
  with pytest.raises(InputError, match="v5e:2x2.*batch_size=6 does not divide over 4"):
    small("v5e:2x2", batch_size=6)


@pytest.mark.parametrize("name", ["v5e-16", "v5e:16", "v5e:4x4x4", "v5p:4x4", "tpu:2x2", "v5e:0x4", "v5e:3x5", ""])
def test_unknown_slices_are_named(name):
  pytest.importorskip("libtpu")
  with pytest.raises(InputError, match=f"--topology={name}: .*v5e:16x16"):
    topology.load(name)


@pytest.mark.parametrize("name,chips", [("v5e:16x16", 256), ("v5p:4x4x4", 64), ("v4:2x2x1", 4), ("v6e:4x4", 16)])
def test_slices_have_one_device_a_chip(name, chips):
  pytest.importorskip("libtpu")
  assert len(topology.load(name).devices) == chips


@pytest.mark.parametrize(
  "message,size",
  [
    ("Ran out of memory in memory space hbm. Used 18.50G of 15.75G hbm.", 18.5 * 2**30),
    ("the total memory required for HLO temporaries (16.00G) exceeds available HBM (15.75G).", 16 * 2**30),
    ("something else", None),
  ],
)
def test_the_compilers_words_on_memory(message, size):
  assert planning._asked_for(message) == size
