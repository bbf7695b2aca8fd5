import json

import pytest

from cm3leon_jax import manifest
from cm3leon_jax.errors import InputError


def write(folder, **fields):
  with manifest.writing(folder, "documents") as (path, fields_):
    (path / "data").write_text("x")
    fields_.update(fields)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
  with pytest.raises(RuntimeError):
    with manifest.writing(tmp_path / "out", "documents") as (path, _):
      (path / "data").write_text("half")
      raise RuntimeError("killed")
  assert not (tmp_path / "out").exists()
  write(tmp_path / "out", count=3)
  assert manifest.read(tmp_path / "out", "documents")["count"] == 3
  assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_rewriting_replaces(tmp_path):
  write(tmp_path / "out", count=1)
  write(tmp_path / "out", count=2)
  assert manifest.read(tmp_path / "out", "documents")["count"] == 2
  assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("break_it, message", [
    (lambda p: None, "made with another vocabulary"),
    (lambda p: (p / "manifest.json").unlink(), "not a finished documents folder"),
    (lambda p: (p / "manifest.json").write_text("{"), "not valid JSON"),
    (lambda p: (p / "manifest.json").write_text(json.dumps({"kind": "index"})), "holds 'index', not 'documents'"),
    (lambda p: (p / "manifest.json").write_text(json.dumps({"kind": "documents", "format_version": 99})), "format version 99"),
    (lambda p: p.rename(p.with_name("gone")), "no such folder"),
])
def test_what_is_wrong_is_said(tmp_path, break_it, message):
  folder = tmp_path / "out"
  write(folder, vocabulary="abc")
  assert manifest.read(folder, "documents", expect={"vocabulary": "abc"})
  break_it(folder)
  with pytest.raises(InputError, match=message) as error:
    manifest.read(folder, "documents", expect={"vocabulary": "xyz"}, rebuild="cm3leon data tokenize")
  assert "cm3leon data tokenize" in str(error.value)
