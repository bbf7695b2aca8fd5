"""Imports point one way, down the pipeline; the accelerator side stays light (DESIGN §1)."""

import ast
from pathlib import Path
import subprocess
import sys

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cm3leon_jax"

# Top-level modules that anything may import: they import nothing heavy themselves.
BASE = {"vocabulary", "layout", "errors", "manifest", "records", "assets"}
ACCELERATOR = ["sharding", "models", "training", "decoding", "planning"]
DATA = ["datasets", "tokenizers", "retrieval", "tasks", "pipelines"]
ALLOWED = {room: {*BASE, *chain[:i + 1]} for chain in (ACCELERATOR, DATA) for i, room in enumerate(chain)}
# Encoders that both sides need are Flax modules in models/, fitted with training/small.py.
ALLOWED["tokenizers"] |= {"models", "training"}
ALLOWED["retrieval"] |= {"models", "training"}
ALLOWED["weights"] = {*BASE, *ACCELERATOR, *DATA, "weights"}
ALLOWED["evaluation"] = {*BASE, *ACCELERATOR, *DATA, "weights", "api", "generate", "evaluation"}  # a protocol generates first
EDGE = {"api", "cli", "cli_eval", "cli_weights", "config", "demo", "generate", "inspection", "plan",
        "retriever", "train"}  # stand on both chains

HEAVY = ["tensorflow", "seqio", "tensorflow_datasets", "scann", "gin", "apache_beam"]


def imports(path: Path):
  """(line, dotted name) of every cm3leon_jax import in a file, function-level ones too."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cm3leon_jax"):
      for alias in node.names:
        yield node.lineno, f"{node.module}.{alias.name}"
    elif isinstance(node, ast.Import):
      for alias in node.names:
        if alias.name.startswith("cm3leon_jax"):
          yield node.lineno, alias.name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_the_pipeline(path):
  room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
  if room in EDGE or room == "__init__":
    return
  allowed = ALLOWED.get(room, BASE)
  for line, name in imports(path):
    target = name.split(".")[1]
    assert target in allowed, f"{path}:{line}: {room} must not import {target}; it may import {sorted(allowed)}"


def test_every_room_is_known():
  rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and not p.name.startswith("_")}
  assert rooms <= set(ALLOWED) | EDGE, f"unknown folders {rooms - set(ALLOWED) - EDGE}: give them a place in the chain"


def test_the_accelerator_side_is_light():
  modules = [f"cm3leon_jax.{'.'.join(p.relative_to(PACKAGE).with_suffix('').parts)}"
             for room in ACCELERATOR for p in sorted((PACKAGE / room).glob("*.py")) if p.stem != "__init__"]
  assert len(modules) > 10
  code = "import importlib, sys\n" + "".join(f"importlib.import_module({m!r})\n" for m in modules)
  code += f"print([h for h in {HEAVY!r} if h in sys.modules])"
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.strip().splitlines()[-1] == "[]", out.stdout
