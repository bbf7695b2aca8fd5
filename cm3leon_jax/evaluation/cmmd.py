"""CMMD (Jayasumana et al. 2024, arXiv:2401.09603): how far apart two sets of pictures are under CLIP.

1,000 times the squared MMD of CLIP's unit image vectors under k(x, y) = exp(−|x − y|² / (2 · 10²)): the biased
estimate, as the public package (google-research/cmmd) has it. Only CLIP ViT-L/14@336 may call it `cmmd`; under
another CLIP the key is `mmd_<its name>`. The public package stretches each picture to the model's square
(bicubic, antialiased); so does this, whatever the encoder's own way is.

In float64: k is close to 1 everywhere, and the public package's float32 leaves about three digits after the point.
"""

from __future__ import annotations

import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import bootstrap, feature_store, files, images

if TYPE_CHECKING:
  from cm3leon_jax.evaluation.networks.features import FeatureNetwork
  from cm3leon_jax.retrieval.encoder import Encoder

SIGMA, SCALE = 10.0, 1000.0
OFFICIAL = "vit_l_14_336"  # of models.clip.PUBLIC
HALVES = 40  # half samples of an interval
_BLOCK = 2048  # rows of the kernel matrix held at once


def cmmd(first: np.ndarray, second: np.ndarray) -> float:
  """Between unit vectors [n, D] and [m, D] of any float type. Memory: one block of the kernel."""
  _check(first, second)
  return float(_weighted(first, second, np.full((len(first), 1), 1 / len(first)), np.full((len(second), 1), 1 / len(second)))[0])


def cmmd_interval(first: np.ndarray, second: np.ndarray, halves: int = HALVES) -> bootstrap.Interval:
  """`cmmd` and its 95 % interval from half samples of each side, all in one pass; n, m ≥ 4."""
  _check(first, second, 4)
  weights = []
  for seed, x in enumerate((first, second)):
    w = np.zeros((len(x), halves + 1))
    w[:, 0] = 1 / len(x)
    for column, rows in enumerate(bootstrap.half_samples(len(x), halves, seed), 1):
      w[rows, column] = 1 / len(rows)
    weights.append(w)
  values = _weighted(first, second, *weights)
  return bootstrap.half_sample_interval(values[0], values[1:])


def _check(first: np.ndarray, second: np.ndarray, least: int = 1) -> None:
  if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < least:
    raise ValueError(f"vectors must be [n ≥ {least}, D] of one D, got {first.shape} and {second.shape}")


def _weighted(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """float64[R]: the MMD, scaled, of the rows x and y weighted by each column of a [n, R] and b [m, R]."""
  return SCALE * (_within(x, a) + _within(y, b) - 2 * _between(x, y, a, b))


def _between(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Σᵢⱼ a[i] b[j] k(x[i], y[j]) for each column."""
  total = np.zeros(a.shape[1])
  for i in range(0, len(x), _BLOCK):
    rows = np.asarray(x[i:i + _BLOCK], np.float64)
    for j in range(0, len(y), _BLOCK):
      total += (a[i:i + _BLOCK] * (_kernel(rows, np.asarray(y[j:j + _BLOCK], np.float64)) @ b[j:j + _BLOCK])).sum(axis=0)
  return total


def _within(x: np.ndarray, a: np.ndarray) -> np.ndarray:
  """`_between` of x and itself: each pair of blocks once."""
  total = np.zeros(a.shape[1])
  for i in range(0, len(x), _BLOCK):
    block, weights = x[i:i + _BLOCK], a[i:i + _BLOCK]
    total += _between(block, block, weights, weights) + 2 * _between(block, x[i + _BLOCK:], weights, a[i + _BLOCK:])
  return total


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  squares = x @ y.T
  squares *= -2
  squares += (x * x).sum(axis=1)[:, None]
  squares += (y * y).sum(axis=1)
  squares *= -1 / (2 * SIGMA**2)
  return np.exp(squares, out=squares)


def network(encoder: Encoder) -> FeatureNetwork:
  """The encoder's image tower as a feature network: unit vectors of stretched pictures."""
  import jax

  from cm3leon_jax.evaluation.networks.features import FeatureNetwork
  from cm3leon_jax.models.clip import CLIP

  model, size = CLIP(encoder.config), encoder.config.image_size

  def function(params, x):
    with jax.default_matmul_precision("highest"):
      pixels = jax.image.resize(x, (len(x), size, size, 3), "bicubic")
      return model.apply({"params": params}, pixels, method=CLIP.encode_images)

  official = encoder.name == OFFICIAL
  return FeatureNetwork(
      name="CMMD (CLIP ViT-L/14@336)" if official else f"MMD (CLIP {encoder.name})",
      key="cmmd" if official else f"mmd_{encoder.name}", dim=encoder.dim, weights_hash=encoder.fingerprint,
      published=official and encoder.published, preprocessing=f"stretched to {size}×{size}, bicubic, antialiased, not rounded",
      params=encoder.params, function=function)


def evaluate_cmmd(generated: str | os.PathLike, reference: str | os.PathLike, clip: str | os.PathLike,
                  json_out: str | os.PathLike = "", *, cache: str | os.PathLike = "") -> dict:
  """CMMD of two folders of pictures.

  Args:
    generated, reference: folders; all pictures of a folder are of one size.
    clip: folder of an encoder: of `cm3leon import --format=clip`, or one trained here.
    json_out: where the result goes; empty for nowhere.
    cache: folder that keeps features; empty for `feature_store.default_cache()`.

  Returns:
    Flat: `cmmd` (or `mmd_<name>`), with `_low` and `_high` where both folders hold 4 pictures; `generated_count`,
    `reference_count`; `clip_network`, `clip_fingerprint`, `clip_preprocessing`; `clip_note` where the number needs one.

  Raises:
    InputError: says which file is wrong, and what to do.
  """
  folders = [Path(generated), Path(reference)]
  for folder in folders:  # before the network is loaded
    if folder.suffix == ".npz":
      raise InputError(f"{folder}: --clip measures folders of pictures; saved features are of another network")
    images.list_images(folder)
  from cm3leon_jax.retrieval.encoder import Encoder

  net = network(Encoder.load(clip))
  first, second = (feature_store.features_of_folder(folder, net, cache).features for folder in folders)
  if min(len(first), len(second)) >= 4:
    result = cmmd_interval(first, second).as_fields(net.key)
  else:
    result = {net.key: cmmd(first, second)}
  result |= {"generated_count": len(first), "reference_count": len(second), "clip_network": net.name,
             "clip_fingerprint": net.weights_hash, "clip_preprocessing": net.preprocessing}
  if net.key == "cmmd" and not net.published:
    result["clip_note"] = ("not imported from OpenAI's own file ViT-L-14-336px.pt: the number compares with published CMMDs "
                           "only if the weights are the same")
    print(f"note: {result['clip_note']}", file=sys.stderr)
  if json_out:
    files.write_json(json_out, result)
  return result
