"""Tensors out of a PyTorch checkpoint (.pth) without torch, and without running what the file says.

A checkpoint is a pickle, and a pickle may call any function of any module. This reader's
unpickler knows a dozen names, all of them tensors and containers, and a few that training
frameworks leave beside the weights, which become placeholders; any other name stops it, and
the error says which. Read are the zip file of torch ≥ 1.6, the older plain one, in
which most public weight files still are, and TorchScript archives (OpenAI's CLIP): their
modules come out as the attributes that they are pickled with, their code is not looked at.
"""

import collections
import io
import math
import os
import pickle
from typing import Any, Callable
import zipfile
import zlib

import ml_dtypes
import numpy as np

from cm3leon_jax.errors import InputError

_DTYPES = {
    "FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16,
    "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
# What CompVis' and other Lightning checkpoints mention: the class of a callback, and numbers of its best score.
_PLACEHOLDERS = (("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"), ("numpy", "dtype"), ("_codecs", "encode"),
                 ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"))
_MOST = 8  # times the file's size that its tensors may take: tied weights are several views of the same numbers


class _Refused(pickle.UnpicklingError):
  pass


class Placeholder:
  """Stands where a checkpoint has an object that is no tensor; what it was made of is not kept."""

  def __init__(self, *_):
    pass

  def __setstate__(self, _):
    pass


class ScriptModule(dict):
  """A module of a TorchScript archive: attribute name → array, number, list or `ScriptModule`."""

  def __setstate__(self, state):
    if not isinstance(state, dict):
      raise ValueError(f"a TorchScript object with a state of type {type(state).__name__}")
    self.update(state)


def load(path: str | os.PathLike) -> Any:
  """The object in the file: containers of NumPy arrays; a `ScriptModule` from a TorchScript archive.

  Tensors that are the same view of the same numbers are one array.

  Raises:
    InputError: no such file, not a checkpoint, cut short, or it names something that is neither tensor
      nor container.
  """
  try:
    with open(path, "rb") as f:
      if zipfile.is_zipfile(f):
        return _load_zip(f)
      f.seek(0)
      return _load_legacy(f)
  except FileNotFoundError as error:
    raise InputError(f"{path}: no such file") from error
  except _Refused as error:
    raise InputError(f"{path}: refused: {error}") from error
  except (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, IndexError, TypeError,
          AttributeError, OverflowError, MemoryError, RuntimeError) as error:
    raise InputError(f"{path}: not a whole PyTorch checkpoint ({type(error).__name__}: {error})") from error
  except OSError as error:
    raise InputError(f"{path}: cannot be read ({error})") from error


def load_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Name → array of a file that holds one module's `state_dict`, or one TorchScript module.

  Raises:
    InputError: as `load`, or the file holds something else.
  """
  state = load(path)
  if isinstance(state, ScriptModule):
    return state_dict_of(state)
  if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, np.ndarray) for k, v in state.items()):
    raise InputError(f"{path}: holds a {type(state).__name__}, not a dictionary of named tensors (a state_dict)")
  return dict(state)


def state_dict_of(module: ScriptModule) -> dict[str, np.ndarray]:
  """Dotted name → array: parameters and buffers, of modules inside too."""
  state = {}
  for name, value in module.items():
    if isinstance(value, np.ndarray):
      state[name] = value
    elif isinstance(value, ScriptModule):
      state |= {f"{name}.{inner}": array for inner, array in state_dict_of(value).items()}
  return state


def _unpickler(file, storage_of: Callable[[str, np.dtype, int], Any]) -> pickle.Unpickler:
  """An unpickler of known names only; `storage_of(key, dtype, numel)` returns a holder whose `.array` is 1-D."""

  # Made anew for each file: a pickle may set attributes of what it is given.
  def rebuild_tensor(storage, offset, size, stride, *_):
    return _Tensor(storage, offset, size, stride)

  def rebuild_parameter(data, *_):
    return data

  known = {("collections", "OrderedDict"): collections.OrderedDict,
           ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
           ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
           ("torch._utils", "_rebuild_parameter"): rebuild_parameter}
  known |= {("torch", name): name for name in _DTYPES}
  known |= {name: type("Placeholder", (Placeholder,), {}) for name in _PLACEHOLDERS}

  def first(value, *_):
    return value

  known |= {("torch.jit._pickle", name): first
            for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")}

  # The one in Python: the one in C makes a table as long as the highest number that a hostile file gives an object.
  class Restricted(pickle._Unpickler):

    def find_class(self, module, name):
      if module == "__torch__" or module.startswith("__torch__."):  # the archive's own classes
        return type("ScriptModule", (ScriptModule,), {})
      if (module, name) not in known:
        raise _Refused(f"the file asks for {module}.{name}, which is neither tensor nor container, and may be "
                       "harmful; get the weights from a source you trust")
      return known[module, name]

    def persistent_load(self, pid):
      kind, storage, key, _, numel = pid[:5]
      if kind != "storage" or len(pid) > 5 and pid[5] is not None:
        raise ValueError(f"unknown reference {pid!r}")
      return storage_of(str(key), np.dtype(_DTYPES[storage]), int(numel))

  return Restricted(file, encoding="latin1")


class _Storage:
  """Numbers of one storage; the old format tells them only after the tensors that use them."""

  def __init__(self, dtype: np.dtype, numel: int, array: np.ndarray | None = None):
    self.dtype, self.numel, self.array = dtype, numel, array


class _Tensor:
  """A view to be cut once its storage is read."""

  def __init__(self, storage, offset, size, stride):
    self._parts = storage, offset, size, stride

  @property
  def key(self) -> tuple:
    """Equal for the same view of the same numbers."""
    storage, offset, size, stride = self._parts
    return id(storage), int(offset), tuple(size), tuple(stride)

  def array(self, most: int) -> np.ndarray:
    """A copy of the view; checked here, against the numbers really read, and not against what the file says of them.

    Raises:
      ValueError: it is not within its storage, or takes more than `most` bytes.
    """
    storage, offset, size, stride = self._parts
    numbers = storage.array
    offset, size, stride = int(offset), tuple(int(n) for n in size), tuple(int(n) for n in stride)
    total = math.prod(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if min((offset,) + size + stride) < 0 or total > numbers.size or total and last >= numbers.size:
      raise ValueError(f"a tensor {size} with strides {stride} does not fit its storage of {numbers.size}")
    if total * numbers.itemsize > most:
      raise ValueError(f"tensors of more than {_MOST} times the file's size")
    if not total:
      return np.empty(size, numbers.dtype)
    return np.lib.stride_tricks.as_strided(numbers[offset:], size, [s * numbers.itemsize for s in stride]).copy()


class _Cutter:
  """Replaces each `_Tensor` in nested containers by its array; what is there twice is cut once.

  Args:
    size: bytes of the file.
  """

  def __init__(self, size: int):
    self._left = _MOST * size
    self._done: dict[Any, Any] = {}

  def __call__(self, value):
    if not isinstance(value, (_Tensor, dict, list, tuple)):
      return value
    key = value.key if isinstance(value, _Tensor) else id(value)
    if key not in self._done:
      self._done[key] = self._cut(value)
    return self._done[key]

  def _cut(self, value):
    if isinstance(value, _Tensor):
      array = value.array(self._left)
      self._left -= array.nbytes
      return array
    if isinstance(value, ScriptModule):
      return ScriptModule({k: self(v) for k, v in value.items()})
    if isinstance(value, dict):
      return {k: self(v) for k, v in value.items()}
    return type(value)([self(v) for v in value])


def _load_zip(f) -> Any:
  archive = zipfile.ZipFile(f)
  size = os.fstat(f.fileno()).st_size
  if sum(info.file_size for info in archive.infolist()) > _MOST * size:
    raise ValueError("it unpacks to more than it may hold")
  root = next(name[:-len("data.pkl")] for name in archive.namelist() + ["data.pkl"] if name.endswith("data.pkl"))
  order = "<"
  if root + "byteorder" in archive.namelist() and archive.read(root + "byteorder") == b"big":
    order = ">"
  storages: dict[str, _Storage] = {}

  def storage_of(key, dtype, numel):
    if key not in storages:
      name = f"{root}data/{key}"
      if archive.getinfo(name).file_size != numel * dtype.itemsize:
        raise ValueError(f"{name} does not hold {numel} numbers")
      storages[key] = _Storage(dtype, numel, _numbers(archive.read(name), dtype, order))
    return storages[key]

  return _Cutter(size)(_unpickler(io.BytesIO(archive.read(root + "data.pkl")), storage_of).load())


def _numbers(raw: bytes, dtype: np.dtype, order: str, count: int = -1) -> np.ndarray:
  return np.frombuffer(raw, dtype.newbyteorder(order), count).astype(dtype, copy=False)


def _load_legacy(f) -> Any:
  def no_storage(*_):
    raise ValueError("a tensor in the header")

  magic, version, system = (_unpickler(f, no_storage).load() for _ in range(3))
  if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION:
    raise ValueError("unknown header")
  order = "<" if system["little_endian"] else ">"
  end = os.fstat(f.fileno()).st_size
  storages: dict[str, _Storage] = {}

  def storage_of(key, dtype, numel):
    if not 0 <= numel <= end:
      raise ValueError(f"a storage of {numel} numbers in a file of {end} bytes")
    return storages.setdefault(key, _Storage(dtype, numel))

  value = _unpickler(f, storage_of).load()
  for key in _unpickler(f, no_storage).load():
    storage = storages[key]
    if int.from_bytes(f.read(8), "little") != storage.numel:
      raise ValueError(f"storage {key} is of another size than its tensors say")
    storage.array = _numbers(f.read(storage.numel * storage.dtype.itemsize), storage.dtype, order, storage.numel)
  return _Cutter(end)(value)
