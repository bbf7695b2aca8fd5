"""launch/slurm.sbatch run by bash, with an srun that runs its words and a scontrol that notes its own."""

import os
from pathlib import Path
import re
import signal
import subprocess
import time

import dry_runs
import pytest

SRUN = """\
#!/usr/bin/env bash
# Real ones run many tasks; the words behind the flags are what each of them would run.
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """\
#!/usr/bin/env bash
printf '%s\\n' "$*" > "$(dirname "$0")/scontrol_words"
"""


@pytest.fixture
def batch(tmp_path):
  for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
    (tmp_path / name).write_text(text)
    (tmp_path / name).chmod(0o755)

  def start(*words, **variables):
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711",
                   "CM3LEON_BIN": "/nowhere", **variables}
    return subprocess.Popen(["bash", "launch/slurm.sbatch", *words], cwd=dry_runs.ROOT, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  return start


def requeued(tmp_path: Path) -> bool:
  note = tmp_path / "scontrol_words"
  if note.exists():
    assert note.read_text() == "requeue 4711\n"
  return note.exists()


# 134: JAX gave up a silent peer. A wrong input (1) becomes 101, above the 75 of the tasks that lose it:
# srun would tell the highest.
@pytest.mark.parametrize("task, job", [(0, 0), (75, 75), (1, 101), (2, 102), (134, 75), (137, 137)])
def test_only_75_goes_back_into_the_queue(task, job, batch, tmp_path):
  script = batch("bash", "-c", f"exit {task}")
  _, err = script.communicate(timeout=30)
  assert script.returncode == job, err
  assert requeued(tmp_path) == (job == 75)


def test_restarts_are_bounded(batch, tmp_path):
  script = batch("bash", "-c", "exit 75", SLURM_RESTART_COUNT="3", CM3LEON_MAX_RESTARTS="3")
  script.communicate(timeout=30)
  assert script.returncode == 75 and not requeued(tmp_path)


def test_the_words_arrive_as_they_are_with_distributed_behind_them(batch):
  script = batch("printf", "<%s>", "a b", "$(echo no)", "*", "")
  assert script.communicate(timeout=30)[0] == "<a b><$(echo no)><*><><--distributed>"


def test_the_batch_shell_outlives_sigterm_and_requeues(batch, tmp_path):
  """SLURM sends it to the tasks, and in a preemption to the batch shell too."""
  ready, saved = tmp_path / "ready", tmp_path / "saved"
  task = (f"import pathlib, signal, sys, time; "
          f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(saved)!r}).touch(), sys.exit(75))); "
          f"pathlib.Path({str(ready)!r}).write_text(str(__import__('os').getpid())); time.sleep(600)")
  script = batch("python3", "-c", task)
  until = time.monotonic() + 20
  while not (ready.exists() and ready.read_text()):
    assert time.monotonic() < until
    time.sleep(0.02)
  script.send_signal(signal.SIGTERM)
  time.sleep(0.3)
  assert script.poll() is None, "the batch shell waits for its tasks"
  pid = int(ready.read_text())
  parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
  os.kill(parent, signal.SIGTERM)  # the task's shell, then the task: SLURM signals every process of a step
  os.kill(pid, signal.SIGTERM)
  script.communicate(timeout=30)
  assert script.returncode == 75 and saved.exists() and requeued(tmp_path)


def test_no_command_is_a_mistake(batch):
  script = batch()
  assert "no command" in script.communicate(timeout=30)[1] and script.returncode == 1


@pytest.mark.parametrize("name", ["slurm.sbatch", "slurm_task.sh", "install_on_worker.sh"])
def test_shell_scripts_parse_and_quote_every_expansion(name):
  path = dry_runs.ROOT / "launch" / name
  subprocess.run(["bash", "-n", str(path)], check=True)
  for number, line in enumerate(path.read_text().splitlines(), 1):
    code = re.sub(r"(^|\s)#.*", "", line)
    code = re.sub(r"\$\(\((?:[^()]|\([^()]*\))*\)\)|(?<!\$)\(\(.*?\)\)", "", code)  # arithmetic splits nothing
    bare = re.sub(r'"(?:\$\([^()]*\)|[^"])*"|\'[^\']*\'', "", code)
    assert "$" not in bare.replace("$!", "").replace("$?", "").replace("$#", ""), f"{name}:{number}: unquoted: {line}"


def test_sbatch_lines_come_before_the_first_command():
  """SLURM reads no further."""
  lines = (dry_runs.ROOT / "launch" / "slurm.sbatch").read_text().splitlines()
  first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
  found = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
  assert found and max(found) < first
  flags = {lines[i].split()[1] for i in found}
  # SIGTERM to the tasks (B: would send it to the batch shell alone), and the right to go back into the queue.
  assert {"--signal=TERM@600", "--requeue", "--open-mode=append"} <= flags
