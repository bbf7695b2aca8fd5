"""What the fine-tuning tasks say: the templates of paper Table 5 (PAPER §7.2).

A template is the texts of a sample, one before each picture. "|" opens the answer: all that stands behind it is what the
objective masks as a whole, and what the model writes when it is asked. The full stop that ends an answer belongs to it,
so that at inference nothing has to stand behind the hole (`evaluation/run/wording.py`).
"""

from typing import Sequence

Template = tuple[str, ...]

CAPTIONS: tuple[Template, ...] = (("{caption}",), ("Describe the given picture. |{caption}",))
PARAGRAPHS: tuple[Template, ...] = (
    ("Describe the given picture in very detail. |{caption}",),
    ("Describe all the objects in the given image in very detail. |{caption}",),
    ("Generate a long caption for the given image. |{caption}",))
NARRATIVES: tuple[Template, ...] = (
    ("Describe the given picture in very detail. |{caption}",),
    ("Generate a long narration of what is happening in the given image. |{caption}",),
    ("Generate a long caption for the given image. |{caption}",))
QUESTIONS: tuple[Template, ...] = (
    ("Question: {question} Answer: |{answer}.",),
    ("Question: {question}\n|{answer}.",),
    ("Question: {question} The answer is |{answer}.",))
_SCIENCE = "Question: {question}\nContext: {context}\nOptions: {options}\n"
SCIENCE: tuple[Template, ...] = ((_SCIENCE + "Answer: |{answer}.",),)
SCIENCE_EXPLAINED: tuple[Template, ...] = (
    (_SCIENCE + "Let's think step-by-step: |{explanation} So the answer is {answer}.",),)
WRITING: tuple[Template, ...] = (('draw "{words}"',),)

# Table 5 and Meta's code say "table"; §4.1 and Fig. 5 say "text". The table is what the data were made with, and the demo
# model and `api.py` ask with it, so it is the default.
EDIT_QUERIES = {"table": "Edit first image following the instruction",
                "text": "Edit the image following the text instruction"}

# Table 5 writes "with segmentations {obj} at {loc}", Fig. 15 shows what a box looks like in a real prompt. The figure's
# is complete, the table's leaves open what {loc} is: the figure is the default.
BOXES = {"figure": (("Generate high quality image of {caption} with {objects}",),),
         "table": (("Generate high quality image of {caption} with segmentations {objects}",),)}

# What an image is made from: "Make high quality image from {}".
CONTROLS = {"canny": "canny edge features", "segmentation": "a segmentation map", "hed": "hed features",
            "pose": "openpose features", "depth": "depth features", "normal": "3D norm features",
            "scribble": "children's scribbles"}


def edit(query: str) -> tuple[Template, ...]:
  return ((EDIT_QUERIES[query], "{instruction}"),)


def control(kind: str) -> tuple[Template, ...]:
  """A control picture, then the picture."""
  return ((f"Make high quality image from {CONTROLS[kind]}", "{caption}"),)


def backwards(kind: str) -> tuple[Template, ...]:
  """The picture, then its control picture. The paper shows such pictures and prints no template: this one is ours.

  The second text says what to draw and not the caption, which nobody has who asks for a map of a picture.
  """
  return ((f"Make {CONTROLS[kind]} from high quality image", CONTROLS[kind]),)


def objects(boxes: Sequence[Sequence], style: str) -> str:
  """`bottle at location (199, 130) -> (204, 150) and with sink at location …`; boxes: (name, x0, y0, x1, y1)."""
  place, between = ("at location", " and with ") if style == "figure" else ("at", ", ")
  return between.join(f"{name} {place} ({x0}, {y0}) -> ({x1}, {y1})" for name, x0, y0, x1, y1 in boxes)


def options(choices: Sequence[str]) -> str:
  """`(A) a fern (B) a moss`, as ScienceQA's own baselines and the evaluation write them."""
  return " ".join(f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(choices))


def fill(text: str, fields: dict[str, str]) -> tuple[str, str]:
  """One text of a template → (words before the answer, the answer); values may hold any characters.

  A value never doubles a full stop that the template brings.
  """
  before, _, answer = text.partition("|")
  put = lambda part: part.format_map({k: v.rstrip(". ") if f"{{{k}}}." in part else v for k, v in fields.items()})
  return put(before).strip(" "), put(answer).strip(" ")  # a newline before the answer stays
