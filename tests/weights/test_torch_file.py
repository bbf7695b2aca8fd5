"""Checkpoints that torch wrote come out equal; those that want code to run are refused by its name."""

import collections
import os
import resource
import time
import warnings
import zipfile

import checkpoint_writer
from checkpoint_writer import Built, Call, Global, Storage, tensor, view, write
import ml_dtypes
import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.weights import torch_file
from cm3leon_jax.evaluation.networks import efficientnet_lite0

both_formats = pytest.mark.parametrize("zipped", [True, False])
FOUR = np.arange(4, dtype=np.float32)


@both_formats
def test_equal_to_torch(tmp_path, zipped):
  torch = pytest.importorskip("torch", reason="torch writes the file; without it the hand-written ones below are read")
  base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
  state = collections.OrderedDict(
      whole=base, view=base[1:3, ::2], transposed=base.T, half=base.half(), brain=base.bfloat16(), ints=torch.arange(3),
      flag=torch.tensor([True, False]), scalar=torch.tensor(2.5), empty=torch.zeros(0, 3),
      parameter=torch.nn.Parameter(torch.ones(2)))
  state._metadata = {"version": 1}  # modules' state_dicts carry this
  torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
  read = torch_file.load_state_dict(tmp_path / "w.pth")
  assert list(read) == list(state)
  for name, value in state.items():
    assert read[name].shape == tuple(value.shape), name
    np.testing.assert_array_equal(read[name].astype(np.float32), value.detach().float().numpy(), err_msg=name)
  assert read["brain"].dtype.name == "bfloat16" and read["ints"].dtype == np.int64


@both_formats
def test_torch_reads_what_these_tests_write(tmp_path, zipped):
  torch = pytest.importorskip("torch", reason="shows that checkpoint_writer.py writes torch's format")
  write(tmp_path / "w.pth", {"w": tensor(FOUR.reshape(2, 2)), "n": tensor(np.arange(3))}, zipped)
  read = torch.load(tmp_path / "w.pth", weights_only=True)
  np.testing.assert_array_equal(read["w"], FOUR.reshape(2, 2))


def test_a_public_file_in_the_old_format():
  state = torch_file.load_state_dict(efficientnet_lite0.weights_path())
  assert len(state) == 296 and state["_conv_head.weight"].shape == (1280, 320, 1, 1)
  assert state["_fc.bias"].dtype == np.float32 and np.isfinite(state["_fc.weight"]).all()


@both_formats
def test_tensors_of_several_types(tmp_path, zipped):
  arrays = {"f": FOUR.reshape(2, 2), "h": FOUR.astype(np.float16), "b": FOUR.astype(ml_dtypes.bfloat16),
            "i": np.arange(5), "t": np.array([True, False]), "scalar": np.array(2.5), "empty": np.zeros((0, 3))}
  read = torch_file.load_state_dict(write(tmp_path / "w.pth", {k: tensor(v) for k, v in arrays.items()}, zipped))
  for name, array in arrays.items():
    assert read[name].dtype == array.dtype and read[name].shape == array.shape, name
    np.testing.assert_array_equal(read[name], array)


@both_formats
def test_views_share_a_storage(tmp_path, zipped):
  storage = Storage(np.arange(6, dtype=np.float32))
  value = {"row": view(storage, 3, (3,), (1,)), "transposed": view(storage, 0, (3, 2), (1, 3))}
  read = torch_file.load_state_dict(write(tmp_path / "w.pth", value, zipped))
  np.testing.assert_array_equal(read["row"], [3, 4, 5])
  np.testing.assert_array_equal(read["transposed"], [[0, 3], [1, 4], [2, 5]])


@both_formats
@pytest.mark.parametrize("value, name", [
    (Call(os.system, "touch owned"), r"(posix|nt)\.system"),
    ({"w": Call(eval, "open('owned', 'w')")}, r"builtins\.eval|__builtin__\.eval"),
    ([Call(Global("torch.serialization", "load"), "owned")], r"torch\.serialization\.load"),
    (np.zeros(2), r"numpy.*_reconstruct"),
    ({"w": Call(Global("torch._utils", "_rebuild_tensor_v3"))}, r"torch\._utils\._rebuild_tensor_v3"),
])
def test_code_is_refused_by_name_and_does_not_run(tmp_path, monkeypatch, zipped, value, name):
  monkeypatch.chdir(tmp_path)
  path = write(tmp_path / "evil.pth", value, zipped)
  with pytest.raises(InputError, match=rf"evil.pth: refused: the file asks for ({name})"):
    torch_file.load(path)
  assert not (tmp_path / "owned").exists()


def test_a_torchscript_archive_gives_its_state_dict(tmp_path):
  torch = pytest.importorskip("torch", reason="torch writes the archive; hand-written ones are below")

  class Part(torch.nn.Module):

    def __init__(self):
      super().__init__()
      self.layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1).half())
      self.scale = torch.nn.Parameter(torch.tensor(2.5))
      self.register_buffer("size", torch.tensor(224))
      self.sizes, self.rates, self.label = [1, 2], [0.5], "part"
      self.tied = self.layers[0].weight

    def forward(self, x):
      return self.layers[0](x) * self.scale + self.sizes[0] * self.rates[0]

  torch.manual_seed(0)
  module = Part()
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # newer torch would rather export; public files are what they are
    torch.jit.save(torch.jit.script(module), tmp_path / "scripted.pt")
    torch.jit.save(torch.jit.trace(module, torch.ones(1, 2)), tmp_path / "traced.pt")
  for name in ("scripted.pt", "traced.pt"):
    read = torch_file.load_state_dict(tmp_path / name)
    assert set(read) == set(module.state_dict())
    for key, value in module.state_dict().items():
      assert read[key].dtype.name == str(value.dtype).removeprefix("torch.")
      np.testing.assert_array_equal(read[key], value.numpy(), err_msg=key)
  loaded = torch_file.load(tmp_path / "scripted.pt")
  assert isinstance(loaded, torch_file.ScriptModule) and loaded["sizes"] == [1, 2] and loaded["label"] == "part"


def test_a_torchscript_archive_by_hand(tmp_path):
  """Its classes get their attributes and nothing else: an archive's class named like a real one is not that one."""
  inner = Call(Global("__torch__.os", "system"))
  value = Built(Call(Global("__torch__.clip.model", "CLIP")),
                {"w": tensor(FOUR), "n": 3, "inner": Built(inner, {"b": tensor(FOUR)})})
  read = torch_file.load_state_dict(write(tmp_path / "w.pt", value))
  assert set(read) == {"w", "inner.b"}
  with pytest.raises(InputError, match="a TorchScript object with a state of type list"):
    torch_file.load(write(tmp_path / "list.pt", Built(inner, [1])))
  for module, name in (("__torch__x.os", "system"), ("torch.jit", "load"), ("torch.jit._pickle", "build_anything")):
    hostile = Built(Call(Global("__torch__", "M")), {"w": Call(Global(module, name), "touch owned")})
    with pytest.raises(InputError, match=f"refused: the file asks for {module}.{name}"):
      torch_file.load(write(tmp_path / "evil.pt", hostile))


@both_formats
@pytest.mark.parametrize("value", [
    view(Storage(FOUR), 0, (5,), (1,)), view(Storage(FOUR), 2, (3,), (1,)), view(Storage(FOUR), 0, (2,), (4,)),
    view(Storage(FOUR), -1, (2,), (1,)), view(Storage(FOUR), 3, (2,), (-1,)), view(Storage(FOUR), 0, (1 << 40,), (0,)),
    view(Storage(FOUR, numel=5), 0, (5,), (1,)), view(Storage(FOUR), 0, (1, 2), (1,)),
    view(Storage(FOUR, state={"numel": 1 << 30}), 0, (1 << 20,), (1,)),  # pickle may set attributes of what it made
    view(Storage(FOUR, state={"array": [0.0]}), 0, (1,), (1,)),
])
def test_a_view_beyond_its_storage_is_refused(tmp_path, zipped, value):
  # Otherwise the "weights" would be whatever lies in memory behind them.
  path = write(tmp_path / "w.pth", {"w": value}, zipped)
  if not zipped and value.call[1][0].state == {"array": [0.0]}:
    # The old format's numbers come after its pickle, and replace what that one set.
    np.testing.assert_array_equal(torch_file.load(path)["w"], [0])
    return
  with pytest.raises(InputError, match="not a whole PyTorch checkpoint"):
    torch_file.load(path)


@both_formats
def test_a_file_cut_short(tmp_path, zipped):
  path = write(tmp_path / "w.pth", {"w": tensor(np.arange(1000))}, zipped)
  raw = path.read_bytes()
  for keep in (0, 10, len(raw) // 2, len(raw) - 20):
    path.write_bytes(raw[:keep])
    with pytest.raises(InputError, match="not a whole PyTorch checkpoint"):
      torch_file.load(path)


def test_other_files(tmp_path):
  with pytest.raises(InputError, match="no such file"):
    torch_file.load(tmp_path / "none.pth")
  (tmp_path / "text.pth").write_text("hello")
  with pytest.raises(InputError, match="not a whole PyTorch checkpoint"):
    torch_file.load(tmp_path / "text.pth")
  with pytest.raises(InputError, match="holds a list"):
    torch_file.load_state_dict(checkpoint_writer.write(tmp_path / "list.pth", [tensor(FOUR)]))


@both_formats
def test_what_lightning_leaves_beside_the_weights_is_not_looked_at(tmp_path, zipped):
  """As in CompVis' checkpoints: a callback's class as a key, and its best score as a NumPy number."""
  number = Call(Global("numpy.core.multiarray", "scalar"),
                Built(Call(Global("numpy", "dtype"), "f8", 0, 1), (3, "<", None, None, None, -1, -1, 0)),
                Call(Global("_codecs", "encode"), "\x00" * 8, "latin1"))
  callback = Global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
  value = {"state_dict": {"w": tensor(FOUR)}, "callbacks": {callback: {"best_model_score": number}}}
  read = torch_file.load(write(tmp_path / "w.ckpt", value, zipped))
  np.testing.assert_array_equal(read["state_dict"]["w"], FOUR)
  [score] = read["callbacks"].values()
  assert isinstance(score["best_model_score"], torch_file.Placeholder) and not vars(score["best_model_score"])


@both_formats
def test_tied_weights_are_one_array(tmp_path, zipped):
  storage = Storage(np.zeros(1 << 16, np.float32))
  value = {str(i): view(storage, 0, (1 << 16,), (1,)) for i in range(20)}
  read = torch_file.load_state_dict(write(tmp_path / "w.pth", value, zipped))
  assert len({id(x) for x in read.values()}) == 1


@both_formats
def test_a_small_file_cannot_fill_the_memory(tmp_path, zipped):
  storage = Storage(np.zeros(1 << 16, np.float32))
  views = {str(i): view(storage, i, ((1 << 16) - 20,), (1,)) for i in range(20)}
  with pytest.raises(InputError, match="more than 8 times the file's size"):
    torch_file.load(write(tmp_path / "views.pth", views, zipped))
  nested = []
  for _ in range(60):  # 2^60 lists, were each looked at on its own
    nested = [nested, nested]
  start = time.monotonic()
  assert len(torch_file.load(write(tmp_path / "nested.pth", nested, zipped))) == 2
  assert time.monotonic() - start < 5
  highest = b"\x80\x02K\x00r\xff\xff\xff\x0f."  # a number that is object 2^28 - 1
  with zipfile.ZipFile(tmp_path / "memo.pth", "w") as archive:
    archive.writestr("archive/data.pkl", highest)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert torch_file.load(tmp_path / "memo.pth") == 0
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "kilobytes"


def test_an_archive_that_unpacks_to_far_more_or_is_locked(tmp_path):
  path = write(tmp_path / "w.pth", {"w": tensor(np.zeros(1 << 18))})
  with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small:
    for name in plain.namelist():
      small.writestr(name, plain.read(name))
  with pytest.raises(InputError, match="unpacks to more than it may hold"):
    torch_file.load(tmp_path / "small.pth")
  raw = bytearray(write(tmp_path / "w.pth", {"w": tensor(FOUR)}).read_bytes())
  for sign, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # of an entry, and of its copy in the directory
    for at in range(len(raw)):
      if raw[at:at + 4] == sign:
        raw[at + flags] |= 1
  (tmp_path / "locked.pth").write_bytes(raw)
  with pytest.raises(InputError, match="locked.pth: not a whole PyTorch checkpoint.*encrypted"):
    torch_file.load(tmp_path / "locked.pth")
  with pytest.raises(InputError, match="cannot be read .*directory"):
    torch_file.load(tmp_path)


@both_formats
def test_damaged_bytes_give_one_sentence(tmp_path, zipped):
  raw = write(tmp_path / "w.pth", {"w": tensor(FOUR), "n": [1, (2.5, "x")], "o": collections.OrderedDict(a=tensor(FOUR))},
              zipped).read_bytes()
  rng = np.random.default_rng(0)
  for _ in range(300):
    changed = bytearray(raw)
    for at in rng.integers(0, len(raw), 3):
      changed[at] = rng.integers(256)
    (tmp_path / "w.pth").write_bytes(changed)
    try:
      torch_file.load(tmp_path / "w.pth")
    except InputError as error:
      assert "w.pth: " in str(error)
