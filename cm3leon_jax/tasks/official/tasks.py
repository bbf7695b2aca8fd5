"""The paper's fine-tuning tasks as registered seqio tasks over `examples` folders.

| task | reads | pairs |
|---|---|---|
| `coco_captions`, `flickr30k`, `image_paragraph`, `localized_narratives` | the set of that name | text, picture |
| `vqa2`, `vizwiz`, `okvqa`, `scienceqa`, `scienceqa_explained` | the set (both of ScienceQA: one) | text, picture |
| `detection`, `textocr` | the set | text, picture |
| `instruct_pix2pix` | the set | query, before, instruction, after |
| `canny`, `segmentation`, `hed`, `pose`, `depth`, `normal`, `scribble` | the set | query, control, caption, picture |
| `image_to_canny`, … | the set of the control | query, picture, what to draw, control |

A row is a text with its pictures; its template is drawn from (seed, task, epoch, row). A row that does not fit its slot,
or lacks a field of the drawn template, is replaced by another drawn one and counted: an answer is never cut. Of
`detection` the smallest boxes go until the text fits.
"""

import collections
import dataclasses
import functools
import os
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from cm3leon_jax import manifest as manifests
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks import documents, seqio_adapter
from cm3leon_jax.tasks.official import sources, store, wording
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.vocabulary import Vocabulary

LOSSES = ("all", "answer")
ANSWERS = ("common", "agreement")
ATTEMPTS = 100  # rows tried in the place of one that does not fit
_MAY_BE_EMPTY = ("context",)


@dataclasses.dataclass(frozen=True)
class Options:
  """Where the paper leaves a choice; the comments in `wording.py` argue for the defaults of the words.

  Attributes:
    answers: of ten people's: `common`, the one that most gave; or `agreement`, drawn in proportion to how many did.
      Table 5's 1.3M VQA examples are 443,757 questions times three templates, so one answer a question: the default.
    edit_query: `table` or `text`, see `wording.EDIT_QUERIES`.
    boxes: `figure` or `table`, see `wording.BOXES`.
    loss: `all` tokens (the paper), or `answer`: the answer, or where there is none the last picture.
  """

  answers: str = "common"
  edit_query: str = "table"
  boxes: str = "figure"
  loss: str = "all"

  def __post_init__(self):
    for name, known in (("answers", ANSWERS), ("edit_query", tuple(wording.EDIT_QUERIES)), ("boxes", tuple(wording.BOXES)),
                        ("loss", LOSSES)):
      if getattr(self, name) not in known:
        raise InputError(f"SFT.{name}={getattr(self, name)!r}: known are {', '.join(known)}")


@dataclasses.dataclass(frozen=True)
class Task:
  """What a task reads and says.

  Attributes:
    set: the set of examples.
    templates: drawn uniformly.
    reverse: the picture first, then the one that stands before it.
  """

  set: str
  templates: tuple[wording.Template, ...]
  reverse: bool = False


def known(options: Options = Options()) -> dict[str, Task]:
  """All tasks by name."""
  tasks = {name: Task(name, wording.CAPTIONS) for name in ("coco_captions", "flickr30k")}
  tasks["image_paragraph"] = Task("image_paragraph", wording.PARAGRAPHS)
  tasks["localized_narratives"] = Task("localized_narratives", wording.NARRATIVES)
  tasks.update({name: Task(name, wording.QUESTIONS) for name in ("vqa2", "vizwiz", "okvqa")})
  tasks["scienceqa"] = Task("scienceqa", wording.SCIENCE)
  tasks["scienceqa_explained"] = Task("scienceqa", wording.SCIENCE_EXPLAINED)
  tasks["detection"] = Task("detection", wording.BOXES[options.boxes])
  tasks["textocr"] = Task("textocr", wording.WRITING)
  tasks["instruct_pix2pix"] = Task("instruct_pix2pix", wording.edit(options.edit_query))
  tasks.update({kind: Task(kind, wording.control(kind)) for kind in wording.CONTROLS})
  tasks.update({f"image_to_{kind}": Task(kind, wording.backwards(kind), reverse=True) for kind in wording.CONTROLS})
  return tasks


class _Sampler:
  """Draws the samples of one task; folders are opened when first asked for."""

  def __init__(self, task: Task, folder: Path, vocabulary: Vocabulary, layout: Layout, text: TextTokenizer, options: Options):
    self._task, self._folder, self._layout, self._text, self._options = task, folder, layout, text, options
    self._vocabulary = vocabulary
    self._builder = documents.SampleBuilder(vocabulary, layout)
    self._open = functools.cache(lambda split: store.Examples(folder / split, vocabulary, layout))
    self._encode = functools.lru_cache(256)(text.encode)  # templates without a field are the same again and again
    self.counts = self._builder.counts
    self.counts.update(texts_that_did_not_fit=0, texts_without_a_field=0)

  def size(self, split: str) -> int:
    return len(self._open(split))

  def sample(self, split: str, row: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    rows = self._open(split)
    for _ in range(ATTEMPTS):
      fields, images = rows[row]
      texts = self._texts(fields, rng)
      if texts is not None:
        return self._build(texts, images[::-1] if self._task.reverse else images)
      row = int(rng.integers(len(rows)))
    raise InputError(f"{self._folder / split}: {ATTEMPTS} texts drawn one after the other do not fit "
                     f"Layout.text_tokens={self._layout.text_tokens}, or lack a field: raise it, or leave the task out")

  def _texts(self, fields: Mapping, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """(ids before the answer, ids of the answer) of each text; None where the row cannot be used."""
    template = self._task.templates[int(rng.integers(len(self._task.templates)))]
    filled = dict(fields)
    if "answers" in fields:
      filled["answer"] = choose_answer(fields["answers"], self._options.answers, rng)
    boxes = fields.get("boxes", ())
    for number in range(max(len(boxes), 1), 0, -1):
      if boxes:
        filled["objects"] = wording.objects(boxes[:number], self._options.boxes)
      if any(f"{{{name}}}" in text and not value for text in template for name, value in filled.items()
             if name not in _MAY_BE_EMPTY):
        self.counts["texts_without_a_field"] += 1
        return None
      words = [wording.fill(text, filled) for text in template]
      ids = [(self._encode(before), self._encode(answer)) for before, answer in words]
      if all(0 < len(before) + len(answer) <= self._layout.text_tokens for before, answer in ids):
        return ids
    self.counts["texts_that_did_not_fit"] += 1
    return None

  def _build(self, texts, images) -> dict[str, np.ndarray]:
    before, answer = texts[-1]
    pairs = [(np.concatenate(text), image) for text, image in zip(texts, images, strict=True)]
    sample = self._builder.build(pairs, answer=slice(len(before), None) if len(answer) else None)
    if self._options.loss == "answer":
      counted = sample["answers"] > 0
      if not len(answer):
        counted = np.zeros(len(counted), bool)
        counted[-1 - self._layout.image_tokens:-1] = True
      sample["loss_weights"] = counted.astype(np.float32)
    return sample


def choose_answer(answers: Sequence[Sequence], rule: str, rng: np.random.Generator) -> str:
  """One of [[answer, how many gave it], …], most first; equals keep the order in which they were given."""
  if rule == "common":
    return answers[0][0]
  ends = np.cumsum([n for _, n in answers])
  return answers[int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))][0]


def register(workdir: str | os.PathLike, vocabulary: Vocabulary, layout: Layout, text_tokenizer: TextTokenizer,
             names: Sequence[str] = (), options: Options = Options()) -> dict[str, collections.Counter]:
  """Registers tasks over `D/examples/<set>/<split>`, in place of those of the same names; returns what each counts.

  Args:
    workdir: D.
    vocabulary: the id space.
    layout: the geometry of samples; two slots at least for tasks of two pictures.
    text_tokenizer: of the words.
    names: tasks; empty for all whose examples are there.
    options: see `Options`.

  Raises:
    InputError: an unknown task, one without examples, or a layout without room for two pictures.
  """
  tasks = known(options)
  unknown = [name for name in names if name not in tasks]
  if unknown:
    raise InputError(f"no task {unknown[0]!r}; known: {', '.join(tasks)}")
  base = Path(workdir) / "examples"
  there = lambda name: [s for s in sources.SPLITS if manifests.exists(base / tasks[name].set / s)]
  face, counts = seqio_adapter.VocabularyFace(vocabulary, text_tokenizer), {}
  for name in names or [name for name in tasks if there(name)]:
    task = tasks[name]
    if not (splits := there(name)):
      raise InputError(f"{base / task.set}: no examples there, which task {name} reads; make them with: {store.REBUILD}")
    if len(task.templates[0]) > layout.max_documents:
      raise InputError(f"task {name} has two pictures, but Layout.max_documents={layout.max_documents}: raise it to 2")
    sampler = _Sampler(task, base / task.set, vocabulary, layout, text_tokenizer, options)
    seqio_adapter.register_task(name, face, sampler.sample, splits=splits, size=sampler.size, counts=sampler.counts)
    counts[name] = sampler.counts
  return counts
