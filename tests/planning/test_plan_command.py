"""From a run file to a plan on disk, as `cm3leon plan` goes: in a process of its own."""

import json
import subprocess
import sys

import pytest

COMMAND = """
import sys
from cm3leon_jax import config, plan
from cm3leon_jax.errors import InputError
try:
  config.load([sys.argv[1]], sys.argv[3:])
  plan.main("v5e:1x1", sys.argv[2])
except InputError as error:
  sys.exit(str(error))
"""
SMALL = (
  "Transformer.num_layers=2", "Transformer.scan_unroll=1", "Transformer.attention='xla'", "Optimizer.name='adamw'",
  "train.batch_size=4",
)  # fmt: skip


def run(cwd, *args):
  pytest.importorskip("libtpu")
  command = [sys.executable, "-c", COMMAND, *map(str, args)]
  return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_a_run_file_becomes_a_plan(tmp_path):
  done = run(tmp_path, "configs/runs/demo_pretrain.gin", "plan.json", *SMALL, "train.steps=7")
  assert done.returncode == 0, done.stderr
  assert "v5e:1x1" in done.stdout and "fits            yes" in done.stdout
  written = json.loads((tmp_path / "plan.json").read_text())
  # DESIGN's names: scripts read them.
  sizes = "parameters fits peak_bytes_per_device flops_per_device hbm_bytes_per_device collective_bytes"
  assert {*sizes.split(), "step_seconds", "mfu", "days"} <= written.keys()
  assert (written["tokens_per_step"], written["steps"], written["devices"]) == (4 * 256, 7, 1)


def test_a_file_that_is_no_run_is_named(tmp_path):
  done = run(tmp_path, "configs/models/demo.gin", "plan.json")
  assert done.returncode == 1 and "train.model" in done.stderr and "Traceback" not in done.stderr
