"""Fréchet distance against pytorch-fid's own function (which takes scipy's matrix square root), KID against a loop."""

import ast
import importlib.util
from pathlib import Path

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest
from scipy import linalg

from cm3leon_jax.evaluation import frechet, kid


CLEAN_FID = pytest.mark.skipif(importlib.util.find_spec("cleanfid") is None,
                               reason="needs pip install --no-deps clean-fid==0.1.35")


def function_of(package, module, name):
  """A package's function alone: importing its module would need torchvision, for a network that is not used here."""
  path = Path(importlib.util.find_spec(package).submodule_search_locations[0]) / module
  functions = [node for node in ast.parse(path.read_text()).body
               if isinstance(node, ast.FunctionDef) and node.name == name]
  space = {"np": np, "linalg": linalg}
  exec(compile(ast.Module(functions, []), str(path), "exec"), space)  # noqa: S102
  return space[name]


def two_sets(n, m, dim, seed=0):
  """Features like a network's: correlated, not below zero."""
  rng = np.random.default_rng(seed)
  mix = rng.normal(size=(dim, dim)) / dim**0.5
  return np.maximum(rng.normal(size=(n, dim)) @ mix, 0), np.maximum(1.1 * rng.normal(size=(m, dim)) @ mix + 0.1, 0)


# (rows, rows, dimensions): what pytorch-fid 0.3.0 gives on `two_sets` (SciPy 1.17), and how near it is to exact.
# With fewer rows than dimensions its matrix square root loses digits; ours does not.
PYTORCH_FID = {(400, 300, 48): (2.35666392787, 1e-9), (1000, 1000, 2): (0.0204009116296, 1e-9),
               (30, 40, 64): (19.9659658873, 1e-5)}


@pytest.mark.parametrize("n, m, dim", PYTORCH_FID)
def test_equal_to_pytorch_fid(n, m, dim):
  a, b = two_sets(n, m, dim)
  expected, tolerance = PYTORCH_FID[n, m, dim]
  assert frechet.frechet_from_features(a, b) == pytest.approx(expected, rel=tolerance)
  first, second = frechet.moments_of(a), frechet.moments_of(b)
  assert frechet.frechet_distance(first.mean, first.covariance, second.mean,
                                  second.covariance) == pytest.approx(expected, rel=tolerance)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("pytorch_fid") is None,
                    reason="it drags in torchvision; its numbers are recorded above")
@pytest.mark.parametrize("n, m, dim", PYTORCH_FID)
def test_the_recorded_numbers_are_its_own(n, m, dim):
  a, b = two_sets(n, m, dim)
  theirs = function_of("pytorch_fid", "fid_score.py", "calculate_frechet_distance")
  got = theirs(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
  expected, tolerance = PYTORCH_FID[n, m, dim]
  assert got == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("n, m, dim", PYTORCH_FID)
def test_equal_to_scipys_matrix_square_root(n, m, dim):
  a, b = two_sets(n, m, dim, seed=1)
  sigma_a, sigma_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  delta = a.mean(0) - b.mean(0)
  expected = delta @ delta + np.trace(sigma_a + sigma_b - 2 * linalg.sqrtm(sigma_a @ sigma_b).real)
  assert frechet.frechet_from_features(a, b) == pytest.approx(expected, rel=PYTORCH_FID[n, m, dim][1])


def test_worked_by_hand():
  # Diagonal covariances commute: |3|² + (2 − 1)² + (0 − 5)².
  assert frechet.frechet_distance([0, 0], np.diag([4, 0]), [3, 0], np.diag([1, 25])) == pytest.approx(9 + 1 + 25)
  x = two_sets(50, 2, 80)[0]
  assert frechet.frechet_from_features(x, x) == pytest.approx(0, abs=1e-9)


@given(st.lists(st.integers(0, 40), max_size=4), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_batches_do_not_matter(cuts, seed):
  x = 1e3 + np.random.default_rng(seed).normal(size=(40, 5))
  moments = frechet.Moments(5)
  for part in np.split(x, sorted(cuts)):
    moments.update(part)
  assert moments.count == 40
  np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-12)
  np.testing.assert_allclose(moments.covariance, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-12)


def test_merging_hosts_is_seeing_all_rows():
  x = np.random.default_rng(1).normal(size=(90, 7))
  hosts = [frechet.moments_of(part) for part in (x[:20], x[20:21], x[21:])]
  for other in hosts[1:]:
    hosts[0].merge(other)
  np.testing.assert_allclose(hosts[0].covariance, np.cov(x, rowvar=False), rtol=1e-10)


def test_subsets_of_rows():
  a, b = two_sets(60, 70, 90)
  rows, some = np.arange(0, 60, 2), np.arange(30)
  expected = frechet.frechet_from_features(a[rows], b[some])
  assert frechet.Rows(a, b).distance(rows, some) == pytest.approx(expected, rel=1e-9)


def test_bad_input():
  with pytest.raises(ValueError, match="do not fit"):
    frechet.frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
  with pytest.raises(ValueError, match="NaN"):
    frechet.frechet_distance(np.zeros(2), np.eye(2), np.full(2, np.nan), np.eye(2))
  with pytest.raises(ValueError, match="at least 2 rows"):
    frechet.moments_of(np.zeros((1, 3))).covariance
  with pytest.raises(ValueError, match=r"\[N, 3\]"):
    frechet.Moments(3).update(np.zeros((2, 4)))


def test_kid_is_the_unbiased_estimate():
  a, b = two_sets(12, 9, 6)
  k = lambda x, y: (x @ y / 6 + 1)**3
  xx = np.mean([k(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
  yy = np.mean([k(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
  xy = np.mean([k(x, y) for x in a for y in b])
  assert kid.kid(a, b) == pytest.approx(xx + yy - 2 * xy, abs=1e-12)
  rows = np.array([0, 3, 5])
  assert kid.Kernels(a, b).kid(rows, np.arange(9)) == pytest.approx(kid.kid(a[rows], b), abs=1e-12)


@CLEAN_FID
def test_kid_is_clean_fids_over_one_subset_of_all_rows():
  a, b = two_sets(90, 90, 48)
  expected = function_of("cleanfid", "fid.py", "kernel_distance")(b, a, num_subsets=1, max_subset_size=1000)
  assert kid.kid(a, b) == pytest.approx(expected, abs=1e-12)


@CLEAN_FID
def test_kid_is_what_clean_fids_random_subsets_average_to():
  a, b = two_sets(200, 150, 48)
  np.random.seed(0)
  theirs = function_of("cleanfid", "fid.py", "kernel_distance")
  values = [theirs(b, a, num_subsets=1, max_subset_size=40) for _ in range(400)]
  assert kid.kid(a, b) == pytest.approx(np.mean(values), abs=4 * np.std(values) / 20)  # 4 standard errors


def test_one_side_of_several_distances():
  a, b = (frechet.moments_of(x) for x in two_sets(90, 80, 12))
  to = frechet.Gaussian(a.mean, a.covariance)
  for other in (a, b):
    expected = frechet.frechet_distance(other.mean, other.covariance, a.mean, a.covariance)
    assert to.distance(other.mean, other.covariance) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_means_far_from_zero_keep_their_digits():
  """Sums of squares would lose them all: 1e8² has no room for a variance of 1 in float64."""
  x = 1e8 + np.random.default_rng(0).normal(size=(10_000, 3))
  np.testing.assert_allclose(frechet.moments_of(x).covariance, np.cov(x - 1e8, rowvar=False), rtol=1e-6, atol=1e-6)
  rows = np.arange(0, 10_000, 7)
  np.testing.assert_allclose(frechet.moments_of(x, rows).mean, x[rows].mean(0), rtol=1e-14)


def test_kid_blocks_do_not_matter(monkeypatch):
  a, b = two_sets(25, 17, 6)
  whole = kid.kid(a, b)
  monkeypatch.setattr(kid, "_BLOCK", 4)
  assert kid.kid(a, b) == pytest.approx(whole, abs=1e-12)


def test_kid_of_many_rows_is_the_mean_over_disjoint_parts(monkeypatch):
  a, b = two_sets(300, 240, 128)
  whole = kid.kid(a, b)
  monkeypatch.setattr(kid, "_MOST", 100)
  assert kid.kid(a, b) == pytest.approx(whole, rel=0.2) and kid.kid(a, b) != whole
  assert kid.kid(a, b) == kid.kid(a, b)
  monkeypatch.setattr(kid, "_MOST", 1)  # a part needs two rows of each side
  assert np.isfinite(kid.kid(a[:7], b[:5]))


def test_kid_of_one_distribution_is_zero_on_average():
  values = [kid.kid(*np.split(np.random.default_rng(i).normal(size=(100, 8)), 2)) for i in range(100)]
  assert abs(np.mean(values)) < 4 * np.std(values) / 10
