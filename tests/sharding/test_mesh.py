"""Meshes over real TPU topologies (described by libtpu, no TPU needed): slices, and whose rows are whose."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("libtpu")

# In a process of its own: libtpu logs to stderr, and its settings are the environment's.
PROGRAM = """
import json, sys
import jax
from jax.experimental import topologies
from cm3leon_jax.errors import InputError
from cm3leon_jax.sharding import processes
from cm3leon_jax.sharding.mesh import MeshConfig, make_mesh

def look(name, slices, **config):
  devices = topologies.get_topology_desc(platform="tpu", topology_name=name, num_slices=slices).devices
  try:
    mesh = make_mesh(MeshConfig(**config), devices)
  except InputError as error:
    return str(error)
  shares = []
  for process in sorted({d.process_index for d in devices}):
    jax.process_index = lambda: process
    shares.append(processes.batch_share(mesh))
  by_data = [sorted({d.slice_index for d in part.ravel()}) if slices > 1 else [0] for part in mesh.devices]
  return dict(mesh.shape), by_data, sorted(set(shares)), len(shares)

print(json.dumps([look(name, slices, **config) for name, slices, config in json.loads(sys.argv[1])]))
"""


def look(*cases):
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1",
                              "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-16"}
  done = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(cases)], capture_output=True, text=True,
                        env=environment)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def test_slices_are_crossed_by_the_data_axis_alone():
  (shape, slices, shares, processes), refused = look(
      ("v5e:4x4", 2, {"data": 2}), ("v5e:4x4", 2, {"data": 1}))
  assert shape == {"data": 2, "fsdp": 16, "tensor": 1, "sequence": 1}
  assert slices == [[0], [1]]  # each replica lies in one slice
  assert processes == 8 and shares == [[i, 8] for i in range(8)]  # four chips a host
  assert "on 2 slices it must use all 32 devices, and `data` must be a multiple of 2" in refused


def test_each_host_of_a_slice_has_its_share():
  """Four chips a host: alone in the batch, or with others where `tensor` is wider than a host."""
  alone, wide = look(("v5e:4x4", 1, {"fsdp": 16}), ("v5e:4x4", 1, {"fsdp": 2, "tensor": 8}))
  assert alone[2] == [[i, 4] for i in range(4)] and alone[3] == 4
  assert wide[2] == [[0, 2], [1, 2]] and wide[3] == 4
