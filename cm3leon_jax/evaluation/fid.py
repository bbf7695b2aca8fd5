"""`cm3leon eval fid`: the distance between two sets of pictures, or of features saved from them.

The number is called FID only where pytorch-fid's InceptionV3 makes it; another network
gives it another name. Features saved by somebody are taken at their word.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import files, frechet, images, kid

if TYPE_CHECKING:  # saved features need no network, and no JAX
  from cm3leon_jax.evaluation.networks.features import FeatureNetwork

FID = "fid"  # the key that only InceptionV3 with pytorch-fid's weights may carry, and features saved by somebody
SMALL = 10_000  # below this many pictures the distance is biased upwards by more than models differ


@dataclasses.dataclass
class Side:
  """What is known of one side: features float[N, D], or a mean [D] and a covariance [D, D]."""
  features: np.ndarray | None = None
  mu: np.ndarray | None = None
  sigma: np.ndarray | None = None

  @property
  def dim(self) -> int:
    return self.features.shape[1] if self.mu is None else len(self.mu)

  @property
  def count(self) -> int | None:
    return None if self.features is None else len(self.features)

  def moments(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance, float64."""
    if self.features is None:
      return self.mu, self.sigma
    moments = frechet.moments_of(self.features)
    return moments.mean, moments.covariance


def distance(first: Side, second: Side) -> float:
  if first.features is not None and second.features is not None:
    return frechet.frechet_from_features(first.features, second.features)
  return frechet.frechet_distance(*first.moments(), *second.moments())


def network(weights: str | os.PathLike) -> FeatureNetwork:
  """The network of a `--weights` value: `efficientnet-lite0`, or the path of pytorch-fid's file."""
  if not weights:
    raise InputError("folders of pictures need --weights: the file pt_inception-2015-12-05-6726825d.pth of pytorch-fid "
                     "(the number is then FID), or the word efficientnet-lite0 (then it is not)")
  from cm3leon_jax.evaluation.networks import efficientnet_lite0, inception_v3

  if os.fspath(weights) == "efficientnet-lite0":
    return efficientnet_lite0.load()
  return inception_v3.load(weights)


def side_of_features(features: np.ndarray, source: str) -> Side:
  """Checks features [N, D].

  Raises:
    InputError: not [N, D], fewer than 2 rows, or not finite; names `source` and the first bad row.
  """
  if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
    raise InputError(f"{source}: features must be floats [pictures, dimensions], got "
                     f"{features.dtype}{list(features.shape)}")
  if len(features) < 2:
    raise InputError(f"{source}: {len(features)} picture; a covariance needs at least 2")
  bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
  if len(bad):
    raise InputError(f"{source}: {len(bad)} of {len(features)} rows of features hold NaN or infinity; the first is row "
                     f"{bad[0]}")
  return Side(features)


def read_npz(path: Path) -> Side:
  """A saved `.npz` of `features`, or of `mu` and `sigma` (pytorch-fid's and clean-fid's names)."""
  try:
    with np.load(path, allow_pickle=False) as data:
      arrays = {name: data[name] for name in ("features", "mu", "sigma") if name in data.files}
      names = data.files
  except (OSError, ValueError, AttributeError, KeyError) as error:
    raise InputError(f"{path}: not a readable .npz of numbers ({error})") from error
  except Exception as error:  # zipfile.BadZipFile, zlib.error and others, from a file cut short
    raise InputError(f"{path}: not a whole .npz ({type(error).__name__}: {error})") from error
  if "features" in arrays:
    return side_of_features(arrays["features"], str(path))
  if not {"mu", "sigma"} <= arrays.keys():
    raise InputError(f"{path}: holds {', '.join(names) or 'nothing'}; needed: `features`, or `mu` and `sigma`")
  mu, sigma = arrays["mu"], arrays["sigma"]
  if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
    raise InputError(f"{path}: mu {list(mu.shape)} and sigma {list(sigma.shape)} do not fit; needed: [D] and [D, D]")
  if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
    raise InputError(f"{path}: mu or sigma holds NaN or infinity")
  return Side(mu=mu, sigma=sigma)


def read_folder(folder: Path, net: FeatureNetwork) -> Side:
  """Features of all pictures of a folder."""
  from tqdm import tqdm

  paths = images.list_images(folder)
  if len(paths) < 2:
    raise InputError(f"{folder}: 1 picture; a covariance needs at least 2")
  features = np.empty((len(paths), net.dim), np.float32)
  with tqdm(total=len(paths), desc=folder.name, unit="picture", file=sys.stderr) as bar:
    for chunk in images.read_chunks(paths):
      features[bar.n:bar.n + len(chunk)] = net.features(chunk)
      bar.update(len(chunk))
  bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
  if len(bad):
    raise InputError(f"{paths[bad[0]]}: its features are NaN or infinite ({len(bad)} such pictures); "
                     "are the weights whole?")
  return Side(features)


def evaluate_fid(generated: str | os.PathLike, reference: str | os.PathLike, weights: str | os.PathLike = "",
                 json_out: str | os.PathLike = "") -> dict:
  """Distance between two sides, each a folder of pictures or a saved `.npz`.

  Args:
    generated, reference: a folder, or an `.npz` of `features`, or of `mu` and `sigma`.
    weights: for folders: pytorch-fid's file, or `efficientnet-lite0`. Unused when both are `.npz`.
    json_out: where the result goes; empty for nowhere.

  Returns:
    Flat: `fid` (or the network's own key, e.g. `fd_efficientnet_lite0`); `kid` where both have features;
    `generated_count`, `reference_count` where known; for folders `network`, `weights_hash`,
    `preprocessing`; `note` where the number needs one.

  Raises:
    InputError: says which file is wrong, and what to do.
  """
  paths = [Path(generated), Path(reference)]
  for path in paths:
    if not path.exists():
      raise InputError(f"{path}: no such file or folder")
  net = None
  if any(path.is_dir() for path in paths):
    for path in paths:  # before the network is loaded
      if path.is_dir():
        images.list_images(path)
    net = network(weights)
  sides = []
  for path in paths:
    if path.is_dir():
      sides.append(read_folder(path, net))
    elif path.suffix == ".npz":
      sides.append(read_npz(path))
    else:
      raise InputError(f"{path}: neither a folder of pictures nor an .npz")
  first, second = sides
  if first.dim != second.dim:
    raise InputError(f"{generated} has {first.dim} dimensions and {reference} {second.dim}: features of two "
                     "networks cannot be compared")
  key = net.key if net else FID
  result: dict = {key: distance(first, second)}
  notes = []
  if first.features is not None and second.features is not None:
    result["kid"] = kid.kid(first.features, second.features)
  for name, side in (("generated", first), ("reference", second)):
    if side.count is not None:
      result[f"{name}_count"] = side.count
  small = min((side.count for side in sides if side.count is not None), default=SMALL)
  if small < SMALL:
    notes.append(f"{small} pictures: the distance is biased upwards below {SMALL}; compare only equal counts")
  if net:
    result |= {"network": net.name, "weights_hash": net.weights_hash, "preprocessing": net.preprocessing}
    if net.key == FID and not net.published:
      notes.append("the weights are not pytorch-fid's published file: the number compares with no published FID")
  if notes:
    result["note"] = "; ".join(notes)
    print(f"note: {result['note']}", file=sys.stderr)
  if json_out:
    files.write_json(json_out, result)
  return result
