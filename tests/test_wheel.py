"""The wheel is whole: outside the checkout it finds its configs and assets, and shadows no other package."""

import os
from pathlib import Path
import subprocess
import sys
import zipfile

import numpy as np
from PIL import Image
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  folder = tmp_path_factory.mktemp("wheel")
  # A copy, so that setuptools leaves no build/ in the checkout.
  files = subprocess.run(["git", "ls-files", "cm3leon_jax", "configs", "tokenizers", "setup.py", "README.md", "LICENSE"],
                         cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
  for name in files:
    if (ROOT / name).exists():
      (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
      (folder / "src" / name).write_bytes((ROOT / name).read_bytes())
  subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
                  "--disable-pip-version-check", "-w", str(folder), str(folder / "src")], check=True)
  (wheel,) = folder.glob("*.whl")
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder / "site")
  return folder / "site"


def run(installed, tmp_path, *command):
  env = {**os.environ, "PYTHONPATH": str(installed)}
  return subprocess.run([sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True)


def test_only_our_package_is_installed(installed):
  top = {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")}
  assert top == {"cm3leon_jax"}, "a top-level `tokenizers` would shadow a popular library"


def test_the_command_reads_a_shipped_config_outside_the_checkout(installed, tmp_path):
  out = run(installed, tmp_path, "-m", "cm3leon_jax.cli", "inspect", "config", "--gin_file=configs/runs/demo_pretrain.gin",
            "--gin.train.steps=17")
  assert out.returncode == 0, out.stderr
  assert "train.steps = 17" in out.stdout and "Vocabulary.text_size = 2048" in out.stdout


def test_the_shipped_model_draws_right_after_installation(installed, tmp_path):
  out = run(installed, tmp_path, "-m", "cm3leon_jax.cli", "generate", "--checkpoint=tokenizers/demo_model",
            "--task=text_to_image", "--text=a red heart, twemoji", "--docs=2", "--candidates=2", "--out=hearts")
  assert out.returncode == 0, out.stderr
  with Image.open(tmp_path / "hearts" / "0000_0.png") as picture:
    pixels = np.asarray(picture).reshape(-1, 3).astype(int)
  red = ((pixels[:, 0] > 150) & (pixels[:, 1:].max(1) < 110)).mean()
  # A heart fills about half of its square; a drawing of any other colour has none of this red.
  assert red > 0.15, f"only {red:.0%} of the heart is red"


def test_shipped_assets_are_found(installed, tmp_path):
  code = ("from cm3leon_jax import assets\nfrom cm3leon_jax.tokenizers.text import TextTokenizer\n"
          "path = assets.path('tokenizers/demo_text')\nprint(path)\nprint(TextTokenizer.load(path).size)\n")
  out = run(installed, tmp_path, "-c", code)
  assert out.returncode == 0, out.stderr
  path, size = out.stdout.split()
  assert Path(path).is_relative_to(installed) and size == "2048"
