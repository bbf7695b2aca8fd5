"""The document store: right rows, through memory-mapped id maps, whoever may write them."""

import numpy as np
import pytest

from cm3leon_jax import manifest as manifests
from cm3leon_jax import records
from cm3leon_jax.errors import InputError
from cm3leon_jax.retrieval.store import IDS_FILE, ROWS_FILE, DocumentStore

IDS = ["noto/2764", "twemoji/2764", "a", "zürich", "noto/1f600", "twemoji/2764-dark", "b/ö"]


def write(folder, ids=IDS):
  with manifests.writing(folder, "documents") as (temporary, manifest):
    for shard in range(2):
      rows = [{"id": id_, "caption": f"caption of {id_}", "image": np.arange(3)} for id_ in ids[shard::2]]
      records.write_shard(temporary / records.shard_name("documents", shard, 2), rows)
    manifest["count"] = len(ids)
  return folder


def test_finds_every_document(tmp_path):
  store = DocumentStore(write(tmp_path / "documents"))
  assert len(store) == len(IDS)
  for id_ in IDS:
    assert store[id_]["caption"] == f"caption of {id_}" and id_ in store
  assert [d["id"] for d in store.get(IDS[::-1])] == IDS[::-1]
  assert store.get([]) == []


def test_second_opening_reads_the_map(tmp_path):
  folder = write(tmp_path / "documents")
  DocumentStore(folder)
  assert (folder / IDS_FILE).is_file() and (folder / ROWS_FILE).is_file()
  store = DocumentStore(folder)
  assert isinstance(store._ids, np.memmap) and isinstance(store._rows, np.memmap)
  assert store["zürich"]["id"] == "zürich"


def test_a_map_of_other_documents_is_made_again(tmp_path):
  folder = write(tmp_path / "documents")
  np.save(folder / IDS_FILE, np.array([b"a"]))
  np.save(folder / ROWS_FILE, np.array([0]))
  assert DocumentStore(folder)["b/ö"]["id"] == "b/ö"


def test_without_write_permission(tmp_path, monkeypatch):
  folder = write(tmp_path / "documents")

  def refuse(*args, **kwargs):
    raise PermissionError("read-only")
  monkeypatch.setattr("tempfile.mkstemp", refuse)  # root may write anywhere, so chmod would not do
  assert DocumentStore(folder)["a"]["id"] == "a"
  assert not (folder / IDS_FILE).exists()


def test_unknown_ids_are_named(tmp_path):
  store = DocumentStore(write(tmp_path / "documents"))
  assert "nobody" not in store and "" not in store
  with pytest.raises(InputError, match="no document 'nobody'"):
    store.get(["a", "nobody"])


def test_two_of_one_id_are_refused(tmp_path):
  with pytest.raises(InputError, match="two documents have the id 'a'"):
    DocumentStore(write(tmp_path / "documents", IDS + ["a"]))


def test_half_written_folder(tmp_path):
  folder = write(tmp_path / "documents")
  (folder / "manifest.json").unlink()
  with pytest.raises(InputError, match="not a finished documents folder"):
    DocumentStore(folder)
