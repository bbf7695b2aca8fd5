import gin
import pytest

from cm3leon_jax import config
from cm3leon_jax.errors import InputError


@pytest.fixture
def gin_file(tmp_path):
  path = tmp_path / "run.gin"
  path.write_text("DOCS = 3\nVocabulary.text_size = 2048\nLayout.max_documents = %DOCS\n")
  return str(path)


def test_overrides_win_and_plain_words_are_strings(gin_file):
  config.load([gin_file], ["DOCS=2", "Layout.numbering=document"])
  assert gin.query_parameter("Layout.numbering") == "document"
  assert gin.query_parameter("DOCS/gin.macro.value") == 2


@pytest.mark.parametrize("binding, message", [
    ("DOSC=2", "macro DOSC is set but nothing uses it; did you mean DOCS?"),
    ("Layout.max_docs=2", "max_docs.*nearest names are max_documents"),
    ("Layuot.max_documents=2", "Layuot.*nearest names are"),
    ("Layout.text_tokens=%TEXT", "macro %TEXT is used but never set"),
    ("Layout.text_tokens", "write it as --gin.NAME=VALUE"),
])
def test_misspelt_names_fail_at_once_with_the_nearest(gin_file, binding, message):
  with pytest.raises(InputError, match=message):
    config.load([gin_file], [binding])


def test_a_missing_file_is_named():
  with pytest.raises(InputError, match="nowhere.gin: no such file"):
    config.load(["nowhere.gin"])
  with pytest.raises(InputError, match="configs/runs/nowhere.gin"):
    config.load(["configs/runs/nowhere.gin"])
