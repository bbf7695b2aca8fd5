"""What tells that two pictures are one: equal bytes, nearly equal codes, a nearly equal perceptual hash. Pure."""

import hashlib
from typing import Iterable, Iterator

import numpy as np
from PIL import Image
from scipy import fft

DIGEST = 16  # bytes
THUMBNAIL = (8, 8, 3)
_SIDE = 32  # pixels a side that the perceptual hash reads
_LOW = 8  # its lowest frequencies a side: 64 bits
_PAIRS = 1 << 18  # pairs, and
_CELLS = 1 << 20  # numbers, held at a time

Pairs = tuple[np.ndarray, np.ndarray]  # int64[P] rows of the queries, int64[P] rows of the others


def digest(array: np.ndarray) -> bytes:
  """16 bytes that are equal for equal arrays: the start of SHA-256 over type, shape and values."""
  array = np.ascontiguousarray(array)
  return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).digest()[:DIGEST]


def perceptual(images: Iterable[np.ndarray]) -> np.ndarray:
  """N pictures uint8[H, W, 3] of any sizes → uint64[N]: pHash, bit for bit `imagehash.phash`'s, in one transform.

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


def near_hashes(queries: np.ndarray, others: np.ndarray, bits: int) -> tuple[Pairs, np.ndarray]:
  """Pairs of uint64 hashes that differ in at most `bits` bits, and in how many: uint8[P]; compares 3·10⁸ a second."""
  found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
  step = max(1, _CELLS // max(len(queries), 1))
  for start in range(0, len(others), step):
    i, j = np.nonzero(np.bitwise_count(queries[:, None] ^ others[start:start + step]) <= bits)
    found.append((i, j + start))
  i, j = (np.concatenate(part) for part in zip(*found, strict=True))
  return (i, j), np.bitwise_count(queries[i] ^ others[j])


class NearCodes:
  """Pictures to be found among many others by their codes: those with at least `share` of the drawn codes equal.

  Cells that are blank in both do not count (most drawings stand on white); a picture that is all blank is never found.

  What differs in at most m cells has, cut into more than m bands, one band that is equal: only pairs with an equal
  band are counted out, and no picture is compared with all.
  """

  def __init__(self, codes: np.ndarray, blank: np.ndarray, share: float):
    """Args:
      codes: int[N, I].
      blank: codes of an empty picture.
      share: above 0, at most 1.
    """
    self._codes, self._blank, self._share = codes, blank, share
    cells = codes.shape[1]
    rng = np.random.default_rng(0)
    self._weights = rng.integers(1, 2**63, cells, np.uint64) | np.uint64(1)
    # Fewer than 1 / (1 - share) cells a band: then more bands have drawn cells than cells may differ, however few those
    # are, and the all-blank bands need not be looked at.
    widest = cells if share == 1 else int(np.ceil(1 / (1 - share) - 1e-9)) - 1
    self._starts = np.array([band[0] for band in np.array_split(np.arange(cells), -(-cells // widest))])
    drawn = np.logical_or.reduceat(~np.isin(codes, blank), self._starts, axis=1)
    self._bands = []  # of each: its keys sorted, and whose they are
    for keys, some in zip(self._keys(codes).T, drawn.T, strict=True):
      rows = np.flatnonzero(some)
      order = np.argsort(keys[rows], kind="stable")
      self._bands.append((keys[rows][order], rows[order]))
    # A first look at an eighth of the cells: pairs that share no more than a plain background end there.
    self._look = np.sort(rng.permutation(cells)[:-(-cells // 8)])
    self._seen = np.ascontiguousarray(codes[:, self._look])

  def find(self, others: np.ndarray) -> tuple[Pairs, np.ndarray]:
    """int[M, I] → pairs (row of the codes, row of `others`), each once, and their shares: float64[P]."""
    found, seen = [np.zeros(0, np.int64)], np.ascontiguousarray(others[:, self._look])
    allowed = int(others.shape[1] * (1 - self._share) + 1e-9)
    for (keys, rows), theirs in zip(self._bands, self._keys(others).T, strict=True):
      for at, j in _equal(keys, theirs):
        i = rows[at]
        good = (self._seen[i] != seen[j]).sum(1) <= allowed
        found.append(np.unique(i[good] * len(others) + j[good]))
    i, j = np.divmod(np.unique(np.concatenate(found)), max(len(others), 1))
    shares = np.zeros(len(i))
    step = max(1, _CELLS // others.shape[1])
    for start in range(0, len(i), step):
      part = slice(start, start + step)
      ours, theirs = self._codes[i[part]], others[j[part]]
      drawn = ~(np.isin(ours, self._blank) & np.isin(theirs, self._blank))
      shares[part] = ((ours == theirs) & drawn).sum(1) / np.maximum(drawn.sum(1), 1)
    near = shares >= self._share - 1e-9
    return (i[near], j[near]), shares[near]

  def _keys(self, codes: np.ndarray) -> np.ndarray:
    """uint64[N, bands]: equal for equal bands; different ones collide once in 2^63."""
    step = max(1, _CELLS // codes.shape[1])
    keys = [np.add.reduceat(codes[n:n + step].astype(np.uint64) * self._weights, self._starts, axis=1)
            for n in range(0, len(codes), step)]
    return np.concatenate([np.zeros((0, len(self._starts)), np.uint64), *keys])


def _equal(keys: np.ndarray, others: np.ndarray) -> Iterator[Pairs]:
  """All pairs with keys[i] == others[j], some at a time; `keys` is sorted."""
  first = np.searchsorted(keys, others, "left")
  count = np.searchsorted(keys, others, "right") - first
  some = np.flatnonzero(count)
  total = np.cumsum(count[some])
  start = 0
  while start < len(some):
    end = max(start + 1, int(np.searchsorted(total, (total[start - 1] if start else 0) + _PAIRS, "right")))
    part = some[start:end]
    within = np.arange(count[part].sum()) - np.repeat(np.cumsum(count[part]) - count[part], count[part])
    yield np.repeat(first[part], count[part]) + within, np.repeat(part, count[part])
    start = end
