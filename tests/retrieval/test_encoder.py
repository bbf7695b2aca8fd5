"""The encoder's folder and face."""

import dataclasses
import json
import shutil

import numpy as np
from PIL import Image
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
  public = dataclasses.replace(transformer, text_start=98, text_end=99)
  np.testing.assert_array_equal(pad_texts(ids, public)[0], [[98, 5, 6, 99], [98, 5, 6, 99], [98, 99, 0, 0]])
  np.testing.assert_array_equal(pad_texts(ids, public)[1].sum(1), [4, 4, 2])


def test_the_shipped_encoder_is_what_it_was():
  """Documents, indexes and checkpoints name the encoder by this fingerprint; new fields of the geometry must not change it."""
  shipped = Encoder.load(assets.path("tokenizers/demo_clip"))
  assert (shipped.fingerprint, shipped.name, shipped.published) == ("d617d0111a7e7adf", "clip", False)


# Sides: a larger and a smaller picture, wide and tall, odd margins that round to even, a square, the model's own size.
@pytest.mark.parametrize("height, width", [(301, 500), (500, 301), (100, 133), (33, 90), (225, 224), (224, 231), (64, 64),
                                           (224, 224)])
def test_the_centre_is_cropped_as_clip_does(height, width):
  image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
  got = encoders.crop(image[None], 224)[0]
  # OpenAI's transform: torchvision's Resize(224, BICUBIC) and CenterCrop(224) on a PIL image, in their own arithmetic.
  new = (224, int(224 * height / width)) if width <= height else (int(224 * width / height), 224)
  left, top = int(round((new[0] - 224) / 2.0)), int(round((new[1] - 224) / 2.0))
  expected = Image.fromarray(image).resize(new, Image.BICUBIC).crop((left, top, left + 224, top + 224))
  np.testing.assert_array_equal(got, np.asarray(expected))


def test_the_crop_equals_transformers():
  processing = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
  processor = processing.CLIPImageProcessorPil()
  image = np.random.default_rng(0).integers(0, 256, (301, 500, 3), dtype=np.uint8)
  made = processor(images=[image], return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
  pixels = (made * processor.image_std + processor.image_mean) * 255
  np.testing.assert_allclose(encoders.crop(image[None], 224)[0], pixels, atol=1e-3)


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


def test_pictures_without_pixels_are_refused(encoder):
  for shape in ((1, 0, 3, 3), (2, 4, 0, 3)):
    with pytest.raises(InputError, match=r"reads images as uint8\[N, height, width, 3\]"):
      encoder.encode_images(np.zeros(shape, np.uint8))
  assert encoder.encode_images(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, encoder.dim)
