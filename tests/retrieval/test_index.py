"""ScaNN index: equal to NumPy, masked by NaN, and safe from what kills ScaNN."""

import subprocess
import sys

import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.retrieval.index import Index


def unit(count, dim=16, seed=0, centres=20):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(centres, dim))[rng.integers(0, centres, count)] + 0.5 * rng.normal(size=(count, dim))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def names(count):
  return [f"set/{i:x}" for i in range(count)]


def test_brute_force_equals_numpy(tmp_path):
  vectors, queries = unit(200), unit(7, seed=1)
  built = Index.build(tmp_path / "index", vectors, names(200), "encoder-1")
  exact = queries @ vectors.T
  order = np.argsort(-exact, axis=1)[:, :5]
  for index in (built, Index.load(tmp_path / "index")):
    ids, scores = index.search(queries, 5)
    assert ids == [[names(200)[i] for i in row] for row in order]
    np.testing.assert_allclose(scores, np.take_along_axis(exact, order, axis=1), atol=1e-5)
    for found, row in zip(index.candidates(queries, 5), order, strict=True):
      np.testing.assert_allclose([c.vector for c in found], vectors[row], atol=1e-6)
  assert built.manifest["search"] == "brute_force" and built.manifest["encoder"] == "encoder-1"


def test_k_beyond_the_index_is_padded_with_nan(tmp_path):
  index = Index.build(tmp_path / "index", unit(3), names(3), "e")
  ids, scores = index.search(unit(2, seed=1), 8)
  rows, _ = index.search_rows(unit(2, seed=1), 8)
  assert scores.shape == (2, 8)
  for found, row, numbers in zip(ids, scores, rows, strict=True):
    assert sorted(found) == names(3)
    assert np.isfinite(row[:3]).all() and np.isnan(row[3:]).all()
    assert (numbers[3:] == -1).all() and (numbers[:3] >= 0).all()


# 0.9 leaves room below the target of 0.95, which is measured on other queries of the same kind. Tuned on stored
# vectors instead, these queries reached only 0.79.
def test_tree_reaches_its_recall_and_says_so(tmp_path):
  vectors, queries = unit(2000), unit(64, seed=2)
  index = Index.build(tmp_path / "index", vectors, names(2000), "e", brute_force_below=1000,
                      queries=unit(256, seed=3))
  assert index.manifest["search"] == "tree" and index.manifest["recall"] >= 0.95
  ids, scores = index.search(queries, 10)
  exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
  recall = np.mean([len({names(2000)[i] for i in row} & set(found)) / 10 for row, found in zip(exact, ids, strict=True)])
  assert recall >= 0.9
  assert np.all(np.diff(scores, axis=1) <= 1e-6)
  [found] = index.candidates(queries[:1], 10)
  np.testing.assert_allclose([c.vector for c in found], vectors[[int(c.id.split("/")[1], 16) for c in found]], atol=1e-6)


def test_a_tree_gives_all_it_holds_when_asked_for_all(tmp_path):
  index = Index.build(tmp_path / "index", unit(2000), names(2000), "e", brute_force_below=1000, recall_target=0.1)
  assert index.manifest["leaves_searched"] < index.manifest["leaves"]
  for asked in (500, 2000):
    ids, _ = index.search(unit(4, seed=2), asked)
    assert all(len(found) == asked == len(set(found)) for found in ids)


@pytest.mark.parametrize("spoil, message", [
    (lambda v, i: (v * np.where(np.arange(len(v)) == 4, np.nan, 1)[:, None], i), "row 4 is not finite"),
    (lambda v, i: (v * np.where(np.arange(len(v)) == 2, np.inf, 1)[:, None], i), "row 2 is not finite"),
    (lambda v, i: (v * 2, i), "unit norm, found 2.000"),
    (lambda v, i: (v, i[:-1]), "got 29, 29 of them different"),
    (lambda v, i: (v, i[:-1] + i[:1]), "got 30, 29 of them different"),
    (lambda v, i: (v[:0], []), "not empty"),
    (lambda v, i: (v[0], i), "must be"),
])
def test_bad_vectors_are_refused(tmp_path, spoil, message):
  with pytest.raises(InputError, match=message):
    Index.build(tmp_path / "index", *spoil(unit(30), names(30)), "e")
  assert not (tmp_path / "index").exists()


def test_bad_queries_are_refused(tmp_path):
  index = Index.build(tmp_path / "index", unit(30), names(30), "e")
  with pytest.raises(InputError, match="8 dimensions, the index 16"):
    index.search(unit(2, dim=8), 3)
  with pytest.raises(InputError, match="the queries: row 1 is not finite"):
    index.search(unit(2) * np.array([[1], [np.nan]]), 3)
  with pytest.raises(InputError, match="k=0"):
    index.search(unit(2), 0)


def test_missing_parts_are_named(tmp_path):
  with pytest.raises(InputError, match="no such folder"):
    Index.load(tmp_path / "nowhere")
  Index.build(tmp_path / "index", unit(30), names(30), "e")
  np.save(tmp_path / "index" / "document_ids.npy", np.array([b"a"]))
  with pytest.raises(InputError, match="1 ids, the manifest says 30"):
    Index.load(tmp_path / "index")
  (tmp_path / "index" / "document_ids.npy").unlink()
  with pytest.raises(InputError, match="cannot be read"):
    Index.load(tmp_path / "index")


def test_scann_comes_without_tensorflow_and_tensorflow_can_follow():
  code = """
import sys
from cm3leon_jax.retrieval import index
index._scann()
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules), "tensorflow was loaded"
import importlib.util
assert importlib.util.find_spec("tensorflow") is not None
"""
  subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
