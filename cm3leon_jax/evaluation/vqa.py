"""VQA accuracy by the official rule (Antol et al. 2015; visualqa.org/evaluation.html): VQA v1, v2, OK-VQA, VizWiz.

An answer is compared with each set of nine of the ten people's answers: 3 equal ones make
it right, fewer make a third each; the mean over the ten sets is the question's accuracy.
Answers are brought to one form first, but only when the ten differ among themselves. The
official code's slips are part of every published number, so they are kept here: see
`strip_punctuation`. OK-VQA is scored by this code as it is; VizWiz has a variant of its own: `vizwiz_accuracy`.
"""

import functools
import os
import re
from typing import Mapping, Sequence

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import bootstrap, files

# Words whose apostrophes people leave out. The official table maps each form with one apostrophe missing
# to the full form; forms of "I" never match there, because answers are lower case by then.
_CONTRACTED = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
  he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
  needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
  somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
  there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
  what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
  would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've""".split()
_CONTRACTIONS = {form[:m.start()] + form[m.end():]: form for form in _CONTRACTED for m in re.finditer("'", form)}
_CONTRACTIONS["somebody'd"] = "somebodyd"  # the official table has this entry the wrong way round

# VizWiz's table is the same after an editor made apostrophes typographic, but for these.
_VIZWIZ_STRAIGHT = frozenset("ain't aren't can't could've couldn't we've where's who've".split())
_VIZWIZ_STRAIGHT_FORMS = frozenset(["couldn'tve", "hadn'tve"])
_VIZWIZ_CONTRACTIONS = {
    form if form in _VIZWIZ_STRAIGHT_FORMS else form.replace("'", "’"):
        full if full in _VIZWIZ_STRAIGHT else full.replace("'", "’") for form, full in _CONTRACTIONS.items()}

_NUMBERS = {"none": "0", **{word: str(i) for i, word in enumerate(
    "zero one two three four five six seven eight nine ten".split())}}
_ARTICLES = frozenset(["a", "an", "the"])
_PUNCTUATION = ";/[]\"{}()=+\\_-><@`,?!"
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# Meant as "a full stop between digits stays"; the official pattern looks behind for the text "<=" and a
# digit, so only what follows counts. Its flags argument (re.UNICODE = 32) landed in the place of `count`.
_FULL_STOP = re.compile(r"(?!<=\d)\.(?!\d)")
_FULL_STOPS_AT_MOST = 32


def strip_punctuation(answer: str) -> str:
  """Removes a sign that touches a space (all signs, when a comma stands in a number); else a space takes its place."""
  out = answer
  comma = _COMMA_IN_NUMBER.search(answer) is not None
  for sign in _PUNCTUATION:
    touches_space = sign + " " in answer or " " + sign in answer
    out = out.replace(sign, "" if touches_space or comma else " ")
  return _FULL_STOP.sub("", out, count=_FULL_STOPS_AT_MOST)


def _to_one_form(answer: str, contractions: Mapping[str, str]) -> str:
  """Lower case, digits for number words, no articles, apostrophes put back by the table."""
  words = (_NUMBERS.get(word, word) for word in strip_punctuation(answer).lower().split())
  return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


@functools.lru_cache(maxsize=1 << 16)
def process(answer: str) -> str:
  """One form for an answer, by the official table."""
  return _to_one_form(answer, _CONTRACTIONS)


def _clean(answer: str) -> str:
  return answer.replace("\n", " ").replace("\t", " ").strip()


def _mean_over_nines(answer: str, people: Sequence[str]) -> float:
  """The mean over all sets of people but one: a third for each that gave the answer, 1 at most."""
  equal = [p == answer for p in people]
  return sum(min(1.0, (sum(equal) - own) / 3) for own in equal) / len(people)


def accuracy(answer: str, people: Sequence[str]) -> float:
  """Accuracy in 0..1 of one answer against (usually ten) people's answers."""
  answer, people = _clean(answer), [_clean(p) for p in people]
  if len(set(people)) > 1:
    answer, people = process(answer), [process(p) for p in people]
  return _mean_over_nines(answer, people)


@functools.lru_cache(maxsize=1 << 16)
def vizwiz_process(answer: str) -> str:
  """One form for a model's answer, by VizWiz's table: "dont" becomes "don’t", which no person's "don't" equals."""
  return _to_one_form(answer, _VIZWIZ_CONTRACTIONS)


def vizwiz_accuracy(answer: str, people: Sequence[str]) -> float:
  """Accuracy in 0..1 by VizWiz's own evaluation code (Gurari et al. 2018).

  It brings the model's answer to one form always, also when the people agree, and compares it with people's answers as
  they stand in the file (which are in lower case, and mostly clean).
  """
  return _mean_over_nines(vizwiz_process(_clean(answer)), people)


def evaluate_vqa(predictions: str | os.PathLike, references: str | os.PathLike, json_out: str | os.PathLike = "",
                 *, allow_missing: bool = False) -> dict:
  """Scores answers against the official annotations file.

  Args:
    predictions: JSON `[{"question_id", "answer"}, …]`, one answer a question; of VizWiz `[{"image", "answer"}, …]`.
    references: VQA and OK-VQA: JSON `{"annotations": [{"question_id", "answers": [{"answer"}, …], …}]}`;
      VizWiz: `[{"image", "answers": [{"answer"}, …], …}]`. The form decides the rule.
    json_out: where the result goes; empty for nowhere.
    allow_missing: score the questions that have an answer, instead of stopping at those without.

  Returns:
    Flat: `vqa_accuracy` in percent with `_low`, `_high` (95 % interval over questions), `count`, `share_scored`,
    `empty_answers`, `rule` (`vqa` or `vizwiz`); where the annotations tell them, `answer_type/X` and
    `question_type/X` in percent.

  Raises:
    InputError: a file is missing or of another form; duplicate, unknown or missing question ids.
  """
  rule, key, truth, type_names = _read_annotations(references)
  data = files.read_json(predictions)
  predicted = files.rows(data, {key: (int, str), "answer": str}, predictions, "answers")
  name = "question id" if key == "question_id" else "image"
  files.check_unique([row[key] for row in predicted], predictions, name)
  answer_of = {row[key]: row["answer"] for row in predicted}
  ids = files.check_ids(list(answer_of), [row[key] for row in truth], predictions, references, name, allow_missing)
  rows = [row for row in truth if row[key] in answer_of]
  score = vizwiz_accuracy if rule == "vizwiz" else accuracy
  scores = 100 * np.array([score(answer_of[row[key]], [a["answer"] for a in row["answers"]]) for row in rows])
  result = bootstrap.mean_interval(scores).as_fields("vqa_accuracy")
  result |= {"count": len(ids), "share_scored": len(ids) / len(truth),
             "empty_answers": sum(not answer_of[i].strip() for i in ids), "rule": rule}
  for kind in ("answer_type", "question_type"):
    names = np.array([type_names.get(str(row.get(kind, "")), str(row.get(kind, ""))) for row in rows])
    result |= {f"{kind}/{name}": float(scores[names == name].mean()) for name in np.unique(names) if name}
  if json_out:
    files.write_json(json_out, result)
  return result


def _read_annotations(path: str | os.PathLike) -> tuple[str, str, list[dict], dict[str, str]]:
  """The rule, the name of the field that identifies a question, the rows, and the long names of question types.

  OK-VQA's file holds the latter: `"question_types": {"one": "Vehicles and Transportation", …}`.
  """
  data = files.read_json(path)
  if isinstance(data, list):
    rule, key, rows, names = "vizwiz", "image", data, {}
  elif isinstance(data, dict) and "annotations" in data:
    rule, key, rows, names = "vqa", "question_id", data["annotations"], data.get("question_types")
  else:
    raise InputError(f"{path}: not a VQA annotations file: it must hold {{\"annotations\": […]}}, or for VizWiz the list "
                     f"[{{\"image\": …, \"answers\": […]}}, …]{files.looks_like(data)}")
  rows = files.rows(rows, {key: (int, str), "answers": list}, path, "annotations", data)
  bad = [row[key] for row in rows if not row["answers"] or not all(
      isinstance(a, dict) and isinstance(a.get("answer"), str) for a in row["answers"])]
  if bad:
    raise InputError(f"{path}: {files.count(len(bad), 'question')} whose `answers` is not a list "
                     f"[{{\"answer\": …}}, …] of at least one: {files.sample(bad)}")
  files.check_unique([row[key] for row in rows], path, "question id" if key == "question_id" else "image")
  return rule, key, rows, names if isinstance(names, dict) else {}
