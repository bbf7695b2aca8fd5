"""How launch/tpu_queued_resource.py goes on: a gcloud that plays a script stands in for the cloud."""

import json
import os
import subprocess
import sys

import commands
import dry_runs
import pytest
import tpu_queued_resource

# Answers by the step that asks, one for each time; the last one stays. An answer is what is printed and the exit code.
GCLOUD = """\
#!{python}
import json, pathlib, sys
root = pathlib.Path(__file__).parent
words = " ".join(sys.argv[1:])
steps = ["create", "describe", "delete", "scp", "install_on_worker", "start --replace", "start", "follow", "verdict",
         "stop"]
step = next(s for s in steps if f" {{s}} " in f" {{words.replace('.sh', ' ')}} ".replace("/", " "))
with open(root / "log", "a") as log:
  log.write(step + "\\n")
script = json.loads((root / "script").read_text())
answers = script.get(step, [["", 0]])
text, code = answers.pop(0) if len(answers) > 1 else answers[0]
(root / "script").write_text(json.dumps(script))
print(text)
sys.exit(code)
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch):
  """Plays a script: cloud(verb, {step: [[text, code], …]}, *flags) → the exit code and the steps asked for."""
  gcloud = tmp_path / "gcloud"
  gcloud.write_text(GCLOUD.format(python=sys.executable))
  gcloud.chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
  monkeypatch.setattr(tpu_queued_resource, "POLL_SECONDS", 0)
  # The copy that would travel is made for real, but not in the checkout.
  monkeypatch.setattr(tpu_queued_resource, "ARCHIVE", str(tmp_path / "build" / "code.tar.gz"))
  (tmp_path / "build").mkdir()

  def play(verb, script, *flags):
    (tmp_path / "script").write_text(json.dumps({"describe": [["ACTIVE", 0]], **script}))
    command = dry_runs.TRAIN if verb in ("up", "run") else []
    code = commands.main(tpu_queued_resource.parse, tpu_queued_resource.run_verb,
                         [verb, "n", "--zone=z", "--accelerator_type=v5p-128", *flags, *command])
    return code, (tmp_path / "log").read_text().split("\n")[:-1]

  return play


START = ["scp", "install_on_worker", "start", "follow"]


def test_a_run_that_ends(cloud, tmp_path):
  code, steps = cloud("up", {"describe": [["WAITING_FOR_RESOURCES", 0], ["PROVISIONING", 0], ["ACTIVE", 0]]})
  assert (code, steps) == (0, ["create", "describe", "describe", "describe", *START])
  names = subprocess.run(["tar", "-tzf", str(tmp_path / "build" / "code.tar.gz")], capture_output=True, text=True,
                         check=True).stdout.split()
  assert {"requirements.txt", "setup.py", "launch/on_worker.py", "cm3leon_jax/cli.py"} <= set(names)


def test_a_preempted_run_starts_again_on_the_same_machines(cloud):
  code, steps = cloud("run", {"follow": [["", 75], ["", 75], ["", 0]]})
  again = ["verdict", "describe", "start --replace", "follow"]
  assert (code, steps) == (0, [*START, *again, *again])


def test_machines_that_are_taken_away_are_asked_for_again(cloud):
  states = ["ACTIVE", "SUSPENDED", "SUSPENDED", "SUSPENDED", "ACTIVE"]  # create; watch; retry; replace; create
  code, steps = cloud("up", {"describe": [[state, 0] for state in states], "follow": [["", 255], ["", 0]]})
  assert code == 0
  assert steps == ["create", "describe", *START, "describe", "describe", "describe", "delete", "create", "describe",
                   "scp", "install_on_worker", "start --replace", "follow"]


def test_run_alone_never_deletes_machines(cloud, capsys):
  code, steps = cloud("run", {"describe": [["SUSPENDED", 0]], "follow": [["", 255]]})
  assert code == 75 and "delete" not in steps
  assert "the machines are gone" in capsys.readouterr().err


def test_a_cloud_that_does_not_answer_is_no_reason_to_delete_machines(cloud):
  """Offline, gcloud fails and tells no state: the run may be well."""
  script = {"describe": [["ACTIVE", 0], ["", 1], ["", 1], ["ACTIVE", 0]], "follow": [["", 1], ["", 255], ["", 0]]}
  code, steps = cloud("up", script)
  assert (code, steps) == (0, ["create", "describe", *START, "describe", "follow", "describe", "follow"])


def test_a_lost_connection_is_taken_up_again_but_not_for_ever(cloud):
  code, steps = cloud("run", {"follow": [["", 255]]})
  assert code == 255 and steps.count("follow") == tpu_queued_resource.LOST_IN_A_ROW and steps.count("start") == 1


def test_a_run_that_fails_is_not_started_again(cloud):
  code, steps = cloud("run", {"follow": [["", 1]]})
  assert (code, steps) == (1, [*START, "describe"])


def test_a_run_that_fails_on_another_host_is_not_started_again(cloud):
  """Host 0 then says 75: another process is gone."""
  code, steps = cloud("run", {"follow": [["", 75]], "verdict": [["", 99]]})
  assert (code, steps) == (1, [*START, "verdict"])


def test_a_run_that_was_stopped_stays_so(cloud):
  code, steps = cloud("run", {"follow": [["", 75]], "verdict": [["", 98]]})
  assert (code, steps) == (75, [*START, "verdict"])


def test_a_run_that_a_signal_ended_starts_again(cloud):
  """134: jax.distributed gave up a machine that fell silent."""
  code, steps = cloud("run", {"follow": [["", 134], ["", 0]]})
  assert (code, steps) == (0, [*START, "verdict", "describe", "start --replace", "follow"])


def test_retries_are_bounded(cloud):
  code, steps = cloud("run", {"follow": [["", 75]]}, "--retries=3")
  assert code == 75 and steps.count("follow") == 1 + 3


@pytest.mark.parametrize("step", ["create", "scp", "install_on_worker", "start"])
def test_what_fails_before_the_run_ends_the_launch(step, cloud, capsys):
  code, steps = cloud("up", {step: [["", 4]]})
  assert code == 1 and steps[-1] == step and "failed with exit code 4" in capsys.readouterr().err


def test_a_request_that_fails_is_told(cloud, capsys):
  code, steps = cloud("create", {"describe": [["FAILED", 0]]})
  assert (code, steps) == (1, ["create", "describe"]) and "n is FAILED" in capsys.readouterr().err


@pytest.mark.parametrize("verb, step", [("logs", "follow"), ("stop", "stop"), ("delete", "delete")])
def test_the_other_verbs_are_one_command(verb, step, cloud):
  assert cloud(verb, {step: [["", 5]]}) == (5, [step])


def test_without_gcloud_it_says_so(monkeypatch, capsys):
  monkeypatch.setenv("PATH", "")
  argv = ["delete", "n", "--zone=z"]
  assert commands.main(tpu_queued_resource.parse, tpu_queued_resource.run_verb, argv) == 1
  assert "gcloud: not on the path" in capsys.readouterr().err
