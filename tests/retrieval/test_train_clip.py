"""CLIP training: it learns, its batches are pure, and its measures mean what they say."""

import dataclasses
import json

import numpy as np
import pytest
from toy_world import CONFIG, pairs

from cm3leon_jax import assets
from cm3leon_jax.errors import InputError
from cm3leon_jax.retrieval import clip_metrics
from cm3leon_jax.retrieval.train_clip import Drawings, batches, drawings, train_clip
from cm3leon_jax.tokenizers.text import TextTokenizer


# 36 drawings: chance is 1/36 for recall@1 and 1/2 for the artist. Measured after 120 steps: see the asserts' margins.
def test_it_learns_thing_and_artist(toy):
  folder, rows, logged = toy
  figures = json.loads((folder / "manifest.json").read_text())["metrics"]["toy"]
  assert figures["count"] == len(rows.images) == 36
  assert figures["text_to_image_recall_at_1"] > 0.6
  assert figures["style_accuracy"] > 0.8
  assert figures["same_thing_at_10"] > 0.9
  assert [step for step, _ in logged] == [50, 100, 120]
  assert logged[-1][1]["loss"] < logged[0][1]["loss"]


def test_batches_are_a_function_of_seed_and_step():
  rows, text = drawings(pairs()), TextTokenizer.load(assets.path("tokenizers/demo_text"))
  first, second, other = (batches(rows, text, CONFIG, 16, seed) for seed in (0, 0, 1))
  for _ in range(3):
    a, b, c = next(first), next(second), next(other)
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])
    assert not np.array_equal(a["images"], c["images"])


def test_batches_know_their_true_pairs():
  """A caption with the artist is true of that artist's drawings only, one without of all drawings of the thing."""
  rows, text = drawings(pairs()), TextTokenizer.load(assets.path("tokenizers/demo_text"))
  by_picture = {image.tobytes(): i for i, image in enumerate(rows.images)}
  style_ids = {style: text.encode(style)[0] for style in set(rows.styles)}
  rng_batches = batches(rows, text, CONFIG, 16, 3)
  seen_across_styles = seen_within = 0
  for _ in range(5):
    batch = next(rng_batches)
    which = [by_picture[image.tobytes()] for image in batch["images"]]
    assert np.diagonal(batch["positives"]).all()
    for i, text_row in enumerate(which):
      words = set(batch["ids"][i][batch["mask"][i]])
      for j, image_row in enumerate(which):
        same = rows.things[text_row] == rows.things[image_row]
        across = rows.styles[text_row] != rows.styles[image_row]
        if batch["positives"][i, j]:
          assert same and not (across and style_ids[rows.styles[text_row]] in words)
          seen_across_styles += across
        elif same:
          assert across
          seen_within += 1
  assert seen_across_styles and seen_within, "both kinds must occur, or this test shows nothing"
  assert np.all(np.diff(batch["mask"].astype(int), axis=1) <= 0), "kept tokens stand in front"


def test_recall_on_hand_made_vectors():
  queries = np.eye(4)
  gallery = np.eye(4)[[0, 1, 3, 2]]  # queries 2 and 3 find each other's
  assert clip_metrics.recall_at(queries, gallery, 1) == 0.5
  assert clip_metrics.recall_at(queries, gallery, 4) == 1.0
  hit, of_two = clip_metrics.same_thing_at(queries, gallery, ["a", "b", "c", "new"], ["a", "x", "c", "b"], 1)
  # "new" is unknown and does not count; a finds a, b finds x, c finds b.
  assert (hit, of_two) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
  assert np.isnan(clip_metrics.same_thing_at(queries, gallery, ["new"] * 4, ["a"] * 4, 1)[0])


def test_skin_tones_are_separate_things():
  row = {**pairs()[0], "skin_tone": "light+dark"}
  rows = drawings([pairs()[0], row])
  assert rows.plain == ["red circle", "red circle, light and dark skin"]
  assert rows.things[0] != rows.things[1] and rows.toned.tolist() == [False, True]


def test_bad_data_is_named(tmp_path):
  rows = drawings(pairs())
  with pytest.raises(InputError, match="36 training drawings are fewer than clip batch_size=64"):
    train_clip(rows, tmp_path / "clip", assets.path("tokenizers/demo_text"), config=CONFIG, batch_size=64)
  with pytest.raises(InputError, match="differ in length"):
    Drawings(**{**{f.name: getattr(rows, f.name) for f in dataclasses.fields(rows)}, "captions": ["one"]})
  with pytest.raises(InputError, match="no raw pairs"):
    drawings([])
