"""ScienceQA: school questions with answers to choose from, some with a picture.

    root/problems.json   root/pid_splits.json   root/images/test/5/image.png
"""

from cm3leon_jax.datasets.items import Item, Items
from cm3leon_jax.datasets.official import pictures
from cm3leon_jax.datasets.official.source import Source, one_of, sample
from cm3leon_jax.errors import InputError

SPLITS = ("test", "val", "train")


def scienceqa(root: str, split: str = "test", pictured: bool = False) -> Items:
  """Questions with their hint as context, choices, and the right one as the only reference. category: subject.

  Lecture and solution are not given to the model, so they are not read.

  Args:
    root: folder with the two JSON files and `images/`.
    split: `test`, `val` or `train`.
    pictured: only questions with a picture (IMG of the paper's tables).
  """
  name = f"scienceqa/{one_of(split, SPLITS, 'ScienceQA.split')}" + "/pictured" * bool(pictured)
  source = Source(root, name)
  path = source.find("problems.json")
  problems = source.json(path, "ScienceQA problems")
  ids = [str(i) for i in source.json(source.find("pid_splits.json"), "ScienceQA splits")[split]]
  missing = [i for i in ids if i not in problems]
  if missing:
    raise InputError(f"{path}: {len(missing):,} problems of pid_splits.json are not in it: {sample(missing)}")
  bad = [i for i in ids if not 0 <= problems[i]["answer"] < len(problems[i]["choices"])]
  if bad:
    raise InputError(f"{path}: {len(bad):,} problems whose `answer` is not the number of a choice: {sample(bad)}")
  place = pictures.locator(source.root, "")
  items = []
  for id_ in ids:
    problem = problems[id_]
    file = problem.get("image") or ""
    if file or not pictured:
      items.append(Item(
          id_, text=problem["question"].strip(), image=place(f"images/{split}/{id_}/{file}") if file else None,
          image_id=id_ if file else None, references=(problem["choices"][problem["answer"]],),
          category=problem.get("subject", ""), context=(problem.get("hint") or "").strip(),
          choices=tuple(problem["choices"])))
  return source.finish(items)


def solutions(root: str) -> dict[str, str]:
  """The worked solution of every question, for training; empty where there is none. It gives the answer away."""
  source = Source(root, "scienceqa/solutions")
  problems = source.json(source.find("problems.json"), "ScienceQA problems")
  return {id_: (problem.get("solution") or "").strip() for id_, problem in problems.items()}
