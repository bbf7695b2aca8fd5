"""launch/local.py with processes that are really started, preempted, killed."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import dry_runs
import pytest

# What every test's command begins with: its number, and a folder to leave marks in.
HEAD = """\
import os, pathlib, signal, sys, time
marks, flags = pathlib.Path(sys.argv[1]), dict(f.removeprefix("--").split("=") for f in sys.argv[2:])
me = int(flags["process_id"])
"""


def launch(tmp_path: Path, body: str, *flags: str) -> subprocess.Popen:
  """Starts two processes of a script; `marks` in it is tmp_path."""
  script = tmp_path / "script.py"
  script.write_text(HEAD + body)
  command = [sys.executable, str(script), str(tmp_path)]
  return subprocess.Popen([sys.executable, "launch/local.py", "--processes=2", *flags, "--", *command],
                          cwd=dry_runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(launcher: subprocess.Popen) -> tuple[int, str, str]:
  out, err = launcher.communicate(timeout=60)
  return launcher.returncode, out, err


def wait_for(path: Path) -> None:
  until = time.monotonic() + 30
  while not path.exists():
    assert time.monotonic() < until, f"{path.name} did not appear"
    time.sleep(0.02)


def gone(pid: int) -> bool:
  """Whether no such process runs any more; a killed orphan may wait for its reaper as a zombie."""
  try:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()
  except FileNotFoundError:
    return True


def test_processes_share_a_coordinator_and_know_their_number_and_devices(tmp_path):
  body = "print(flags, os.environ['JAX_PLATFORMS'], os.environ['XLA_FLAGS'])"
  code, out, err = finish(launch(tmp_path, body, "--devices=3"))
  assert code == 0 and err == ""
  lines = sorted(out.splitlines())
  assert [line[:4] for line in lines] == ["[0] ", "[1] "]
  for index, line in enumerate(lines):
    assert f"'num_processes': '2', 'process_id': '{index}'" in line
    assert line.endswith("cpu --xla_force_host_platform_device_count=3")
  assert lines[0].split("'")[3] == lines[1].split("'")[3], "one coordinator"
  assert lines[0].split("'")[3].startswith("127.0.0.1:")


def test_jax_of_several_processes_joins(tmp_path):
  """The flags are those that jax.distributed wants: two processes of three devices each see six."""
  body = """
import jax
jax.distributed.initialize(flags["coordinator"], int(flags["num_processes"]), me)
print("devices", jax.device_count(), jax.local_device_count())
jax.distributed.shutdown()
"""
  code, out, err = finish(launch(tmp_path, body, "--devices=3"))
  assert code == 0, out + err
  assert sorted(line for line in out.splitlines() if "devices" in line) == ["[0] devices 6 3", "[1] devices 6 3"]


def test_exit_code_75_of_all_starts_again(tmp_path):
  body = """
mark = marks / f"started{me}"
first = not mark.exists()
mark.touch()
sys.exit(75 if first else 0)
"""
  code, _, err = finish(launch(tmp_path, body))
  assert code == 0
  assert err.count("ended with exit code 75") == 2 and "start 2 of at most 4" in err


def test_retries_are_bounded(tmp_path):
  code, out, _ = finish(launch(tmp_path, "print('start'); sys.exit(75)", "--retries=2"))
  assert code == 75
  assert out.count("start") == 3 * 2  # starts × processes


def test_another_exit_code_is_not_retried(tmp_path):
  """A peer that is gone makes the rest exit with 75: the code of the one that failed is what counts."""
  code, out, err = finish(launch(tmp_path, "print('start'); sys.exit(7 if me else 75)"))
  assert code == 7 and out.count("start") == 2 and "of at most" not in err


def test_the_others_are_ended_after_the_grace(tmp_path):
  body = """
if me == 1:
  os.kill(os.getpid(), signal.SIGKILL)
(marks / "pid").write_text(str(os.getpid()))
time.sleep(600)
"""
  begun = time.monotonic()
  code, _, err = finish(launch(tmp_path, body, "--grace=1"))
  assert code == 128 + signal.SIGKILL
  assert 1 < time.monotonic() - begun < 30  # the grace, and far less than the sleep
  assert "SIGTERM to process 0" in err and "SIGKILL to" not in err
  assert gone(int((tmp_path / "pid").read_text()))


def test_the_others_may_use_the_grace(tmp_path):
  body = "if me == 1: sys.exit(3)\ntime.sleep(0.5); print('saved'); sys.exit(75)"
  code, out, err = finish(launch(tmp_path, body, "--grace=30"))
  assert code == 3 and "[0] saved" in out and "SIGTERM" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_is_passed_on_and_ends_the_run(number, tmp_path):
  body = f"""
def save(number, frame):
  print("saved", number)
  sys.exit(75)
signal.signal({int(number)}, save)
(marks / f"ready{{me}}").touch()
time.sleep(600)
"""
  launcher = launch(tmp_path, body)
  for index in range(2):
    wait_for(tmp_path / f"ready{index}")
  launcher.send_signal(number)
  code, out, err = finish(launcher)
  assert code == 75, "preempted, and not started again: whoever stopped the launcher wants it so"
  assert sorted(out.splitlines()) == [f"[0] saved {int(number)}", f"[1] saved {int(number)}"]
  assert "of at most" not in err


def test_a_process_that_ignores_the_signal_is_killed_with_all_it_started(tmp_path):
  body = """
import subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"])
(marks / f"pid{me}").write_text(f"{os.getpid()} {child.pid}")
(marks / f"ready{me}").touch()
time.sleep(600)
"""
  launcher = launch(tmp_path, body, "--grace=0.5")
  for index in range(2):
    wait_for(tmp_path / f"ready{index}")
  launcher.send_signal(signal.SIGTERM)
  code, _, err = finish(launcher)
  assert code == 128 + signal.SIGKILL and "SIGKILL to process 0, 1" in err
  for index in range(2):
    for pid in (tmp_path / f"pid{index}").read_text().split():
      assert gone(int(pid))


def test_timeout(tmp_path):
  code, _, err = finish(launch(tmp_path, "time.sleep(600)", "--timeout=0.5"))
  assert code == 124 and "--timeout=0.5 s is over" in err


def test_a_progress_bar_becomes_one_line(tmp_path):
  body = "sys.stdout.write('\\r  1 %\\r 50 %\\r100 %\\r      \\rdone\\nlast, without an end')"
  code, out, _ = finish(launch(tmp_path, body))
  assert code == 0
  for index in range(2):
    assert [line for line in out.splitlines() if line.startswith(f"[{index}]")] == [
        f"[{index}] done", f"[{index}] last, without an end"]


def test_commands_of_this_environment_are_found(tmp_path):
  """`cm3leon`, installed beside the Python that runs the launcher, need not be on the path."""
  done = subprocess.run([sys.executable, "launch/local.py", "--processes=1", "--", "cm3leon", "--help"],
                        cwd=dry_runs.ROOT, env={**os.environ, "PATH": "/usr/bin:/bin"},
                        capture_output=True, text=True, timeout=60)
  assert "[0] usage: cm3leon" in done.stdout
