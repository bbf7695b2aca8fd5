"""launch/on_worker.py really keeps a process, apart from what started it."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import dry_runs
import pytest

SCRIPT = dry_runs.ROOT / "launch" / "on_worker.py"


@pytest.fixture
def worker(tmp_path):
  """Runs a verb with a home of its own; whatever still runs at the end is stopped."""
  def call(*words):
    return subprocess.run([sys.executable, str(SCRIPT), *words], env={**os.environ, "HOME": str(tmp_path)},
                          capture_output=True, text=True, timeout=30)
  yield call
  call("stop")


def start_saver(worker, tmp_path: Path) -> None:
  """A run that saves on SIGTERM, as `cm3leon train` does; back once its handler stands."""
  body = ("import pathlib, signal, sys, time\n"
          "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(75)))\n"
          f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
          "time.sleep(600)\n")
  assert worker("start", "--", sys.executable, "-c", body).returncode == 0
  until = time.monotonic() + 20
  while not (tmp_path / "ready").exists():
    assert time.monotonic() < until
    time.sleep(0.02)


def test_start_returns_at_once_and_follow_shows_the_log_and_the_exit_code(worker, tmp_path):
  words = ["a b", "$(echo no)", "; echo no"]
  code = (f"import pathlib, sys, time\nprint(sys.argv[1:], flush=True)\n"
          f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.02)\n"
          "print('end'); sys.exit(7)")
  assert worker("start", "--", sys.executable, "-c", code, *words).returncode == 0
  assert worker("idle").returncode == 1, "start does not wait for the command"
  (tmp_path / "go").touch()
  follow = worker("follow")
  assert follow.returncode == 7
  assert follow.stdout.splitlines()[1:] == [str(words), "end"]
  assert worker("follow").stdout == follow.stdout, "the log is still there once the run is over"


def test_stop_lets_the_run_save(worker, tmp_path):
  start_saver(worker, tmp_path)
  assert worker("stop").returncode == 0
  follow = worker("follow")
  assert follow.returncode == 75 and follow.stdout.endswith("saved\n")
  assert worker("verdict").returncode == 98, "a launcher that follows must not take it for a preemption"
  worker("start", "--", "bash", "-c", "exit 75")
  assert worker("verdict").returncode == 0


def test_a_second_start_is_refused_unless_it_replaces(worker, tmp_path):
  start_saver(worker, tmp_path)
  assert worker("idle").returncode == 1
  refused = worker("start", "--", "true")
  assert refused.returncode == 1 and "a run is going on here; stop it first" in refused.stderr
  assert worker("start", "--replace", "--", "echo", "second").returncode == 0
  follow = worker("follow")
  assert follow.returncode == 0
  assert follow.stdout.index("saved") < follow.stdout.index("second"), "the first one saved, the log holds both"
  assert worker("idle").returncode == 0


@pytest.mark.parametrize("command, code", [("exit 1", 99), ("exit 75", 0), ("exit 0", 0), ("kill -KILL $$", 0)])
def test_the_verdict_tells_the_host_that_is_to_blame(worker, command, code):
  worker("start", "--", "bash", "-c", f"echo the reason; {command}")
  done = worker("verdict")
  assert done.returncode == code
  assert ("the reason" in done.stdout) == (code == 99)


def test_a_killed_keeper_is_told(worker, tmp_path):
  """As after a crash of the machine: no exit code was written."""
  start_saver(worker, tmp_path)
  keeper = int((tmp_path / "cm3leon_run" / "pid").read_text())
  os.killpg(keeper, signal.SIGKILL)
  assert worker("follow").returncode == 137


def test_the_process_id_of_another_program_is_not_taken_for_the_run(worker, tmp_path):
  """After a restart of the machine the number may be anybody's; stop must not touch it."""
  (tmp_path / "cm3leon_run").mkdir()
  stranger = subprocess.Popen(["sleep", "60"])
  try:
    (tmp_path / "cm3leon_run" / "pid").write_text(str(stranger.pid))
    assert worker("idle").returncode == 0 and worker("stop").returncode == 0
    assert stranger.poll() is None
  finally:
    stranger.kill()
    stranger.wait()


def test_a_command_that_cannot_start(worker):
  worker("start", "--", "no-such-program")
  follow = worker("follow")
  assert follow.returncode == 127 and "no-such-program: No such file" in follow.stdout


def test_runs_with_the_python_of_a_tpu_vm():
  """The runtime's Python is 3.10: no syntax and no module that it lacks."""
  import ast

  tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 10))
  imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
  imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
  assert imported <= sys.stdlib_module_names
