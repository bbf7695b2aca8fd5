"""The card says what is in the corpus, what is not, and shows pictures that can be opened."""

import collections

import numpy as np
from PIL import Image
import pytest

import corpus_files
from cm3leon_jax import cli
from cm3leon_jax.datasets.corpora.corpus import Corpus
from cm3leon_jax.datasets.corpora.webdataset import WebDataset
from cm3leon_jax.pipelines import corpus as pipeline
from cm3leon_jax.pipelines import corpus_card


def test_card(tmp_path, capsys):
  rows = [*corpus_files.good(30), *corpus_files.bad(), ("pipe", corpus_files.encoded(corpus_files.pixels(99)), "a | pipe")]
  tars = WebDataset(str(corpus_files.write_tars(tmp_path / "tars", [rows])), id="key")
  pipeline.make(tmp_path / "corpus", Corpus(tars, held_out=0.2, most_rejects=1.0), 32)
  assert cli.main(["inspect", "corpus", f"--workdir={tmp_path}", "-n", "12", f"--out={tmp_path / 'card'}"]) == 0
  text = (tmp_path / "card" / "corpus.md").read_text()
  assert capsys.readouterr().out.strip() == text.strip()
  assert "31 pairs of 40 records read" in text and "12 pairs, evenly spaced" in text
  assert "| caption_not_utf8 | 1 | 2.50% | a caption whose bytes are not UTF-8 | bad_caption_not_utf8: 'utf-8' codec" in text
  assert "Words: least 3, median 4, 95 % 4, most 4." in text and "WebDataset(files=" in text
  sheet = np.asarray(Image.open(tmp_path / "card" / "corpus.png"))
  assert sheet.std() > 20


def test_no_corpus(tmp_path, capsys):
  assert cli.main(["inspect", "corpus", f"--workdir={tmp_path}"]) == 1
  assert "no such folder (corpus); make it with: cm3leon data corpus" in capsys.readouterr().err


@pytest.mark.parametrize("numbers", [[3], [1, 2], [5] * 19 + [6], list(range(100)), [2, 2, 9]])
def test_quantiles_are_numpys(numbers):
  found = corpus_card.quantiles(collections.Counter(numbers))
  assert list(found.values()) == [np.quantile(numbers, q, method="inverted_cdf") for q in corpus_card.QUANTILES.values()]
