"""From a run file to a plan on disk, as `cm3leon plan` goes."""

import json

import pytest

from cm3leon_jax import config
from cm3leon_jax import plan
from cm3leon_jax.errors import InputError

SMALL = ("Transformer.num_layers=2", "Transformer.scan_unroll=1", "Transformer.attention='xla'", "Optimizer.name='adamw'")


def test_a_run_file_becomes_a_plan(tmp_path, capsys):
  pytest.importorskip("libtpu")
  config.load(["configs/runs/demo_pretrain.gin"], (*SMALL, "train.batch_size=4", "train.steps=7"))
  result = plan.main("v5e:1x1", tmp_path / "plan.json")
  written = json.loads((tmp_path / "plan.json").read_text())
  assert written == json.loads(json.dumps(result.to_dict()))
  # DESIGN's names: scripts read them.
  assert written.keys() >= {
    "parameters", "fits", "peak_bytes_per_device", "flops_per_device", "hbm_bytes_per_device", "collective_bytes",
    "step_seconds", "mfu", "days",
  }  # fmt: skip
  assert written["tokens_per_step"] == 4 * 256 and written["steps"] == 7
  assert "v5e:1x1" in capsys.readouterr().out


def test_a_file_that_is_no_run_is_named():
  config.load(["configs/models/demo.gin"])
  with pytest.raises(InputError, match="train.model"):
    plan.main("v5e:1x1")
