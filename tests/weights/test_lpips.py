"""VGG16's features and LPIPS with weights in the public layouts are those of a torch reference, written down here."""

import hashlib

import jax
import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.lpips import LPIPS, VGG16
from cm3leon_jax.weights import lpips

torch = pytest.importorskip("torch", reason="the reference is in torch: pip install -r requirements-reference.txt")

# torchvision's configuration "D": widths, and "M" for a pool. Its module numbers are the public names.
CONFIG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
TAPS = (3, 8, 15, 22, 29)  # the ReLU that ends each of the package's slices
TOLERANCE = 1e-4


def vgg16():
  """`torchvision.models.vgg16().features`, with weights that keep the features' size."""
  torch.manual_seed(0)
  layers, width = [], 3
  for item in CONFIG:
    if item == "M":
      layers.append(torch.nn.MaxPool2d(2, 2))
    else:
      layers += [torch.nn.Conv2d(width, item, 3, padding=1), torch.nn.ReLU()]
      torch.nn.init.kaiming_normal_(layers[-2].weight)
      torch.nn.init.normal_(layers[-2].bias, std=0.1)
      width = item
  return torch.nn.Sequential(*layers).eval()


@torch.no_grad()
def features_of(features, x):
  """Pixels in -1..1 [B, 3, H, W] → the five maps, as the package's ScalingLayer and slices give them."""
  x = (x - torch.tensor([-.030, -.088, -.188])[:, None, None]) / torch.tensor([.458, .448, .450])[:, None, None]
  found = []
  for i, layer in enumerate(features):
    x = layer(x)
    if i in TAPS:
      found.append(x)
  return found


def distance(features, heads, a, b):
  """The package's forward: unit vectors along the channels, squares of differences, 1×1 convolution, mean over places."""
  total = 0
  for x, y, head in zip(features_of(features, a), features_of(features, b), heads, strict=True):
    x, y = (z / (torch.sqrt((z**2).sum(1, keepdim=True)) + 1e-10) for z in (x, y))
    total = total + torch.nn.functional.conv2d((x - y)**2, head).mean((2, 3))
  return total[:, 0].numpy()


@pytest.fixture(scope="module")
def model():
  heads = [torch.rand(1, width, 1, 1) for width in (64, 128, 256, 512, 512)]  # the public ones are positive too
  return vgg16(), heads


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
  """As torchvision and the package publish them."""
  folder = tmp_path_factory.mktemp("lpips")
  features, heads = model
  torch.save({f"features.{n}": x for n, x in features.state_dict().items()} | {"classifier.0.weight": torch.zeros(4, 4)},
             folder / "vgg16.pth")
  torch.save({f"lin{i}.model.1.weight": x for i, x in enumerate(heads)}, folder / "vgg.pth")
  return folder


def whole(model):
  """A whole LPIPS inside a checkpoint of taming-transformers' VQGAN: its slices keep torchvision's numbers."""
  features, heads = model
  state = {f"net.slice{1 + sum(int(n.split('.')[0]) > tap for tap in TAPS)}.{n}": x for n, x in features.state_dict().items()}
  state |= {f"lin{i}.model.1.weight": x for i, x in enumerate(heads)} | {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
  return {f"loss.perceptual_loss.{n}": x for n, x in state.items()} | {"encoder.conv_in.bias": torch.zeros(3)}


def pictures(count=3, height=32, width=48):
  rng = np.random.default_rng(0)
  a = rng.uniform(-1, 1, (count, height, width, 3)).astype(np.float32)
  return a, (a + rng.normal(0, 0.3, a.shape)).clip(-1, 1).astype(np.float32)


def to_torch(x):
  return torch.from_numpy(x).permute(0, 3, 1, 2)


def test_features_and_distances_are_the_references(model, files):
  weights = lpips.load(files / "vgg16.pth", files / "vgg.pth")
  assert weights.sources == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files.iterdir()}
  a, b = pictures()
  ours = jax.jit(lambda p, x: VGG16().apply({"params": p}, x))(weights.params["vgg16"], a)
  for got, want in zip(ours, features_of(model[0], to_torch(a)), strict=True):
    want = want.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * want.max())
  want = distance(*model, to_torch(a), to_torch(b))
  got = jax.jit(LPIPS().apply)({"params": weights.params}, a, b)
  assert want.min() > 0.1  # far above the tolerance; seen 0.17
  np.testing.assert_allclose(got, want, rtol=TOLERANCE)


def test_a_whole_lpips_inside_a_checkpoint(model, files, tmp_path):
  torch.save({"state_dict": whole(model), "epoch": 1}, tmp_path / "vqgan.ckpt")
  together, apart = lpips.load(tmp_path / "vqgan.ckpt").params, lpips.load(files / "vgg16.pth", files / "vgg.pth").params
  jax.tree.map(np.testing.assert_array_equal, together, apart)


def test_gradients_are_finite_where_pictures_agree(files):
  """Equal pictures, and features that are all 0, have a root of 0 in their norm."""
  params = lpips.load(files / "vgg16.pth", files / "vgg.pth").params
  dead = jax.tree.map(np.zeros_like, params["vgg16"])
  a, b = pictures(1, 16, 16)

  @jax.jit
  def value_and_gradient(params, x, y):
    return jax.value_and_grad(lambda y: LPIPS().apply({"params": params}, x, y).sum())(y)

  value, gradient = value_and_gradient(params, a, a)
  assert value < 1e-10 and np.isfinite(gradient).all()
  _, gradient = value_and_gradient(params, a, b)
  assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
  value, gradient = value_and_gradient(params | {"vgg16": dead}, a, b)
  assert value == 0 and np.isfinite(gradient).all()


@pytest.mark.parametrize("change, told", [
    (lambda s: s.pop("features.28.bias"), r"missing \(1\):\n    features.28.bias"),
    (lambda s: s.update({"features.30.weight": torch.zeros(512, 512, 3, 3)}), r"unknown \(1\):\n    features.30.weight"),  # VGG19
    (lambda s: s.update({"features.0.weight": torch.zeros(64, 1, 3, 3)}), "features.0.weight is 64×1×3×3 instead of 64×3×3×3"),
    (lambda s: s["features.0.bias"].fill_(float("nan")), "features.0.bias holds NaN"),
    (lambda s: s.clear(), "no VGG16 of torchvision's layout; it has nothing"),
])
def test_what_is_wrong_is_named(files, tmp_path, change, told):
  state = torch.load(files / "vgg16.pth")
  change(state)
  torch.save(state, tmp_path / "vgg16.pth")
  with pytest.raises(InputError, match=told):
    lpips.load(tmp_path / "vgg16.pth", files / "vgg.pth")


def test_heads_are_needed(files, tmp_path):
  with pytest.raises(InputError, match="vgg16.pth: no lin0.model.1.weight"):
    lpips.load(files / "vgg16.pth")
  with pytest.raises(InputError, match="none.pth: no such file"):
    lpips.load(files / "vgg16.pth", tmp_path / "none.pth")
  torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "one.pth")
  with pytest.raises(InputError, match=r"missing \(4\):\n    lin1.model.1.weight"):
    lpips.load(files / "vgg16.pth", tmp_path / "one.pth")
