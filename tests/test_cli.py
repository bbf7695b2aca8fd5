"""The command line: exit codes, one sentence a mistake, quick help."""

import json
import subprocess
import sys

import pytest

from cm3leon_jax import cli


def test_help_is_quick_and_lists_every_verb(capsys):
  code = ("import sys\nfrom cm3leon_jax import cli\ncli.build_parser()\n"
          "print([m for m in ('jax', 'tensorflow') if m in sys.modules])")
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == "[]", "parsing the command line must not load heavy libraries"
  with pytest.raises(SystemExit) as stop:
    cli.main(["--help"])
  assert stop.value.code == 0
  help_text = capsys.readouterr().out
  assert all(verb in help_text for verb in cli.VERBS)


@pytest.mark.parametrize("argv, sentence", [
    (["train", "--gin_file=nowhere.gin", "--workdir=w"], "--gin_file=nowhere.gin: no such file"),
    (["train", "--gin_file=configs/runs/demo_pretrain.gin", "--workdir=w", "--gin.train.stesp=3"], "steps"),
    (["data", "tokenize", "--gin_file=configs/mixtures/emoji.gin", "--workdir={tmp}"], "no emoji_styles corpus"),
    (["search", "--index={tmp}/none", "--text=heart"], "no such folder"),
    (["generate", "--checkpoint={tmp}/none", "--task=text_to_image", "--text=heart", "--out={tmp}/out"], "no such folder"),
    (["demo", "--workdir={tmp}", "--until=lunch"], "--until=lunch: no such stage; known: corpus"),
    (["eval", "captions", "--predictions={tmp}/p.json", "--references={tmp}/r.json"], "p.json"),
])
def test_a_mistake_is_one_sentence_and_exit_1(argv, sentence, tmp_path, capsys):
  assert cli.main([a.format(tmp=tmp_path) for a in argv]) == 1
  error = capsys.readouterr().err.strip().splitlines()[-1]
  assert error.startswith("cm3leon: ") and sentence in error and "Traceback" not in error


def test_gin_flags_need_a_verb_that_reads_gin():
  with pytest.raises(SystemExit) as stop:
    cli.main(["search", "--index=i", "--text=t", "--gin.train.steps=3"])
  assert stop.value.code == 2


def test_a_workdir_keeps_its_options(tmp_path, capsys):
  (tmp_path / "options.json").write_text(json.dumps({"quick": False, "fresh": False}))
  assert cli.main(["demo", f"--workdir={tmp_path}", "--quick"]) == 1
  assert "begun with other options" in capsys.readouterr().err
