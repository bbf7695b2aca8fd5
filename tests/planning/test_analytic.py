"""Plans from shapes alone: arithmetic of memory and FLOPs, GPUs, and the search over choices."""

import dataclasses
import shlex

import pytest

from cm3leon_jax import config, plan
from cm3leon_jax.errors import InputError
from cm3leon_jax.planning import analytic, machines, search, show
from cm3leon_jax.planning.hlo_cost import CHIPS
from cm3leon_jax.planning.plan import plan as make_plan
from cm3leon_jax.sharding.mesh import MeshConfig

WIDTH, LAYERS, LENGTH, VOCABULARY = 4096, 32, 4096, 65536


@pytest.fixture(scope="module")
def run_7b():
  config.load(["configs/runs/pretrain_7b.gin"])
  return plan.configured_run()


def test_parameters_and_moments_are_a_share_of_the_whole(run_7b):
  result = make_plan(run_7b, "v5e:16x16", analytic=True)
  count = (VOCABULARY + LENGTH) * WIDTH + LAYERS * 12 * WIDTH**2
  assert result.parameters == count
  kinds = result.bytes_by_kind
  assert kinds["parameters"] == 4 * count // 256
  assert kinds["optimizer"] == pytest.approx(8 * count / 256, abs=64)  # and two counters
  assert kinds["gradients"] == 2 * 4 * count // 256  # two parts: the sum so far, and the part's own
  assert (result.rows_per_device, result.parts) == (4, 2)
  # Kept of a token and layer: its input, attention's output (bfloat16), and a float32 log-sum for each head.
  assert kinds["activations"] == 4 * LENGTH * LAYERS * (2 * WIDTH + 2 * WIDTH + 4 * 32)
  assert result.peak_bytes_per_device == sum(kinds.values())


def test_days_follow_from_the_seconds(run_7b):
  result = make_plan(run_7b, "v5e:16x16", analytic=True)
  assert result.steps * result.tokens_per_step == pytest.approx(2.4e12, rel=1e-4)  # the paper's budget
  assert result.days == pytest.approx(result.steps * result.step_seconds / 86400)
  assert result.chip_hours == pytest.approx(result.days * 24 * 256)
  model = 6 * (LAYERS * 12 * WIDTH**2 + VOCABULARY * WIDTH) + 6 * LAYERS * LENGTH * WIDTH  # FLOPs a token
  assert result.model_flops_per_device == pytest.approx(model * 2048 * LENGTH / 256)
  assert result.mfu == pytest.approx(result.model_flops_per_device / CHIPS["v5e"].flops / result.step_seconds)


@pytest.mark.parametrize("remat, again", [
    # Of a layer's 12·D² + L·D multiply-adds a token (D = L here, so 13·D²): all but the last projection; without attention
    # and its output projection kept …; nothing.
    ("full", (3 + 1 + 4 + 1) / 13), ("attention", (3 + 1 + 4) / 13), ("projections", 1 / 13), ("none", 0)])
def test_what_is_computed_again(run_7b, remat, again):
  model = dataclasses.replace(run_7b.model, remat=remat)
  assert analytic.recomputed_share(model, LENGTH) == pytest.approx(again)


def test_a_tensor_axis_divides_activations_not_hidden_states(run_7b):
  whole, split = (make_plan(dataclasses.replace(run_7b, mesh=mesh, device_batch=4), "v5e:16x16", analytic=True)
                  for mesh in (MeshConfig(data=1, fsdp=256), MeshConfig(data=1, fsdp=128, tensor=2)))
  a_token = lambda result: result.bytes_by_kind["activations"] / (4 * LENGTH * LAYERS)
  assert a_token(whole) - a_token(split) == pytest.approx(WIDTH + 2 * 32)
  # Both axes split the weights, but for the positions, which the tensor axis leaves whole.
  more = split.bytes_by_kind["parameters"] - whole.bytes_by_kind["parameters"]
  assert more == 4 * LENGTH * WIDTH // 256
  assert "all-reduce" in split.collective_bytes


def test_gpus_are_planned_from_shapes_only(run_7b):
  with pytest.raises(InputError, match="h100:64x8.*--analytic"):
    make_plan(run_7b, "h100:64x8")
  one, many = (make_plan(run_7b, name, analytic=True) for name in ("h100:8", "h100:64x8"))
  assert (one.devices, many.devices) == (8, 512)
  assert one.fits and many.fits
  # Of one node's NVLink and of 400 Gbit/s NICs: the network is what binds the larger one.
  assert many.mfu < one.mfu and machines.load("h100:64x8", False).spec.ici == machines.NIC


def test_what_does_not_fit_says_so(run_7b):
  result = make_plan(dataclasses.replace(run_7b, device_batch=8, model=dataclasses.replace(run_7b.model, remat="none")),
                     "v5e:16x16", analytic=True)
  assert not result.fits and "NO" in show.table(result)


@pytest.mark.parametrize("name", ["h100:0", "h100:8x0", "b200:8", "h100", "v5e:16", "h100:8x8x8"])
def test_unknown_machines_are_named(run_7b, name):
  with pytest.raises(InputError, match=f"--topology={name}: "):
    make_plan(run_7b, name, analytic=True)


def test_the_search_finds_what_fits_and_ranks_it(run_7b):
  quiet = lambda rows, **_: rows
  found = search.search(run_7b, "v5e:16x16", analytic=True, progress=quiet)
  seconds = [result.step_seconds for _, result in found]
  assert seconds == sorted(seconds) and len(found) > 5
  assert all(result.peak_bytes_per_device <= 0.95 * result.hbm_bytes_available for _, result in found)
  given = make_plan(run_7b, "v5e:16x16", analytic=True)
  assert seconds[0] <= given.step_seconds
  flags, best = found[0]
  # The printed flags make the printed plan.
  config.load(["configs/runs/pretrain_7b.gin"], [flag.removeprefix("--gin.") for flag in shlex.split(flags)])
  assert make_plan(plan.configured_run(), "v5e:16x16", analytic=True) == best
  assert flags in show.rows(found[:3])


def test_a_search_over_slices_keeps_the_data_axis_between_them(run_7b):
  found = search.search(run_7b, "2*v5e:16x16", analytic=True, progress=lambda rows, **_: rows)
  assert all(result.mesh["data"] == 2 for _, result in found) and "--gin.Mesh.data=2" in found[0][0]
  assert len({(result.rows_per_device, str(result.mesh), flags.split()[0]) for flags, result in found}) == len(found)
  with pytest.raises(InputError, match="on 2 slices `data` must be a multiple of 2"):
    make_plan(run_7b, "2*v5e:16x16", analytic=True)


def test_a_search_without_a_result_says_why(run_7b):
  with pytest.raises(InputError, match="v5e:1x1.*take more devices"):
    search.search(run_7b, "v5e:1x1", analytic=True, progress=lambda rows, **_: rows)
