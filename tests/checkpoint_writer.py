"""Writes files as `torch.save` does, without torch: any names, any lies. test_torch_file.py holds it to torch's own."""

import io
from pathlib import Path
import pickle
import zipfile

import numpy as np

_LEGACY_HEADER = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage",
             "bool": "BoolStorage", "float64": "DoubleStorage", "uint8": "ByteStorage"}


class Global:
  """A name that the reader is to look up, such as torch._utils._rebuild_tensor_v2."""

  def __init__(self, module: str, name: str):
    self.module, self.name = module, name

  def __call__(self):  # pickle wants what it calls to be callable
    raise AssertionError


class Call:
  """What calls `function` (a Global, or any importable one) when it is read."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


class Built:
  """What a `Call` gives, with `state` set on it: an object of a TorchScript archive."""

  def __init__(self, call: Call, state):
    self.call, self.state = call, state

  def __reduce__(self):
    return *self.call.call, self.state


class Storage:
  """Numbers of one storage; `numel` is what the file says, true or not. `state` is set on the reader's object."""

  def __init__(self, array: np.ndarray, numel: int | None = None, state: dict | None = None):
    self.array = np.ascontiguousarray(array).reshape(-1)
    self.numel = self.array.size if numel is None else numel
    self.state = state


def view(storage: Storage, offset: int, size: tuple, stride: tuple) -> Call:
  return Call(Global("torch._utils", "_rebuild_tensor_v2"), storage, offset, size, stride, False, {})


def tensor(array: np.ndarray) -> Call:
  array = np.asarray(array, order="C")
  return view(Storage(array), 0, array.shape, tuple(s // array.itemsize for s in array.strides))


class _Writer(pickle._Pickler):

  def __init__(self, out, zipped: bool):
    super().__init__(out, 2)
    self.zipped = zipped
    self.storages: list[Storage] = []

  def persistent_id(self, value):
    if not isinstance(value, Storage):
      return None
    if value not in self.storages:
      self.storages.append(value)
    kind = Global("torch", _STORAGES[value.array.dtype.name])
    reference = ("storage", kind, str(self.storages.index(value)), "cpu", value.numel)
    return reference if self.zipped else reference + (None,)  # once there were views of storages

  def save(self, value, save_persistent_id=True):
    if isinstance(value, Global):
      self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
      return
    super().save(value, save_persistent_id)
    if isinstance(value, Storage) and value.state is not None:
      super().save(value.state)
      self.write(pickle.BUILD)


def _pickled(value, zipped: bool = False) -> tuple[bytes, list[Storage]]:
  out = io.BytesIO()
  writer = _Writer(out, zipped)
  writer.dump(value)
  return out.getvalue(), writer.storages


def write(path: Path, value, zipped: bool = True) -> Path:
  """`value`: containers of `tensor(…)`, `view(…)`, `Call`. The zip format of torch ≥ 1.6, or the one before."""
  data, storages = _pickled(value, zipped)
  if zipped:
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("archive/data.pkl", data)
      archive.writestr("archive/version", "3\n")
      for key, storage in enumerate(storages):
        archive.writestr(f"archive/data/{key}", storage.array.tobytes())
  else:
    header = b"".join(_pickled(part)[0] for part in _LEGACY_HEADER)
    keys = _pickled([str(key) for key in range(len(storages))])[0]
    body = b"".join(s.array.size.to_bytes(8, "little") + s.array.tobytes() for s in storages)
    path.write_bytes(header + data + keys + body)
  return path
