"""Two real processes of four devices as one run: the losses of one process, and they survive what one process does."""

import signal

import numpy as np
import pytest
import run_processes
import tiny_run

MESH = "--fsdp=8"


def stop(processes) -> None:
  for process in processes:
    if process.poll() is None:
      process.kill()
      process.wait()


def ends_as_lost(process) -> None:
  """By the error of a collective, or by JAX; in 10 s of heartbeat, and the rest for a machine under load."""
  code = process.wait(60)
  text = process.log.read_text()
  assert (code == 75 and "another process is gone" in text) or (
      code == -signal.SIGABRT and "another task died" in text), text


def same_losses(got: list[dict], want: list[dict]) -> None:
  """Up to float32 reassociation: sums over devices; measured differences are below 3e-7."""
  for name in ("loss", "heldout/loss", "grad_norm"):
    np.testing.assert_allclose(*([row[name] for row in rows if name in row] for rows in (got, want)), rtol=2e-5)


@pytest.mark.slow
def test_two_processes_survive_preemption_a_kill_and_a_move_to_one_process_and_back(tmp_path):
  """SIGTERM to one, SIGKILL of one, 2 → 1 → 2 processes, a damaged checkpoint: every loss as in a run that was left alone.

  As long as there are two, to the bit; one process adds up in another order. With dropout, EMA, Muon and
  evaluations on; checkpoints at 4, 8, ….
  """
  workdir = tmp_path / "several"
  alone = run_processes.start(tmp_path / "alone", 20, MESH, devices=8)
  assert alone.wait(240) == 0, alone.log.read_text()
  whole = run_processes.start_several(tmp_path / "whole", 20, MESH)
  assert run_processes.codes(whole) == [0, 0], whole[0].log.read_text()

  pair = run_processes.start_several(workdir, 20, MESH, "--pause=0.3")
  try:
    run_processes.wait_for_step(pair[0], workdir, 5)
    pair[1].send_signal(signal.SIGTERM)
    assert run_processes.codes(pair) == [75, 75], pair[1].log.read_text()
  finally:
    stop(pair)
  saved = run_processes.checkpoints(workdir)[-1]
  assert 5 <= saved < 15 and run_processes.rows(workdir)[-1]["step"] == saved  # one step, saved by both

  pair = run_processes.start_several(workdir, 20, MESH, "--pause=0.5")
  try:
    run_processes.wait_for_step(pair[0], workdir, saved + 2)
    pair[1].kill()
    ends_as_lost(pair[0])
    killed = run_processes.losses(workdir)
    reached = run_processes.rows(workdir)[-1]["step"]
    assert reached >= saved + 2
  finally:
    stop(pair)

  single = run_processes.start(workdir, 20, MESH, "--pause=0.3", devices=8)
  run_processes.wait_for_step(single, workdir, reached + 1)  # a step that the killed ones had not written
  single.send_signal(signal.SIGTERM)
  assert single.wait(120) == 75, single.log.read_text()
  *_, before, last = run_processes.checkpoints(workdir)
  assert last < 20
  for file in (workdir / "checkpoints" / str(last) / "state").rglob("d/*"):
    file.unlink()  # damaged: both go back to the one before

  pair = run_processes.start_several(workdir, 20, MESH)
  assert run_processes.codes(pair) == [0, 0], pair[0].log.read_text()
  assert f"checkpoints/{last} is incomplete or corrupt" in pair[1].log.read_text()
  assert (workdir / "corrupt" / str(last)).is_dir() and not (workdir / "corrupt" / str(before)).exists()
  several, whole_rows, alone_rows = map(run_processes.rows, (workdir, tmp_path / "whole", tmp_path / "alone"))
  assert [row["step"] for row in several] == [row["step"] for row in whole_rows]
  assert killed == run_processes.losses(tmp_path / "whole")[:len(killed)]
  same_losses(several, whole_rows)
  same_losses(alone_rows, whole_rows)


@pytest.mark.slow
def test_a_process_that_falls_silent_ends_the_others_within_the_heartbeat(tmp_path):
  """SIGSTOP: its connections stay open, as those of a machine that hangs."""
  pair = run_processes.start_several(tmp_path / "run", 1000, MESH, "--pause=0.2")
  try:
    run_processes.wait_for_step(pair[0], tmp_path / "run", 2)
    pair[0].send_signal(signal.SIGSTOP)  # the coordinator, whom all others ask
    ends_as_lost(pair[1])
  finally:
    stop(pair)


@pytest.mark.slow
def test_two_processes_on_another_mesh(tmp_path):
  """Tensor parallel over four devices of each process, data over the two: each supplies half of the rows."""
  pair = run_processes.start_several(tmp_path / "run", 6, "--data=2", "--fsdp=1", "--tensor=4")
  assert run_processes.codes(pair) == [0, 0], pair[0].log.read_text()
  one = tiny_run.run(tmp_path / "one", 6, optimizer="muon", model_changes={"dropout": 0.1})
  assert int(one.step) == 6
  same_losses(run_processes.rows(tmp_path / "run"), run_processes.rows(tmp_path / "one"))
