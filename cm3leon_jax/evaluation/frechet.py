"""Fréchet distance between two sets of features, as between Gaussians of their mean and covariance.

    d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁ Σ₂)^½

(Dowson and Landau 1982; Heusel et al. 2017.) All in float64. The last trace is the sum of
square roots of the eigenvalues of Rᵀ Σ₂ R, where R Rᵀ = Σ₁, which is symmetric: unlike the matrix
square root of the product Σ₁ Σ₂ (pytorch-fid) it stays real and exact when a covariance
has not full rank. From fewer rows than columns it is taken from the rows' inner products,
without any covariance (`Rows`).
"""

import dataclasses

import numpy as np

_EPS = np.finfo(np.float64).eps
_ROWS = 4096  # in float64 at once


@dataclasses.dataclass
class Moments:
  """Running count, mean and scatter of features [*, D]; memory is D², whatever the number of rows.

  Merging is Chan, Golub and LeVeque's (1979): the result does not depend on the batches.
  """
  dim: int
  count: int = 0

  def __post_init__(self):
    self.mean = np.zeros(self.dim)
    self.scatter = np.zeros((self.dim, self.dim))  # Σ (x − mean)(x − mean)ᵀ

  def update(self, features: np.ndarray) -> None:
    """Adds rows [N, D] of any float type."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or features.shape[1] != self.dim:
      raise ValueError(f"features must be [N, {self.dim}], got {features.shape}")
    if len(features):
      other = Moments(self.dim, len(features))
      other.mean = features.mean(axis=0)
      centred = features - other.mean
      other.scatter = centred.T @ centred
      self.merge(other)

  def merge(self, other: "Moments") -> None:
    """Adds the rows that another one saw, as on another host."""
    total = self.count + other.count
    if not total:
      return
    delta = other.mean - self.mean
    self.scatter += other.scatter + np.outer(delta, delta) * (self.count * other.count / total)
    self.mean += delta * (other.count / total)
    self.count = total

  @property
  def covariance(self) -> np.ndarray:
    """The unbiased estimate float64[D, D]."""
    if self.count < 2:
      raise ValueError(f"a covariance needs at least 2 rows, got {self.count}")
    return self.scatter / (self.count - 1)


def moments_of(features: np.ndarray, rows: np.ndarray | None = None) -> Moments:
  """Moments of features [N, D], or of some rows of them, a few thousand in float64 at a time."""
  moments = Moments(features.shape[1])
  for start in range(0, len(features if rows is None else rows), _ROWS):
    some = slice(start, start + _ROWS)
    moments.update(features[some] if rows is None else features[rows[some]])
  return moments


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
  """Distance from means [D] and covariances [D, D].

  Raises:
    ValueError: shapes do not fit, or a value is not finite.
  """
  return Gaussian(mu1, sigma1).distance(mu2, sigma2)


class Gaussian:
  """One side of distances to several others: its root is taken once."""

  def __init__(self, mu: np.ndarray, sigma: np.ndarray):
    """Mean [D] and covariance [D, D]; raises ValueError as `frechet_distance`."""
    self._mu, sigma = _checked(mu, sigma)
    self._trace = np.trace(sigma)
    self._root = _root(sigma)

  def distance(self, mu: np.ndarray, sigma: np.ndarray) -> float:
    """To another mean [D] and covariance [D, D]; raises ValueError as `frechet_distance`."""
    mu, sigma = _checked(mu, sigma)
    if mu.shape != self._mu.shape:
      raise ValueError(f"means {self._mu.shape} and {mu.shape} do not fit")
    root = self._root
    inner = np.linalg.eigvalsh(_symmetric(root.T @ sigma @ root)) if root.size else np.zeros(1)
    inner = np.where(inner > max(inner[-1], 0) * len(inner) * _EPS, inner, 0)  # the rest is rounding noise around zero
    delta = self._mu - mu
    return float(delta @ delta + self._trace + np.trace(sigma) - 2 * np.sqrt(inner).sum())


def _checked(mu: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  mu, sigma = np.asarray(mu, np.float64).reshape(-1), np.asarray(sigma, np.float64)
  if sigma.shape != (len(mu),) * 2:
    raise ValueError(f"mean {mu.shape} and covariance {sigma.shape} do not fit")
  if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
    raise ValueError("a mean or covariance holds NaN or infinity")
  return mu, _symmetric(sigma)


def _root(sigma: np.ndarray) -> np.ndarray:
  """R [D, r] with R Rᵀ = sigma. Cholesky's, three times faster, unless a direction is as good as missing."""
  try:
    root = np.linalg.cholesky(sigma)
    pivots = root.diagonal()
    if pivots.min() > 1e-6 * pivots.max():
      return root
  except np.linalg.LinAlgError:
    pass
  values, vectors = np.linalg.eigh(sigma)
  keep = values > max(values[-1], 0) * len(values) * _EPS
  return vectors[:, keep] * np.sqrt(values[keep])


def _symmetric(matrix: np.ndarray) -> np.ndarray:
  return (matrix + matrix.T) / 2


class Rows:
  """Distances between subsets of two sets of features, from inner products computed once.

  With centred rows A [n, D] and B [m, D], tr (Σ₁ Σ₂)^½ is the sum of singular values of
  A Bᵀ / √((n − 1)(m − 1)): an n × m problem, whatever D is.
  """

  def __init__(self, first: np.ndarray, second: np.ndarray):
    """Features [n, D] and [m, D]; n, m ≥ 2."""
    first, second = (np.asarray(x, np.float64) for x in (first, second))
    centre = first.mean(axis=0)  # any one point would do; near the data rounding is least
    self._a, self._b = first - centre, second - centre
    self._cross = self._a @ self._b.T

  def distance(self, first: np.ndarray | slice = slice(None), second: np.ndarray | slice = slice(None)) -> float:
    """Between the rows `first` of one set and `second` of the other."""
    a, b = self._a[first], self._b[second]
    n, m = len(a), len(b)
    if min(n, m) < 2:
      raise ValueError(f"a covariance needs at least 2 rows, got {n} and {m}")
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    cross = self._cross[first][:, second]
    cross = cross - cross.mean(axis=0) - cross.mean(axis=1, keepdims=True) + cross.mean()
    nuclear = np.linalg.svd(cross, compute_uv=False).sum() / np.sqrt((n - 1) * (m - 1))
    trace_a = ((a - mean_a)**2).sum() / (n - 1)
    trace_b = ((b - mean_b)**2).sum() / (m - 1)
    delta = mean_a - mean_b
    return float(delta @ delta + trace_a + trace_b - 2 * nuclear)


def by_rows(first: np.ndarray, second: np.ndarray) -> bool:
  """Whether `Rows` is the cheaper route between features [n, D] and [m, D]."""
  return max(len(first), len(second)) <= first.shape[1]


def frechet_from_features(first: np.ndarray, second: np.ndarray) -> float:
  """Distance between features [n, D] and [m, D], by the cheaper of the two routes."""
  first, second = np.asarray(first), np.asarray(second)
  if by_rows(first, second):
    return Rows(first, second).distance()
  a, b = moments_of(first), moments_of(second)
  return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
