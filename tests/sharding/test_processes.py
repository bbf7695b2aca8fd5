"""Joining processes: what the flags must say, and which rows of a batch are whose. Real ones run in tests/training."""

import dataclasses
import os
import subprocess
import sys

import jax
from jax.sharding import AxisType, Mesh
import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.sharding import processes
from cm3leon_jax.sharding.mesh import AXES


@pytest.mark.parametrize("arguments, message", [
  ({"coordinator": "a:1"}, "--coordinator needs --num_processes and --process_id too"),
  ({"num_processes": 2, "process_id": 0}, "--num_processes needs --coordinator too"),
  ({"process_id": 0, "coordinator": "a:1"}, "--coordinator needs --num_processes too"),
  ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "--coordinator=a: write it as HOST:PORT"),
  ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "--process_id=2: with --num_processes=2 it is one of 0..1"),
  ({"coordinator": "a:1", "num_processes": 0, "process_id": 0}, "--process_id=0"),
  ({"coordinator": "a:1", "distributed": True}, "leave out --coordinator, or --distributed"),
])
def test_incomplete_flags_are_named(arguments, message):
  with pytest.raises(InputError, match=message):
    with processes.joined(**arguments):
      raise AssertionError("joined")


def test_the_command_line_says_what_is_missing():
  command = [sys.executable, "-m", "cm3leon_jax.cli", "train", "--gin_file=configs/runs/demo_pretrain.gin", "--workdir=x",
             "--coordinator=localhost:1", "--num_processes=2"]
  done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
  assert done.returncode == 1
  assert done.stderr == "cm3leon: --coordinator needs --process_id too (or --distributed alone, on a cluster)\n"


def test_distributed_without_a_cluster_is_an_error():
  code = ("from cm3leon_jax.sharding import processes\n"
          "with processes.joined(distributed=True): pass\n")
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                        env=os.environ | {"JAX_PLATFORMS": "cpu"})
  assert "InputError: could not join the processes of the cluster that the environment describes" in done.stderr


def test_one_process_needs_no_joining():
  with processes.joined():
    assert jax.process_count() == 1
  assert processes.agree(True) and not processes.agree(False)


@dataclasses.dataclass(frozen=True, order=True)
class FakeDevice:
  """Enough of a device for a mesh and its index maps."""

  id: int
  process_index: int
  platform: str = "cpu"
  device_kind: str = "cpu"


def share_of(monkeypatch, shape, process: int, per_process: int = 4):
  """The share on a mesh of shape [data, fsdp, tensor, sequence], devices in row-major order."""
  devices = np.array([FakeDevice(i, i // per_process) for i in range(np.prod(shape))]).reshape(shape)
  mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 4)
  monkeypatch.setattr(jax, "process_index", lambda: process)
  return processes.batch_share(mesh)


@pytest.mark.parametrize("shape, want", [
  ((1, 8, 1, 1), [(0, 2), (1, 2)]),  # four rows of devices each
  ((2, 4, 1, 1), [(0, 2), (1, 2)]),
  ((2, 1, 4, 1), [(0, 2), (1, 2)]),
  ((1, 1, 8, 1), [(0, 1), (0, 1)]),  # tensor spans both processes: the same rows
  ((1, 2, 8, 1), [(0, 2), (0, 2), (1, 2), (1, 2)]),
  ((1, 4, 1, 4), [(0, 4), (1, 4), (2, 4), (3, 4)]),
])
def test_processes_of_the_same_rows_have_the_same_share(monkeypatch, shape, want):
  assert [share_of(monkeypatch, shape, i) for i in range(len(want))] == want


def test_rows_that_overlap_in_part_are_an_error(monkeypatch):
  with pytest.raises(InputError, match="cannot share the batch evenly"):
    share_of(monkeypatch, (1, 4, 6, 1), 0)  # four devices a process, six a row
