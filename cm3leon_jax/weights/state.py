"""A small network's file → named arrays → the nested float32 parameters of a Flax module; for convolutional networks.

A torch convolution stores [out, in, h, w], ours [h, w, in, out]; what is a matrix here may be a 1×1 convolution there.
"""

import os
from pathlib import Path
from typing import Any, Mapping, Sequence

from flax import traverse_util
import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.weights import names, safetensors_file, torch_file

Shape = tuple[int, ...]


def read(path: str | os.PathLike, prefixes: Sequence[str] = ()) -> dict[str, np.ndarray]:
  """Public name → array of a `.safetensors` file, or of torch's: a state_dict, alone or under `state_dict`.

  Args:
    path: of the file.
    prefixes: of networks inside other models: where names begin with one, those alone are taken, without it.

  Raises:
    InputError: no such file, not whole, refused, or it holds no named tensors.
  """
  path = Path(path)
  if not path.is_file():
    raise InputError(f"{path}: no such file")
  if path.suffix == ".safetensors":
    return {name: entry.read() for name, entry in _inner(safetensors_file.read_header(path), prefixes).items()}
  state = torch_file.load(path)
  if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
    state = state["state_dict"]
  if not isinstance(state, dict) or not all(isinstance(k, str) for k in state):
    raise InputError(f"{path}: holds no named tensors")
  return _inner({name: x for name, x in state.items() if isinstance(x, np.ndarray)}, prefixes)


def _inner(state: Mapping[str, Any], prefixes: Sequence[str]) -> dict[str, Any]:
  for prefix in prefixes:
    if any(name.startswith(prefix) for name in state):
      state = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
  return dict(state)


def parameters(state: Mapping[str, np.ndarray], public: Mapping[str, str], shapes: Mapping[str, Shape], where: str) -> dict:
  """Nested float32 parameters.

  Args:
    state: public name → array; nothing else may be in it.
    public: our name, as "encoder/conv_in/kernel" → public name.
    shapes: our name → our shape; kernels are transposed.
    where: the file, for messages.

  Raises:
    InputError: tensors are missing, unknown, of another shape or dtype, or hold NaN or infinity.
  """
  names.check({public[ours]: _public_shape(ours, shape) for ours, shape in shapes.items()},
              {name: (x.dtype, x.shape) for name, x in state.items()}, where)
  flat = {}
  for ours, shape in shapes.items():
    array = state[public[ours]].astype(np.float32)
    if not np.isfinite(array).all():
      raise InputError(f"{where}: {public[ours]} holds NaN or infinity; get the file again")
    flat[ours] = array.transpose(2, 3, 1, 0).reshape(shape) if ours.endswith("kernel") else array
  return traverse_util.unflatten_dict(flat, sep="/")


def _public_shape(ours: str, shape: Shape) -> Shape:
  if not ours.endswith("kernel"):
    return shape
  *window, inputs, outputs = shape
  return (outputs, inputs, *(window or (1, 1)))
