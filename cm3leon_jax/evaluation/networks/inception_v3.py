"""InceptionV3 as FID uses it, up to its pooled features, 2,048 numbers a picture.

The variant of pytorch-fid (Seitzer 2020), a port of the network of Heusel et al. (2017):
pictures as x / 255, bilinear to 299 px without antialiasing, 2x − 1; average pools that do
not count the padding; a max pool in the last block's pool branch; BatchNorm ε 1e-3. The
weights are its file `pt_inception-2015-12-05-6726825d.pth`, whose tensor names the modules
here carry. Inference only, so each BatchNorm is folded into the convolution before it.

With `clean`, the same network and weights behind the resize of clean-fid (Parmar et al. 2022): each channel as float32,
PIL's bicubic (which antialiases) to 299 px, clipped to 0..255 and not rounded; then (x − 128) / 128. clean-fid
itself runs NVIDIA's TorchScript copy of the TensorFlow weights that pytorch-fid ported.
"""

import functools
import os
from typing import Any, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cm3leon_jax import manifest
from cm3leon_jax.errors import InputError
from cm3leon_jax.weights import torch_file
from cm3leon_jax.evaluation.networks.features import FeatureNetwork, check_shapes, fold_batch_norm, shapes_of

NAME = "FID (InceptionV3, pytorch-fid)"
KEY = "fid"
CLEAN_NAME = "Clean-FID (InceptionV3, weights of pytorch-fid, resize of clean-fid)"
CLEAN_KEY = "clean_fid"
DIM = 2048
SIZE = 299
PUBLISHED = "6726825d"  # SHA-256 of the published file begins with this
_CLASSES = 1008  # of the classifier in that file; torchvision's InceptionV3 has 1,000 and makes other features
_BN_EPS = 1e-3


class _Weights(nn.Module):
  """The kernel [h, w, in, out] and bias [out] of a convolution with its BatchNorm folded in."""
  shape: tuple[int, int, int, int]

  @nn.compact
  def __call__(self) -> tuple[jax.Array, jax.Array]:
    return (self.param("kernel", nn.initializers.zeros, self.shape),
            self.param("bias", nn.initializers.zeros, self.shape[-1:]))


def _conv(x, name, features, kernel, stride=1, padding="VALID"):
  """Convolution and ReLU; a submodule of the compact module it is called in.

  What needs no padding (3 × 3 only) is padded all the same, and the border cut off: XLA's CPU code for padded windows
  takes half the time, or less, for the same bits.
  """
  cut = slice(None)
  weights, bias = _Weights((*kernel, x.shape[-1], features), name=name)()
  if padding == "VALID":
    padding, cut = ((stride, 1),) * 2, slice(1, 1 + (x.shape[1] - 3) // stride + 1)
  y = jax.lax.conv_general_dilated(x, weights, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
  return jax.nn.relu(y[:, cut, cut] + bias)


def _pointwise(x, **widths):
  """1 × 1 convolutions of one input, each with ReLU, as one matrix product: on CPU several times faster.

  `pool=` is the branch behind an average pool. Both are linear, so it is pooled after its convolution, where it is
  narrower.
  """
  weights = {name: _Weights((1, 1, x.shape[-1], width), name="branch_pool" if name == "pool" else name)()
             for name, width in widths.items()}
  kernel = jnp.concatenate([kernel[0, 0] for kernel, _ in weights.values()], axis=-1)
  y = jnp.split(x.reshape(-1, x.shape[-1]) @ kernel, np.cumsum(list(widths.values()))[:-1], axis=-1)
  y = {name: part.reshape(*x.shape[:-1], -1) for name, part in zip(widths, y)}
  if "pool" in y:
    y["pool"] = _avg_pool(y["pool"])
  return [jax.nn.relu(y[name] + bias) for name, (_, bias) in weights.items()]


def _shifted(x, padding, stride=1, fill=0.0):
  """The nine pictures that a 3 × 3 window sees: sums and maxima of slices beat XLA's windows on CPU by far."""
  x = jnp.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)), constant_values=fill)
  height, width = x.shape[1] - 2, x.shape[2] - 2
  return [x[:, i:i + height:stride, j:j + width:stride] for i in range(3) for j in range(3)]


def _avg_pool(x):
  """3 × 3, stride 1; padding is not counted."""
  inside = [np.convolve(np.ones(size), np.ones(3), "same") for size in x.shape[1:3]]
  return sum(_shifted(x, 1)) * (1 / np.outer(*inside)[:, :, None]).astype(np.float32)


def _max_pool(x):
  """3 × 3, stride 1."""
  return functools.reduce(jnp.maximum, _shifted(x, 1, fill=-np.inf))


def _shrink(x):
  """Maxima of 3 × 3, stride 2."""
  return functools.reduce(jnp.maximum, _shifted(x, 0, 2))


class MixedA(nn.Module):
  """35 × 35 blocks: [B, H, W, *] → [B, H, W, 224 + pool_features]."""
  pool_features: int

  @nn.compact
  def __call__(self, x):
    one, five, double, pooled = _pointwise(x, branch1x1=64, branch5x5_1=48, branch3x3dbl_1=64, pool=self.pool_features)
    five = _conv(five, "branch5x5_2", 64, (5, 5), padding="SAME")
    double = _conv(double, "branch3x3dbl_2", 96, (3, 3), padding="SAME")
    double = _conv(double, "branch3x3dbl_3", 96, (3, 3), padding="SAME")
    return jnp.concatenate([one, five, double, pooled], -1)


class MixedB(nn.Module):
  """35 × 35 → 17 × 17."""

  @nn.compact
  def __call__(self, x):
    three = _conv(x, "branch3x3", 384, (3, 3), 2)
    double = _conv(*_pointwise(x, branch3x3dbl_1=64), "branch3x3dbl_2", 96, (3, 3), padding="SAME")
    return jnp.concatenate([three, _conv(double, "branch3x3dbl_3", 96, (3, 3), 2), _shrink(x)], -1)


class MixedC(nn.Module):
  """17 × 17 blocks with 7 × 7 convolutions in two parts: [B, H, W, *] → [B, H, W, 768]."""
  width: int

  @nn.compact
  def __call__(self, x):
    row, column = (1, 7), (7, 1)
    one, seven, double, pooled = _pointwise(x, branch1x1=192, branch7x7_1=self.width, branch7x7dbl_1=self.width,
                                            pool=192)
    seven = _conv(seven, "branch7x7_2", self.width, row, padding="SAME")
    seven = _conv(seven, "branch7x7_3", 192, column, padding="SAME")
    for i, (width, kernel) in enumerate([(self.width, column), (self.width, row), (self.width, column), (192, row)], 2):
      double = _conv(double, f"branch7x7dbl_{i}", width, kernel, padding="SAME")
    return jnp.concatenate([one, seven, double, pooled], -1)


class MixedD(nn.Module):
  """17 × 17 → 8 × 8."""

  @nn.compact
  def __call__(self, x):
    three, seven = _pointwise(x, branch3x3_1=192, branch7x7x3_1=192)
    three = _conv(three, "branch3x3_2", 320, (3, 3), 2)
    seven = _conv(seven, "branch7x7x3_2", 192, (1, 7), padding="SAME")
    seven = _conv(seven, "branch7x7x3_3", 192, (7, 1), padding="SAME")
    return jnp.concatenate([three, _conv(seven, "branch7x7x3_4", 192, (3, 3), 2), _shrink(x)], -1)


class MixedE(nn.Module):
  """8 × 8 blocks: [B, H, W, *] → [B, H, W, 2048]. `max_pool`: the last one's pool branch."""
  max_pool: bool

  @nn.compact
  def __call__(self, x):

    def both(y, name):
      return [_conv(y, name + "a", 384, (1, 3), padding="SAME"), _conv(y, name + "b", 384, (3, 1), padding="SAME")]

    widths = dict(branch1x1=320, branch3x3_1=384, branch3x3dbl_1=448)
    if self.max_pool:
      (one, three, double), (pooled,) = _pointwise(x, **widths), _pointwise(_max_pool(x), branch_pool=192)
    else:
      one, three, double, pooled = _pointwise(x, **widths, pool=192)
    double = _conv(double, "branch3x3dbl_2", 384, (3, 3), padding="SAME")
    return jnp.concatenate([one, *both(three, "branch3x3_2"), *both(double, "branch3x3dbl_3"), pooled], -1)


class InceptionV3(nn.Module):
  """Pictures in −1..1 [B, 299, 299, 3] → features [B, 2048]."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = _conv(x, "Conv2d_1a_3x3", 32, (3, 3), 2)
    x = _conv(x, "Conv2d_2a_3x3", 32, (3, 3))
    x = _shrink(_conv(x, "Conv2d_2b_3x3", 64, (3, 3), padding="SAME"))
    x = _shrink(_conv(*_pointwise(x, Conv2d_3b_1x1=80), "Conv2d_4a_3x3", 192, (3, 3)))
    for name, pool_features in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
      x = MixedA(pool_features, name=name)(x)
    x = MixedB(name="Mixed_6a")(x)
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
      x = MixedC(width, name=name)(x)
    x = MixedD(name="Mixed_7a")(x)
    x = MixedE(False, name="Mixed_7b")(x)
    return MixedE(True, name="Mixed_7c")(x).mean(axis=(1, 2))


def to_params(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """pytorch-fid's tensor names → parameters of `InceptionV3`.

  Raises:
    KeyError: a tensor is missing.
  """
  params: dict[str, Any] = {}
  for path, _ in jax.tree_util.tree_leaves_with_path(shapes_of(InceptionV3(), SIZE)):
    *modules, leaf = (key.key for key in path)
    if leaf == "kernel":
      name = ".".join(modules)
      node = params
      for module in modules[:-1]:
        node = node.setdefault(module, {})
      node[modules[-1]] = fold_batch_norm(state, name + ".conv", name + ".bn", _BN_EPS)
  return params


def preprocess(images: jax.Array) -> jax.Array:
  """float32[B, H, W, 3] in 0..255 → [B, 299, 299, 3] in −1..1, as pytorch-fid."""
  shape = (images.shape[0], SIZE, SIZE, 3)
  return 2.0 * jax.image.resize(images / 255.0, shape, "bilinear", antialias=False) - 1.0


def features_of(params: Any, images: jax.Array) -> jax.Array:
  """float32[B, H, W, 3] in 0..255 → float32[B, 2048]."""
  return InceptionV3().apply({"params": params}, preprocess(images))


def clean_resize(image: np.ndarray) -> np.ndarray:
  """uint8[H, W, 3] → float32[299, 299, 3] in 0..255, as clean-fid: channel by channel, not rounded."""
  channels = [Image.fromarray(image[:, :, i].astype(np.float32)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
              for i in range(3)]
  return np.stack([np.asarray(channel) for channel in channels], axis=-1).clip(0, 255)


def clean_features_of(params: Any, images: jax.Array) -> jax.Array:
  """float32[B, 299, 299, 3] in 0..255 → float32[B, 2048]."""
  return InceptionV3().apply({"params": params}, (images - 128.0) / 128.0)


def load(path: str | os.PathLike, clean: bool = False) -> FeatureNetwork:
  """The network with pytorch-fid's weight file; `clean`: behind clean-fid's resize.

  Raises:
    InputError: no such file, or another network's weights.
  """
  state = torch_file.load_state_dict(path)
  classes = state["fc.bias"].shape[0] if "fc.bias" in state else None
  if classes not in (None, _CLASSES):
    raise InputError(f"{path}: an InceptionV3 of {classes} classes, while FID's has {_CLASSES}; its numbers would "
                     "not be FID (torchvision's weights are another network)")
  try:
    params = to_params(state)
  except KeyError as error:
    raise InputError(f"{path}: not pytorch-fid's InceptionV3: no tensor {error}") from error
  except (ValueError, IndexError) as error:  # shapes that a BatchNorm cannot be folded from
    raise InputError(f"{path}: not pytorch-fid's InceptionV3: {error}") from error
  wrong = check_shapes(params, shapes_of(InceptionV3(), SIZE), str(path))
  if wrong:
    raise InputError(f"{wrong}: not pytorch-fid's InceptionV3")
  weights_hash = manifest.hash_file(path)
  shared = dict(dim=DIM, weights_hash=weights_hash, published=weights_hash.startswith(PUBLISHED), params=params)
  if clean:
    return FeatureNetwork(
        name=CLEAN_NAME, key=CLEAN_KEY, preprocessing=f"each channel in float32, PIL bicubic to {SIZE} px, clipped, "
        "(x - 128) / 128", function=clean_features_of, resize=clean_resize, **shared)
  return FeatureNetwork(name=NAME, key=KEY, preprocessing=f"x / 255, bilinear without antialias to {SIZE} px, 2x - 1",
                        function=features_of, **shared)
