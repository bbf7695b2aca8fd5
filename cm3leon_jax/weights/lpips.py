"""Public weights of LPIPS → parameters of `models.lpips.LPIPS`.

The features are VGG16's as torchvision publishes it (`vgg16-397923af.pth`: `features.0.weight` …; its classifier is not
used), the heads those of the package `lpips` (`weights/v0.1/vgg.pth`: `lin0.model.1.weight` …). A whole LPIPS, as the
package and taming-transformers' checkpoints (`loss.perceptual_loss.`) hold it, has both in one file.
"""

import os
import re
from typing import NamedTuple

from flax import traverse_util
import jax
import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.lpips import LPIPS, STAGES
from cm3leon_jax.weights import blocks, state as state_file

_PREFIXES = ("loss.perceptual_loss.", "perceptual_loss.", "module.")
_SLICE = re.compile(r"net\.slice\d\.(\d+)\.(weight|bias)")  # of a whole LPIPS: N is torchvision's
_HEAD = re.compile(r"lin(\d)\.model\.1\.weight")
_FEATURE = re.compile(r"features\.\d+\.(weight|bias)")


class Weights(NamedTuple):
  """Attributes: `params` of `LPIPS()`, nested, float32; `sources`: file name → SHA-256 of what was read."""

  params: dict
  sources: dict[str, str]


def load(vgg16: str | os.PathLike, heads: str | os.PathLike = "") -> Weights:
  """Reads VGG16's features, and the heads from a file of their own or the same one.

  Args:
    vgg16: torchvision's VGG16, or a whole LPIPS; .pth, .pt, .ckpt or .safetensors.
    heads: the linear heads; empty: they are in `vgg16`.

  Raises:
    InputError: no such file, tensors missing or of another shape, NaN or infinity.
  """
  features = _named(vgg16)
  found = {name: x for name, x in features.items() if _FEATURE.fullmatch(name)}
  if not found:
    raise InputError(f"{vgg16}: no features.0.weight, so it is no VGG16 of torchvision's layout; it has "
                     f"{', '.join(list(features)[:3]) or 'nothing'}")
  found |= {name: x.reshape(-1) for name, x in (_named(heads) if heads else features).items() if _HEAD.fullmatch(name)}
  if not any(_HEAD.fullmatch(name) for name in found):
    raise InputError(f"{heads or vgg16}: no lin0.model.1.weight, so it holds no heads of LPIPS; give the package's file "
                     "weights/v0.1/vgg.pth")
  picture = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
  shapes = jax.eval_shape(LPIPS().init, jax.random.key(0), picture, picture)["params"]
  shapes = {name: x.shape for name, x in traverse_util.flatten_dict(shapes, sep="/").items()}
  where = f"{vgg16} with {heads}" if heads else str(vgg16)
  params = state_file.parameters(found, {name: _public_name(name) for name in shapes}, shapes, where)
  return Weights(params, {os.path.basename(path): blocks.sha256(path) for path in (vgg16, heads) if path})


def _named(path: str | os.PathLike) -> dict[str, np.ndarray]:
  return {_SLICE.sub(r"features.\1.\2", name): x for name, x in state_file.read(path, _PREFIXES).items()}


def _places() -> dict[str, int]:
  """Name of each convolution → its number in torchvision's list, where a ReLU follows each and a pool each stage."""
  places, at = {}, 0
  for stage, widths in enumerate(STAGES, 1):
    for i in range(1, len(widths) + 1):
      places[f"conv{stage}_{i}"] = at
      at += 2
    at += 1
  return places


_PLACES = _places()


def _public_name(ours: str) -> str:
  """`vgg16/conv1_2/kernel` → `features.2.weight`; `head1` → `lin0.model.1.weight`."""
  if ours.startswith("head"):
    return f"lin{int(ours.removeprefix('head')) - 1}.model.1.weight"
  _, conv, leaf = ours.split("/")
  return f"features.{_PLACES[conv]}.{'weight' if leaf == 'kernel' else leaf}"
