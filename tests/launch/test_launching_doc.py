"""docs/launching.md: the launchers and cm3leon take every command that it gives."""

import re
import shlex

import dry_runs
import pytest

from cm3leon_jax import cli

TEXT = (dry_runs.ROOT / "docs" / "launching.md").read_text(encoding="utf-8")


def lines() -> list[str]:
  """Command lines of all fenced blocks, continuation lines joined, prompts cut."""
  blocks = re.findall(r"^ *```(?:console|sh)\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)
  joined = [re.sub(r"\\\n *", "", block) for block in blocks]
  return [line.strip().removeprefix("$ ") for block in joined for line in block.splitlines() if line.strip()]


LAUNCHED = [line for line in lines() if line.startswith(("python launch/", "bash launch/"))]
TRAINED = [line[line.index("cm3leon "):] for line in lines() if re.search(r"(^| )cm3leon ", line)]


@pytest.mark.parametrize("line", LAUNCHED)
def test_launcher_commands_of_the_doc_are_understood(line):
  words = shlex.split(line)[1:]
  if "--dry_run" not in words:
    words.insert(words.index("--"), "--dry_run")
  assert dry_runs.dry_run(words).strip()


@pytest.mark.parametrize("line", TRAINED)
def test_cm3leon_commands_of_the_doc_parse(line):
  words = [word for word in shlex.split(line)[1:] if not word.startswith("--gin.")]
  args = cli.build_parser()[0].parse_args(words)
  for gin in getattr(args, "gin_file", []):
    assert (dry_runs.ROOT / gin).is_file()


def test_the_doc_speaks_of_every_launcher_and_every_launcher_has_a_dry_run():
  for path in sorted((dry_runs.ROOT / "launch").iterdir()):
    if path.suffix in (".py", ".sbatch") and "--dry_run" in path.read_text() and path.name != "commands.py":
      assert f"launch/{path.name}" in TEXT
      assert any(f"launch/{path.name}" in line for line in LAUNCHED)


def test_numbers_of_the_doc_are_those_of_the_run():
  run = (dry_runs.ROOT / "configs" / "runs" / "pretrain_7b.gin").read_text()
  value = lambda name: float(re.search(rf"^{re.escape(name)} = (\S+)", run, re.MULTILINE)[1])
  assert f"{value('train.batch_size'):,.0f} × 4,096" in TEXT
  assert f"{value('train.steps'):,.0f} steps" in TEXT
  assert f"{round(256 * value('train.steps') / 3600):,} × s chip-hours" in TEXT
  rate, warmup = value("Optimizer.learning_rate"), value("Optimizer.warmup_steps")
  assert rate == 1.2e-4 and rate * 100 / warmup == pytest.approx(8e-6)
  assert f"1.2e-4 × step / {warmup:,.0f}, 8e-6 at step 100" in TEXT
