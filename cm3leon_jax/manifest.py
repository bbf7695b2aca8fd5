"""`manifest.json`: what has its manifest is whole, and says what made it.

A writer fills a temporary sibling folder and renames it; the manifest is written last. A
reader compares the hashes of the vocabulary, tokenizers and encoder that it uses with those
recorded, and stops with one sentence when they differ.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
import shutil
from typing import Any, Iterator, Mapping

from cm3leon_jax.errors import InputError

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"


@contextlib.contextmanager
def writing(folder: str | os.PathLike, kind: str) -> Iterator[tuple[Path, dict]]:
  """Yields (temporary folder, manifest dict to fill); on success the folder appears whole at `folder`.

  Args:
    folder: the final place; replaced if it exists.
    kind: the record's name, such as `documents` or `index`.
  """
  folder = Path(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  temporary = folder.with_name(folder.name + ".partial")
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir()
  manifest: dict[str, Any] = {"kind": kind, "format_version": FORMAT_VERSION}
  try:
    yield temporary, manifest
    fields = {k: v for k, v in manifest.items() if k not in ("kind", "format_version")}
    write_file(temporary, kind, fields)
  except OSError as error:
    if error.errno == 28:  # ENOSPC
      raise InputError(f"no space left while writing {folder}: free some, then run again; what was done is kept") from error
    raise
  if folder.exists():
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old)
  else:
    temporary.rename(folder)


def write_file(folder: str | os.PathLike, kind: str, fields: Mapping[str, Any]) -> None:
  """Writes `manifest.json` alone, atomically: for a folder that was filled in place, as the last step."""
  path = Path(folder) / FILE_NAME
  temporary = path.with_name(FILE_NAME + ".partial")
  manifest = {"kind": kind, "format_version": FORMAT_VERSION, **fields}
  temporary.write_text(json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
  temporary.replace(path)


def exists(folder: str | os.PathLike) -> bool:
  return (Path(folder) / FILE_NAME).is_file()


def read(folder: str | os.PathLike, kind: str, *, expect: Mapping[str, str] | None = None, rebuild: str = "") -> dict:
  """Reads and checks a manifest.

  Args:
    folder: a folder written through `writing`.
    kind: the kind it must be of.
    expect: hash name → value that the reader uses, e.g. `{"vocabulary": v.fingerprint()}`.
    rebuild: the command that makes the folder anew, for the error message.

  Raises:
    InputError: no such folder, half written, of another kind or version, or made by something else.
  """
  folder = Path(folder)
  hint = f"; make it with: {rebuild}" if rebuild else ""
  if not folder.is_dir():
    raise InputError(f"{folder}: no such folder ({kind}){hint}")
  path = folder / FILE_NAME
  if not path.is_file():
    raise InputError(f"{folder}: no {FILE_NAME}, so it is not a finished {kind} folder{hint}")
  try:
    manifest = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise InputError(f"{path}: not valid JSON ({error}){hint}") from error
  if manifest.get("kind") != kind:
    raise InputError(f"{folder}: holds {manifest.get('kind')!r}, not {kind!r}{hint}")
  if manifest.get("format_version") != FORMAT_VERSION:
    raise InputError(f"{folder}: format version {manifest.get('format_version')}, this program reads {FORMAT_VERSION}{hint}")
  for name, value in (expect or {}).items():
    if manifest.get(name) != value:
      raise InputError(f"{folder}: made with another {name} ({manifest.get(name)}, not {value}){hint}")
  return manifest


def hash_file(path: str | os.PathLike) -> str:
  """The first 16 hex digits of a file's SHA-256, as manifests record it."""
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()[:16]
