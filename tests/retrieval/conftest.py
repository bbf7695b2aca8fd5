"""One CLIP of the toy world, trained once for all tests of this folder."""

import pytest
import toy_world

from cm3leon_jax import assets
from cm3leon_jax.retrieval.train_clip import drawings, train_clip


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
  """(folder, rows as `Drawings`, what `on_log` got) of a CLIP trained on the toy world."""
  folder = tmp_path_factory.mktemp("retrieval") / "clip"
  rows = drawings(toy_world.pairs())
  logged = []
  train_clip(rows, folder, assets.path("tokenizers/demo_text"), config=toy_world.CONFIG, steps=120, batch_size=24,
             learning_rate=5e-3, heldout={"toy": rows}, on_log=lambda step, means: logged.append((step, means)))
  return folder, rows, logged
