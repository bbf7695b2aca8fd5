"""ScienceQA: the share of questions whose choice is right, with the breakdown of its official table (Lu et al. 2022)."""

import os
import re
from typing import Mapping, Sequence

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import bootstrap, files

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SENTENCE = re.compile(r"The answer is ([A-Z]).")  # as published: its last full stop stands for any sign
_SHORT = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}


def extract(output: str, choices: Sequence[str]) -> int | None:
  """The choice that a model's text names: its number from 0, or None where it names none.

  First the rule of the official code: "The answer is X." exactly once. Where that finds no letter of the choices, the
  official code guesses at random; here, so that a result is the same each time, come instead: the whole text is a
  letter ("B", "(b)", "B."), or a choice in its own words (case, outer spaces and a closing full stop aside). Whatever
  is left names none, and counts as wrong.
  """
  letters = _SENTENCE.findall(output)
  number = LETTERS.index(letters[0]) if len(letters) == 1 else len(choices)
  if number < len(choices):
    return number
  plain = lambda text: text.strip().rstrip(".").strip().lower()
  short = _SHORT.fullmatch(output.strip())
  if short and LETTERS.index(short[1].upper()) < len(choices):
    return LETTERS.index(short[1].upper())
  same = [i for i, choice in enumerate(choices) if plain(choice) == plain(output)]
  return same[0] if same else None


def categories(problem: Mapping) -> list[str]:
  """The columns of the official table that a problem counts in.

  Its subject (NAT, SOC, LAN), its context (TXT: a hint; IMG: a picture, both may hold; NO: neither), its grade (G1-6,
  G7-12).
  """
  found = [_SUBJECTS[problem["subject"]]] if problem.get("subject") in _SUBJECTS else []
  context = [name for name, field in (("TXT", "hint"), ("IMG", "image")) if problem.get(field)]
  grade = re.fullmatch(r"grade(\d+)", str(problem.get("grade", "")))
  return found + (context or ["NO"]) + (["G1-6" if int(grade[1]) <= 6 else "G7-12"] if grade else [])


def score(answers: Sequence[int | None], problems: Sequence[Mapping]) -> dict[str, float]:
  """Percent right, with `_low` and `_high` (95 % interval over questions), and `category/X` in percent.

  Args:
    answers: the number of the choice, from 0; None is wrong.
    problems: `answer` and what `categories` reads.
  """
  right = 100.0 * np.array([answer == problem["answer"] for answer, problem in zip(answers, problems, strict=True)])
  result = bootstrap.mean_interval(right).as_fields("accuracy")
  columns = [categories(problem) for problem in problems]
  for name in ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12"):
    inside = np.array([name in names for names in columns])
    if inside.any():
      result[f"category/{name}"] = float(right[inside].mean())
  return result


def evaluate_scienceqa(predictions: str | os.PathLike, references: str | os.PathLike,
                       json_out: str | os.PathLike = "", *, split: str = "test", allow_missing: bool = False) -> dict:
  """Scores choices against the official problems.

  Args:
    predictions: JSON `{"qid": choice, …}`, or the official code's file of results, `{"results": {…}, …}`. A choice is a
      number from 0, or a text for `extract`.
    references: `problems.json`.
    json_out: where the result goes; empty for nowhere.
    split: which problems: `test` (of which the official table is made), `val`, `train`, `minival`….
    allow_missing: score the questions that have a choice, instead of stopping at those without.

  Returns:
    Flat: `accuracy` in percent with `_low`, `_high`; `category/NAT` and so on (see `categories`); `count`,
    `share_scored`, `unreadable` (texts that name no choice; they count as wrong).

  Raises:
    InputError: a file is missing or of another form; unknown or missing questions; a number that is no choice's.
  """
  problems = _read_problems(references, split)
  chosen = _read_choices(predictions)
  ids = files.check_ids(list(chosen), list(problems), predictions, f"the {split} split of {references}", "question",
                        allow_missing)
  if not ids:
    raise InputError(f"{predictions}: holds no question of the {split} split of {references}")
  outside = [i for i in ids if isinstance(chosen[i], int) and not 0 <= chosen[i] < len(problems[i]["choices"])]
  if outside:
    raise InputError(f"{predictions}: {files.count(len(outside), 'question')} whose number is none of a choice (they count "
                     f"from 0): {files.sample(outside)}")
  answers = [chosen[i] if isinstance(chosen[i], int) else extract(chosen[i], problems[i]["choices"]) for i in ids]
  result = score(answers, [problems[i] for i in ids])
  result |= {"count": len(ids), "share_scored": len(ids) / len(problems), "unreadable": answers.count(None)}
  if json_out:
    files.write_json(json_out, result)
  return result


def _read_problems(path, split: str) -> dict[str, dict]:
  data = files.read_json(path)
  fields = {"choices": list, "answer": int, "split": str}
  bad = [i for i, row in data.items() if not isinstance(row, dict) or
         any(not isinstance(row.get(name), kind) for name, kind in fields.items()) or
         not 0 <= row["answer"] < len(row["choices"])] if isinstance(data, dict) else ["(no object)"]
  if bad or not data:
    raise InputError(f"{path}: not ScienceQA's problems.json: it must hold {{\"1\": {{\"choices\": […], \"answer\": 0, "
                     f"\"split\": \"test\", …}}, …}}; wrong: {files.sample(bad)}{files.looks_like(data)}")
  problems = {i: row for i, row in data.items() if row["split"] == split}
  if not problems:
    raise InputError(f"{path}: no problem of --split={split}; it has {', '.join(sorted({r['split'] for r in data.values()}))}")
  return problems


def _read_choices(path) -> dict[str, int | str]:
  data = files.read_json(path, unique_names=True)
  if isinstance(data, dict) and isinstance(data.get("results"), dict):
    data = data["results"]
  if not isinstance(data, dict) or not data:
    raise InputError(f"{path}: must hold {{\"question id\": choice, …}}{files.looks_like(data)}")
  bad = [i for i, choice in data.items() if isinstance(choice, bool) or not isinstance(choice, (int, str))]
  if bad:
    raise InputError(f"{path}: {files.count(len(bad), 'question')} whose choice is neither a number nor a text: "
                     f"{files.sample(bad)}{files.looks_like(data)}")
  return data
