"""Files that ship with the code: gin configs and trained demo assets.

In a checkout they lie in the top-level folders `configs/` and `tokenizers/`; in an installed
wheel the same folders are package data (`cm3leon_jax/_configs`, `cm3leon_jax/_tokenizers`).
"""

from pathlib import Path

from cm3leon_jax.errors import InputError

_PACKAGE = Path(__file__).resolve().parent
FOLDERS = ("configs", "tokenizers")


def root(folder: str) -> Path:
  """The folder `configs` or `tokenizers`, in a checkout or in an installed package."""
  installed = _PACKAGE / f"_{folder}"
  return installed if installed.is_dir() else _PACKAGE.parent / folder


def find(name: str | Path) -> Path:
  """A path that the user gave, or if nothing is there the shipped file or folder of that name."""
  given = Path(name)
  if given.exists() or given.is_absolute() or not given.parts or given.parts[0] not in FOLDERS:
    return given
  shipped = root(given.parts[0]).joinpath(*given.parts[1:])
  return shipped if shipped.exists() else given


def path(name: str) -> Path:
  """Path of a shipped file or folder, such as `configs/runs/demo_pretrain.gin`.

  Raises:
    InputError: nothing of that name ships.
  """
  folder, _, rest = name.partition("/")
  if folder not in FOLDERS:
    raise InputError(f"{name}: shipped files are named {' or '.join(f + '/…' for f in FOLDERS)}")
  found = root(folder) / rest
  if not found.exists():
    known = sorted(p.relative_to(root(folder)).as_posix() for p in root(folder).rglob("*.gin")) or ["nothing"]
    raise InputError(f"{name}: no such shipped file; under {folder}/ there are: {', '.join(known)}")
  return found
