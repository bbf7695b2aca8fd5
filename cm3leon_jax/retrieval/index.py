"""The nearest-neighbour index: ScaNN over unit document vectors, maximum inner product.

Small sets are searched by brute force; larger ones by a tree with asymmetric hashing, whose
recall against the exact answer is measured when it is built and stands in the manifest.
"""

import os
from pathlib import Path
import sys
from typing import Mapping, Sequence

import numpy as np

from cm3leon_jax import manifest as manifests
from cm3leon_jax.errors import InputError
from cm3leon_jax.retrieval.selection import Candidate

KIND = "index"
BRUTE_FORCE_BELOW = 20_000
RECALL_TARGET = 0.95
_IDS_FILE = "document_ids.npy"
_ASSETS = "scann"
_VECTORS = "dataset.npy"  # ScaNN keeps the exact vectors, in the order given, for brute force and for reordering
_RECALL_AT = 10
_RECALL_QUERIES = 256
_LEAVES_ROOM = 4  # times the documents asked for, in the leaves looked into
_REORDER = 256  # candidates scored exactly after hashing


def _scann():
  """ScaNN's own binding without its TensorFlow half: 0.15 s instead of 3 s, and any TensorFlow beside it."""
  saved = sys.modules.get("tensorflow")
  sys.modules["tensorflow"] = None  # makes scann's optional import fail
  try:
    from scann.scann_ops.py import scann_ops_pybind
    return scann_ops_pybind
  finally:
    sys.modules.pop("tensorflow")
    if saved is not None:
      sys.modules["tensorflow"] = saved


class Index:
  """ids and vectors → the most similar ids.

  Attributes:
    manifest: encoder (fingerprint), count, dim, search (`brute_force` or `tree`), recall, rules.
  """

  def __init__(self, searcher, ids: np.ndarray, vectors: np.ndarray, manifest: dict):
    self._searcher = searcher
    self._ids = ids
    self._vectors = vectors
    self.manifest = manifest

  def __len__(self) -> int:
    return len(self._ids)

  @classmethod
  def build(cls, folder: str | os.PathLike, vectors: np.ndarray, ids: Sequence[str], encoder: str, *,
            rules: Mapping[str, float] | None = None, queries: np.ndarray | None = None,
            brute_force_below: int = BRUTE_FORCE_BELOW, recall_target: float = RECALL_TARGET) -> "Index":
    """Builds, measures, writes `folder`, returns the index.

    Args:
      vectors: float[N, D], unit norm.
      ids: N different document ids.
      encoder: fingerprint of the encoder that made the vectors.
      rules: fields of `selection.Rules` that the corpus is searched with; kept in the manifest.
      queries: float[M, D], typical ones, to measure recall with; stored vectors, without them: those are easier to
        find than the vectors of a text alone.
      brute_force_below: from this many vectors on the search is approximate.
      recall_target: leaves are added until recall@10 reaches it.

    Raises:
      InputError: no vectors, not finite, not unit, or ids that do not match.
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    ids = np.array([document_id.encode() for document_id in ids])
    _check_vectors(vectors, "the vectors to index")
    if len(ids) != len(vectors) or len(np.unique(ids)) != len(ids):
      raise InputError(f"the index needs one different id for each of its {len(vectors)} vectors, "
                       f"got {len(ids)}, {len(np.unique(ids))} of them different")
    norms = np.linalg.norm(vectors, axis=1)
    if np.abs(norms - 1).max() > 0.01:
      raise InputError(f"the vectors to index must have unit norm, found {norms.min():.3f} to {norms.max():.3f}")
    builder = _scann().builder(vectors, _RECALL_AT, "dot_product")
    manifest = {"encoder": encoder, "count": len(ids), "dim": vectors.shape[1], "rules": dict(rules or {})}
    if len(ids) < brute_force_below:
      searcher, manifest["search"], manifest["recall"] = builder.score_brute_force().build(), "brute_force", 1.0
    else:
      leaves = int(np.sqrt(len(ids)))
      builder = builder.tree(leaves, num_leaves_to_search=max(1, leaves // 20),
                             training_sample_size=min(len(ids), 100_000))
      # 2 dimensions a code and 0.2: ScaNN's own advice for inner products.
      searcher = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(_REORDER).build()
      searched, recall = _tune(searcher, vectors, vectors if queries is None else queries, leaves, recall_target)
      manifest.update(search="tree", leaves=leaves, leaves_searched=searched, recall=round(recall, 4))
    with manifests.writing(folder, KIND) as (temporary, written):
      (temporary / _ASSETS).mkdir()  # ScaNN does not
      searcher.serialize(os.fspath(temporary / _ASSETS), relative_path=True)
      np.save(temporary / _IDS_FILE, ids)
      written.update(manifest)
    return cls.load(folder)

  @classmethod
  def load(cls, folder: str | os.PathLike) -> "Index":
    """Reads a folder written by `build`.

    Raises:
      InputError: no such folder, half written, or its parts do not fit.
    """
    manifest = manifests.read(folder, KIND, rebuild="cm3leon data index")
    try:
      ids = np.load(Path(folder) / _IDS_FILE, mmap_mode="r")
      vectors = np.load(Path(folder) / _ASSETS / _VECTORS, mmap_mode="r")
      searcher = _scann().load_searcher(os.fspath(Path(folder) / _ASSETS))
    except (OSError, ValueError, RuntimeError) as error:
      raise InputError(f"{folder}: the index cannot be read ({error}); make it with: cm3leon data index") from error
    if "rules" not in manifest:
      raise InputError(f"{folder}: made by an older version, without the rules of selection; make it again with: "
                       "cm3leon data index")
    if len(ids) != manifest["count"]:
      raise InputError(f"{folder}: {len(ids)} ids, the manifest says {manifest['count']}; make it again")
    return cls(searcher, ids, vectors, manifest)

  def search(self, queries: np.ndarray, k: int) -> tuple[list[list[str]], np.ndarray]:
    """The k best documents of each query, best first.

    Returns:
      ids: N lists, shorter than k where the index found fewer.
      scores: float32[N, k], NaN past the end of the list.

    Raises:
      InputError: k below 1, queries that are not finite or of another dimension.
    """
    rows, scores = self.search_rows(queries, k)
    return [[self._ids[row].decode() for row in found if row >= 0] for found in rows], scores

  def candidates(self, queries: np.ndarray, k: int) -> list[list[Candidate]]:
    """As `search`, with the vectors of what was found: what the selection rules judge."""
    rows, scores = self.search_rows(queries, k)
    return [[Candidate(self._ids[row].decode(), float(s), self._vectors[row]) for row, s in zip(*found) if row >= 0]
            for found in zip(rows, scores)]

  def search_rows(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As `search`, with rows of the indexed vectors in place of ids: int64[N, k], -1 past the end."""
    queries = np.ascontiguousarray(queries, np.float32)
    if k < 1:
      raise InputError(f"k={k}: ask the index for at least 1 document")
    _check_vectors(queries, "the queries")
    if queries.shape[1] != self.manifest["dim"]:
      raise InputError(f"the queries have {queries.shape[1]} dimensions, the index {self.manifest['dim']}; "
                       "encode them with the encoder that made the index")
    asked = min(k, len(self))
    options = {}
    if self.manifest["search"] == "tree":
      # The few leaves that suffice for the best ones hold only so many: who asks for more looks into more.
      wanted = int(np.ceil(self.manifest["leaves"] * min(1, _LEAVES_ROOM * asked / len(self))))
      options["leaves_to_search"] = max(self.manifest["leaves_searched"], wanted)
    found, found_scores = self._searcher.search_batched(queries, final_num_neighbors=asked,
                                                        pre_reorder_num_neighbors=max(asked, _REORDER), **options)
    rows = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), np.nan, np.float32)
    # ScaNN pads short rows with row 0 and a NaN score, and is as wide as the longest row.
    width = found.shape[1]
    scores[:, :width] = found_scores
    rows[:, :width] = np.where(np.isnan(found_scores), -1, found)
    return rows, scores


def _check_vectors(vectors: np.ndarray, what: str) -> None:
  """ScaNN dies without an exception on NaN in a tree build, and passes it on in silence elsewhere."""
  if vectors.ndim != 2 or not vectors.size:
    raise InputError(f"{what} must be [number, dimension] and not empty, got shape {list(vectors.shape)}")
  bad = np.flatnonzero(~np.isfinite(vectors).all(1))
  if len(bad):
    raise InputError(f"{what}: row {bad[0]} is not finite ({len(bad)} such rows); the encoder's weights or inputs are broken")


def _tune(searcher, vectors: np.ndarray, queries: np.ndarray, leaves: int, target: float) -> tuple[int, float]:
  """The fewest leaves (doubling) whose recall@10 on a sample of `queries` reaches `target`: (leaves, recall)."""
  rows = np.random.default_rng(0).choice(len(queries), min(len(queries), _RECALL_QUERIES), replace=False)
  sample = np.ascontiguousarray(queries[rows], np.float32)
  exact = np.argpartition(-(sample @ vectors.T), _RECALL_AT, axis=1)[:, :_RECALL_AT]
  searched = max(1, leaves // 20)
  while True:
    rows, _ = searcher.search_batched(sample, final_num_neighbors=_RECALL_AT, leaves_to_search=searched,
                                      pre_reorder_num_neighbors=_REORDER)
    recall = float(np.mean([len(np.intersect1d(a, b)) / _RECALL_AT for a, b in zip(rows, exact, strict=True)]))
    if recall >= target or searched == leaves:
      return searched, recall
    searched = min(2 * searched, leaves)
