"""Features on disk: the same numbers the second time without the network, on after a kill, never fatal."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import feature_store, images
from cm3leon_jax.evaluation.networks.features import FeatureNetwork


class Counting(FeatureNetwork):
  """Mean colour; `seen` counts the pictures that it was given."""

  def features(self, pictures):
    object.__setattr__(self, "seen", getattr(self, "seen", 0) + len(pictures))
    return super().features(pictures)


def network(**changes) -> Counting:
  return Counting(**dict(name="mean colour", key="fd_mean", dim=3, weights_hash="0" * 16, published=False,
                         preprocessing="none", params={}, function=lambda params, x: x.mean(axis=(1, 2))) | changes)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  monkeypatch.setattr(images, "CHUNK", 4)


@pytest.fixture
def pictures():
  return np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, pictures):
  (tmp_path / "in").mkdir()
  for i, image in enumerate(pictures):
    Image.fromarray(image).save(tmp_path / "in" / f"{i:03}.png")
  return tmp_path / "in"


def test_a_folder_is_computed_once(folder, pictures, tmp_path):
  net = network()
  found = feature_store.features_of_folder(folder, net, tmp_path / "cache")
  np.testing.assert_allclose(found.features, pictures.mean((1, 2)), rtol=1e-5)
  assert isinstance(found.features, np.memmap) and found.features.dtype == np.float32 and not found.duplicates
  again = feature_store.features_of_folder(folder, net, tmp_path / "cache")
  np.testing.assert_array_equal(again.features, found.features)
  assert net.seen == 10 and again.key == found.key
  assert not list((tmp_path / "cache" / "parts").iterdir()), "joined parts are removed"


def test_names_do_not_matter_but_content_and_network_do(folder, tmp_path):
  net, cache = network(), tmp_path / "cache"
  key = feature_store.features_of_folder(folder, net, cache).key
  folder.rename(tmp_path / "elsewhere")
  (tmp_path / "elsewhere" / "000.png").rename(tmp_path / "elsewhere" / "0000.png")
  assert feature_store.features_of_folder(tmp_path / "elsewhere", net, cache).key == key and net.seen == 10
  for change in (dict(weights_hash="1" * 16), dict(preprocessing="other"), dict(key="fd_other")):
    other = network(**change)
    assert feature_store.features_of_folder(tmp_path / "elsewhere", other, cache).key != key and other.seen == 10
  (tmp_path / "elsewhere" / "001.png").write_bytes((tmp_path / "elsewhere" / "002.png").read_bytes())
  changed = feature_store.features_of_folder(tmp_path / "elsewhere", net, cache)
  assert changed.key != key and changed.duplicates == 1


def test_a_killed_process_is_gone_on_with(folder, tmp_path):
  """SIGKILL while chunks are computed; the next process computes only what is not there."""
  code = """if 1:
    import sys, time
    sys.path.insert(0, sys.argv[1])
    import test_feature_store as t
    class Slow(t.Counting):
      def features(self, pictures):
        time.sleep(1)
        return super().features(pictures)

    t.Counting, t.images.CHUNK = Slow, 4  # `network` makes a Slow one
    t.feature_store.features_of_folder(sys.argv[2], t.network(), sys.argv[3])
  """
  cache = tmp_path / "cache"
  process = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), str(folder), str(cache)],
                             stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 60
  while not (done := list(cache.glob("parts/*/*.npy"))):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL and not list(cache.glob("sets/*"))
  done = list(cache.glob("parts/*/*.npy"))
  net = network()
  found = feature_store.features_of_folder(folder, net, cache)
  assert net.seen == 10 - 4 * len(done) and len(done) in (1, 2)
  fresh = feature_store.features_of_folder(folder, network(), tmp_path / "fresh")
  np.testing.assert_array_equal(found.features, fresh.features)


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b""), lambda p: p.write_bytes(p.read_bytes()[:-5]),
                                    lambda p: np.save(p, np.zeros((10, 2), np.float32))])
def test_a_damaged_file_is_made_anew(folder, tmp_path, damage):
  net = network()
  found = np.array(feature_store.features_of_folder(folder, net, tmp_path / "cache").features)
  damage(next((tmp_path / "cache" / "sets").iterdir()))
  np.testing.assert_array_equal(feature_store.features_of_folder(folder, net, tmp_path / "cache").features, found)
  assert net.seen == 20


def test_a_cache_that_cannot_be_written_is_not_fatal(folder, pictures, tmp_path, capsys):
  (tmp_path / "file").write_text("in the way")  # a folder without write permission would not stop root
  found = feature_store.features_of_folder(folder, network(), tmp_path / "file" / "cache")
  np.testing.assert_allclose(found.features, pictures.mean((1, 2)), rtol=1e-5)
  assert capsys.readouterr().err.count("cannot be written") == 1


def test_features_that_are_not_finite_name_the_picture_and_are_not_kept(folder, pictures, tmp_path):
  def function(params, x):
    return x.mean(axis=(1, 2)) / (x[:, 0, 0, :1] != pictures[5, 0, 0, 0])

  net = network(function=function)
  with pytest.raises(InputError, match="005.png: its features are NaN or infinite"):
    feature_store.features_of_folder(folder, net, tmp_path / "cache")
  assert not list((tmp_path / "cache").glob("sets/*"))


def test_the_default_cache(monkeypatch):
  monkeypatch.setenv("CM3LEON_CACHE", "/somewhere")
  assert feature_store.default_cache() == Path("/somewhere")
  monkeypatch.delenv("CM3LEON_CACHE")
  assert feature_store.default_cache() == Path(os.path.expanduser("~/.cache/cm3leon_jax/features"))
