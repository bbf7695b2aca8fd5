"""VQA accuracy by the official rule (Antol et al. 2015; visualqa.org/evaluation.html).

An answer is compared with each set of nine of the ten people's answers: 3 equal ones make
it right, fewer make a third each; the mean over the ten sets is the question's accuracy.
Answers are brought to one form first, but only when the ten differ among themselves. The
official code's slips are part of every published number, so they are kept here: see
`strip_punctuation`.
"""

import functools
import os
import re

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


@functools.lru_cache(maxsize=1 << 16)
def process(answer: str) -> str:
  """One form for an answer: lower case, digits for number words, no articles, apostrophes put back."""
  words = (_NUMBERS.get(word, word) for word in strip_punctuation(answer).lower().split())
  return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _clean(answer: str) -> str:
  return answer.replace("\n", " ").replace("\t", " ").strip()


def accuracy(answer: str, people: list[str]) -> float:
  """Accuracy in 0..1 of one answer against (usually ten) people's answers."""
  answer, people = _clean(answer), [_clean(p) for p in people]
  if len(set(people)) > 1:
    answer, people = process(answer), [process(p) for p in people]
  equal = [p == answer for p in people]
  return sum(min(1.0, (sum(equal) - own) / 3) for own in equal) / len(people)


def evaluate_vqa(predictions: str | os.PathLike, references: str | os.PathLike, json_out: str | os.PathLike = "",
                 *, allow_missing: bool = False) -> dict:
  """Scores answers against the official annotations file.

  Args:
    predictions: JSON `[{"question_id", "answer"}, …]`, one answer a question.
    references: JSON `{"annotations": [{"question_id", "answers": [{"answer"}, …], …}]}`.
    json_out: where the result goes; empty for nowhere.
    allow_missing: score the questions that have an answer, instead of stopping at those without.

  Returns:
    Flat: `vqa_accuracy` in percent with `_low`, `_high` (95 % interval over questions), `count`,
    `share_scored`, `empty_answers`; where the annotations tell them, `answer_type/X` and
    `question_type/X` in percent.

  Raises:
    InputError: a file is missing or of another form; duplicate, unknown or missing question ids.
  """
  predicted = files.rows(files.read_json(predictions), {"question_id": (int, str), "answer": str}, predictions,
                         "answers")
  data = files.read_json(references)
  if not isinstance(data, dict) or "annotations" not in data:
    raise InputError(f"{references}: not a VQA annotations file: it must hold {{\"annotations\": […]}} "
                     "(the file of questions is another one)")
  truth = files.rows(data["annotations"], {"question_id": (int, str), "answers": list}, references, "annotations")
  bad = [row["question_id"] for row in truth if not row["answers"] or not all(
      isinstance(a, dict) and isinstance(a.get("answer"), str) for a in row["answers"])]
  if bad:
    raise InputError(f"{references}: {files.count(len(bad), 'question')} whose `answers` is not a list "
                     f"[{{\"answer\": …}}, …] of at least one: {files.sample(bad)}")
  files.check_unique([row["question_id"] for row in predicted], predictions, "question id")
  files.check_unique([row["question_id"] for row in truth], references, "question id")
  answer_of = {row["question_id"]: row["answer"] for row in predicted}
  ids = files.check_ids(list(answer_of), [row["question_id"] for row in truth], predictions, references, "question id",
                        allow_missing)
  rows = [row for row in truth if row["question_id"] in answer_of]
  scores = 100 * np.array([accuracy(answer_of[row["question_id"]], [a["answer"] for a in row["answers"]])
                           for row in rows])
  result = bootstrap.mean_interval(scores).as_fields("vqa_accuracy")
  result |= {"count": len(ids), "share_scored": len(ids) / len(truth),
             "empty_answers": sum(not answer_of[i].strip() for i in ids)}
  for kind in ("answer_type", "question_type"):
    names = np.array([str(row.get(kind, "")) for row in rows])
    result |= {f"{kind}/{name}": float(scores[names == name].mean()) for name in np.unique(names) if name}
  if json_out:
    files.write_json(json_out, result)
  return result
