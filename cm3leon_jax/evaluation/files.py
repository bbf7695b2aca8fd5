"""JSON in and out of the evaluators: what is wrong with a file is said by name and count."""

import json
import os
from pathlib import Path
import secrets
from typing import Any, Collection, Iterable, Mapping

import numpy as np

from cm3leon_jax.errors import InputError


def read_json(path: str | os.PathLike, *, unique_names: bool = False) -> Any:
  """Parses a file.

  Args:
    unique_names: refuse an object that holds a name twice (of which JSON readers keep the last one).

  Raises:
    InputError: no such file, not JSON, or a name twice.
  """

  def pairs(items: list[tuple[str, Any]]) -> dict:
    check_unique([name for name, _ in items], path, "name")
    return dict(items)

  try:
    return json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=pairs if unique_names else None)
  except FileNotFoundError as error:
    raise InputError(f"{path}: no such file") from error
  except (IsADirectoryError, PermissionError) as error:
    raise InputError(f"{path}: cannot be read ({error.strerror})") from error
  except ValueError as error:
    raise InputError(f"{path}: not valid JSON ({error})") from error


def write_json(path: str | os.PathLike, result: Mapping[str, Any]) -> None:
  """Writes a flat result; a reader sees the old file or the new one, never half of it."""
  _written(path, result).replace(path)


def write_json_once(path: str | os.PathLike, result: Mapping[str, Any]) -> None:
  """`write_json` where nothing is there yet: of several processes the first one's file stays, whole."""
  temporary = _written(path, result)
  try:
    os.link(temporary, path)  # unlike a rename, this fails where the file is there
  except FileExistsError:
    pass
  except OSError:  # a file system without hard links: nearly as good
    if not Path(path).exists():
      temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike) -> None:
  """Raises InputError where a result cannot be written to `path`: better known before hours of computing than after."""
  folder = Path(path).parent
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"{path}: its folder cannot be made ({error.strerror})") from error
  if Path(path).is_dir() or not os.access(folder, os.W_OK):
    raise InputError(f"{path}: {'is a folder' if Path(path).is_dir() else 'its folder cannot be written to'}; name a file")


def _written(path: str | os.PathLike, result: Mapping[str, Any]) -> Path:
  """The result in a file of its own beside `path`: no other process writes to that one."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
  text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
  temporary.write_text(text + "\n", encoding="utf-8")
  return temporary


def _plain(value):
  if isinstance(value, (np.ndarray, np.generic)):
    return value.tolist()
  raise TypeError(f"a result cannot hold a {type(value).__name__}")


# What a file looks like, by the names that its top level, or the rows of a list, hold; the first that fits.
_FORMS = (
    ({"question_id", "answers"}, "annotations of VQA or OK-VQA"),
    ({"image", "answers"}, "annotations of VizWiz"),
    ({"image_id", "paragraph"}, "paragraphs of Image Paragraph Captioning"),
    ({"image_id", "ranks"}, "ranks for `cm3leon eval visdial`"),
    ({"image_id", "gt_relevance"}, "dense annotations of VisDial"),
    ({"image_id", "relevance"}, "dense annotations of VisDial"),
    ({"question_id", "answer"}, "answers for `cm3leon eval vqa`"),
    ({"image", "answer"}, "answers of VizWiz for `cm3leon eval vqa`"),
    ({"image_id", "caption"}, "captions"),
    ({"question_id", "question"}, "questions of VQA, without answers"),
    ({"image", "question"}, "questions of VizWiz, without answers"),
    ({"choices", "answer"}, "problems of ScienceQA"),
    ({"data", "version"}, "dialogues of VisDial"),
    ({"results"}, "results of ScienceQA"),
)


def looks_like(data: Any) -> str:
  """`; it looks like …` for a file given in the wrong place; empty where its form is none that is known here."""
  if isinstance(data, dict) and isinstance(data.get("annotations", data.get("questions")), list):
    data = data.get("annotations", data.get("questions"))
  elif isinstance(data, dict) and data and all(isinstance(value, dict) for value in data.values()):
    data = list(data.values())[:1]  # keyed by question
  sample_row = data[0] if isinstance(data, list) and data else data
  if isinstance(data, list) and isinstance(sample_row, (int, str)):
    return "; it looks like a list of ids"
  names = set(sample_row) if isinstance(sample_row, dict) else set()
  return next((f"; it looks like {form}" for fields, form in _FORMS if fields <= names), "")


def rows(data: Any, fields: Mapping[str, type | tuple[type, ...]], path: str | os.PathLike, what: str,
         whole: Any = None) -> list[dict]:
  """Checks that `data` is a list of objects that hold `fields` of the given types; returns it.

  Args:
    whole: what the file holds, where `data` is a part of it.

  Raises:
    InputError: it is something else; names the first bad row, and how many are bad.
  """
  form = "[{" + ", ".join(f'"{name}": …' for name in fields) + "}, …]"
  if not isinstance(data, list):
    raise InputError(f"{path}: {what} must be a list {form}, this is a JSON {type(data).__name__}"
                     f"{looks_like(whole or data)}")
  bad = [i for i, row in enumerate(data) if not isinstance(row, dict) or
         any(not isinstance(row.get(name), kind) or isinstance(row.get(name), bool) for name, kind in fields.items())]
  if bad:
    first = data[bad[0]]
    raise InputError(f"{path}: {len(bad)} of {len(data)} rows of {what} are not of the form {form}; "
                     f"the first is row {bad[0]}: {json.dumps(first, ensure_ascii=False)[:120]}"
                     f"{looks_like([first]) if isinstance(first, dict) and set(fields) - set(first) else ''}")
  if not data:
    raise InputError(f"{path}: {what} is empty")
  return data


def check_unique(ids: Iterable, path: str | os.PathLike, name: str) -> None:
  """Raises InputError where an id stands twice."""
  seen, twice = set(), []
  for i in ids:
    if i in seen:
      twice.append(i)
    seen.add(i)
  if twice:
    raise InputError(f"{path}: {count(len(twice), name)} more than once: {sample(twice)}; keep one answer for each")


def check_ids(predicted: Collection, known: Collection, path: str | os.PathLike, references: str | os.PathLike,
              name: str, allow_missing: bool) -> list:
  """Compares predicted ids with those of the references; returns the ids to score, in the references' order.

  Raises:
    InputError: unknown ids, or missing ones unless `allow_missing`.
  """
  predicted_set, known_set = set(predicted), set(known)
  unknown = [i for i in predicted if i not in known_set]
  if unknown:
    hint = ""
    if {str(i) for i in unknown} & {str(i) for i in known_set}:
      hint = "; the ids' types differ: 42 and \"42\" are two ids"
    raise InputError(f"{path}: {count(len(unknown), name)} not in {references}: {sample(unknown)}{hint}")
  missing = [i for i in known if i not in predicted_set]
  if missing and not allow_missing:
    raise InputError(f"{path}: {count(len(missing), name)} of {references} without an answer: {sample(missing)}; "
                     "answer them, or score what is there with --allow_missing")
  return [i for i in known if i in predicted_set]


def count(number: int, name: str) -> str:
  return f"{number} {name}{'' if number == 1 else 's'}"


def sample(ids: Collection, most: int = 5) -> str:
  """The first few ids, for a message."""
  ids = list(ids)
  return ", ".join(repr(i) for i in ids[:most]) + (", …" if len(ids) > most else "")
