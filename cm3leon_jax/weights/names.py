"""Compares the tensors of a file with those that a model needs, and says every difference by name."""

import difflib
from typing import Iterable, Mapping

import numpy as np

from cm3leon_jax.errors import InputError

_SHOWN = 10
FLOATS = ("float32", "float16", "bfloat16")


def check(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[np.dtype, tuple[int, ...]]], where: str) -> None:
  """Raises InputError unless the names are the same, with these shapes, and floating point numbers.

  Args:
    expected: name → shape.
    found: name → (dtype, shape).
    where: the file or folder, for the message.
  """
  missing = [name for name in expected if name not in found]
  extra = [name for name in found if name not in expected]
  shapes = [f"{name} is {_by(found[name][1])} instead of {_by(shape)}" for name, shape in expected.items()
            if name in found and tuple(found[name][1]) != tuple(shape)]
  dtypes = [f"{name} is {found[name][0]} (known: {', '.join(FLOATS)})" for name in expected
            if name in found and str(found[name][0]) not in FLOATS]
  lines = [*_listed("missing", (f"{name}{_closest(name, extra, 'the file has')}" for name in missing), len(missing)),
           *_listed("unknown", (f"{name}{_closest(name, missing or expected, 'expected is')}" for name in extra), len(extra)),
           *_listed("of another shape", shapes, len(shapes)), *_listed("of another dtype", dtypes, len(dtypes))]
  if lines:
    raise InputError(f"{where}: does not hold the tensors that its configuration describes\n" + "\n".join(lines))


def counts(config: Mapping[str, object], fields: Iterable[str], where: str) -> None:
  """Raises InputError unless each field is an integer above 0."""
  wrong = [f"{field}={config[field]!r}" for field in fields if type(config[field]) is not int or config[field] < 1]
  if wrong:
    raise InputError(f"{where}: {', '.join(wrong)}, where a count above 0 belongs")


def _by(shape: tuple[int, ...]) -> str:
  return "×".join(map(str, shape)) or "a scalar"


def _closest(name: str, others: Iterable[str], says: str) -> str:
  near = difflib.get_close_matches(name, list(others), n=1, cutoff=0.8)
  return f" ({says} {near[0]})" if near else ""


def _listed(title: str, lines: Iterable[str], count: int) -> list[str]:
  if not count:
    return []
  shown = [f"    {line}" for line, _ in zip(lines, range(_SHOWN))]
  return [f"  {title} ({count}):", *shown, *([f"    and {count - _SHOWN} more"] if count > _SHOWN else [])]
