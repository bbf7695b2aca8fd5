"""Weights leave a run folder and come back the same."""

import json

import jax
import numpy as np
import pytest
import tiny_run

from cm3leon_jax.errors import InputError
from cm3leon_jax.training import checkpoints


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run folder of 3 steps, with its last state."""
  workdir = tmp_path_factory.mktemp("run")
  return workdir, tiny_run.run(workdir, 3, evaluations={}, meta={"text_tokenizer": "t1"})


def _equal(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(np.asarray(x, np.float32), y, **tolerance), a, b)


def test_inference_gets_the_mean_or_the_last_weights(run):
  workdir, state = run
  config, vocabulary, layout, params, meta = checkpoints.load_for_inference(workdir)
  assert (config, vocabulary, layout) == (tiny_run.model(), tiny_run.VOCABULARY, tiny_run.LAYOUT)
  assert meta == {"text_tokenizer": "t1", "step": 3}
  _equal(params, state.ema, rtol=0)
  _equal(checkpoints.load_for_inference(workdir, ema=False)[3], state.params, rtol=0)


# Half an ulp: 11 bits in float16 and 8 in bfloat16.
@pytest.mark.parametrize("dtype, tolerance", [("float16", 2**-11), ("bfloat16", 2**-8), ("float32", 0)])
def test_a_released_folder_holds_the_same_weights(run, tmp_path, dtype, tolerance):
  workdir, state = run
  checkpoints.export_weights(workdir, tmp_path / "out", dtype)
  config, vocabulary, _, params, meta = checkpoints.load_for_inference(tmp_path / "out")
  assert config == tiny_run.model() and vocabulary == tiny_run.VOCABULARY and meta["step"] == 3
  _equal(params, state.ema, rtol=tolerance, atol=1e-7)
  assert params["tokens"].dtype == np.float32


def test_a_reader_leaves_an_unfinished_save_alone(run):
  workdir, _ = run
  unfinished = next((workdir / "checkpoints").iterdir()).parent / "9.orbax-checkpoint-tmp"
  unfinished.mkdir()
  checkpoints.load_for_inference(workdir)
  assert unfinished.is_dir()
  unfinished.rmdir()


def test_missing_models_are_named(tmp_path):
  with pytest.raises(InputError, match="nowhere: no such folder"):
    checkpoints.load_for_inference(tmp_path / "nowhere")
  with pytest.raises(InputError, match="no model.json"):
    checkpoints.load_for_inference(tmp_path)
  description = checkpoints.model_description(tiny_run.model(), tiny_run.VOCABULARY, tiny_run.LAYOUT, {})
  checkpoints.write_model_file(tmp_path, description)
  with pytest.raises(InputError, match="neither weights.npz nor checkpoints"):
    checkpoints.load_for_inference(tmp_path)
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(InputError, match="no finished checkpoint"):
    checkpoints.load_for_inference(tmp_path)


def test_weights_of_another_shape_are_named(run, tmp_path):
  checkpoints.export_weights(run[0], tmp_path / "out")
  path = tmp_path / "out" / "model.json"
  data = json.loads(path.read_text())
  data["transformer"]["num_layers"] = 5
  path.write_text(json.dumps(data))
  with pytest.raises(InputError, match="weights.npz: does not hold.*layers"):
    checkpoints.load_for_inference(tmp_path / "out")
