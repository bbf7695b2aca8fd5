"""Features against the public implementations, recorded by make_goldens.py: within 1e-4 (they agree to about 1e-5)."""

import ast
import importlib.util
from pathlib import Path

from checkpoint_writer import tensor, write
import numpy as np
from PIL import Image
import public_weights
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import fid
from cm3leon_jax.evaluation.networks import efficientnet_lite0, features, inception_v3

GOLDEN = np.load(Path(__file__).parent / "golden" / "features.npz")


@pytest.fixture(scope="module")
def inception_path(tmp_path_factory):
  state = {name: tensor(array) for name, array in public_weights.inception_state().items()}
  return write(tmp_path_factory.mktemp("weights") / "pt_inception.pth", state)


@pytest.fixture(scope="module")
def inception(inception_path):
  return inception_v3.load(inception_path)


@pytest.fixture(scope="module")
def efficientnet():
  return efficientnet_lite0.load()


@pytest.mark.parametrize("size", [64, 300])
def test_efficientnet_lite0_has_the_features_of_the_torch_package(efficientnet, size):
  got = efficientnet.features(public_weights.pictures(2, size))
  np.testing.assert_allclose(got, GOLDEN[f"efficientnet_{size}"], atol=1e-4)
  assert got.std() > 0.1 and efficientnet.key == "fd_efficientnet_lite0" and "FID" not in efficientnet.name


@pytest.mark.parametrize("size", [64, 320])
def test_inception_v3_has_the_features_of_pytorch_fid(inception, size):
  got = inception.features(public_weights.pictures(2, size))
  np.testing.assert_allclose(got, GOLDEN[f"inception_{size}"], atol=1e-4)
  assert got.std() > 0.1 and inception.key == "fid" and not inception.published


def clean_fid_resizer():
  """clean-fid's resize alone: the module around it imports torch, and its package torchvision."""
  path = Path(importlib.util.find_spec("cleanfid").submodule_search_locations[0]) / "resize.py"
  functions = [node for node in ast.parse(path.read_text()).body
               if isinstance(node, ast.FunctionDef) and node.name in ("make_resizer", "build_resizer")]
  space = {"np": np, "Image": Image}
  exec(compile(ast.Module(functions, []), str(path), "exec"), space)  # noqa: S102
  return space["build_resizer"]("clean")


@pytest.mark.parametrize("size", [64, 320])
def test_the_clean_resize_is_that_of_clean_fid(size):
  image = public_weights.pictures(2, size)[0][:, :size - 7]
  got = inception_v3.clean_resize(image)
  assert got.shape == (299, 299, 3) and got.dtype == np.float32
  np.testing.assert_array_equal(got[::23, ::23], GOLDEN[f"clean_resize_{size}"])
  if importlib.util.find_spec("cleanfid"):  # pip install --no-deps clean-fid==0.1.35
    np.testing.assert_array_equal(got, clean_fid_resizer()(image))


def test_the_clean_variant_is_the_same_network_behind_another_resize(inception, inception_path):
  clean = inception_v3.load(inception_path, clean=True)
  images = public_weights.pictures(2, 64)
  resized = np.stack([inception_v3.clean_resize(image) for image in images])
  expected = inception_v3.InceptionV3().apply({"params": inception.params}, (resized - 128) / 128)
  np.testing.assert_allclose(clean.features(images), expected, atol=1e-5)
  assert np.abs(clean.features(images) - inception.features(images)).max() > 1e-3
  assert (clean.key, clean.weights_hash) == ("clean_fid", inception.weights_hash) and clean.name.startswith("Clean-FID")
  assert clean.preprocessing != inception.preprocessing


def test_a_folder_under_inception_v3_is_called_fid(inception, inception_path, tmp_path):
  images = public_weights.pictures(2, 64)
  for i, image in enumerate(images):
    Image.fromarray(image).save(tmp_path / f"{i}.png")
  np.savez(tmp_path / "other.npz", features=inception.features(images) + 1)
  result = fid.evaluate_fid(tmp_path, tmp_path / "other.npz", inception_path, cache=tmp_path / "cache")
  assert result["fid"] == pytest.approx(2048, rel=1e-4)  # the same features, each 1 more
  assert "not pytorch-fid's published file" in result["note"] and result["network"] == inception.name


def test_a_folder_under_the_clean_variant_is_called_clean_fid(inception_path, tmp_path):
  for i, image in enumerate(public_weights.pictures(2, 64)):
    Image.fromarray(image).save(tmp_path / f"{i}.png")
  result = fid.evaluate_fid(tmp_path, tmp_path, inception_path, variant="clean", cache=tmp_path / "cache")
  assert result["clean_fid"] == pytest.approx(0, abs=1e-6) and "fid" not in result
  assert "PIL bicubic" in result["preprocessing"] and "not pytorch-fid's published file" in result["note"]


def test_batches_do_not_matter(efficientnet, monkeypatch):
  monkeypatch.setattr(features, "BATCH", 2)
  images = public_weights.pictures(5, 64)
  whole = efficientnet.features(images)
  assert whole.shape == (5, 1280)
  np.testing.assert_allclose(whole[3:], efficientnet.features(images[3:]), atol=1e-5)
  assert efficientnet.features(images[:0]).shape == (0, 1280)


def test_the_published_weights_are_the_ones_installed(efficientnet):
  assert efficientnet.published and efficientnet.weights_hash.startswith("57934424")  # as the file's name says


def test_wrong_arrays(efficientnet):
  for images in (np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 4), np.uint8)):
    with pytest.raises(ValueError, match=r"uint8\[N, H, W, 3\]"):
      efficientnet.features(images)


def test_another_networks_weights_are_refused(tmp_path):
  write(tmp_path / "w.pth", {"conv.weight": tensor(np.zeros(3, np.float32))})
  with pytest.raises(InputError, match="not pytorch-fid's InceptionV3: no tensor"):
    inception_v3.load(tmp_path / "w.pth")
  with pytest.raises(InputError, match="not EfficientNet-Lite0's weights: no tensor"):
    efficientnet_lite0.load(tmp_path / "w.pth")
  state = {f"{name}.weight": np.zeros((7, 7, 7, 7)) for name in ("_conv_stem", "Conv2d_1a_3x3.conv")}  # the first of either
  state |= {f"{name}.{part}": np.ones(32) for name in ("_bn0", "Conv2d_1a_3x3.bn")
            for part in ("weight", "bias", "running_mean", "running_var")}
  write(tmp_path / "w.pth", {name: tensor(x.astype(np.float32)) for name, x in state.items()})
  for network in (inception_v3, efficientnet_lite0):
    with pytest.raises(InputError, match="w.pth: not .*broadcast"):
      network.load(tmp_path / "w.pth")
  write(tmp_path / "w.pth", {"fc.bias": tensor(np.zeros(1000, np.float32))})
  with pytest.raises(InputError, match="1000 classes, while FID's has 1008"):
    inception_v3.load(tmp_path / "w.pth")
