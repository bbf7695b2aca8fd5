"""The loop: same losses on any mesh, after any kill; checkpoints, preemption, errors."""

import math
import signal

import jax
import numpy as np
import pytest
from run_processes import checkpoints, losses, rows, start, wait_for_step
import tiny_run

from cm3leon_jax.errors import InputError
from cm3leon_jax.sharding.mesh import MeshConfig


def test_killed_and_preempted_runs_continue_bit_for_bit(tmp_path):
  """kill -9 after step 6 (checkpoints at 4, 8, …), run again, SIGTERM, run again: every loss has the same bits.

  With dropout, EMA, Muon and evaluations on.
  """
  whole = start(tmp_path / "whole", 16)
  broken = start(tmp_path / "broken", 16, "--pause=0.3")
  wait_for_step(broken, tmp_path / "broken", 6)
  broken.send_signal(signal.SIGKILL)
  broken.wait()
  reached = rows(tmp_path / "broken")[-1]["step"]
  again = start(tmp_path / "broken", 16, "--pause=0.3")
  wait_for_step(again, tmp_path / "broken", reached + 1)  # a step that only this process writes
  again.send_signal(signal.SIGTERM)
  assert again.wait(120) == 75, again.log.read_text()
  last = checkpoints(tmp_path / "broken")[-1]
  assert reached < last < 16 and rows(tmp_path / "broken")[-1]["step"] == last  # saved where it stood
  third = start(tmp_path / "broken", 16)
  assert third.wait(240) == 0, third.log.read_text()
  assert whole.wait(240) == 0, whole.log.read_text()
  assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
  evaluated = (6, 12, 16)
  assert [row["step"] for row in rows(tmp_path / "whole")] == sorted([*range(1, 17), *evaluated])


MESHES = {
    "fsdp8": MeshConfig(fsdp=8), "fsdp4-tensor2": MeshConfig(fsdp=4, tensor=2),
    "data2-fsdp2-tensor2": MeshConfig(data=2, fsdp=2, tensor=2), "fsdp4-sequence2": MeshConfig(fsdp=4, sequence=2)}


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_eight_devices_give_the_losses_of_one(tmp_path, mesh, one_device):
  losses, first = one_device
  state = tiny_run.run(tmp_path / "first", 0, mesh=mesh, evaluations={})
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), first)  # the seed alone makes the weights
  tiny_run.run(tmp_path / "run", 20, mesh=mesh, ema_decay=0.0, evaluations={}, eval_every=0)
  got = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
  # float32 reassociation: sums over the batch are split eight ways; measured differences are below 2e-6.
  np.testing.assert_allclose(got, losses, rtol=2e-5)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
  """(losses of 20 steps, initial weights) on one device."""
  workdir = tmp_path_factory.mktemp("one")
  first = tiny_run.run(workdir / "first", 0, evaluations={})
  state = tiny_run.run(workdir / "run", 20, ema_decay=0.0, evaluations={}, eval_every=0)
  assert len(state.params["tokens"].sharding.device_set) == 1
  losses = [row["loss"] for row in rows(workdir / "run") if "loss" in row]
  assert len(losses) == 20 and losses[-1] < losses[0] - 0.1  # it learns, so that a step that does nothing would show
  return losses, jax.device_get(first.params)


def test_a_run_moves_to_another_mesh(tmp_path):
  before = tiny_run.run(tmp_path, 4, mesh=MeshConfig(fsdp=4), evaluations={})
  after = tiny_run.run(tmp_path, 4, mesh=MeshConfig(data=1, fsdp=1, tensor=2), evaluations={})
  assert len(before.params["tokens"].sharding.device_set) == 4
  assert len(after.params["tokens"].sharding.device_set) == 2
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(before), jax.device_get(after))


def test_rows_hold_nats_and_perplexity_by_modality(tmp_path):
  tiny_run.run(tmp_path, 2)
  first, *_ = rows(tmp_path)
  counts = tiny_run.batch(0)
  image = tiny_run.VOCABULARY.is_image(counts["targets"])
  assert first["tokens_image"] == pytest.approx(counts["loss_weights"][image].sum())
  assert first["perplexity_image"] == pytest.approx(math.exp(first["loss_image"]))
  # Before the first update all 64 ids are about equally likely.
  assert first["loss_image"] == pytest.approx(math.log(64), abs=0.3)
  assert {"heldout/loss_image", "heldout/loss_text"} <= rows(tmp_path)[-1].keys()
  assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_tensorboard_reads_the_scalars(tmp_path):
  from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
  from tensorboard.compat.proto import event_pb2
  tiny_run.run(tmp_path, 2)
  path, = (tmp_path / "tensorboard").iterdir()
  events = [event_pb2.Event.FromString(raw) for raw in RawEventFileLoader(str(path)).Load()]
  written = {(e.step, v.tag): v.simple_value for e in events for v in e.summary.value}
  assert written[2, "loss"] == pytest.approx(rows(tmp_path)[1]["loss"])


def test_non_finite_steps_are_skipped_counted_and_end_the_run(tmp_path):
  def poisoned(start):
    for t, batch in zip(range(start, 100), tiny_run.batches(start)):
      if t in (1, 4, 5, 6):
        batch["loss_weights"] = np.full_like(batch["loss_weights"], np.nan)
      yield batch

  with pytest.raises(InputError, match="not finite in 3 steps in a row, up to step 7, whose batch is in .*not_finite_7_0"):
    tiny_run.run(tmp_path, 12, input_fn=poisoned, max_skipped=3, eval_every=0, checkpoint_every=100)
  with np.load(tmp_path / "not_finite_7_0.npz") as kept:
    assert np.isnan(kept["loss_weights"]).all()
    np.testing.assert_array_equal(kept["inputs"], tiny_run.batch(6)["inputs"])
  by_step = {row["step"]: row for row in rows(tmp_path)}
  assert math.isnan(by_step[2]["loss"]) and by_step[2]["skipped_in_row"] == 1
  assert math.isfinite(by_step[3]["loss"])  # the weights were left alone


def test_fine_tuning_starts_from_the_weights_of_another_run(tmp_path):
  first = tiny_run.run(tmp_path / "pretrain", 3, ema_decay=0.0)
  second = tiny_run.run(tmp_path / "sft", 0, init_from=str(tmp_path / "pretrain"), ema_decay=0.0, evaluations={})
  jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
  assert int(second.step) == 0


@pytest.mark.parametrize("changes, message", [
  ({"model_changes": {"num_layers": 3}}, "transformer.num_layers is 2 there and 3 here"),
  ({"meta": {"text_tokenizer": "abc"}}, "meta.text_tokenizer is None there and 'abc' here"),
  ({"optimizer": "muon"}, "another optimizer"),
])
def test_a_workdir_of_another_model_is_an_error(tmp_path_factory, one_run, changes, message):
  del tmp_path_factory
  with pytest.raises(InputError, match=message):
    tiny_run.run(one_run, 4, **changes)


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  tiny_run.run(workdir, 2, evaluations={})
  return workdir


def test_a_batch_from_another_vocabulary_is_an_error(tmp_path):
  def beyond(start):
    for batch in tiny_run.batches(start):
      batch["inputs"][0, 0] = 64
      yield batch

  with pytest.raises(InputError, match="'inputs' has values .*64.*0..63"):
    tiny_run.run(tmp_path, 2, input_fn=beyond)


def test_input_that_ends_early_is_an_error(tmp_path):
  with pytest.raises(InputError, match="ended before step 2"):
    tiny_run.run(tmp_path, 3, input_fn=lambda start: iter([tiny_run.batch(0)]))
