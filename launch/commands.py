"""What the launchers share: commands as lists of words, shown or run, never a string for a shell to split.

The launchers run from a checkout, with any Python >= 3.10, before anything is installed.
"""

import argparse
from pathlib import Path
import shlex
import shutil
import subprocess
import sys
from typing import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the launchers are scripts of the checkout, the package may not be installed

from cm3leon_jax.errors import InputError  # noqa: E402

PREEMPTED = 75  # what `cm3leon train` exits with once its state is saved: run again to go on


def say(text: str) -> None:
  """A line of progress: on stderr, so that stdout holds what the run, or `--dry_run`, prints."""
  print(f"launch: {text}", file=sys.stderr, flush=True)


def with_environment(argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
  """`argv` started through env(1) with more variables: what a person, or a remote shell, can run as it is."""
  return ["env", *(f"{name}={value}" for name, value in environment.items()), *argv] if environment else list(argv)


def parse_environment(pairs: Sequence[str]) -> dict[str, str]:
  """The values of `--env=NAME=VALUE`, in their order."""
  found = {}
  for pair in pairs:
    name, equals, value = pair.partition("=")
    if not equals or not name.isidentifier():
      raise InputError(f"--env={pair}: give NAME=VALUE, with a NAME of letters, digits and underscores")
    found[name] = value
  return found


def need_command(command: Sequence[str]) -> None:
  if not command:
    raise InputError("no command: write it behind ` -- `, e.g. -- cm3leon train --gin_file=F --data=D --workdir=W")


def add_common(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--dry_run", action="store_true", help="print what would be run, and run nothing")


def distributed(command: Sequence[str]) -> list[str]:
  """A `cm3leon train` that finds the other processes of its pod or job by itself."""
  return [*command, *([] if "--distributed" in command else ["--distributed"])]


class Shell:
  """Runs commands one after another, or with `dry_run` prints each as one line that a shell would run."""

  def __init__(self, dry_run: bool):
    self.dry_run = dry_run

  def run(self, argv: Sequence[str], *, note: str = "", cwd: Path | None = None, stdin: str | None = None) -> int:
    """Returns the exit code; 0 in a dry run.

    Args:
      argv: the words of the command.
      note: why, or how often; a comment behind the line of a dry run.
      cwd: where it runs.
      stdin: text for its standard input.
    """
    if self.dry_run:
      print(shlex.join(argv) + (f"  # {note}" if note else ""))
      return 0
    return subprocess.run(self._found(argv), cwd=cwd, input=stdin, text=True, check=False).returncode

  def read(self, argv: Sequence[str]) -> tuple[int, str]:
    """The exit code and standard output of a command that only looks; not for a dry run."""
    done = subprocess.run(self._found(argv), stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout.strip()

  @staticmethod
  def _found(argv: Sequence[str]) -> list[str]:
    if shutil.which(argv[0]) is None:
      raise InputError(f"{argv[0]}: not on the path; install it, or add --dry_run to see what would be run")
    return list(argv)


def main(parse: Callable[[Sequence[str]], argparse.Namespace], run: Callable[[argparse.Namespace], int],
         argv: Sequence[str] | None = None) -> int:
  """Splits a command line at its first `--`, and turns an InputError into one sentence and exit code 1.

  Args:
    parse: the launcher's own flags, what stands before `--`.
    run: gets the parsed flags with `command`, the words behind `--`, and returns the exit code.
    argv: without the program's name; default: the process's own.
  """
  argv = list(sys.argv[1:] if argv is None else argv)
  cut = argv.index("--") if "--" in argv else len(argv)
  args = parse(argv[:cut])
  args.command = argv[cut + 1:]
  try:
    return run(args)
  except InputError as error:
    print(f"launch: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:  # what runs elsewhere goes on
    print("\nlaunch: left by Ctrl-C", file=sys.stderr)
    return 130
