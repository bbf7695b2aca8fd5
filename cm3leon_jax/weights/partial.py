"""A folder that appears whole: filled beside its place, gone on with after a kill, renamed at the end."""

import errno
import hashlib
import json
import os
from pathlib import Path
import shutil
from typing import Any

from cm3leon_jax import manifest
from cm3leon_jax.errors import InputError

_PROGRESS = "progress.json"


def check_free(out: str | os.PathLike) -> None:
  """Raises InputError when something is at `out` already; an empty folder may be."""
  out = Path(out)
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise InputError(f"{out}: is there already; choose another --out, or remove it first")


def no_space(error: BaseException | None, out: str | os.PathLike) -> None:
  """Raises InputError when `error` says that the disk is full."""
  if isinstance(error, OSError) and error.errno == errno.ENOSPC:
    raise InputError(f"no space left while writing {out}: free some, then run again; what is finished was kept") from error


class Partial:
  """`<out>.partial`, with progress.json: what is finished, and the plan that it belongs to.

  A run of the same plan finds the folder of the run before, another plan begins anew. As a context it removes the
  folder when the input was wrong, and keeps it after anything else (Ctrl-C, a full disk), for the next run.

  Attributes:
    folder: where to write.
    scratch: a folder in it that does not stay.
    done: name → record of what is finished.
  """

  def __init__(self, out: str | os.PathLike, plan: dict):
    check_free(out)
    self.out = Path(out)
    self.out.parent.mkdir(parents=True, exist_ok=True)
    self.folder = self.out.with_name(self.out.name + ".partial")
    self.scratch = self.folder / "scratch"
    self._key = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    before = self._before()
    if before is None:
      shutil.rmtree(self.folder, ignore_errors=True)
    self.done: dict[str, Any] = before or {}
    self.scratch.mkdir(parents=True, exist_ok=True)
    self._save()

  def _before(self) -> dict | None:
    """What a run of the same plan has finished; None where there was none."""
    try:
      before = json.loads((self.folder / _PROGRESS).read_text())
      return before["done"] if before["plan"] == self._key else None
    except (OSError, ValueError, KeyError, TypeError):
      return None

  def finish(self, name: str, record: Any) -> None:
    """Notes that `name` is written."""
    self.done[name] = record
    self._save()

  def keep(self, done: dict[str, Any]) -> None:
    """What is not in `done` is to be written again."""
    self.done = dict(done)
    self._save()

  def _save(self) -> None:
    temporary = self.folder / (_PROGRESS + ".new")
    temporary.write_text(json.dumps({"plan": self._key, "done": self.done}))
    temporary.replace(self.folder / _PROGRESS)

  def commit(self, kind: str, fields: dict) -> None:
    """Writes the manifest and puts the folder in its place."""
    shutil.rmtree(self.scratch)
    (self.folder / _PROGRESS).unlink()
    manifest.write_file(self.folder, kind, fields)
    if self.out.is_dir():
      self.out.rmdir()  # it is empty
    self.folder.rename(self.out)

  def __enter__(self) -> "Partial":
    return self

  def __exit__(self, kind, error, trace) -> None:
    if isinstance(error, InputError):
      shutil.rmtree(self.folder, ignore_errors=True)
    no_space(error, self.out)
