"""`cm3leon eval fid`: the distance between two sets of pictures, or of features saved from them.

The number is called FID only where pytorch-fid's InceptionV3 makes it; another network
gives it another name. Features saved by somebody are taken at their word.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING, Callable

import numpy as np
from tqdm import tqdm

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import bootstrap, feature_store, fid_infinity, files, frechet, images, kid, manifold

if TYPE_CHECKING:  # saved features need no network, and no JAX
  from cm3leon_jax.evaluation.networks.features import FeatureNetwork

FID = "fid"  # the key that only InceptionV3 with pytorch-fid's weights may carry, and features saved by somebody
VARIANTS = ("pytorch-fid", "clean")
SMALL = 10_000  # below this many pictures the distance is biased upwards by more than models differ
HALVES = 40  # half samples of an interval
NEAREST_K = 5  # of precision, recall, density and coverage

Rows = np.ndarray | None  # row numbers, or all rows


@dataclasses.dataclass
class Side:
  """What is known of one side: features float[N, D] (a memory map, say), or a mean [D] and a covariance [D, D].

  `duplicates`: pictures whose file another one of the side equals, where that is known.
  """
  features: np.ndarray | None = None
  mu: np.ndarray | None = None
  sigma: np.ndarray | None = None
  duplicates: int | None = None

  @property
  def dim(self) -> int:
    return self.features.shape[1] if self.mu is None else len(self.mu)

  @property
  def count(self) -> int | None:
    return None if self.features is None else len(self.features)

  def moments(self, rows: Rows = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance, float64. Of `rows` where there are features."""
    if self.features is None:
      return self.mu, self.sigma
    moments = frechet.moments_of(self.features, rows)
    return moments.mean, moments.covariance


def distance(first: Side, second: Side) -> float:
  """The Fréchet distance."""
  return _distances(first, second)(None, None)


def half_distances(first: Side, second: Side) -> np.ndarray:
  """Distances of half samples, float64[HALVES], drawn for each side by itself; a side without features stays whole.

  The halves depend on the numbers of rows alone, so those of two models on the same prompts are pairs.

  Raises:
    ValueError: neither side has features, or one has fewer than 4 rows of them.
  """
  counts = [side.count for side in (first, second)]
  if counts == [None, None] or min(c for c in counts if c is not None) < 4:
    raise ValueError(f"an interval needs 4 rows of features, got {counts[0]} and {counts[1]}")
  of = _distances(first, second)
  rows = [[None] * HALVES if count is None else bootstrap.half_samples(count, HALVES, seed)
          for seed, count in enumerate(counts)]
  halves = [of(a, b) for a, b in tqdm(zip(*rows), "interval", HALVES, delay=5, file=sys.stderr)]
  return np.array(halves)


def infinity(first: Side, second: Side) -> fid_infinity.Extrapolation:
  """The distance at infinitely many pictures of `first`, whose features are known (4 rows or more)."""
  if second.features is not None and not frechet.by_rows(first.features, second.features):
    second = Side(None, *second.moments())
  of = _distances(first, second)
  return fid_infinity.extrapolate(lambda rows: of(rows, None), first.count)


def _distances(first: Side, second: Side) -> Callable[[Rows, Rows], float]:
  """A function from rows of the one and the other to their distance; what all distances share is computed once."""
  if second.features is None:
    to_second = frechet.Gaussian(*second.moments())
    return lambda a, b: to_second.distance(*first.moments(a))
  if first.features is None:
    to_first = frechet.Gaussian(*first.moments())
    return lambda a, b: to_first.distance(*second.moments(b))
  if frechet.by_rows(first.features, second.features):
    rows = frechet.Rows(first.features, second.features)
    return lambda a, b: rows.distance(*(slice(None) if x is None else x for x in (a, b)))
  return lambda a, b: frechet.frechet_distance(*first.moments(a), *second.moments(b))


def compare(first: Side, second: Side, key: str = FID, nearest_k: int = NEAREST_K, extrapolate: bool = False,
            keep_halves: bool = False) -> dict:
  """All numbers of two sides (generated, reference) that their kind allows, flat.

  Args:
    key: what the distance is called.
    nearest_k: of precision, recall, density and coverage.
    extrapolate: also `<key>_infinity` and `<key>_infinity_slope`.
    keep_halves: also `<key>_halves`, the list behind the interval, for paired differences.

  Returns:
    `<key>`; with the features of a side, 4 rows or more, `<key>_low` and `<key>_high`; with those of both `kid`, and
    where both have more rows than `nearest_k` also `precision`, `recall`, `density`, `coverage` and `nearest_k`;
    `generated_count`, `reference_count`, `generated_duplicates` where known; `note` where a number needs one.

  Raises:
    InputError: `nearest_k` or `extrapolate` asks for what cannot be.
  """
  if nearest_k < 1:
    raise InputError(f"--nearest_k={nearest_k}: must be 1 or more")
  if extrapolate and (first.count or 0) < 4:
    raise InputError("--infinity needs the pictures or the features of the generated side, 4 or more; its mean and "
                     "covariance are not enough")
  result: dict = {key: distance(first, second)}
  counts = [side.count for side in (first, second) if side.count is not None]
  if counts and min(counts) >= 4:
    halves = half_distances(first, second)
    result |= bootstrap.half_sample_interval(result[key], halves).as_fields(key)
    result |= {f"{key}_halves": halves.tolist()} if keep_halves else {}
  if extrapolate:
    at_infinity = infinity(first, second)
    result |= {f"{key}_infinity": at_infinity.value, f"{key}_infinity_slope": at_infinity.slope}
  if len(counts) == 2:
    result["kid"] = kid.kid(first.features, second.features)
    if min(counts) > nearest_k:
      result |= manifold.compare(first.features, second.features, nearest_k) | {"nearest_k": nearest_k}
  for name, side in (("generated", first), ("reference", second)):
    if side.count is not None:
      result[f"{name}_count"] = side.count
  if first.duplicates is not None:
    result["generated_duplicates"] = first.duplicates
  notes = _notes(first, second)
  return result | ({"note": "; ".join(notes)} if notes else {})


def _notes(first: Side, second: Side) -> list[str]:
  notes = []
  counts = [side.count for side in (first, second) if side.count is not None]
  if counts and min(counts) < SMALL:
    notes.append(f"{min(counts)} pictures: the distance is biased upwards below {SMALL}; compare only equal counts")
  if len(counts) == 2 and counts[0] < counts[1]:
    notes.append(f"fewer pictures ({counts[0]}) than references ({counts[1]})")
  if first.duplicates:
    notes.append(f"{first.duplicates} generated pictures are copies of another generated one")
  return notes


def network(weights: str | os.PathLike, variant: str = VARIANTS[0]) -> FeatureNetwork:
  """The network of a `--weights` value: `efficientnet-lite0`, or the path of pytorch-fid's file."""
  if not weights:
    raise InputError("folders of pictures need --weights: the file pt_inception-2015-12-05-6726825d.pth of pytorch-fid "
                     "(the number is then FID), or the word efficientnet-lite0 (then it is not)")
  from cm3leon_jax.evaluation.networks import efficientnet_lite0, inception_v3

  if os.fspath(weights) == "efficientnet-lite0":
    if variant != VARIANTS[0]:
      raise InputError(f"--variant={variant} is of InceptionV3: give --weights=pt_inception-2015-12-05-6726825d.pth")
    return efficientnet_lite0.load()
  return inception_v3.load(weights, clean=variant == "clean")


def weights_note(net: FeatureNetwork) -> str:
  """What to know of InceptionV3's weights where they are not the published file; else empty."""
  if net.key not in (FID, "clean_fid") or net.published:
    return ""
  return "the weights are not pytorch-fid's published file: the number compares with no published FID"


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
  bad = feature_store.rows_not_finite(features)
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


def read_folder(folder: Path, net: FeatureNetwork, cache: str | os.PathLike = "") -> Side:
  """Features of all pictures of a folder."""
  if len(images.list_images(folder)) < 2:
    raise InputError(f"{folder}: 1 picture; a covariance needs at least 2")
  found = feature_store.features_of_folder(folder, net, cache)
  return Side(found.features, duplicates=found.duplicates)


def evaluate_fid(generated: str | os.PathLike, reference: str | os.PathLike, weights: str | os.PathLike = "",
                 json_out: str | os.PathLike = "", *, variant: str = VARIANTS[0], cache: str | os.PathLike = "",
                 nearest_k: int = NEAREST_K, extrapolate: bool = False) -> dict:
  """Distance between two sides, each a folder of pictures or a saved `.npz`.

  Args:
    generated, reference: a folder, or an `.npz` of `features`, or of `mu` and `sigma`.
    weights: for folders: pytorch-fid's file, or `efficientnet-lite0`. Unused when both are `.npz`.
    json_out: where the result goes; empty for nowhere.
    variant: one of `VARIANTS`: how InceptionV3's pictures are resized.
    cache: folder that keeps features of folders; empty for `feature_store.default_cache()`.
    nearest_k, extrapolate: see `compare`.

  Returns:
    What `compare` gives under the key `fid` (or the network's own, e.g. `clean_fid`, `fd_efficientnet_lite0`); for
    folders also `network`, `weights_hash`, `preprocessing`.

  Raises:
    InputError: says which file is wrong, and what to do.
  """
  paths = [Path(generated), Path(reference)]
  for path in paths:  # before the network is loaded
    if not path.exists():
      raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
      images.list_images(path)
    elif path.suffix != ".npz":
      raise InputError(f"{path}: neither a folder of pictures nor an .npz")
  if variant not in VARIANTS:
    raise InputError(f"--variant={variant}: must be one of {', '.join(VARIANTS)}")
  net = network(weights, variant) if any(path.is_dir() for path in paths) else None
  first, second = (read_folder(path, net, cache) if path.is_dir() else read_npz(path) for path in paths)
  if first.dim != second.dim:
    raise InputError(f"{generated} has {first.dim} dimensions and {reference} {second.dim}: features of two "
                     "networks cannot be compared")
  result = compare(first, second, net.key if net else FID, nearest_k, extrapolate)
  if net:
    result |= {"network": net.name, "weights_hash": net.weights_hash, "preprocessing": net.preprocessing}
    note = "; ".join(filter(None, [result.get("note"), weights_note(net)]))
    result |= {"note": note} if note else {}
  if "note" in result:
    print(f"note: {result['note']}", file=sys.stderr)
  if json_out:
    files.write_json(json_out, result)
  return result
