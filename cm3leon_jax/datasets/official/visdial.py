"""VisDial 1.0, val: a hundred answers to rank, whose relevance people judged (NDCG).

    root/visdial_1.0_val.json   root/visdial_1.0_val_dense_annotations.json
    root/VisualDialog_val2018/VisualDialog_val2018_000000185565.jpg
"""

from pathlib import Path
from typing import Callable

from cm3leon_jax.datasets.items import Item, Items
from cm3leon_jax.datasets.official import pictures
from cm3leon_jax.datasets.official.source import Source, sample
from cm3leon_jax.errors import InputError

_FOLDER = "VisualDialog_val2018"
OPTIONS = 100


def context(caption: str, rounds: list[tuple[str, str]]) -> str:
  """The dialogue so far, in words: `<caption>. Question: <q>? The answer is <a>. Question: …`, in one line."""
  said = [_ended(caption, ".")]
  said += [f"Question: {_ended(q, '?')} The answer is {_ended(a, '.')}" for q, a in rounds]
  return " ".join(said)


def visdial(root: str, images: str = "") -> Items:
  """The densely annotated round of each dialogue, in the order of the annotations' file.

  id: `<image id>_<round>`, rounds from 1 as in the file. context: see `context`. choices: the round's hundred answers.
  relevance: of each choice. references: the answer that was really given; it is one of the choices.

  Args:
    root: folder with both JSON files and the pictures.
    images: another folder with the pictures, at any depth.
  """
  source = Source(root, "visdial/val")
  path = source.find("visdial_1.0_val.json")
  data = source.json(path, "VisDial dialogs")["data"]
  dense_path = source.find("visdial_1.0_val_dense_annotations.json")
  dense = source.json(dense_path, "VisDial dense annotations")
  dialogs = {d["image_id"]: d for d in data["dialogs"]}
  unknown = [row["image_id"] for row in dense if row["image_id"] not in dialogs]
  if unknown:
    raise InputError(f"{dense_path}: {len(unknown):,} pictures that {path.name} has no dialogue of: {sample(unknown)}")
  place = pictures.locator(source.root, images)
  with source.reading(path):
    items = [_item(path, data, dialogs[row["image_id"]], row, place) for row in dense]
  return source.finish(items)


def _item(path: Path, data: dict, dialog: dict, row: dict, place: Callable[[str], str]) -> Item:
  """The annotated round of a dialogue."""
  number, relevance = row["round_id"], row["gt_relevance"]
  if not 1 <= number <= len(dialog["dialog"]):
    raise InputError(f"{path}: the dialogue of picture {row['image_id']} has no round {number} of the dense annotations; "
                     "they count from 1")
  turn = dialog["dialog"][number - 1]
  options = turn.get("answer_options", ())
  if len(options) != OPTIONS or len(relevance) != OPTIONS:
    raise InputError(f"{path}: round {number} of picture {row['image_id']} has {len(options)} answers and "
                     f"{len(relevance)} judgements; there must be {OPTIONS} of each")
  questions, answers = data["questions"], data["answers"]
  if not any(relevance):
    raise InputError(f"{path}: round {number} of picture {row['image_id']} has no answer of a relevance above 0, so no NDCG")
  earlier = [(questions[t["question"]], answers[t["answer"]]) for t in dialog["dialog"][:number - 1]]
  return Item(
      f"{row['image_id']}_{number}", text=_ended(questions[turn["question"]], "?"),
      image=place(f"{_FOLDER}/{_FOLDER}_{row['image_id']:012d}.jpg"), image_id=row["image_id"],
      references=(answers[options[turn["gt_index"]]].strip(),), context=context(dialog["caption"], earlier),
      choices=tuple(answers[o].strip() for o in options), relevance=tuple(float(r) for r in relevance))


def _ended(text: str, sign: str) -> str:
  """The files have no sign at the end of a sentence."""
  text = text.strip()
  return text if text.endswith((".", "?", "!")) else text + sign
