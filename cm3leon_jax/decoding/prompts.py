"""Prompt layouts: what the model reads, and what may be generated after it (paper §2.2, §3, §4).

Each task is one pure function from ids to a `Prompt`. In the pictures below T is a text, I an
image, b = <break>, E = <eos>, → the point where generation starts, D = (T b I b) × K the
retrieved documents.

    text_to_image   E D T b →                 I
    unconditional   E D <sentinel:0> b →      I
    infill_text     E D T' <sentinel:0> T" b I E <sentinel:0> →   text <eoss>
    infill_image    E D T b I' E <sentinel:0> →  cells <eoss> (<sentinel:1> cells <eoss> …)
    edit            E D Tq b I1 b Ti b →      I2

Positions follow `layout.py`, and for what was masked the rule of training: every token keeps
its place; text after a removed span closes up behind the sentinel, so that no length leaks; a
sentinel stands where the first token it replaces stood, in the source and in the tail; <eoss>
stands behind the last token of its span.
"""

import dataclasses
from typing import NamedTuple, Sequence

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.vocabulary import EOS_ID, UNK_ID, Vocabulary

HOLE = -1  # in a text: a span of unknown length; in an image: a cell to be drawn


class Pair(NamedTuple):
  """A text and its image, as ids of the one id space.

  Attributes:
    text: int32[T]; `HOLE` marks a masked span.
    image: int32[I]; `HOLE` marks masked cells; None: to be generated.
  """

  text: np.ndarray
  image: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """A prefix to read, and a plan of the tokens to come.

  Attributes:
    tokens: int32[P] the prefix.
    positions: int32[P] where its tokens stand.
    planned_positions: int32[N] where generated token n stands.
    allowed: int32[N, 2, 2] two half-open id ranges from which token n must come; one range of
      a single id: the token is given. An unused range is (0, 0).
    cells: int32[N] the image cell that token n fills, -1 for other tokens.
    stop: the id that ends the generation early, -1 for none.
  """

  tokens: np.ndarray
  positions: np.ndarray
  planned_positions: np.ndarray
  allowed: np.ndarray
  cells: np.ndarray
  stop: int = -1

  @property
  def steps(self) -> int:
    return len(self.planned_positions)

  @property
  def given(self) -> np.ndarray:
    """int32[N]: the id of a token that is given by the layout, -1 where the model chooses."""
    width = self.allowed[:, :, 1] - self.allowed[:, :, 0]
    return np.where(width.sum(axis=1) == 1, self.allowed[:, 0, 0], -1).astype(np.int32)


def text_to_image(vocabulary: Vocabulary, layout: Layout, text, docs: Sequence[Pair] = ()) -> Prompt:
  """E D T b → I. `text` int[T]; raises InputError if it or the documents do not fit."""
  if len(text) == 0:
    raise InputError("the text is empty: give a prompt of at least one word")
  return _compose(vocabulary, layout, [*docs, Pair(text, None)])


def unconditional(vocabulary: Vocabulary, layout: Layout, docs: Sequence[Pair] = ()) -> Prompt:
  """E D <sentinel:0> b → I: the guidance twin of `text_to_image`.

  With the same documents it is Meta's retrieval variant; without any, the paper's prompt.
  """
  return _compose(vocabulary, layout, [*docs, Pair([HOLE], None)])


def infill_text(vocabulary: Vocabulary, layout: Layout, text, image, docs: Sequence[Pair] = ()) -> Prompt:
  """E D T' <sentinel:0> T" b I E <sentinel:0> → text <eoss>: the one `HOLE` in `text` is written.

  The span has at least one token and at most as many as its slot has room for.
  """
  if np.count_nonzero(np.asarray(text) == HOLE) != 1:
    raise ValueError("infill_text writes one span: mark it by one HOLE in the text")
  return _compose(vocabulary, layout, [*docs, Pair(text, image)], fill="text")


def image_to_text(vocabulary: Vocabulary, layout: Layout, image, before=(), after=(),
                  docs: Sequence[Pair] = ()) -> Prompt:
  """A caption, or an answer between `before` and `after` (a question), in the infill form."""
  return infill_text(vocabulary, layout, [*before, HOLE, *after], image, docs)


def infill_image(vocabulary: Vocabulary, layout: Layout, text, image, cells, docs: Sequence[Pair] = (),
                 max_spans: int = 3) -> Prompt:
  """E D T b I' E <sentinel:0> → …: every run of masked cells in raster order is one span.

  Runs beyond `max_spans` are joined over the shortest gaps; the known cells in a gap then stand in
  the tail, where they are given.

  Args:
    vocabulary: the id space.
    layout: geometry.
    text: int[T], or None: the caption is unknown, a sentinel stands for it (also the guidance twin).
    image: int32[I] ids; what stands in masked cells is ignored.
    cells: bool[I], True where to draw.
    docs: retrieved documents.
    max_spans: training draws Poisson(1) spans a window (paper §2.2), so more than 3 are rare there (2 %).
  """
  cells = np.asarray(cells, bool).reshape(-1)
  if not cells.any():
    raise InputError("the region covers no cell of the image: make it larger")
  known = np.where(cells, HOLE, np.asarray(image, np.int32))
  masked = np.where(_joined(cells, max_spans), HOLE, known)
  pair = Pair([HOLE] if text is None else text, masked)
  return _compose(vocabulary, layout, [*docs, pair], fill="image", known=known)


def edit(vocabulary: Vocabulary, layout: Layout, query, image, instruction, docs: Sequence[Pair] = ()) -> Prompt:
  """E D Tq b I1 b Ti b → I2: `query` names the task, as in training ("Edit first image …")."""
  if len(instruction) == 0:
    raise InputError("the instruction is empty: say what to change")
  return _compose(vocabulary, layout, [*docs, Pair(query, image), Pair(instruction, None)])


def edit_without_instruction(vocabulary: Vocabulary, layout: Layout, query, image,
                             docs: Sequence[Pair] = ()) -> Prompt:
  """E D Tq b I1 b <sentinel:0> b → I2: the image-only twin of two-way guidance."""
  return _compose(vocabulary, layout, [*docs, Pair(query, image), Pair([HOLE], None)])


def region_cells(layout: Layout, region: Sequence[int], image_size: int) -> np.ndarray:
  """Pixels (x0, y0, x1, y1), upper ends excluded → bool[I]: the cells that the rectangle touches."""
  if len(region) != 4:
    raise InputError(f"region {list(region)}: write it as x0,y0,x1,y1 in pixels")
  x0, y0, x1, y1 = (int(v) for v in region)
  if not (0 <= x0 < x1 <= image_size and 0 <= y0 < y1 <= image_size):
    raise InputError(f"region {x0},{y0},{x1},{y1} is empty or lies outside the image of {image_size} x {image_size} "
                     f"pixels: use 0 <= x0 < x1 <= {image_size}, and the same for y")
  side = image_size / layout.grid
  start = np.arange(layout.grid) * side
  columns, rows = (start < x1) & (start + side > x0), (start < y1) & (start + side > y0)
  return (rows[:, None] & columns[None, :]).reshape(-1)


def image_of(prompt: Prompt, tokens, source=None) -> np.ndarray:
  """int32[I]: generated tokens [N] laid into their cells; other cells as in `source` int32[I]."""
  drawn = prompt.cells >= 0
  image = np.full(np.count_nonzero(drawn), HOLE, np.int32) if source is None else np.array(source, np.int32)
  image[prompt.cells[drawn]] = np.asarray(tokens)[:prompt.steps][drawn]
  return image


def text_of(prompt: Prompt, tokens) -> np.ndarray:
  """The generated tokens [≤ N] up to the stop id, which is dropped."""
  tokens = np.asarray(tokens)[:prompt.steps]
  end = np.flatnonzero(tokens == prompt.stop)
  return tokens[:end[0]] if len(end) else tokens


def picture(vocabulary: Vocabulary, prompt: Prompt) -> str:
  """One line to read: names with positions, runs shortened, `→`, then the plan (`?` = chosen by the model)."""
  def kind(token):
    return "text" if UNK_ID <= token < vocabulary.image_start else "image" if vocabulary.is_image(token) else None

  def line(items):  # (label, position, may be joined)
    words = []
    for label, position, joins in items:
      if joins and words and words[-1][0] == label and words[-1][2] + 1 == position:
        words[-1][2] = position
      else:
        words.append([label, position, position])
    return " ".join(f"{w}@{a}" if a == b else f"{w}×{b - a + 1}@{a}..{b}" for w, a, b in words)

  prefix = [(kind(t) or vocabulary.name(t), int(p), kind(t) is not None)
            for t, p in zip(prompt.tokens, prompt.positions)]
  plan = []
  for given, ranges, position in zip(prompt.given, prompt.allowed, prompt.planned_positions):
    stops = "|" + vocabulary.name(ranges[1, 0]) if ranges[1, 1] else ""
    label = vocabulary.name(given) if given >= 0 else f"?{kind(ranges[0, 0])}{stops}"
    plan.append((label, int(position), given < 0))
  return f"{line(prefix)} → {line(plan)}"


# How it is put together.


def _compose(vocabulary: Vocabulary, layout: Layout, pairs: Sequence[Pair], fill: str | None = None,
             known: np.ndarray | None = None) -> Prompt:
  """Lays out pairs and the plan: an image after the last pair's <break>, or the spans of kind `fill` in the tail.

  `known`: int32[I], what of the last image is given even inside a span; `HOLE` elsewhere.
  """
  first = _first_slot(layout, pairs)
  tokens, positions = [], []
  spans = []  # (kind, sentinel, first position, cells or the longest length)
  sentinels = 0

  def put(ids, where):
    tokens.extend(int(i) for i in np.atleast_1d(ids))
    positions.extend(int(p) for p in np.atleast_1d(where))

  def sentinel():
    nonlocal sentinels
    if sentinels == vocabulary.num_sentinels:
      raise InputError(f"more than {sentinels} masked spans: the vocabulary has {sentinels} sentinels; "
                       "use a smaller region")
    sentinels += 1
    return vocabulary.sentinel(sentinels - 1)

  for i, (text, image) in enumerate(pairs):
    slot = first + i
    put(vocabulary.break_id if i else EOS_ID, slot * layout.stride)
    text = _checked_text(vocabulary, layout, text, i, len(pairs))
    for token, position in zip(text, layout.text_positions(slot, len(text))):
      if token == HOLE:
        token = sentinel()
        spans.append(("text", token, position, layout.text_tokens - (len(text) - 1)))
      put(token, position)
    put(vocabulary.break_id, layout.break_position(slot))
    if image is None:
      continue
    image = _checked_image(vocabulary, layout, image)
    where = layout.image_positions(slot)
    for start, stop, masked in _runs(image == HOLE):
      if masked:
        spans.append(("image", sentinel(), where[start], np.arange(start, stop)))
        put(spans[-1][1], where[start])
      else:
        put(image[start:stop], where[start:stop])

  plan = _Plan(vocabulary)
  if fill is None:
    plan.image(layout.image_positions(first + len(pairs) - 1), np.arange(layout.image_tokens))
  else:
    put(EOS_ID, (first + len(pairs)) * layout.stride)
    filled = [s for s in spans if s[0] == fill]
    put(filled[0][1], filled[0][2])
    for n, (kind, token, position, extent) in enumerate(filled):
      if n:
        plan.given(token, position)
      if kind == "image":
        for start, stop, free in _runs(known[extent] == HOLE):
          if free:
            plan.image(position + np.arange(start, stop), extent[start:stop])
          else:
            for i in range(start, stop):
              plan.given(known[extent[i]], position + i)
        plan.given(vocabulary.eoss_id, position + len(extent))
      else:
        plan.text(position + np.arange(extent), vocabulary.eoss_id)
        plan.given(vocabulary.eoss_id, position + extent)
  prompt = plan.prompt(tokens, positions)
  if layout.numbering == "sequence":
    total = len(tokens) + prompt.steps
    prompt = dataclasses.replace(prompt, positions=np.arange(len(tokens), dtype=np.int32),
                                 planned_positions=np.arange(len(tokens), total, dtype=np.int32))
  return prompt


class _Plan:
  """Collects what may come."""

  def __init__(self, vocabulary: Vocabulary):
    self._vocabulary = vocabulary
    self._rows = []  # (position, ranges, cell)
    self._stop = -1

  def given(self, token, position):
    self._rows.append((position, ((token, token + 1), (0, 0)), -1))

  def image(self, positions, cells):
    codes = ((self._vocabulary.image_start, self._vocabulary.image_end), (0, 0))
    self._rows += [(p, codes, c) for p, c in zip(positions, cells)]

  def text(self, positions, stop):
    """Text pieces, and from the second token on the stop id: an answer is never empty."""
    self._stop = stop
    pieces = (UNK_ID + 1, self._vocabulary.image_start)
    self._rows += [(p, (pieces, (stop, stop + 1) if n else (0, 0)), -1) for n, p in enumerate(positions)]

  def prompt(self, tokens, positions) -> Prompt:
    planned, allowed, cells = zip(*self._rows)
    return Prompt(np.asarray(tokens, np.int32), np.asarray(positions, np.int32), np.asarray(planned, np.int32),
                  np.asarray(allowed, np.int32), np.asarray(cells, np.int32), self._stop)


def _first_slot(layout: Layout, pairs) -> int:
  if len(pairs) > layout.max_documents:
    raise InputError(f"{len(pairs)} pairs of text and image (K={len(pairs) - 1} before the last) exceed the "
                     f"{layout.max_documents} that the model was trained with: "
                     f"use at most {layout.max_documents - 1} before it")
  return layout.slot(0, len(pairs))


def _checked_text(vocabulary: Vocabulary, layout: Layout, text, index: int, count: int) -> np.ndarray:
  text = np.asarray(text, np.int32).reshape(-1)
  known = text[text != HOLE]
  if known.size and not np.all((known >= UNK_ID) & (known < vocabulary.image_start)):
    raise ValueError(f"not text ids: {known[(known < UNK_ID) | (known >= vocabulary.image_start)][:8].tolist()}")
  if len(text) > layout.text_tokens:
    which = "the text" if index == count - 1 else f"text {index + 1} of {count}"
    hole = " (the masked span counted as one)" if HOLE in text else ""
    raise InputError(f"{which} has {len(text)} tokens{hole}, the model reads at most {layout.text_tokens}: shorten it")
  return text


def _checked_image(vocabulary: Vocabulary, layout: Layout, image) -> np.ndarray:
  image = np.asarray(image, np.int32).reshape(-1)
  if len(image) != layout.image_tokens:
    raise InputError(f"an image of {len(image)} codes, the model reads images of {layout.image_tokens}: "
                     "use the image tokenizer that the model was trained with")
  known = image[image != HOLE]
  if not np.all(vocabulary.is_image(known)):
    raise ValueError(f"not image ids: {known[~vocabulary.is_image(known)][:8].tolist()}")
  return image


def _joined(cells: np.ndarray, max_spans: int) -> np.ndarray:
  """bool[I] with at most `max_spans` runs: the shortest gaps between runs (the first of equals) are closed."""
  gaps = [(stop - start, start, stop) for start, stop, masked in _runs(cells) if not masked]
  inner = sorted(g for g in gaps if g[1] > 0 and g[2] < len(cells))
  joined = cells.copy()
  for _, start, stop in inner[:max(0, len(inner) + 1 - max_spans)]:
    joined[start:stop] = True
  return joined


def _runs(flags: np.ndarray):
  """(start, stop, flag) of each run of equal values."""
  edges = np.concatenate([[0], np.flatnonzero(np.diff(flags)) + 1, [len(flags)]])
  return [(int(a), int(b), bool(flags[a])) for a, b in zip(edges[:-1], edges[1:])]
