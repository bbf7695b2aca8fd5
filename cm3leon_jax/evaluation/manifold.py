"""Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) of generated pictures.

Each set of features is a union of balls around its rows, as wide as the distance to the k-th nearest other row of
the set. As in the authors' package `prdc`, a row at exactly a ball's radius is outside:

    precision  share of generated rows inside some ball of the reference
    recall     share of reference rows inside some ball of the generated
    density    how many of the reference's balls a generated row is inside of, on average, over k
    coverage   share of the reference's balls with a generated row inside

Float64, in blocks: memory does not grow with the number of rows, time with its square. Squared distances come from
inner products, whose rounding differs from one block shape to the next; distances that differ by no more than that
rounding count as equal, so the result does not hang on it.
"""

import numpy as np

_BLOCK = 2048  # rows of the distance matrix held at once, and columns


class _Rows:
  """Rows near the origin, with their squared norms, a block in float64 at a time."""

  def __init__(self, features: np.ndarray, centre: np.ndarray):
    self._features, self._centre = features, centre
    self.starts = range(0, len(features), _BLOCK)

  def __len__(self) -> int:
    return len(self._features)

  def block(self, start: int) -> tuple[np.ndarray, np.ndarray]:
    """float64[b, D] and its squared norms float64[b]."""
    x = np.asarray(self._features[start:start + _BLOCK], np.float64) - self._centre
    return x, np.einsum("nd,nd->n", x, x)


def _squared(x: tuple[np.ndarray, np.ndarray], y: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
  """Squared distances float64[b, c] of two blocks."""
  d = x[0] @ y[0].T
  d *= -2
  d += x[1][:, None]
  d += y[1]
  return np.maximum(d, 0, out=d)


def _slack(x: tuple[np.ndarray, np.ndarray], y: tuple[np.ndarray, np.ndarray]) -> float:
  """What rounding may do to a squared distance of two blocks: far below any difference that is meant."""
  return 1e-12 * (x[1].max() + y[1].max())


def _radii(rows: _Rows, k: int) -> np.ndarray:
  """Squared distance of each row to its k-th nearest other row, float64[N]. Each pair is looked at once."""
  nearest = np.full((len(rows), k), np.inf)

  def keep(start, distances):  # [b, c] more for the rows from `start`
    candidates = np.concatenate([nearest[start:start + len(distances)], distances], axis=1)
    nearest[start:start + len(distances)] = np.partition(candidates, k - 1, axis=1)[:, :k]

  for start in rows.starts:
    block = rows.block(start)
    own = _squared(block, block)
    np.fill_diagonal(own, np.inf)
    keep(start, own)
    for other in range(start + _BLOCK, len(rows), _BLOCK):
      distances = _squared(block, rows.block(other))
      keep(start, distances)
      keep(other, distances.T)
  return nearest.max(axis=1)


def compare(generated: np.ndarray, reference: np.ndarray, k: int = 5) -> dict[str, float]:
  """`precision`, `recall`, `density`, `coverage` of features [n, D] against [m, D], of any float type.

  Raises:
    ValueError: k is below 1, or a side has no more than k rows.
  """
  if not 1 <= k < min(len(generated), len(reference)):
    raise ValueError(f"the {k}-th nearest other row of {len(generated)} and {len(reference)} rows does not exist")
  centre = np.asarray(reference[:_BLOCK], np.float64).mean(axis=0)
  made, real = _Rows(generated, centre), _Rows(reference, centre)
  made_radii, real_radii = _radii(made, k), _radii(real, k)
  inside = np.zeros(len(made), np.int64)  # of how many of the reference's balls
  recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
  for i in real.starts:
    x = real.block(i)
    for j in made.starts:
      y = made.block(j)
      distances = _squared(x, y) + _slack(x, y)
      in_real = distances < real_radii[i:i + _BLOCK, None]
      inside[j:j + _BLOCK] += in_real.sum(axis=0)
      covered[i:i + _BLOCK] |= in_real.any(axis=1)
      recalled[i:i + _BLOCK] |= (distances < made_radii[j:j + _BLOCK]).any(axis=1)
  return {"precision": float((inside > 0).mean()), "recall": float(recalled.mean()),
          "density": float(inside.mean() / k), "coverage": float(covered.mean())}
