"""The quickstart's bookkeeping; `cm3leon demo --quick` itself runs in CI."""

import json

import pytest

from cm3leon_jax.demo import stages
from cm3leon_jax.errors import InputError


def test_stages_are_skipped_when_done_and_made_when_not(tmp_path, monkeypatch, capsys):
  made = []

  def stage(name):
    def work(demo):
      made.append(name)
      (demo.workdir / name).touch()
    return stages.Stage(name, f"verb {name}", lambda demo: (demo.workdir / name).exists(), work)

  monkeypatch.setattr(stages, "STAGES", (stage("one"), stage("two"), stage("three")))
  stages.run(tmp_path, until="two")
  assert made == ["one", "two"]
  (tmp_path / "one").unlink()
  stages.run(tmp_path)
  assert made == ["one", "two", "one", "three"]
  lines = [json.loads(line)["stage"] for line in (tmp_path / "stages.jsonl").read_text().splitlines()]
  assert lines == made
  assert "[2/3] two: done before" in capsys.readouterr().err


def test_a_stage_that_fails_is_made_again(tmp_path, monkeypatch):
  tries = []

  def work(demo):
    tries.append(1)
    if len(tries) == 1:
      raise KeyboardInterrupt
    (demo.workdir / "made").touch()

  monkeypatch.setattr(stages, "STAGES", (stages.Stage("one", "v", lambda d: (d.workdir / "made").exists(), work),))
  with pytest.raises(KeyboardInterrupt):
    stages.run(tmp_path)
  stages.run(tmp_path)
  assert len(tries) == 2


def test_options_do_not_mix(tmp_path):
  (tmp_path / "options.json").write_text(json.dumps({"quick": True, "fresh": False}))
  with pytest.raises(InputError, match="begun with other options"):
    stages.run(tmp_path)
