"""A damaged checkpoint costs the steps since the one before, not the run; some checkpoints stay for good."""

import shutil

import jax
import numpy as np
import pytest
from run_processes import checkpoints, losses, rows
import tiny_run

from cm3leon_jax.errors import InputError
from cm3leon_jax.training import store
from cm3leon_jax.training.checkpoints import load_for_inference


@pytest.fixture(scope="module", autouse=True)
def nothing_is_told_later():
  """Errors that pytest itself keeps alive hold reads that were never awaited; they would be told after its last line."""
  yield
  store._drop_other_reads()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
  """A run of 10 steps with checkpoints at 4, 8 and 10, of which 8 and 10 are there."""
  workdir = tmp_path_factory.mktemp("sound")
  return workdir, tiny_run.run(workdir, 10, evaluations={})


def truncate(checkpoint):
  """Cuts the largest file, which holds the arrays, in half."""
  largest = max((p for p in (checkpoint / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:largest.stat().st_size // 2])


def flip(checkpoint):
  """One byte in the middle of the arrays."""
  largest = max((p for p in (checkpoint / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 255
  largest.write_bytes(data)


DAMAGE = {
  "truncated": truncate,
  "one byte": flip,
  "no arrays": lambda c: [p.unlink() for p in (c / "state").rglob("d/*")],
  "no state": lambda c: shutil.rmtree(c / "state"),
  "no metadata": lambda c: (c / "state" / "_METADATA").unlink(),
  "no manifest": lambda c: [p.unlink() for p in (c / "state").rglob("manifest.ocdbt")],
  "torn JSON": lambda c: [p.write_text('{"totals": {"tok') for p in (c / "about").iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_falls_back_to_the_one_before(sound, tmp_path, capfd, damage):
  workdir = shutil.copytree(sound[0], tmp_path / "run")
  damage(workdir / "checkpoints" / "10")
  state = tiny_run.run(workdir, 10, evaluations={})
  message = capfd.readouterr().err
  assert f"warning: checkpoint {workdir}/checkpoints/10 is incomplete or corrupt" in message
  assert f"moved it to {workdir}/corrupt/10" in message and (workdir / "corrupt" / "10").is_dir()
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(sound[1]))
  assert checkpoints(workdir) == [8, 10] and losses(workdir) == losses(sound[0])
  assert load_for_inference(workdir)[4]["step"] == 10  # saved anew


def test_reading_falls_back_too_and_leaves_all_where_it_is(sound, tmp_path, capfd):
  workdir = shutil.copytree(sound[0], tmp_path / "run")
  DAMAGE["no arrays"](workdir / "checkpoints" / "10")
  assert load_for_inference(workdir)[4]["step"] == 8
  assert "checkpoints/10 is incomplete or corrupt" in capfd.readouterr().err
  assert checkpoints(workdir) == [8, 10]


def test_without_one_readable_checkpoint_the_run_stops(sound, tmp_path):
  workdir = shutil.copytree(sound[0], tmp_path / "run")
  for step in (8, 10):
    truncate(workdir / "checkpoints" / str(step))
  with pytest.raises(InputError, match=r"none of the checkpoints \[8, 10\] can be read"):
    tiny_run.run(workdir, 10, evaluations={})
  assert checkpoints(workdir) == [8, 10]


def test_the_latest_stay_and_every_sixth(tmp_path):
  tiny_run.run(tmp_path, 16, evaluations={}, checkpoint_every=2, keep_checkpoints=2, keep_every=6)
  assert checkpoints(tmp_path) == [6, 12, 14, 16]


def test_totals_go_on_where_the_checkpoint_stood(sound, tmp_path):
  """Every step sees 8 × 16 ids, none of them padding; 4 and 6 steps cost as much as 10 in one go."""
  tiny_run.run(tmp_path, 4, evaluations={})
  before = rows(tmp_path)[-1]
  tiny_run.run(tmp_path, 10, evaluations={})
  first, last, whole = rows(tmp_path)[4], rows(tmp_path)[-1], rows(sound[0])[-1]
  image = sum(tiny_run.VOCABULARY.is_image(tiny_run.batch(t)["inputs"]).sum() for t in range(10))
  assert last["total_tokens"] == 10 * 128 and last["total_tokens_image"] == image
  assert last["total_tokens"] == sum(last[f"total_tokens_{m}"] for m in ("text", "image", "special"))
  assert {k: v for k, v in last.items() if k.startswith("total_")} == {
      k: v for k, v in whole.items() if k.startswith("total_")}
  assert 0 < before["device_hours"] < first["device_hours"] < last["device_hours"]
