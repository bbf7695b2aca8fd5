"""The commands of docs/weights.md run as they are written, beside files of the kinds that the reader has."""

import dataclasses
import json
from pathlib import Path
import re
import textwrap

import checkpoint_writer as pt
from flax import traverse_util
import jax
import numpy as np
from PIL import Image
import pytest
import random_model

from cm3leon_jax import cli
from cm3leon_jax.models.lpips import LPIPS
from cm3leon_jax.models.vqgan import VQGAN, VQGANConfig
from cm3leon_jax.weights import exporter, lpips, opt, state as state_file, vqgan
from cm3leon_jax.weights.chameleon_vocabulary import code_name

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
  arrays = random_model.write(tmp_path / "run", random_model.CM3LEON)
  random_model.write(tmp_path / "made", dataclasses.replace(random_model.CHAMELEON, norm_order="swin"))
  exporter.export(tmp_path / "made", tmp_path / "chameleon-7b", "chameleon")
  (tmp_path / "chameleon-7b" / "manifest.json").unlink()  # the reader's was not exported here
  state = {}
  for piece in opt.pieces(random_model.CM3LEON):
    ours = arrays[piece.leaf] if piece.layer is None else arrays[piece.leaf][piece.layer]
    state |= {name.removeprefix("model."): pt.tensor(x) for name, x in zip(piece.parts, piece.split(ours))}
  (tmp_path / "cm3leon_metaseq").mkdir()
  pt.write(tmp_path / "cm3leon_metaseq" / "reshard-model_part-0.pt", {"model": state})
  codes_first(tmp_path / "chameleon-7b" / "config.json")
  write_vqgan(tmp_path / "vqgan.ckpt")
  write_lpips(tmp_path / "vgg16.pth", tmp_path / "vgg.pth")
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(tmp_path / "heart.png")
  monkeypatch.chdir(tmp_path)
  return tmp_path


def codes_first(path):
  """The ids of the made model in the order of Chameleon's own: some specials, codes, text."""
  about = json.loads(path.read_text())
  names = about["vocabulary_map"]
  order = sorted(names, key=lambda name: (name not in ("<pad>", "</s>", "<unk>"), not name.startswith("IMGIMG"), names[name]))
  path.write_text(json.dumps(about | {"vocabulary_map": {name: i for i, name in enumerate(order)}}))


def write_vqgan(path):
  """Five levels, so that pictures of 512 px have 32×32 codes, as Chameleon's; of 16, and narrow."""
  config = VQGANConfig(image_size=512, channels=8, ch_mult=(1, 1, 1, 1, 1), res_blocks=1, z_channels=8, embed_dim=4,
                       codebook_size=16)
  shapes = jax.eval_shape(VQGAN(config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 512, 512, 3), np.float32))["params"]
  rng, state = np.random.default_rng(0), {}
  for name, x in traverse_util.flatten_dict(shapes, sep="/").items():
    array = rng.normal(size=state_file._public_shape(name, x.shape)).astype(np.float32)
    state[vqgan._public_name(name)] = pt.tensor(array)
  pt.write(path, {"state_dict": state, "epoch": 1})


def write_lpips(vgg16, heads):
  """VGG16's features as torchvision names them, and the package's heads."""
  pictures = np.zeros((2, 1, 16, 16, 3), np.float32)
  shapes = jax.eval_shape(LPIPS().init, jax.random.key(0), *pictures)["params"]
  rng, features, linear = np.random.default_rng(0), {}, {}
  for name, x in traverse_util.flatten_dict(shapes, sep="/").items():
    if name.startswith("head"):
      linear[lpips._public_name(name)] = pt.tensor(np.ones((1, *x.shape, 1, 1), np.float32))
    else:
      array = 0.03 * rng.normal(size=state_file._public_shape(name, x.shape))
      features[lpips._public_name(name)] = pt.tensor(array.astype(np.float32))
  pt.write(vgg16, features)
  pt.write(heads, linear)


def commands() -> list[str]:
  found = [line.strip()[2:] for block in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()
           if line.strip()]
  assert len(found) == 7
  return found


def test_the_commands_and_the_python_run(folder):
  for command in commands():
    assert cli.main(command.split()[1:]) == 0, command
  found = re.findall(r"^ *```python\n(.*?)```", GUIDE, re.DOTALL | re.MULTILINE)
  opt_code, chameleon_code, lpips_code = map(textwrap.dedent, found)
  names = {}
  exec(chameleon_code, names)
  table = json.loads((folder / "chameleon" / "vocabulary_map.json").read_text())["names"]
  wanted = [table["<racm3:break>"], *(table[code_name(int(code))] for code in names["codes"][0]), table["<eoss>"]]
  assert names["public"].tolist() == wanted and len(set(wanted)) > 5 and names["seen"].shape == (1, 512, 512, 3)
  names = {}
  exec(lpips_code, names)
  assert names["distances"].shape == (4,) and (names["distances"] > 0).all()
  pytest.importorskip("transformers", reason="in requirements-reference.txt")
  names = {}
  exec(opt_code, names)
  drawn = names["drawn"][0, len(names["prompt"].tokens):]
  assert len(drawn) == 4 and bool(names["vocabulary"].is_image(drawn).all())
