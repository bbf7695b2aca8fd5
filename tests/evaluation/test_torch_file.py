"""Checkpoints that torch wrote come out equal; those that want code to run are refused by its name."""

import collections
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import torch_file

LEGACY_HEADER = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001}]


@pytest.mark.parametrize("zipped", [True, False])
def test_equal_to_torch(tmp_path, zipped):
  base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
  state = collections.OrderedDict(
      whole=base, view=base[1:3, ::2], transposed=base.T, half=base.half(), brain=base.bfloat16(), ints=torch.arange(3),
      flag=torch.tensor([True, False]), scalar=torch.tensor(2.5), empty=torch.zeros(0, 3),
      parameter=torch.nn.Parameter(torch.ones(2)))
  state._metadata = {"version": 1}  # modules' state_dicts carry this
  torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
  read = torch_file.load_state_dict(tmp_path / "w.pth")
  assert list(read) == list(state)
  for name, tensor in state.items():
    assert read[name].shape == tuple(tensor.shape), name
    np.testing.assert_array_equal(read[name].astype(np.float32), tensor.detach().float().numpy(), err_msg=name)
  assert read["brain"].dtype.name == "bfloat16" and read["ints"].dtype == np.int64


class Runs:
  """A pickle of this calls the function on load."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


class Reference:
  """Stands for a storage of `numel` floats."""

  def __init__(self, numel):
    self.numel = numel


class Writer(pickle._Pickler):

  def persistent_id(self, value):
    if isinstance(value, Reference):
      return ("storage", torch.FloatStorage, "0", "cpu", value.numel)
    return None


def pickled(value) -> bytes:
  out = io.BytesIO()
  Writer(out, 2).dump(value)
  return out.getvalue()


def write(path, value, zipped, data=np.arange(4, dtype=np.float32)):
  """A checkpoint whose object is `value`, with one storage."""
  if zipped:
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("archive/data.pkl", pickled(value))
      archive.writestr("archive/data/0", data.tobytes())
  else:
    path.write_bytes(b"".join(pickled(part) for part in LEGACY_HEADER) + pickled(value) + pickled(["0"]) +
                     len(data).to_bytes(8, "little") + data.tobytes())
  return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("value, name", [
    (Runs(os.system, "touch owned"), r"(posix|nt)\.system"),
    ({"w": Runs(eval, "open('owned', 'w')")}, r"builtins\.eval|__builtin__\.eval"),
    (Runs(torch.load, "owned"), r"torch\.serialization\.load"),
    (np.zeros(2), r"numpy.*_reconstruct"),
])
def test_code_is_refused_by_name_and_does_not_run(tmp_path, monkeypatch, zipped, value, name):
  monkeypatch.chdir(tmp_path)
  path = write(tmp_path / "evil.pth", value, zipped)
  with pytest.raises(InputError, match=rf"evil.pth: refused: the file asks for ({name})"):
    torch_file.load(path)
  assert not (tmp_path / "owned").exists()


def view(offset, size, stride, numel=4):
  return {"w": Runs(torch._utils._rebuild_tensor_v2, Reference(numel), offset, size, stride, False, {})}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_view_inside_its_storage(tmp_path, zipped):
  read = torch_file.load_state_dict(write(tmp_path / "w.pth", view(1, (3,), (1,)), zipped))
  np.testing.assert_array_equal(read["w"], [1, 2, 3])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("value", [
    view(0, (5,), (1,)), view(2, (3,), (1,)), view(0, (2,), (4,)), view(-1, (2,), (1,)), view(3, (2,), (-1,)),
    view(0, (1 << 40,), (0,)), view(0, (5,), (1,), numel=5), view(0, (1, 2), (1,))])
def test_a_view_beyond_its_storage_is_refused(tmp_path, zipped, value):
  # Otherwise the "weights" would be whatever lies in memory behind them.
  with pytest.raises(InputError, match="not a whole PyTorch checkpoint"):
    torch_file.load(write(tmp_path / "w.pth", value, zipped))


def test_a_storage_that_lies_about_its_size_is_not_believed(tmp_path):

  class Lies(Reference):

    def __reduce__(self):
      raise AssertionError

  class BuildWriter(Writer):
    """Sets attributes of the storage after it is made, as pickle's BUILD allows."""

    def save(self, value, save_persistent_id=True):
      super().save(value, save_persistent_id)
      if isinstance(value, Lies):
        super().save({"numel": 1 << 30})
        self.write(pickle.BUILD)

  out = io.BytesIO()
  BuildWriter(out, 2).dump({"w": Runs(torch._utils._rebuild_tensor_v2, Lies(4), 0, (1 << 20,), (1,), False, {})})
  with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
    archive.writestr("archive/data.pkl", out.getvalue())
    archive.writestr("archive/data/0", np.zeros(4, np.float32).tobytes())
  with pytest.raises(InputError, match="does not fit its storage of 4"):
    torch_file.load(tmp_path / "w.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_short(tmp_path, zipped):
  path = tmp_path / "w.pth"
  torch.save({"w": torch.arange(1000)}, path, _use_new_zipfile_serialization=zipped)
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
  torch.save([torch.zeros(1)], tmp_path / "list.pth")
  with pytest.raises(InputError, match="holds a list"):
    torch_file.load_state_dict(tmp_path / "list.pth")
