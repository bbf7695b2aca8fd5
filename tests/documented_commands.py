"""Runs the `cm3leon` commands of the README and of the guides below, and the README's Python, beside a demo's workdir:

    python tests/documented_commands.py demo_quick

The commands run as they are written, in a temporary folder where `demo_run` and `demo_quick` are that workdir; only the
number of training steps is lowered, and no demo is run again. Files that the reader is to bring are made here.
"""

import json
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
GUIDES = ("training.md", "sharding.md", "launching.md")
STEPS = re.compile(r"--gin\.train\.steps=\d+")


def commands(text: str) -> list[str]:
  """The `cm3leon …` and `python launch/…` lines of fenced blocks, continuation lines joined, prompts cut."""
  found = []
  for block in re.findall(r"```(?:bash|console)\n(.*?)```", text, re.DOTALL):
    for line in block.replace("\\\n", " ").splitlines():
      match = re.match(r"(?:\$ )?(?:\.venv/bin/)?(cm3leon .*|python launch/.*)", line)
      if match and "…" not in match[1] and not match[1].startswith("cm3leon demo"):
        found.append(match[1].split("   #")[0])
  return found


def bring_files(folder: Path) -> None:
  """What the reader has: predictions and references of two pictures, and features."""
  rng = np.random.default_rng(0)
  write = lambda name, value: (folder / name).write_text(json.dumps(value))
  write("results.json", [{"image_id": i, "caption": c} for i, c in enumerate(("a red heart", "a blue car"))])
  write("captions.json", {"images": [{"id": 0}, {"id": 1}], "annotations": [
      {"image_id": i, "caption": c} for i, c in enumerate(("a big red heart", "the blue car"))]})
  write("answers.json", [{"question_id": 7, "answer": "red"}])
  write("annotations.json", {"annotations": [{"question_id": 7, "image_id": 0, "question_type": "what", "answer_type": "other",
                                             "answers": [{"answer_id": n, "answer": "red"} for n in range(10)]}]})
  for name in ("made.npz", "real.npz"):
    np.savez(folder / name, features=rng.normal(size=(40, 8)))


def run(command: str | list[str], folder: Path) -> None:
  shown = command if isinstance(command, str) else "the Python block of README.md"
  print(f"$ {shown}", flush=True)
  environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
  done = subprocess.run(command, shell=isinstance(command, str), cwd=folder, env=environment, capture_output=True, text=True)
  if done.returncode:
    sys.exit(f"exit code {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def main(workdir: str) -> None:
  readme = (ROOT / "README.md").read_text(encoding="utf-8")
  written = commands("".join([readme, *((ROOT / "docs" / guide).read_text(encoding="utf-8") for guide in GUIDES)]))
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    for link in ("demo_run", "demo_quick"):
      (folder / link).symlink_to(Path(workdir).resolve())
    (folder / "launch").symlink_to(ROOT / "launch")
    bring_files(folder)
    for command in written:
      run(STEPS.sub("--gin.train.steps=2", command), folder)
    for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
      run([sys.executable, "-c", code], folder)
  print(f"{len(written)} documented commands and the README's Python ran", flush=True)


if __name__ == "__main__":
  main(sys.argv[1])
