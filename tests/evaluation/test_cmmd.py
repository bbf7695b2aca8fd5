"""CMMD: the published formula in plain NumPy, blocks, intervals, names; the command on pictures."""

import dataclasses
import json

import numpy as np
from PIL import Image
import pytest

from cm3leon_jax import assets
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import cmmd as cmmds
from cm3leon_jax.models.clip import OPENAI_VIT_L_14_336
from cm3leon_jax.retrieval.encoder import Encoder


def unit(rows, dim, seed, shift=0.0):
  x = np.random.default_rng(seed).normal(shift, 1, (rows, dim))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def plain(x, y):
  """google-research/cmmd's distance.py, in float64 and all at once."""
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  gamma = 1 / (2 * 10**2)

  def mean(a, b):
    return np.mean(np.exp(-gamma * ((a[:, None] - b[None])**2).sum(-1)))

  return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


@pytest.mark.parametrize("n, m", [(7, 5), (64, 64), (1, 30), (33, 16)])
def test_equal_to_the_formula(monkeypatch, n, m):
  x, y = unit(n, 24, 0), unit(m, 24, 1, shift=0.5)
  expected = plain(x, y)
  assert expected > 0.1
  assert cmmds.cmmd(x, y) == pytest.approx(expected, abs=1e-6)
  monkeypatch.setattr(cmmds, "_BLOCK", 8)  # several blocks, the last ones cut
  assert cmmds.cmmd(x, y) == pytest.approx(expected, abs=1e-9)


def test_of_a_set_and_itself():
  x = unit(40, 16, 0)
  assert cmmds.cmmd(x, x) == pytest.approx(0, abs=1e-9)
  assert cmmds.cmmd(x[:20], x[20:]) > 0


def test_intervals_are_of_the_half_samples():
  x, y = unit(40, 16, 0), unit(31, 16, 1, shift=0.5)
  found = cmmds.cmmd_interval(x, y, halves=6)
  rows = [cmmds.bootstrap.half_samples(len(s), 6, seed) for seed, s in enumerate((x, y))]
  halves = [plain(x[a], y[b]) for a, b in zip(*rows)]
  expected = cmmds.bootstrap.half_sample_interval(plain(x, y), np.array(halves))
  np.testing.assert_allclose(found, expected, atol=1e-9)
  assert found.low < found.value < found.high


@pytest.mark.parametrize("x, y", [((5, 3), (5, 4)), ((5,), (5, 3)), ((0, 3), (5, 3))])
def test_wrong_shapes(x, y):
  with pytest.raises(ValueError, match="of one D"):
    cmmds.cmmd(np.zeros(x), np.zeros(y))


@pytest.fixture(scope="module")
def encoder():
  return Encoder.load(assets.path("tokenizers/demo_clip"))


def test_only_the_official_geometry_is_called_cmmd(encoder):
  assert cmmds.network(encoder).key == "mmd_clip"
  for config, key in ((OPENAI_VIT_L_14_336, "cmmd"), (dataclasses.replace(OPENAI_VIT_L_14_336, activation="gelu"), "mmd_clip")):
    net = cmmds.network(Encoder(config, {}, encoder.text, "0"))
    assert (net.key, net.published) == (key, False)
  assert cmmds.network(Encoder(OPENAI_VIT_L_14_336, {}, encoder.text, "0", published=True)).published


def folder(path, size, count, seed):
  path.mkdir()
  for i, image in enumerate(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)):
    Image.fromarray(image).save(path / f"{i}.png")
  return path


def test_two_folders(tmp_path, encoder):
  """Pictures of the model's own size, so that the encoder's vectors are the expected ones; the other side is stretched."""
  a, b = folder(tmp_path / "a", (64, 64), 5, 0), folder(tmp_path / "b", (48, 80), 6, 1)
  clip = assets.path("tokenizers/demo_clip")
  result = cmmds.evaluate_cmmd(a, b, clip, tmp_path / "out.json", cache=tmp_path / "cache")
  assert result["generated_count"] == 5 and result["reference_count"] == 6 and result["clip_fingerprint"] == encoder.fingerprint
  images = [np.stack([np.asarray(Image.open(p)) for p in sorted(f.iterdir())]) for f in (a, b)]
  # The encoder rounds what it has resized, CMMD does not: 1e-3 of vectors, where the sets are apart by more than 1.
  assert result["mmd_clip"] == pytest.approx(plain(*(encoder.encode_images(x) for x in images)), rel=1e-2)
  assert result["mmd_clip_low"] < result["mmd_clip"] < result["mmd_clip_high"]
  assert (tmp_path / "out.json").is_file()
  for wrong, message in ((tmp_path / "none", "no such folder"), (tmp_path / "f.npz", "folders of pictures")):
    with pytest.raises(InputError, match=message):
      cmmds.evaluate_cmmd(a, wrong, clip)


def test_the_command(tmp_path, capsys):
  from cm3leon_jax import cli

  a, b = folder(tmp_path / "a", (64, 64), 4, 0), folder(tmp_path / "b", (64, 64), 4, 1)
  flags = ["eval", "fid", f"--generated={a}", f"--reference={b}", f"--clip={assets.path('tokenizers/demo_clip')}",
           f"--cache={tmp_path / 'cache'}", f"--json={tmp_path / 'out.json'}"]
  assert cli.main(flags) == 0
  alone = json.loads((tmp_path / "out.json").read_text())
  assert "mmd_clip" in alone and not any("fd_" in key for key in alone)
  assert f"mmd_clip\t{alone['mmd_clip']}" in capsys.readouterr().out
  assert cli.main([*flags, "--weights=efficientnet-lite0"]) == 0
  both = json.loads((tmp_path / "out.json").read_text())
  assert both["mmd_clip"] == alone["mmd_clip"] and both["fd_efficientnet_lite0"] > 0
