"""`eval fid` on files: saved features, folders of pictures, and everything that can be wrong with them."""

import json
import subprocess
import sys

import numpy as np
from PIL import Image
import public_weights
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import fid, frechet, kid
from cm3leon_jax.evaluation.networks import efficientnet_lite0
from cm3leon_jax.evaluation.networks.features import FeatureNetwork


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  monkeypatch.setenv("CM3LEON_CACHE", str(tmp_path_factory.mktemp("cache")))


def features(seed, count=40, dim=12):
  return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32) + seed


def folder(path, images):
  path.mkdir()
  for i, image in enumerate(images):
    Image.fromarray(image).save(path / f"{i:03}.png")
  return path


def test_saved_features(tmp_path):
  a, b = features(0), features(1)
  np.savez(tmp_path / "a.npz", features=a)
  np.savez(tmp_path / "b.npz", features=b)
  result = fid.evaluate_fid(tmp_path / "a.npz", tmp_path / "b.npz", "", tmp_path / "o.json")
  assert json.loads((tmp_path / "o.json").read_text()) == result
  assert result["fid"] == pytest.approx(frechet.frechet_from_features(a, b))
  assert result["kid"] == pytest.approx(kid.kid(a, b))
  assert result["generated_count"] == result["reference_count"] == 40 and "40 pictures" in result["note"]


def test_saved_statistics_give_the_same_distance_but_no_kid(tmp_path):
  a, b = features(0), features(1)
  np.savez(tmp_path / "a.npz", features=a)
  np.savez(tmp_path / "b.npz", mu=b.mean(0, dtype=np.float64), sigma=np.cov(b, rowvar=False))
  result = fid.evaluate_fid(tmp_path / "a.npz", tmp_path / "b.npz")
  assert result["fid"] == pytest.approx(frechet.frechet_from_features(a, b), rel=1e-6)
  assert "kid" not in result and "reference_count" not in result


@pytest.mark.parametrize("arrays, says", [
    ({"features": np.full((3, 4), np.nan, np.float32)}, r"x.npz: 3 of 3 rows of features hold NaN.*row 0"),
    ({"features": np.zeros((1, 12))}, r"x.npz: 1 picture; a covariance needs at least 2"),
    ({"features": np.zeros((5, 12), int)}, r"must be floats"),
    ({"features": np.zeros((5, 12, 1))}, r"must be floats \[pictures, dimensions\]"),
    ({"features": np.zeros((5, 13))}, r"x.npz has 13 dimensions and .*12"),
    ({"mu": np.zeros(12)}, r"x.npz: holds mu; needed"),
    ({"mu": np.zeros(12), "sigma": np.zeros((12, 11))}, r"do not fit"),
    ({"mu": np.full(12, np.inf), "sigma": np.eye(12)}, r"NaN or infinity"),
    ({"features": np.array([{}], object)}, r"not a readable .npz"),
])
def test_bad_npz(tmp_path, arrays, says):
  np.savez(tmp_path / "good.npz", features=features(0))
  np.savez(tmp_path / "x.npz", **arrays)
  with pytest.raises(InputError, match=says):
    fid.evaluate_fid(tmp_path / "x.npz", tmp_path / "good.npz")


def test_npz_cut_short(tmp_path):
  np.savez(tmp_path / "x.npz", features=features(0))
  raw = (tmp_path / "x.npz").read_bytes()
  for keep in (0, 100, len(raw) // 2):
    (tmp_path / "x.npz").write_bytes(raw[:keep])
    with pytest.raises(InputError, match="x.npz: not a "):
      fid.evaluate_fid(tmp_path / "x.npz", tmp_path / "x.npz")


def test_saved_features_need_no_jax():
  code = "import sys; from cm3leon_jax.evaluation import fid, captions, vqa; print('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_folders_of_pictures(tmp_path):
  images = public_weights.pictures(4, 64)
  a, b = folder(tmp_path / "a", images[:2]), folder(tmp_path / "b", images[2:])
  (a / "notes.txt").write_text("not a picture, and not read")
  result = fid.evaluate_fid(a, b, "efficientnet-lite0", tmp_path / "o.json")
  network = efficientnet_lite0.load()
  expected = frechet.frechet_from_features(network.features(images[:2]), network.features(images[2:]))
  assert result["fd_efficientnet_lite0"] == pytest.approx(expected, rel=1e-5)
  assert "fid" not in result, "only InceptionV3 may say FID"
  assert result["network"] == "FD (EfficientNet-Lite0)" and result["weights_hash"] == network.weights_hash
  assert json.loads((tmp_path / "o.json").read_text()) == result


@pytest.fixture
def pictures(tmp_path):
  return folder(tmp_path / "good", np.zeros((3, 8, 8, 3), np.uint8))


def small_network():
  return FeatureNetwork(name="mean colour", key="fd_mean", dim=3, weights_hash="0" * 16, published=False,
                        preprocessing="none", params={}, function=lambda params, x: x.mean(axis=(1, 2)))


@pytest.mark.parametrize("spoil, says", [
    (lambda d: (d / "001.png").write_bytes(b"no"), r"001.png: not a readable picture"),
    (lambda d: (d / "002.png").write_bytes((d / "002.png").read_bytes()[:40]), r"002.png: not a readable picture"),
    (lambda d: Image.new("RGB", (9, 8)).save(d / "002.png"), r"002.png: 9×8 px, while 000.png is 8×8 px"),
    (lambda d: [p.unlink() for p in d.iterdir()], r"good: no pictures in it"),
    (lambda d: [(d / f"00{i}.png").unlink() for i in (0, 1)], r"good: 1 picture; a covariance needs"),
])
def test_bad_pictures_are_named(monkeypatch, pictures, spoil, says):
  monkeypatch.setattr(fid, "network", lambda weights, variant: small_network())
  spoil(pictures)
  with pytest.raises(InputError, match=says):
    fid.evaluate_fid(pictures, pictures)


def test_pictures_of_other_modes_are_read_as_rgb(monkeypatch, tmp_path, pictures):
  monkeypatch.setattr(fid, "network", lambda weights, variant: small_network())
  (tmp_path / "grey").mkdir()
  for i in range(3):
    Image.new("L", (8, 8), 10).save(tmp_path / "grey" / f"{i}.jpg")
  assert fid.evaluate_fid(tmp_path / "grey", pictures)["fd_mean"] == pytest.approx(300)  # 3 channels, 10² each


def test_bad_paths_and_weights(tmp_path, pictures):
  with pytest.raises(InputError, match="none: no such file or folder"):
    fid.evaluate_fid(tmp_path / "none", pictures)
  with pytest.raises(InputError, match="need --weights"):
    fid.evaluate_fid(pictures, pictures)
  with pytest.raises(InputError, match="inception.pth: no such file"):
    fid.evaluate_fid(pictures, pictures, tmp_path / "inception.pth")
  (tmp_path / "x.txt").write_text("")
  with pytest.raises(InputError, match="neither a folder of pictures nor an .npz"):
    fid.evaluate_fid(tmp_path / "x.txt", tmp_path / "x.txt")


def save(path, **arrays):
  np.savez(path, **arrays)
  return path


def test_an_interval_holds_the_distance_and_narrows_with_more_pictures():
  widths = []
  for count in (100, 1600):
    result = fid.compare(fid.Side(features(0, count)), fid.Side(features(1, count)))
    assert result["fid_low"] < result["fid"] < result["fid_high"]
    widths.append(result["fid_high"] - result["fid_low"])
  assert widths[1] < widths[0] / 2  # as 1/√N: a quarter


def test_an_interval_is_as_wide_as_the_distance_varies():
  distances, widths = [], []
  for seed in range(60):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(300, 6)), rng.normal(size=(300, 6)) + 1
    distances.append(fid.distance(fid.Side(a), fid.Side(b)))
    if seed < 5:
      found = fid.compare(fid.Side(a), fid.Side(b))
      widths.append(found["fid_high"] - found["fid_low"])
  assert np.mean(widths) == pytest.approx(3.92 * np.std(distances), rel=0.35)  # ± 1.96 σ


def test_an_interval_against_a_mean_and_covariance(tmp_path):
  a, b = features(0), features(1)
  moments = save(tmp_path / "b.npz", mu=b.mean(0, dtype=np.float64), sigma=np.cov(b, rowvar=False))
  for paths in [(save(tmp_path / "a.npz", features=a), moments), (moments, tmp_path / "a.npz")]:
    result = fid.evaluate_fid(*paths)
    assert result["fid_low"] < result["fid"] < result["fid_high"]
  assert not {"fid_low", "precision"} & fid.evaluate_fid(moments, moments).keys()


@pytest.mark.parametrize("dim", [4, 250])  # below and above the number of rows: both routes
def test_many_rows_of_one_side_against_all_of_the_other(dim):
  a, b = features(0, 200, dim), features(1, 150, dim)
  rows = np.arange(0, 200, 3)
  for second in (fid.Side(b), fid.Side(None, b.mean(0, dtype=np.float64), np.cov(b, rowvar=False))):
    expected = frechet.frechet_from_features(a[rows], b)
    assert fid._distances(fid.Side(a), second)(rows, None) == pytest.approx(expected, rel=1e-5)


def test_infinity_takes_the_bias_away():
  rng = np.random.default_rng(0)
  reference = rng.normal(size=(20_000, 32))
  second, true = fid.Side(None, reference.mean(0), np.cov(reference, rowvar=False)), 32 * 0.1**2
  sides = [fid.Side(rng.normal(size=(600, 32)) + 0.1) for _ in range(20)]
  found = [fid.infinity(side, second) for side in sides]
  bias = np.mean([fid.distance(side, second) for side in sides]) - true
  assert abs(np.mean([f.value for f in found]) - true) < bias / 3
  assert np.mean([f.slope for f in found]) / 600 == pytest.approx(bias, rel=0.3)
  assert fid.infinity(sides[0], second) == found[0], "seeded"


def test_infinity_and_nearest_k_ask_for_what_is_there(tmp_path):
  a = save(tmp_path / "a.npz", features=features(0))
  b = save(tmp_path / "b.npz", mu=np.zeros(12), sigma=np.eye(12))
  with pytest.raises(InputError, match="--infinity needs the pictures or the features of the generated"):
    fid.evaluate_fid(b, a, extrapolate=True)
  assert "fid_infinity" in fid.evaluate_fid(a, b, extrapolate=True)
  with pytest.raises(InputError, match="--nearest_k=0: must be 1 or more"):
    fid.evaluate_fid(a, a, nearest_k=0)
  assert "precision" not in fid.evaluate_fid(a, a, nearest_k=40), "40 rows have no 40th neighbour"


def test_fewer_pictures_and_copies_are_noted(monkeypatch, tmp_path, pictures):
  monkeypatch.setattr(fid, "network", lambda weights, variant: small_network())
  rng = np.random.default_rng(0)
  many = folder(tmp_path / "many", rng.integers(0, 255, (9, 8, 8, 3), np.uint8))
  result = fid.evaluate_fid(pictures, many)
  assert result["generated_duplicates"] == 2  # three black pictures
  assert "fewer pictures (3) than references (9)" in result["note"]
  assert "2 generated pictures are copies" in result["note"]
  again = fid.evaluate_fid(many, pictures)
  assert again["generated_duplicates"] == 0 and "fewer" not in again["note"] and "copies" not in again["note"]


def test_a_variant_is_of_inception_v3(pictures):
  with pytest.raises(InputError, match="--variant=clean is of InceptionV3"):
    fid.evaluate_fid(pictures, pictures, "efficientnet-lite0", variant="clean")
  with pytest.raises(InputError, match="--variant=tf: must be one of"):
    fid.evaluate_fid(pictures, pictures, "efficientnet-lite0", variant="tf")


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
  """60,000 rows of 256 (61 MB on disk, 123 MB in float64): the process must not hold them."""
  out = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (60_000, 256))
  for start in range(0, len(out), 1000):
    out[start:start + 1000] = np.random.default_rng(start).normal(size=(1000, 256))
  del out
  code = """if 1:
    import resource, sys, numpy as np
    from cm3leon_jax.evaluation import fid
    x = np.load(sys.argv[1], mmap_mode="r")
    private = lambda: int(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("RssAnon")))
    def peak(rows):
      seen = []
      moments = fid.frechet.Moments.update
      fid.frechet.Moments.update = lambda self, f: (moments(self, f), seen.append(private()))
      fid.distance(fid.Side(x[:rows]), fid.Side(x[-rows:]))
      fid.frechet.Moments.update = moments
      return max(seen)
    peak(5000)
    print(peak(10_000), peak(60_000))
  """
  done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.npy")], capture_output=True, text=True,
                        check=True)
  few, many = map(int, done.stdout.split())
  assert many - few < 20_000, f"{few} and {many} KiB"
