"""The image tokenizer: training on a few drawings, folder round trip, batch independence, errors in words."""

import dataclasses
import json
import shutil

import jax
import numpy as np
from PIL import Image, ImageDraw
import pytest

from cm3leon_jax import assets
from cm3leon_jax.errors import InputError
from cm3leon_jax.models.vqgan import VQGANConfig
from cm3leon_jax.tokenizers import image, train_image

CONFIG = VQGANConfig(image_size=32, channels=8, ch_mult=(1, 2), res_blocks=1, z_channels=16, embed_dim=16,
                     codebook_size=64, patch=4, patch_path=True, grid_positions=True, encoder_attention=False)
RECIPE = train_image.ImageRecipe(steps=60, decay_steps=20, warmup_steps=20, batch_size=16, learning_rate=2e-3)


def drawings(count, seed, size=32):
  """Discs and boxes in eight colours on white: enough structure for 64 codes to matter."""
  rng = np.random.default_rng(seed)
  palette = [tuple(int(v) for v in c) for c in np.random.default_rng(9).integers(0, 255, (8, 3))]
  out = []
  for _ in range(count):
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    for _ in range(2):
      x, y, r = rng.integers(4, size - 4, 2).tolist() + [int(rng.integers(4, size // 2))]
      shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
      shape((x - r, y - r, x + r, y + r), fill=palette[int(rng.integers(8))])
    out.append(np.asarray(picture))
  return np.stack(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  where = tmp_path_factory.mktemp("tokenizer") / "image"
  train_image.train_image_tokenizer(drawings(200, 0), drawings(40, 1), where, CONFIG, RECIPE, seed=3, log_every=20)
  return where


@pytest.fixture(scope="module")
def tokenizer(folder):
  return image.ImageTokenizer.load(folder)


def test_training_beats_the_mean_picture_and_reports(folder, tokenizer):
  record = json.loads((folder / "manifest.json").read_text())
  held_out = drawings(40, 1)
  flat = -10 * np.log10(np.mean((held_out / 255.0 - drawings(200, 0).mean(0) / 255.0) ** 2))
  assert record["held_out"]["psnr"] > flat + 6  # measured: 10.5 dB for the mean picture, 19.1 dB trained
  assert record["held_out"] == train_image.quality(tokenizer, held_out)
  assert 0 < record["held_out"]["usage"] <= 1 and record["held_out"]["perplexity"] <= 64
  assert record["recipe"] == dataclasses.asdict(RECIPE) and record["image_tokens"] == 16
  with Image.open(folder / "held_out.png") as grid:
    assert grid.size == (16 * 32 * 2, 6 * 32 * 2)  # three rows of 16 originals, each above its reconstructions
  assert not folder.with_name("image.progress").exists()


def test_interrupted_training_ends_with_the_same_weights(tmp_path, folder):
  class Stop(Exception):
    pass

  def stop(step, metrics):
    if step == 40:
      raise Stop

  def call(on_log):
    train_image.train_image_tokenizer(drawings(200, 0), drawings(40, 1), where, CONFIG, RECIPE, seed=3, log_every=20,
                                      save_every=20, on_log=on_log)

  where = tmp_path / "image"
  where.with_name("image.progress").write_bytes(b"the save of another recipe" * 10)  # must not be gone on from
  with pytest.raises(Stop):
    call(stop)
  assert not where.exists() and where.with_name("image.progress").is_file()
  steps = []
  call(lambda step, metrics: steps.append(step))
  assert steps == [60]  # went on, did not start anew
  assert image.ImageTokenizer.load(where).fingerprint == image.ImageTokenizer.load(folder).fingerprint


def test_codes_do_not_depend_on_the_company(tokenizer):
  pictures = drawings(image.ImageTokenizer.BATCH + 7, 5)
  codes = tokenizer.encode(pictures)
  assert codes.dtype == np.int32 and codes.shape == (len(pictures), 16) and codes.min() >= 0 and codes.max() < 64
  order = np.random.default_rng(0).permutation(len(pictures))
  np.testing.assert_array_equal(tokenizer.encode(pictures[order]), codes[order])
  for n in (1, 2, 31, 33):
    np.testing.assert_array_equal(tokenizer.encode(pictures[:n]), codes[:n])
  np.testing.assert_array_equal(tokenizer.decode(codes[:3]), tokenizer.decode(codes)[:3])


@pytest.mark.parametrize("size, batch", [(64, 32), (128, 32), (256, 8), (512, 2), (1024, 1)])
def test_large_pictures_come_in_small_batches(size, batch):
  assert image.ImageTokenizer(VQGANConfig(image_size=size), {}).batch == batch


def test_a_batch_of_one_gives_the_same(tokenizer):
  pictures = drawings(3, 5)
  alone = image.ImageTokenizer(tokenizer.config, tokenizer._params)
  alone.batch = 1
  np.testing.assert_array_equal(alone.encode(pictures), tokenizer.encode(pictures))


def test_empty_in_empty_out(tokenizer):
  assert tokenizer.encode(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 16)
  assert tokenizer.decode(np.zeros((0, 16), np.int32)).shape == (0, 32, 32, 3)


def test_saved_again_is_the_same(tokenizer, tmp_path):
  tokenizer.save(tmp_path / "again")
  again = image.ImageTokenizer.load(tmp_path / "again")
  pictures = drawings(5, 8)
  np.testing.assert_array_equal(again.encode(pictures), tokenizer.encode(pictures))
  assert again.config == CONFIG  # tuples survive JSON


@pytest.mark.parametrize("pictures, said", [
    (np.zeros((1, 64, 64, 3), np.uint8), r"\[n, 32, 32, 3\], got uint8 \[1, 64, 64, 3\]"),
    (np.zeros((1, 32, 32, 3), np.float32), "got float32"),
    (np.zeros((32, 32, 3), np.uint8), "resize or crop"),
])
def test_pictures_of_another_shape_are_refused(tokenizer, pictures, said):
  with pytest.raises(InputError, match=said):
    tokenizer.encode(pictures)


@pytest.mark.parametrize("codes, said", [
    (np.zeros((1, 15), np.int32), r"\[n, 16\], got int32 \[1, 15\]"),
    (np.full((1, 16), 64), r"0…63, got 64…64"),
    (np.full((1, 16), -1), "got -1…-1"),
    (np.zeros((1, 16)), "integer codes"),
])
def test_codes_out_of_range_are_refused(tokenizer, codes, said):
  with pytest.raises(InputError, match=said):
    tokenizer.decode(codes)


def test_damaged_folders_are_refused_in_words(folder, tmp_path):
  def copy(name):
    return shutil.copytree(folder, tmp_path / name)

  with pytest.raises(InputError, match="no such folder"):
    image.ImageTokenizer.load(tmp_path / "nowhere")
  cut = copy("cut")
  (cut / "weights.npz").write_bytes((folder / "weights.npz").read_bytes()[:-100])
  with pytest.raises(InputError, match="damaged or from another tokenizer"):
    image.ImageTokenizer.load(cut)
  gone = copy("gone")
  (gone / "weights.npz").unlink()
  with pytest.raises(InputError, match="weights.npz: missing"):
    image.ImageTokenizer.load(gone)
  other = copy("other")
  record = json.loads((other / "manifest.json").read_text())
  record["network"]["codebook_size"] = 32
  (other / "manifest.json").write_text(json.dumps(record))
  with pytest.raises(InputError, match=r"codebook is \(64, 16\), the network of the manifest needs \(32, 16\)"):
    image.ImageTokenizer.load(other)
  record["network"]["heads"] = 3
  (other / "manifest.json").write_text(json.dumps(record))
  with pytest.raises(InputError, match="does not describe a network this version knows"):
    image.ImageTokenizer.load(other)


def test_training_refuses_pictures_of_another_size(tmp_path):
  with pytest.raises(InputError, match="held-out pictures: need uint8"):
    train_image.train_image_tokenizer(drawings(4, 0), drawings(4, 0, size=16), tmp_path / "x", CONFIG, RECIPE)


def test_thinning_keeps_all_plain_drawings_and_a_share_of_the_toned():
  tones = ["" if i % 3 else "dark" for i in range(3000)]
  kept = train_image.thin_variants(tones, share=0.25, seed=0)
  plain = np.array(tones) == ""
  assert kept[plain].all() and 0.2 < kept[~plain].mean() < 0.3
  np.testing.assert_array_equal(kept, train_image.thin_variants(tones, share=0.25, seed=0))


def test_principal_components_are_orthonormal_and_signed():
  mean, directions = train_image.principal_components(drawings(50, 0), 8, 16, seed=0)
  np.testing.assert_allclose(directions @ directions.T, np.eye(16), atol=1e-5)
  assert (directions[np.arange(16), np.abs(directions).argmax(1)] > 0).all()
  assert mean.shape == (192,)


def test_shipped_tokenizer_is_whole_and_draws():
  shipped = image.ImageTokenizer.load(assets.path("tokenizers/demo_image"))
  assert (shipped.image_size, shipped.image_tokens, shipped.codebook_size) == (64, 64, 1024)
  disc = Image.new("RGB", (64, 64), "white")
  ImageDraw.Draw(disc).ellipse((6, 6, 58, 58), fill=(255, 204, 77))  # the disc that half of the corpus' faces share
  picture = np.asarray(disc)[None]
  again = shipped.decode(shipped.encode(picture))
  error = np.mean((again.astype(float) - picture) ** 2) / 255**2
  assert -10 * np.log10(error) > 24  # measured 26.9 dB; a wrong pixel scale or raster order gives less than 12
  white = shipped.encode(np.full((1, 64, 64, 3), 255, np.uint8))
  assert shipped.decode(white).mean() > 250
  assert jax.tree.leaves(shipped._params)[0].dtype == np.float32
