"""A disk that is full gives one sentence, and more room the rest: on a small disk of its own, where the system lends one."""

import dataclasses
from pathlib import Path
import subprocess
import sys

import pytest
import random_model
from random_model import CM3LEON
import test_metaseq

from cm3leon_jax.weights import exporter, importer
from cm3leon_jax.weights.stored import npz_leaves

ROOT = Path(__file__).resolve().parents[2]
MODEL = dataclasses.replace(CM3LEON, num_layers=6, model_dim=64)  # 0.8 MB of float32
SCRIPT = """
import subprocess, sys
from pathlib import Path
from cm3leon_jax import cli

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], check=True)
results = [cli.main(sys.argv[2:])]
print(sorted(path.name for path in disk.iterdir()), file=sys.stderr)
subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
results.append(cli.main(sys.argv[2:]))
(out,) = disk.iterdir()
subprocess.run(["cp", "-r", out, disk.with_name(disk.name + "_kept")], check=True)
sys.exit(results != [1, 0])
"""


@pytest.fixture
def run_on_small_disk(tmp_path):
  """Runs `cm3leon` with --out on a disk of 600 kB, again with 8 MB; gives the folder and what the first run said."""
  if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
    pytest.skip("this system lends no disk: unshare -rm fails")
  disk = tmp_path / "disk"
  disk.mkdir()

  def run(*arguments):
    done = subprocess.run(["unshare", "-rm", sys.executable, "-c", SCRIPT, disk, *arguments, f"--out={disk / 'out'}"], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return tmp_path / "disk_kept", done.stderr

  return run


def test_an_export(tmp_path, run_on_small_disk):
  random_model.write(tmp_path / "ours", MODEL)
  arguments = dict(format="opt", shard_size="200KB")
  kept, said = run_on_small_disk("export", f"--checkpoint={tmp_path / 'ours'}", *(f"--{k}={v}" for k, v in arguments.items()))
  assert "no space left while writing" in said and "['out.partial']" in said
  exporter.export(tmp_path / "ours", tmp_path / "whole", **arguments)
  for path in (tmp_path / "whole").iterdir():
    assert (kept / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_import(tmp_path, run_on_small_disk):
  random_model.write(tmp_path / "ours", MODEL)
  exporter.export(tmp_path / "ours", tmp_path / "theirs", "opt")
  kept, said = run_on_small_disk("import", "--format=opt", f"--source={tmp_path / 'theirs'}")
  assert "no space left while writing" in said and "['out.partial']" in said
  importer.import_(tmp_path / "theirs", tmp_path / "whole", "opt")
  for path in (tmp_path / "whole").iterdir():
    assert (kept / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_import_from_metaseq(tmp_path, run_on_small_disk):
  arrays = random_model.write(tmp_path / "ours", MODEL)
  test_metaseq.save(tmp_path / "theirs.pt", test_metaseq.theirs(MODEL, arrays))
  kept, said = run_on_small_disk("import", "--format=metaseq", f"--source={tmp_path / 'theirs.pt'}", f"--like={tmp_path / 'ours'}")
  assert "no space left while writing" in said and "[]" in said, "what was unpacked goes"
  assert npz_leaves(kept / "weights.npz").keys() == arrays.keys()
  test_metaseq.assert_same(kept, arrays)
