"""A VQGAN in the public layout, imported, gives the same codes and pictures as its torch original."""

from flax import traverse_util
import jax
import numpy as np
import pytest

from cm3leon_jax import cli
from cm3leon_jax.errors import InputError
from cm3leon_jax.models.vqgan import VQGAN
from cm3leon_jax.tokenizers.image import ImageTokenizer
from cm3leon_jax.weights import vqgan

torch = pytest.importorskip("torch", reason="the reference is in torch: pip install -r requirements-reference.txt")
pytest.importorskip("transformers", reason="its Chameleon is the reference: pip install -r requirements-reference.txt")
vqgan_reference = pytest.importorskip("vqgan_reference")

SIZE = 32


@pytest.fixture(scope="module")
def model():
  return vqgan_reference.random_model()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
  """As Lightning writes it, with a loss' weights beside the network's."""
  path = tmp_path_factory.mktemp("vqgan") / "vqgan.ckpt"
  state = {**model.state_dict(), "loss.discriminator.main.0.weight": torch.zeros(4)}
  torch.save({"state_dict": state, "epoch": 3}, path)
  return path


def pictures(count=4):
  return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def test_codes_and_pictures_are_the_originals(model, checkpoint, tmp_path):
  assert cli.main(["import", "--format=vqgan", f"--source={checkpoint}", f"--out={tmp_path}/image",
                   f"--image_size={SIZE}"]) == 0
  ours = ImageTokenizer.load(tmp_path / "image")
  assert (ours.grid, ours.codebook_size, ours.config.attention_resolutions) == (8, 64, (16,))
  images = pictures()
  theirs = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
  codes = model.encode(theirs).numpy()
  assert len(np.unique(codes)) > 20  # of 64: the codes tell pictures apart
  np.testing.assert_array_equal(ours.encode(images), codes)
  want = model.decode(torch.from_numpy(codes)).permute(0, 2, 3, 1).numpy()
  with np.load(tmp_path / "image" / "weights.npz") as stored:
    params = traverse_util.unflatten_dict(dict(stored), sep="/")
  got = jax.jit(lambda p, c: VQGAN(ours.config).apply({"params": p}, c, method="decode"))(params, codes)
  np.testing.assert_allclose(got, np.clip(want, -1, 1), atol=1e-4)  # the tolerance promised for pixels
  assert want.std() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("shape", [
    dict(channel_multiplier=(1, 1, 2, 4), attn_resolutions=(), latent_channels=256, embed_dim=256, codes=8192),  # PAPER §1.1
    dict(channel_multiplier=(1, 1, 2, 2, 4), attn_resolutions=(16,), latent_channels=256, embed_dim=256, codes=1024),
], ids=["f8", "f16"])
def test_the_public_sizes(tmp_path, shape):
  model = vqgan_reference.random_model(resolution=256, base_channels=128, **shape)
  torch.save(model.state_dict(), tmp_path / "vqgan.pt")
  vqgan.import_vqgan(str(tmp_path / "vqgan.pt"), str(tmp_path / "image"))
  images = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8).repeat(32, 1).repeat(32, 2)
  codes = model.encode(torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1).numpy()
  ours = ImageTokenizer.load(tmp_path / "image")
  ours.batch = 1
  np.testing.assert_array_equal(ours.encode(images), codes)
  want = (model.decode(torch.from_numpy(codes)).permute(0, 2, 3, 1).numpy().clip(-1, 1) + 1) * 127.5
  assert np.abs(ours.decode(codes) - want).max() <= 0.5 + 0.0127  # rounding, and 1e-4 of -1..1


def test_a_file_inside_another_model_and_safetensors(model, checkpoint, tmp_path):
  save_file = pytest.importorskip("safetensors.torch", reason="in requirements-reference.txt").save_file
  save_file({f"model.vqmodel.{n}": x.contiguous() for n, x in model.state_dict().items()}
            | {"model.embed_tokens.weight": torch.zeros(3, 2)}, tmp_path / "model.safetensors")
  vqgan.import_vqgan(str(checkpoint), str(tmp_path / "a"), SIZE)
  vqgan.import_vqgan(str(tmp_path / "model.safetensors"), str(tmp_path / "b"), SIZE)
  codes = [ImageTokenizer.load(tmp_path / name).encode(pictures()) for name in "ab"]
  np.testing.assert_array_equal(*codes)


@pytest.mark.parametrize("change, told", [
    (lambda s: s.pop("encoder.mid.block_1.conv1.bias"), r"missing \(1\):\n    encoder.mid.block_1.conv1.bias"),
    (lambda s: s.update({"encoder.mid.block_1.conv3.bias": torch.zeros(64)}), "unknown"),
    (lambda s: s.update({"quant_conv.bias": torch.zeros(3)}), "quant_conv.bias is 3 instead of 16"),
    (lambda s: s["decoder.conv_out.bias"].fill_(float("nan")), "decoder.conv_out.bias holds NaN"),
    (lambda s: s.update({"quantize.embed.weight": torch.zeros(3)}), "Gumbel"),
    (lambda s: [s.pop(n) for n in list(s) if n.startswith("decoder.")], "an encoder without a decoder"),
    (lambda s: [s.pop(n) for n in list(s) if n.startswith("encoder.down.")], "no encoder.down.0.block.0.conv1.weight"),
    (lambda s: s.update({"quantize.embedding.weight": torch.zeros(3)}), r"quantize.embedding.weight has the shape \(3,\)"),
    (lambda s: s.update({"encoder.conv_in.weight": torch.zeros(0, 3, 3, 3)}), "encoder.conv_in.weight has the shape"),
])
def test_what_is_wrong_is_named(model, tmp_path, change, told):
  state = {name: x.clone() for name, x in model.state_dict().items()}
  change(state)
  torch.save(state, tmp_path / "bad.pt")
  with pytest.raises(InputError, match=told):
    vqgan.import_vqgan(str(tmp_path / "bad.pt"), str(tmp_path / "out"), SIZE)
  assert not list(tmp_path.glob("out*"))
