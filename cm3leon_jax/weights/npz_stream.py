"""An .npz file written array by array, block by block, that can be gone on with after a kill."""

import hashlib
import math
import os
from pathlib import Path
from typing import Callable, Iterable
import zipfile

import ml_dtypes
import numpy as np

from cm3leon_jax.weights import blocks

_FIELDS = ("header_offset", "CRC", "compress_size", "file_size", "flag_bits", "create_version", "extract_version",
           "external_attr")


def whole(path: Path, done: dict[str, dict]) -> dict[str, dict]:
  """The records of the arrays that are in the file as they were written, up to the first that is not."""
  kept = {}
  if path.is_file():
    for name, record in sorted(done.items(), key=lambda item: item[1]["end"]):
      if blocks.sha256(path, start=record["end"] - record["nbytes"], size=record["nbytes"]) != record["sha256"]:
        break
      kept[name] = record
  return kept


class Writer:
  """`numpy.savez`, without the arrays in memory: np.load reads the file.

  `done` is what earlier runs have finished, as `add` returned it; what they left after that is cut off.
  """

  def __init__(self, path: Path, done: dict[str, dict]):
    self._end = max((record["end"] for record in done.values()), default=0)
    self._file = open(path, "r+b" if self._end else "wb")  # noqa: SIM115 (closed by `close`)
    self._file.truncate(self._end)
    self._file.seek(self._end)
    self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
    for name, record in done.items():
      info = zipfile.ZipInfo(f"{name}.npy")
      for field in _FIELDS:
        setattr(info, field, record[field])
      self._zip.filelist.append(info)
      self._zip.NameToInfo[info.filename] = info

  def add(self, name: str, dtype: np.dtype, shape: tuple[int, ...], arrays: Iterable[np.ndarray],
          progress: Callable[[int], None] = lambda _: None) -> dict:
    """Writes one array, given as consecutive parts of its numbers; returns its record for `done`, with its SHA-256."""
    dtype, digest = np.dtype(dtype), hashlib.sha256()
    stored = np.dtype(np.uint16) if dtype == ml_dtypes.bfloat16 else dtype  # NumPy files know no bfloat16
    info = zipfile.ZipInfo(f"{name}.npy")  # with the date 1980: equal weights give equal files
    info.external_attr = 0o600 << 16
    with self._zip.open(info, "w", force_zip64=True) as f:
      np.lib.format.write_array_header_1_0(f, {"descr": np.lib.format.dtype_to_descr(stored), "fortran_order": False,
                                               "shape": tuple(shape)})
      for array in arrays:
        for block in blocks.cast(array, dtype, name, array.shape):
          f.write(block)
          digest.update(block)
          progress(len(block))
    self._file.flush()
    os.fsync(self._file.fileno())
    return {field: getattr(info, field) for field in _FIELDS} | {
        "end": self._file.tell(), "nbytes": math.prod(shape) * dtype.itemsize, "sha256": digest.hexdigest()}

  def close(self) -> None:
    """Writes the directory: now the file is whole."""
    self._zip.close()
    self._file.close()

  def abandon(self) -> None:
    """Leaves the file as it is, for the next run."""
    self._zip._didModify = False  # else its destructor would write the directory of half a file
    self._zip.close()
    self._file.close()
