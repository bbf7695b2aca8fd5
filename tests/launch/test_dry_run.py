"""What the launchers would run: golden files, and hostile words that must arrive as they were given."""

import shlex
import subprocess
import sys

import dry_runs
import pytest
import yaml

# Each would do harm, or fall apart, in an unquoted interpolation.
HOSTILE = ["a b", "it's", 'say "x"', "$(touch hacked)", "`touch hacked`", "; touch hacked", "$HOME", "*", "a\\nb",
           "# no comment", "--flag={x: [y]}", "!event", "über", "", "&& touch hacked", "$$"]
HOSTILE_COMMAND = ["cm3leon", "train", *(f"--workdir={word}" for word in HOSTILE), *HOSTILE]
HOSTILE_NAME = "my $(touch hacked); 'run'"


def printed(*words: str) -> list[list[str]]:
  """The lines of a dry run, each split as a shell would split it, comments cut."""
  lines = dry_runs.dry_run([*words, "--", *HOSTILE_COMMAND]).splitlines()
  return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("name", list(dry_runs.CASES))
def test_dry_run_is_the_golden_one(name):
  golden = dry_runs.GOLDEN / name
  assert golden.exists(), f"{golden} is missing; write it: python tests/launch/dry_runs.py, and read it"
  assert dry_runs.dry_run(dry_runs.CASES[name]) == golden.read_text(encoding="utf-8")


def test_every_golden_file_has_its_dry_run():
  assert {path.name for path in dry_runs.GOLDEN.iterdir()} == set(dry_runs.CASES)


def test_hostile_words_stay_words_on_this_machine():
  for index, words in enumerate(printed("launch/local.py", "--processes=2", "--port=9", "--dry_run")):
    assert words == [*HOSTILE_COMMAND, "--coordinator=127.0.0.1:9", "--num_processes=2", f"--process_id={index}"]


def test_hostile_words_stay_words_on_a_tpu_vm():
  """Through two shells: the reader's, were the line pasted, and the one behind ssh."""
  lines = printed("launch/tpu_queued_resource.py", "up", HOSTILE_NAME, "--zone=z", "--accelerator_type=v6e-256",
                  "--dry_run", "--env=NOTE=a $(touch hacked)", f"--create_flag=--description={HOSTILE_NAME}")
  create, describe, archive, scp, install, start, follow = lines
  assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", HOSTILE_NAME]
  assert f"--node-id={HOSTILE_NAME}" in create and create[-1] == f"--description={HOSTILE_NAME}"
  assert describe[5] == HOSTILE_NAME and f"{HOSTILE_NAME}:" in scp and archive[0] == "git"
  for ssh in (install, start, follow):
    assert ssh[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", HOSTILE_NAME]
    assert HOSTILE_NAME not in ssh[-1], "the name has no business behind ssh"
  flag, script = start[-1].split("=", 1)
  assert flag == "--command"
  assert shlex.split(script) == ["cd", "cm3leon_jax", "&&", "python3", "launch/on_worker.py", "start", "--", "env",
                                 "NOTE=a $(touch hacked)", ".venv/bin/cm3leon", *HOSTILE_COMMAND[1:], "--distributed"]


def test_a_real_shell_splits_the_remote_line_the_same_way():
  """shlex is not the shell: bash itself runs the line, with `python3` a function that shows its words."""
  lines = printed("launch/tpu_queued_resource.py", "run", "n", "--zone=z", "--dry_run")
  script = next(words[-1] for words in lines if "launch/on_worker.py start" in words[-1]).removeprefix("--command=")
  shown = subprocess.run(["bash", "-c", f"cd() {{ :; }}; python3() {{ printf '%s\\0' \"$@\"; }}; {script}"],
                         capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
  assert shown == ["launch/on_worker.py", "start", "--", ".venv/bin/cm3leon", *HOSTILE_COMMAND[1:], "--distributed"]


def test_hostile_words_stay_words_under_slurm():
  shown = dry_runs.dry_run(["launch/slurm.sbatch", "--dry_run", *HOSTILE_COMMAND])
  # Run by bash as it was printed: srun becomes a function that runs its words, cm3leon one that shows them.
  functions = "srun() { \"${@:4}\"; }; cm3leon() { printf '%s\\0' \"$@\"; }; export -f cm3leon; "
  argv = subprocess.run(["bash", "-c", functions + shown], cwd=dry_runs.ROOT, capture_output=True, text=True,
                        check=True).stdout.split("\0")[:-1]
  assert argv == [*HOSTILE_COMMAND[1:], "--distributed"]


def test_hostile_words_stay_words_in_a_jobset():
  shown = dry_runs.dry_run(["launch/gke_jobset.py", "n", "--image=x: {y} # z", "--accelerator=a", "--topology=2x2x4",
                            "--dry_run", "--bucket=b", "--env=NOTE=$(touch hacked): x", "--", *HOSTILE_COMMAND])
  job = yaml.safe_load(shown)["spec"]["replicatedJobs"][0]["template"]["spec"]
  container = job["template"]["spec"]["containers"][0]
  kubernetes = lambda text: text.replace("$$", "$")  # its escape, without which it would expand $(NAME)
  assert container["image"] == "x: {y} # z"
  assert [kubernetes(word) for word in container["command"]] == [*HOSTILE_COMMAND, "--distributed"]
  assert all("$" not in word.replace("$$", "") for word in container["command"])
  assert [kubernetes(variable["value"]) for variable in container["env"]] == ["$(touch hacked): x"]


TPU = ["launch/tpu_queued_resource.py"]
GKE = ["launch/gke_jobset.py", "--image=i", "--bucket=b", "--accelerator=a"]


@pytest.mark.parametrize("words, sentence", [
    (["launch/local.py", "--processes=2"], "no command"),
    (["launch/local.py", "--processes=0", "--", "true"], "--processes must be at least 1"),
    (["launch/local.py", "--processes=1", "--", "no-such-program"], "no-such-program: cannot be started"),
    ([*TPU, "up", "n", "--zone=z", "--accelerator_type=v5p-8", "--dry_run"], "no command"),
    ([*TPU, "create", "n", "--zone=z", "--dry_run"], "--accelerator_type is missing"),
    ([*TPU, "create", "n", "--zone=z", "--accelerator_type=v9-8", "--dry_run"], "--runtime_version"),
    ([*TPU, "run", "n", "--zone=z", "--env=A-B=1", "--dry_run", "--", "cm3leon"], "give NAME=VALUE"),
    ([*GKE, "n", "--topology=16by16", "--", "x"], "16by16"),
    ([*GKE, "n", "--topology=3x3", "--", "x"], "9 chips"),
    ([*GKE, "My Run", "--topology=4x4", "--", "x"], "lower-case"),
    ([*GKE, "n", "--topology=4x4"], "no command"),
])
def test_a_mistake_is_one_sentence_and_exit_1(words, sentence):
  done = subprocess.run([sys.executable, *words], cwd=dry_runs.ROOT, capture_output=True, text=True, timeout=60)
  assert done.returncode == 1
  assert done.stderr.startswith("launch: ") and sentence in done.stderr and len(done.stderr.splitlines()) == 1
