"""The encoder's folder and face."""

import json
import shutil

import numpy as np
import pytest

from cm3leon_jax import assets
from cm3leon_jax.errors import InputError
from cm3leon_jax.models.clip import CLIPConfig
from cm3leon_jax.retrieval import encoder as encoders
from cm3leon_jax.retrieval.encoder import Encoder, pad_texts
from cm3leon_jax.tokenizers.text import TextTokenizer


@pytest.fixture(scope="module")
def encoder(toy):
  return Encoder.load(toy[0])


def test_vectors_do_not_depend_on_the_batch(toy, encoder):
  """Chunks and padding leave no trace: 40 rows are a large chunk, one row is a small one."""
  images = np.concatenate([toy[1].images, toy[1].images[:4]])
  captions = [*toy[1].captions, *toy[1].captions[:4]]
  for encode, inputs in ((encoder.encode_images, images), (encoder.encode_text, captions)):
    together = encode(inputs)
    assert together.shape == (40, encoder.dim) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(encode(inputs[7:8])[0], together[7], atol=1e-5)
    assert encode(inputs[:0]).shape == (0, encoder.dim)


def test_ids_and_strings_are_the_same_text(encoder):
  ids = encoder.tokenize("red circle, twemoji")
  assert encoder.text.fingerprint == TextTokenizer.load(assets.path("tokenizers/demo_text")).fingerprint
  vectors = encoder.encode_text([ids, "red circle, twemoji", "blue square", ids[:2]])
  np.testing.assert_array_equal(vectors[0], vectors[1])
  assert vectors[0] @ vectors[3] > vectors[0] @ vectors[2]
  assert np.isfinite(encoder.encode_text([""])).all()


def test_pictures_of_any_size(toy, encoder):
  large = np.repeat(np.repeat(toy[1].images[:3], 3, axis=1), 3, axis=2)
  assert np.all((encoder.encode_images(large) * encoder.encode_images(toy[1].images[:3])).sum(1) > 0.98)
  for wrong in (large.astype(np.float32), large[0], large[..., :1]):
    with pytest.raises(InputError, match=r"uint8\[N, height, width, 3\]"):
      encoder.encode_images(wrong)


def test_a_document_is_the_unit_mean_of_its_parts():
  np.testing.assert_allclose(Encoder.document(np.array([[1.0, 0]]), np.array([[0, 1.0]])), [[0.5**0.5] * 2], rtol=1e-6)


def test_texts_are_cut_and_the_transformer_gets_an_end():
  bag, transformer = (CLIPConfig(text_tower=t, text_length=4) for t in ("bag", "transformer"))
  ids = [np.array([5, 6]), np.arange(5, 15), np.array([], int)]
  np.testing.assert_array_equal(pad_texts(ids, bag)[0], [[5, 6, 0, 0], [5, 6, 7, 8], [0] * 4])
  np.testing.assert_array_equal(pad_texts(ids, bag)[1].sum(1), [2, 4, 0])
  np.testing.assert_array_equal(pad_texts(ids, transformer)[0], [[5, 6, 1, 0], [5, 6, 7, 1], [1, 0, 0, 0]])


def test_loading_gives_what_was_saved(toy, encoder):
  again = Encoder.load(toy[0])
  assert again.fingerprint == encoder.fingerprint and again.config == encoder.config
  np.testing.assert_array_equal(again.encode_text(["red circle"]), encoder.encode_text(["red circle"]))


def test_changed_folders_are_named(tmp_path, toy):
  folder = tmp_path / "clip"
  shutil.copytree(toy[0], folder)
  with np.load(folder / encoders.WEIGHTS_FILE) as weights:
    flat = dict(weights)
  flat["logit_scale"] = flat["logit_scale"] + 1
  np.savez(folder / encoders.WEIGHTS_FILE, **flat)
  with pytest.raises(InputError, match="the folder was changed"):
    Encoder.load(folder)
  (folder / encoders.WEIGHTS_FILE).write_bytes(b"PK not a zip")
  with pytest.raises(InputError, match="cannot be read"):
    Encoder.load(folder)
  manifest = json.loads((folder / "manifest.json").read_text())
  manifest["config"]["colour"] = 1
  (folder / "manifest.json").write_text(json.dumps(manifest))
  with pytest.raises(InputError, match="cannot be read.*colour"):
    Encoder.load(folder)
  shutil.rmtree(folder / "text")
  with pytest.raises(InputError, match="text: no such folder"):
    Encoder.load(folder)


def test_a_tokenizer_too_large_is_refused(tmp_path):
  with pytest.raises(InputError, match="2048 pieces, but the CLIP has vocab_size=100"):
    encoders.save(tmp_path / "clip", CLIPConfig(vocab_size=100), {}, assets.path("tokenizers/demo_text"))
