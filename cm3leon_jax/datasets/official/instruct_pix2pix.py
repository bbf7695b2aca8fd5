"""InstructPix2Pix: pairs of pictures and the instruction that leads from one to the other.

    root/seeds.json                         [["0000000/…", ["1234567", …]], …]
    root/<name>/prompt.json                 {"input": …, "edit": …, "output": …}
    root/<name>/<seed>_0.jpg                before;  <seed>_1.jpg  after
"""

import json
import math
from pathlib import Path

from cm3leon_jax.datasets.official.source import Source, one_of
from cm3leon_jax.errors import InputError

# The authors' own split, by place in seeds.json.
SPLITS = {"train": (0.0, 0.9), "val": (0.9, 0.95), "test": (0.95, 1.0)}


def instruct_pix2pix(root: str, split: str = "train") -> list[tuple[str, str]]:
  """(name, seed) of every pair of a split, in the order of seeds.json; only that file is read.

  Raises:
    InputError: no seeds.json, or one of another form.
  """
  source = Source(root, f"instruct_pix2pix/{one_of(split, SPLITS, 'split')}")
  path = source.find("seeds.json")
  try:
    rows = json.loads(source.text(path))
    rows = [(str(name), [str(s) for s in seeds]) for name, seeds in rows]
  except (ValueError, TypeError) as error:
    raise InputError(f"{path}: not a list of [folder, [seed, …]] ({error})") from error
  begin, end = (math.floor(share * len(rows)) for share in SPLITS[split])
  return [(name, seed) for name, seeds in rows[begin:end] for seed in seeds]


def instruction(root: str, name: str) -> str:
  """The instruction of a folder; may be empty.

  Raises:
    InputError: no prompt.json there, or one of another form.
  """
  path = Path(root) / name / "prompt.json"
  try:
    return json.loads(path.read_text(encoding="utf-8"))["edit"].strip()
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(f"{path}: not a prompt of InstructPix2Pix ({type(error).__name__}: {error})") from error
