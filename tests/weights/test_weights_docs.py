"""The commands of docs/weights.md run as they are written, beside files of the kinds that the reader has."""

import dataclasses
from pathlib import Path
import re

import checkpoint_writer as pt
import pytest
import random_model

from cm3leon_jax import cli
from cm3leon_jax.weights import exporter, opt

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
  arrays = random_model.write(tmp_path / "run", random_model.CM3LEON)
  random_model.write(tmp_path / "made", dataclasses.replace(random_model.CHAMELEON, norm_order="swin"))
  exporter.export(tmp_path / "made", tmp_path / "chameleon-7b", "chameleon")
  (tmp_path / "chameleon-7b" / "manifest.json").unlink()  # the reader's was not exported here
  state = {}
  for piece in opt.pieces(random_model.CM3LEON):
    ours = arrays[piece.leaf] if piece.layer is None else arrays[piece.leaf][piece.layer]
    state |= {name.removeprefix("model."): pt.tensor(x) for name, x in zip(piece.parts, piece.split(ours))}
  (tmp_path / "cm3leon_metaseq").mkdir()
  pt.write(tmp_path / "cm3leon_metaseq" / "reshard-model_part-0.pt", {"model": state})
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_the_commands_and_the_python_run(folder):
  commands = [line[2:] for block in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]
  assert len(commands) == 5
  for command in commands:
    assert cli.main(command.split()[1:]) == 0, command
  pytest.importorskip("transformers")
  [code] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
  names = {}
  exec(code, names)
  drawn = names["drawn"][0, len(names["prompt"].tokens):]
  assert len(drawn) == 4 and bool(names["vocabulary"].is_image(drawn).all())
