"""The files that weights are read from and written to, piece by piece."""

import dataclasses
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import jax
import ml_dtypes
import numpy as np
import optax
import pytest
import random_model
from random_model import CM3LEON

from cm3leon_jax.errors import InputError
from cm3leon_jax.sharding.mesh import MeshConfig, make_mesh
from cm3leon_jax.sharding.rules import DEFAULT_RULES
from cm3leon_jax.training import checkpoints, checksums, store
from cm3leon_jax.training.state import TrainState, abstract_state, state_shardings
from cm3leon_jax.training.totals import Totals
from cm3leon_jax.weights import blocks, exporter, importer, npz_stream, safetensors_file
from cm3leon_jax.weights.partial import Partial
from cm3leon_jax.weights.stored import Stored, checksum, npz_leaves

ROOT = Path(__file__).resolve().parents[2]
ARRAYS = {"a.b": np.arange(6, dtype=np.float32).reshape(2, 3), "half": np.ones((4, 0, 2), np.float16), "scalar": np.float64(2.5),
          "brain": np.arange(5).astype(ml_dtypes.bfloat16), "ids": np.arange(-3, 3)}


def write(path, arrays):
  arrays = {name: np.asarray(x) for name, x in arrays.items()}
  return safetensors_file.write(path, {n: (x.dtype, x.shape) for n, x in arrays.items()},
                                [lambda x=x: x for x in arrays.values()])


def test_the_package_reads_what_is_written_and_the_reverse(tmp_path):
  safetensors = pytest.importorskip("safetensors.torch", reason="in requirements-reference.txt")
  digest = write(tmp_path / "ours", ARRAYS)
  assert digest == blocks.sha256(tmp_path / "ours")
  tensors = safetensors.load_file(tmp_path / "ours")
  for name, x in ARRAYS.items():
    np.testing.assert_array_equal(tensors[name].double().numpy(), np.asarray(x, np.float64), err_msg=name)
  safetensors.save_file(tensors, tmp_path / "theirs", {"format": "pt"})
  for name, entry in safetensors_file.read_header(tmp_path / "theirs").items():
    assert entry.dtype == np.asarray(ARRAYS[name]).dtype
    np.testing.assert_array_equal(entry.read(), ARRAYS[name])


def raw(header, length=None, body=b"\0" * 8):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def entry(dtype="F32", shape=(2,), places=(0, 8)):
  return {"x": {"dtype": dtype, "shape": list(shape), "data_offsets": list(places)}}


@pytest.mark.parametrize("content", [
    b"", b"\1", raw(b"{"), raw(b"[]"), raw(entry(), length=2**40), raw(entry(places=(0, 16))), raw(entry(shape=(2**40,))),
    raw(entry(shape=(-1, -2))), raw(entry(places=(-8, 0))), raw({"x": 3}), raw({"x": {}}), raw(entry("F3")),
    raw(entry(shape=("a",))), raw(entry(shape=(True, 2))), raw(entry(shape=(0, 2**70), places=(0, 0))),
    raw(entry(shape=(1,) * 65, places=(0, 4))), raw(b"[" * 100_000)])
def test_a_damaged_safetensors_file(tmp_path, content):
  (tmp_path / "model.safetensors").write_bytes(content)
  with pytest.raises(InputError, match="model.safetensors: "):
    safetensors_file.read_folder(tmp_path)


def test_an_npz_is_written_piece_by_piece(tmp_path):
  writer = npz_stream.Writer(tmp_path / "w.npz", {})
  matrix = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
  done = {"m": writer.add("m", np.float32, matrix.shape, iter(matrix))}
  writer.abandon()
  with open(tmp_path / "w.npz", "ab") as f:
    f.write(b"what a killed run had begun")
  assert npz_stream.whole(tmp_path / "w.npz", done) == done
  writer = npz_stream.Writer(tmp_path / "w.npz", done)
  writer.add("n", np.dtype(ml_dtypes.bfloat16), (5,), [matrix[0, 0].astype(ml_dtypes.bfloat16)])
  writer.close()
  with np.load(tmp_path / "w.npz") as stored:
    assert stored.files == ["m", "n"]
    np.testing.assert_array_equal(stored["m"], matrix)
    np.testing.assert_array_equal(stored["n"].view(ml_dtypes.bfloat16), matrix[0, 0].astype(ml_dtypes.bfloat16))
  leaves = npz_leaves(tmp_path / "w.npz")
  np.testing.assert_array_equal(leaves["m"].read(1), matrix[1])
  content = bytearray((tmp_path / "w.npz").read_bytes())
  content[done["m"]["end"] - 1] ^= 1
  (tmp_path / "w.npz").write_bytes(content)
  assert npz_stream.whole(tmp_path / "w.npz", done) == {}


@pytest.mark.parametrize("shape", [(), (7,), (4, 3, 5)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_the_checksum_of_parts_adds_up_to_trainings(shape, dtype):
  x = np.asarray(np.random.default_rng(0).normal(size=shape)).astype(dtype)
  whole = checksums.checksums({"x": jax.numpy.asarray(x)})["x"]
  assert checksum(x, [0] * x.ndim) == whole
  if shape == (4, 3, 5):
    parts = [checksum(x[i:i + 2, :, j:j + 3], [i, 0, j]) for i in (0, 2) for j in (0, 3)]
    assert sum(parts) % 2**32 == whole


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run folder whose arrays lie in parts on eight devices: (folder, its state)."""
  folder = tmp_path_factory.mktemp("run")
  checkpoints.write_model_file(folder, checkpoints.model_description(CM3LEON, random_model.VOCABULARY, random_model.LAYOUT, {
      "data": "/where/it/was"}))
  update = optax.sgd(0.1)
  mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
  shardings = state_shardings(CM3LEON, abstract_state(CM3LEON, update, True), mesh, DEFAULT_RULES)
  params, ema = random_model.parameters(CM3LEON), random_model.parameters(CM3LEON, seed=1)
  count = np.zeros((), np.int32)
  state = TrainState(step=count, params=params, opt_state=update.init(params), ema=ema, skipped=count, skipped_in_row=count)
  state = jax.device_put(state, shardings)
  writer = store.Writer(folder, keep=2)
  writer.save(5, state, Totals())
  writer.close()
  return folder, state


def test_a_run_is_exported_from_its_parts(run, tmp_path):
  folder, state = run
  chunk = Stored(folder)._run._arrays["layers.qkv"].chunk_layout.read_chunk.shape
  assert chunk == (3, 8, 2, 3, 8), "of [3, 32, 4, 3, 8]: four parts of the width, two of the heads"
  fields = exporter.export(folder, tmp_path / "theirs", "opt", shard_size="20KB")
  assert fields["step"] == 5 and "/where/it/was" not in json.dumps(fields)
  importer.import_(tmp_path / "theirs", tmp_path / "back", "opt")
  ours = npz_leaves(tmp_path / "back" / "weights.npz")
  for name, x in checkpoints.flatten(state.ema).items():
    np.testing.assert_array_equal(ours[name].read(), x, err_msg=name)


def test_a_changed_byte_of_a_run_is_noticed(run, tmp_path):
  """Its sums are compared; here the sums are changed, since Orbax's own files are compressed."""
  folder, _ = run
  about = folder / "checkpoints" / "5" / "about" / "metadata"
  kept = about.read_text()
  value = json.loads(kept)
  value["checksums"]["ema.layers.qkv"] += 1
  about.write_text(json.dumps(value))
  try:
    with pytest.raises(InputError, match=r"checkpoints/5: .*layers.qkv was changed.*the one before"):
      exporter.export(folder, tmp_path / "theirs", "opt")
  finally:
    about.write_text(kept)
  assert not list(tmp_path.iterdir())


def kill_when(command, sign):
  """Runs the command, kills it as soon as `sign()` is true."""
  process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
  end = time.monotonic() + 60
  while not sign():
    assert process.poll() is None and time.monotonic() < end, process.stderr.read().decode()[-2000:]
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.communicate()


def done(out):
  """What the killed run had finished."""
  try:
    return list(json.loads((out.with_name(out.name + ".partial") / "progress.json").read_text())["done"])
  except (OSError, ValueError):
    return []


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["export", "import"])
def test_a_killed_run_goes_on(tmp_path, verb):
  config = dataclasses.replace(CM3LEON, num_layers=24, model_dim=256)  # 76 MB: long enough to be killed in
  random_model.write(tmp_path / "ours", config)
  export = ["export", "--format=opt", f"--checkpoint={tmp_path / 'ours'}", f"--out={tmp_path / 'out'}", "--shard_size=2MB"]
  if verb == "import":
    exporter.export(tmp_path / "ours", tmp_path / "theirs", "opt")
  import_ = ["import", "--format=opt", f"--source={tmp_path / 'theirs'}", f"--out={tmp_path / 'out'}"]
  command = [sys.executable, "-m", "cm3leon_jax.cli", *(export if verb == "export" else import_)]
  out = tmp_path / "out"
  kill_when(command, lambda: done(out))
  assert_goes_on(out, tmp_path, lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True), "2MB")


@pytest.mark.parametrize("verb", ["export", "import"])
def test_an_interrupted_run_goes_on(tmp_path, verb, monkeypatch):
  random_model.write(tmp_path / "ours", CM3LEON)
  exporter.export(tmp_path / "ours", tmp_path / "theirs", "opt")
  out, finish = tmp_path / "out", Partial.finish
  call = {"export": lambda: exporter.export(tmp_path / "ours", out, "opt", shard_size="20KB"),
          "import": lambda: importer.import_(tmp_path / "theirs", out, "opt")}[verb]

  def third(self, name, record):
    finish(self, name, record)
    if len(self.done) == 3:
      raise KeyboardInterrupt

  monkeypatch.setattr(Partial, "finish", third)
  with pytest.raises(KeyboardInterrupt):
    call()
  monkeypatch.undo()
  assert_goes_on(out, tmp_path, call, "20KB")


def assert_goes_on(out, root, call, shard_size):
  """`call` keeps what was finished, and what it makes is what an undisturbed run makes."""
  finished, partial = done(out), out.with_name(out.name + ".partial")
  assert finished and not out.exists()
  npz = partial / "weights.npz"
  watched = [npz] if npz.exists() else [partial / name for name in finished]
  before = [(p.stat().st_ino, None if p == npz else p.stat().st_mtime_ns) for p in watched]
  call()
  assert not partial.exists() and not {"scratch", "progress.json"} & set(os.listdir(out))
  after = [((out / p.name).stat().st_ino, None if p == npz else (out / p.name).stat().st_mtime_ns) for p in watched]
  assert after == before, "finished files were kept"
  if npz in watched:
    importer.import_(root / "theirs", root / "whole", "opt")
  else:
    exporter.export(root / "ours", root / "whole", "opt", shard_size=shard_size)
  for path in (root / "whole").iterdir():
    assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def test_another_plan_begins_anew(tmp_path):
  random_model.write(tmp_path / "ours", CM3LEON)
  partial = tmp_path / "theirs.partial"
  partial.mkdir()
  (partial / "progress.json").write_text(json.dumps({"plan": "another", "done": {"model.safetensors": "0"}}))
  (partial / "stray").touch()
  exporter.export(tmp_path / "ours", tmp_path / "theirs", "opt")
  assert sorted(os.listdir(tmp_path / "theirs")) == ["config.json", "manifest.json", "model.safetensors"]


def test_other_ids_begin_anew(tmp_path, monkeypatch):
  """A table that was written by one order of the ids is not kept when the configuration gives another."""
  random_model.write(tmp_path / "ours", random_model.CHAMELEON)
  exporter.export(tmp_path / "ours", tmp_path / "theirs", "chameleon")
  path = tmp_path / "theirs" / "config.json"
  config = json.loads(path.read_text())

  def swap(text):
    names = dict(config["vocabulary_map"])
    names[text], names["IMGIMGAZ"] = names["IMGIMGAZ"], names[text]
    path.write_text(json.dumps(config | {"vocabulary_map": names}))

  def stop(self, *_):
    raise KeyboardInterrupt

  swap("<text:3>")
  monkeypatch.setattr(Partial, "commit", stop)
  with pytest.raises(KeyboardInterrupt):
    importer.import_(tmp_path / "theirs", tmp_path / "out", "chameleon")
  monkeypatch.undo()
  assert "tokens" in done(tmp_path / "out")
  swap("<text:9>")
  for name in ("out", "whole"):
    importer.import_(tmp_path / "theirs", tmp_path / name, "chameleon")
  for path in (tmp_path / "whole").iterdir():
    assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
