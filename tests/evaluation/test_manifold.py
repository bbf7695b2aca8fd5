"""Precision, recall, density and coverage against the package of Naeem et al., and ties against arithmetic by hand."""

import numpy as np
import pytest

from cm3leon_jax.evaluation import manifold


def two_sets(n, m, dim, dtype=np.float64):
  rng = np.random.default_rng(n)
  return rng.normal(size=(n, dim)).astype(dtype), (rng.normal(size=(m, dim)) * 1.1 + 0.3).astype(dtype)


# What prdc 0.2 gives on `two_sets(n, m, dim)` (scikit-learn 1.9.1): precision, recall, density, coverage.
PRDC = {(200, 150, 8, 5): (0.965, 0.86, 1.054, 0.9666666666666667),
        (90, 300, 40, 3): (0.8555555555555555, 0.48, 1.2518518518518518, 0.5166666666666667),
        (60, 60, 2, 1): (0.7333333333333333, 0.8166666666666667, 0.9666666666666667, 0.5)}


@pytest.mark.parametrize("n, m, dim, k", PRDC)
def test_equal_to_prdc(n, m, dim, k):
  a, b = two_sets(n, m, dim)
  got = manifold.compare(a, b, k)
  assert list(got.values()) == pytest.approx(PRDC[n, m, dim, k], abs=1e-6)
  assert list(got) == ["precision", "recall", "density", "coverage"]


@pytest.mark.parametrize("n, m, dim, k", PRDC)
def test_the_recorded_numbers_are_its_own(n, m, dim, k):
  prdc = pytest.importorskip("prdc", reason="in requirements-reference.txt")
  got = prdc.compute_prdc(*two_sets(n, m, dim)[::-1], k)
  assert [got[name] for name in ("precision", "recall", "density", "coverage")] == pytest.approx(PRDC[n, m, dim, k],
                                                                                                 abs=1e-9)


def test_equal_to_prdc_on_features_like_a_networks():
  prdc = pytest.importorskip("prdc", reason="in requirements-reference.txt")
  rng = np.random.default_rng(0)
  mix = rng.normal(size=(20, 2048)) / 4
  a = np.maximum(rng.normal(size=(1100, 20)) @ mix, 0).astype(np.float32)
  b = np.maximum(rng.normal(size=(1300, 20)) @ mix * 1.05, 0).astype(np.float32)
  expected = prdc.compute_prdc(b.astype(np.float64), a.astype(np.float64), 5)
  got = manifold.compare(a, b)
  assert 0.2 < got["coverage"] < 1 and got == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-6)


def test_blocks_do_not_matter(monkeypatch):
  a, b = two_sets(70, 90, 12, np.float32)
  whole = manifold.compare(a, b)
  for block in (1, 16, 33):
    monkeypatch.setattr(manifold, "_BLOCK", block)
    assert manifold.compare(a, b) == whole


def test_worked_by_hand():
  # Generated 0, 1, 10 on a line, reference 0.5, 2, 3; k = 1. Radii of the reference: 1.5, 1, 1; of the generated: 1, 1,
  # 9.
  a, b = np.array([[0.0], [1], [10]]), np.array([[0.5], [2], [3]])
  # 0 and 1 are in the first ball, 1 at the edge of the second: outside. All reference rows are inside some ball of the
  # generated: 0.5 of the first two, 2 and 3 of the last. Only the first reference ball holds a generated row.
  expected = {"precision": 2 / 3, "recall": 1, "density": 2 / 3, "coverage": 1 / 3}
  assert manifold.compare(a, b, 1) == pytest.approx(expected)


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("block", [1, 7, 2048])
def test_rows_at_the_edge_of_a_ball_are_outside(monkeypatch, block, offset):
  """The same set twice: a row's k-th neighbour is at exactly its radius, so a ball holds its centre and k − 1 rows."""
  monkeypatch.setattr(manifold, "_BLOCK", block)
  a = np.random.default_rng(0).normal(size=(60, 300)) + offset
  inside = [manifold.compare(a, a, k)["density"] * k for k in (1, 2, 5)]
  assert inside == pytest.approx([1, 2, 5], abs=1e-12)


def test_copies_of_one_row():
  same = np.ones((9, 4))
  assert set(manifold.compare(same, same, 5).values()) == {0}  # balls of no width


def test_too_few_rows():
  a, b = two_sets(5, 9, 3)
  for k in (0, 5):
    with pytest.raises(ValueError, match="nearest other row of 5 and 9 rows"):
      manifold.compare(a, b, k)
