"""What tells that two pictures are one: equal bytes, nearly equal codes, a nearly equal perceptual hash. Pure.

Sets are compared by joining sorted keys, never picture by picture: what differs in at most m of its parts has, cut
into m + 1 bands, one band that is equal, so only pairs with an equal band are counted out.
"""

import hashlib
from typing import Iterable

import numpy as np
from PIL import Image
from scipy import fft

DIGEST = 16  # bytes
THUMBNAIL = (8, 8, 3)
_SIDE = 32  # pixels a side that the perceptual hash reads
_LOW = 8  # its lowest frequencies a side: 64 bits
_PAIRS = 1 << 16  # compared in one step: bounds memory

Pairs = tuple[np.ndarray, np.ndarray]  # int64[P] rows of the queries, int64[P] rows of the others


def digest(array: np.ndarray) -> bytes:
  """16 bytes that are equal for equal arrays: the start of SHA-256 over type, shape and values."""
  array = np.ascontiguousarray(array)
  return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).digest()[:DIGEST]


def perceptual(images: Iterable[np.ndarray]) -> np.ndarray:
  """N pictures uint8[H, W, 3] of any sizes → uint64[N]: pHash, bit for bit `imagehash.phash`'s, the whole batch in one transform.

  Which of the lowest 8 × 8 frequencies of 32 × 32 grey pixels exceed their median. A copy at another size, lightly
  compressed or retouched differs in a few of the 64 bits; unrelated photographs in about 32.
  """
  small = [Image.fromarray(i).convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS) for i in images]
  grey = np.array([np.asarray(i) for i in small], np.float64).reshape(-1, _SIDE, _SIDE)
  low = fft.dctn(grey, axes=(1, 2))[:, :_LOW, :_LOW].reshape(-1, _LOW * _LOW)
  bits = low > np.median(low, axis=1, keepdims=True)
  return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def thumbnails(images: Iterable[np.ndarray]) -> np.ndarray:
  """N pictures uint8[H, W, 3] → uint8[N, 8, 8, 3], area averages."""
  small = [np.asarray(Image.fromarray(i).resize(THUMBNAIL[:2], Image.Resampling.BOX)) for i in images]
  return np.array(small, np.uint8).reshape(-1, *THUMBNAIL)


def equal_pairs(queries: np.ndarray, others: np.ndarray) -> Pairs:
  """All pairs (i, j) with queries[i] == others[j], of two lists of sortable keys."""
  order = np.argsort(queries, kind="stable")
  sorted_queries = queries[order]
  first = np.searchsorted(sorted_queries, others, "left")
  count = np.searchsorted(sorted_queries, others, "right") - first
  j = np.repeat(np.arange(len(others)), count)
  within = np.arange(len(j)) - np.repeat(np.cumsum(count) - count, count)
  return order[np.repeat(first, count) + within], j


def near_hashes(queries: np.ndarray, others: np.ndarray, bits: int) -> tuple[Pairs, np.ndarray]:
  """Pairs of uint64 hashes that differ in at most `bits` bits (fewer than 64), each once, and in how many: uint8[P]."""
  edges = np.linspace(0, 64, bits + 2).astype(np.uint64)
  found = []
  for low, high in zip(edges[:-1], edges[1:], strict=True):
    mask = np.uint64((1 << int(high)) - (1 << int(low)))
    found.append(equal_pairs(queries & mask, others & mask))
  i, j = _once(found, len(others))
  distance = np.bitwise_count(queries[i] ^ others[j])
  near = distance <= bits
  return (i[near], j[near]), distance[near]


def near_codes(queries: np.ndarray, others: np.ndarray, blank: np.ndarray, share: float) -> tuple[Pairs, np.ndarray]:
  """Pairs of pictures with at least `share` of their codes equal, each once, and that share: float64[P].

  Cells that are blank in both do not count (most drawings stand on white); a picture that is all blank
  has no pairs.

  Args:
    queries: int[N, I].
    others: int[M, I].
    blank: codes of an empty picture.
    share: above 0, at most 1.
  """
  cells = queries.shape[1]
  is_blank = np.isin(queries, blank)
  weights = np.random.default_rng(0).integers(1, 2**63, cells, np.uint64) | np.uint64(1)
  found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
  # Fewer than 1 / (1 - share) cells a band: then more bands have drawn cells than cells may differ, however few those
  # are, and the all-blank bands need not be looked at.
  widest = cells if share == 1 else int(np.ceil(1 / (1 - share) - 1e-9)) - 1
  for band in np.array_split(np.arange(cells), -(-cells // widest)):
    drawn = np.flatnonzero(~is_blank[:, band].all(1))
    ours, theirs = ((codes[:, band].astype(np.uint64) * weights[band]).sum(1, dtype=np.uint64) for codes in
                    (queries[drawn], others))
    i, j = equal_pairs(ours, theirs)
    found.append((drawn[i], j))
  i, j = _once(found, len(others))
  shares = np.zeros(len(i))
  for start in range(0, len(i), _PAIRS):
    part = slice(start, start + _PAIRS)
    a, b = queries[i[part]], others[j[part]]
    drawn = ~(is_blank[i[part]] & np.isin(b, blank))
    shares[part] = ((a == b) & drawn).sum(1) / np.maximum(drawn.sum(1), 1)
  near = shares >= share - 1e-9
  return (i[near], j[near]), shares[near]


def _once(found: list[Pairs], others: int) -> Pairs:
  """Pairs of all lists, without repetitions."""
  flat = np.unique(np.concatenate([i * others + j for i, j in found]))
  return np.divmod(flat, max(others, 1))
