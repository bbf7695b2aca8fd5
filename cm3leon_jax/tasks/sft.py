"""Supervised fine-tuning on two tasks that the emoji corpus supports with exact answers (paper §4, Table 5).

| name | a sample |
|---|---|
| `emoji_edit` | E "Edit first image following the instruction" b I1 b {instruction} b I2 E, a true pair of drawings |
| `emoji_caption` | E "Describe the given picture. {caption}" b I E, the caption marked as an answer |
| `emoji_sft` | the mixture of both |

Loss is on everything in training, as in the paper; in the held-out splits on the last text and image. The
answer of a captioning sample stands before the image, so the objective masks it as a whole
(`CM3Objective.answer_mask_probability`); asked at inference: E "Describe the given picture." <sentinel:0> b I E
<sentinel:0> → caption <eoss>.

A drawing to be drawn (I2) is from the split; the drawing to start from (I1) is always from the train split.
"""

import collections
import os
from pathlib import Path
import re
from typing import Sequence

import numpy as np

from cm3leon_jax import manifest as manifests
from cm3leon_jax import records
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks import documents
from cm3leon_jax.tasks import pretrain
from cm3leon_jax.tasks import seqio_adapter
from cm3leon_jax.tasks import templates
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.vocabulary import Vocabulary

EDIT, CAPTION, MIXTURE = "emoji_edit", "emoji_caption", "emoji_sft"
TRAIN = "train"
SPLITS = (TRAIN, "heldout_drawings", "heldout_things")
SKIN_TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
_GENDER_WORDS = re.compile(r"\b(wo)?m[ae]n\b|\b(person|people)\b")


class EditPairs:
  """Which drawings of the train split can be edited into a given drawing; O(documents) memory.

  * restyle: the same thing (its code points tell the gender) in the same skin tone, by another artist
  * skin tone: the same thing by the same artist in another, or no, skin tone
  * gender: the same name but for man, woman, person, by the same artist in the same skin tone
  """

  def __init__(self, train: Sequence[dict]):
    self._restyle, self._tone, self._gender = (collections.defaultdict(list) for _ in range(3))
    for row, d in enumerate(train):
      keys = self._keys(d)
      self._restyle[keys[0]].append((row, d["style"]))
      if not d["skin_tone"] or d["skin_tone"] in SKIN_TONES:
        self._tone[keys[1]].append((row, d["skin_tone"]))
      if d["gender"]:
        self._gender[keys[2]].append((row, d["gender"]))

  @staticmethod
  def _keys(d):
    bare = " ".join(_GENDER_WORDS.sub(" ", d["name"]).split())
    return (d["thing"], d["skin_tone"]), (d["thing"], d["style"]), (bare, d["style"], d["skin_tone"])

  def sources(self, target: dict, restyle_only: bool = False) -> list[tuple[tuple[str, ...], str, list[int]]]:
    """(wordings, their value, train rows to start from) for each kind of edit that can end in `target`."""
    restyle, tone, gender = self._keys(target)
    found = [(templates.RESTYLE, target["style"], self._others(self._restyle, restyle, target["style"]))]
    if not restyle_only:
      if target["skin_tone"] in SKIN_TONES:
        found.append((templates.SKIN_TONE, target["skin_tone"], self._others(self._tone, tone, target["skin_tone"])))
      if target["gender"]:
        found.append((templates.GENDER, target["gender"], self._others(self._gender, gender, target["gender"])))
    return [f for f in found if f[2]]

  @staticmethod
  def _others(table, key, value):
    return [row for row, v in table.get(key, ()) if v != value]


class _Split:
  """The documents of a split, and the rows that each task can use."""

  def __init__(self, folder: Path, vocabulary: Vocabulary, text_tokenizer: TextTokenizer):
    manifests.read(folder, "documents", rebuild="cm3leon data tokenize",
                   expect={"vocabulary": vocabulary.fingerprint(), "text_tokenizer": text_tokenizer.fingerprint})
    reader = records.Reader(folder, "documents")
    self.documents = reader if len(reader) > pretrain.IN_MEMORY else list(reader)
    fields = ("thing", "style", "name", "skin_tone", "gender")
    self.about, self.lengths = [], []
    for d in self.documents:
      self.about.append({f: d[f] for f in fields})
      self.lengths.append(len(d["text"]))


class EmojiSFT:
  """Samples of both tasks. Rows of a split: the drawings that are an edit of some train drawing (`edit`), and those
  whose caption fits its slot behind the query (`caption`): an answer is never cut."""

  def __init__(self, workdir: str | os.PathLike, vocabulary: Vocabulary, layout: Layout, text_tokenizer: TextTokenizer):
    self._workdir, self._vocabulary, self._text = Path(workdir), vocabulary, text_tokenizer
    self._splits: dict[str, _Split] = {}
    self._edit_rows: dict[str, list[int]] = {}
    self._caption_rows: dict[str, list[int]] = {}
    self.builder = documents.SampleBuilder(vocabulary, layout)
    self._room = layout.text_tokens
    self._edit_query = text_tokenizer.encode(templates.EDIT_QUERY)
    self._caption_query = text_tokenizer.encode(templates.CAPTION_QUERY)
    if max(len(self._edit_query), len(self._caption_query) + 1) > layout.text_tokens:
      raise InputError(f"Layout.text_tokens={layout.text_tokens} is too short for the tasks' queries "
                       f"({len(self._edit_query)} and {len(self._caption_query)} tokens): raise it")

  def _split(self, split: str) -> _Split:
    if split not in self._splits:
      self._splits[split] = _Split(self._workdir / "documents" / split, self._vocabulary, self._text)
      if split == TRAIN:
        self._pairs = EditPairs(self._splits[split].about)
    return self._splits[split]

  def _sources(self, split: str, row: int):
    self._split(TRAIN)
    return self._pairs.sources(self._split(split).about[row], restyle_only=split != TRAIN)

  def edit_rows(self, split: str) -> list[int]:
    if split not in self._edit_rows:
      self._edit_rows[split] = [row for row in range(len(self._split(split).about)) if self._sources(split, row)]
    return self._edit_rows[split]

  def caption_rows(self, split: str) -> list[int]:
    if split not in self._caption_rows:
      room = self._room - len(self._caption_query)
      self._caption_rows[split] = [row for row, n in enumerate(self._split(split).lengths) if 0 < n <= room]
    return self._caption_rows[split]

  def edit(self, split: str, row: int, rng: np.random.Generator):
    """One true pair: the kind of edit, the drawing to start from and the wording are drawn uniformly."""
    target = self.edit_rows(split)[row]
    kinds = self._sources(split, target)
    wordings, value, sources = kinds[rng.integers(len(kinds))]
    source = self._split(TRAIN).documents[sources[rng.integers(len(sources))]]
    instruction = self._text.encode(templates.instruction(wordings, int(rng.integers(len(wordings))), value))
    pairs = [(self._edit_query, source["image"]), (instruction, self._split(split).documents[target]["image"])]
    return self.builder.build(pairs, query_loss_only=split != TRAIN)

  def caption(self, split: str, row: int, rng: np.random.Generator):
    """Query and caption in one text slot, the caption an answer."""
    del rng
    document = self._split(split).documents[self.caption_rows(split)[row]]
    text = np.concatenate([self._caption_query, document["text"]])
    return self.builder.build([(text, document["image"])], query_loss_only=split != TRAIN,
                              answer=slice(len(self._caption_query), None))


def register_emoji_sft(workdir: str | os.PathLike, vocabulary: Vocabulary, layout: Layout,
                       text_tokenizer: TextTokenizer, *, edit_rate: float = 0.5, caption_rate: float = 0.5) -> None:
  """Registers `emoji_edit`, `emoji_caption` and their mixture `emoji_sft` over a workdir's `documents`.

  Args:
    workdir: D, the folder with `documents/<split>`.
    vocabulary: the id space.
    layout: the geometry of samples.
    text_tokenizer: the one the documents were made with.
    edit_rate, caption_rate: shares of the samples.

  Raises:
    InputError: the layout's texts are too short for the queries.
  """
  tasks = EmojiSFT(workdir, vocabulary, layout, text_tokenizer)
  face = seqio_adapter.VocabularyFace(vocabulary, text_tokenizer)
  seqio_adapter.register_task(EDIT, face, tasks.edit, splits=SPLITS, size=lambda split: len(tasks.edit_rows(split)),
                              counts=tasks.builder.counts)
  seqio_adapter.register_task(CAPTION, face, tasks.caption, splits=SPLITS,
                              size=lambda split: len(tasks.caption_rows(split)),
                              counts=tasks.builder.counts)
  seqio_adapter.register_mixture(MIXTURE, {EDIT: edit_rate, CAPTION: caption_rate})
