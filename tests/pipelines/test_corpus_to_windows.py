"""A corpus of tar files through every stage with the shipped tokenizers, down to windows that training reads."""

import numpy as np
import pytest

import corpus_files
from cm3leon_jax import config, manifest, records
from cm3leon_jax.datasets import reader
from cm3leon_jax.tasks import windows


@pytest.mark.slow
def test_from_tars_to_windows(tmp_path):
  rows = corpus_files.good(60)
  corpus_files.write_tars(tmp_path / "tars", [rows[:30], rows[30:] + corpus_files.bad()])
  (tmp_path / "mine.gin").write_text(f"""
include 'mixtures/emoji.gin'
Pipelines.source = @Corpus()
Corpus.source = @WebDataset()
Corpus.held_out = 0.2
Corpus.most_rejects = 0.2
WebDataset.files = '{tmp_path}/tars'
Pipelines.framings = 1
Pipelines.epochs = 1
Rules.max_score = 1.0
Rules.max_similarity = 1.0
""")
  config.load([str(tmp_path / "mine.gin")])
  pipelines, work = config.configured("Pipelines"), tmp_path / "work"
  pipelines.run("build", work)
  train = reader.count(work / "corpus", "train", 64)
  held_out = reader.count(work / "corpus", "heldout", 64)
  assert train + held_out == 60 and held_out
  names = sorted(p.name for p in (work / "windows").iterdir() if p.is_dir())
  assert names == ["heldout_k0", "heldout_k1", "heldout_k2", "pretrain"], "fine-tuning on drawings is the demo's alone"
  for folder in ("documents", "embeddings", "neighbours"):
    for split, count in (("train", train), ("heldout", held_out)):
      assert manifest.read(work / folder / split, folder)["count"] == count
  document = records.Reader(work / "documents" / "train", "documents")[0]
  assert document["caption"].startswith("a box, number") and len(document["image"]) == 64 and len(document["framings"]) == 1
  source = windows.WindowSource(work / "windows" / "pretrain", batch_size=2, objective=config.configured("CM3Objective"))
  batch = next(iter(source.iterate(start_step=0)))
  assert batch["inputs"].shape == (2, 256) and (np.asarray(batch["loss_weights"]) > 0).sum() > 100
