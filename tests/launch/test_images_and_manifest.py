"""launch/Dockerfile and launch/gke_jobset.yaml: what can be read without a cluster."""

import ast
import re

import dry_runs
import gke_jobset
import pytest
import yaml

ROOT = dry_runs.ROOT


def test_the_dockerfile_asks_for_extras_that_setup_has_and_copies_files_that_exist():
  text = (ROOT / "launch" / "Dockerfile").read_text()
  kinds = re.search(r"case \"\$ACCELERATOR\" in (\S+)\)", text)[1].split("|")
  assert kinds == ["tpu", "cuda"]
  call = next(node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
              if isinstance(node, ast.keyword) and node.arg == "extras_require")
  assert set(kinds) <= {key.value for key in call.value.keys}
  for name in re.search(r"^COPY (.*) \./$", text, re.MULTILINE)[1].split():
    assert (ROOT / name).is_file()


# Chips of the slice / chips of a host.
@pytest.mark.parametrize("topology, chips, hosts", [("16x16", 4, 64), ("4x4x4", 4, 16), ("2x4", 8, 1)])
def test_hosts_of_a_slice(topology, chips, hosts):
  assert gke_jobset.hosts(topology, chips) == hosts


def test_the_manifest_restarts_on_75_and_ends_on_a_wrong_input():
  jobset = yaml.safe_load((ROOT / "launch" / "gke_jobset.yaml").read_text())
  job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "In"
  assert 75 not in rule["onExitCodes"]["values"] and 1 in rule["onExitCodes"]["values"]
  pod = job["template"]["spec"]
  assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
  assert pod["restartPolicy"] == "Never", "Kubernetes allows a podFailurePolicy with nothing else"
  assert job["backoffLimit"] == 0 and job["parallelism"] == job["completions"] == gke_jobset.hosts("16x16", 4)
  mounted = {volume["name"] for volume in pod["volumes"]}
  assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == mounted
  (jobset_rule,) = jobset["spec"]["failurePolicy"]["rules"]
  assert jobset_rule["action"] == "FailJobSet" and jobset_rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0


def test_the_shipped_manifest_is_what_the_script_makes_of_its_own_values():
  """The yaml is applied by hand too: filling in what stands there changes nothing."""
  shipped = yaml.safe_load(gke_jobset.MANIFEST.read_text())
  container = shipped["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
  args = gke_jobset.parse([shipped["metadata"]["name"], f"--image={container['image']}",
                           "--accelerator=tpu-v5-lite-podslice", "--topology=16x16", "--bucket=BUCKET"])
  args.command = container["command"]
  assert gke_jobset.manifest(args) == shipped
