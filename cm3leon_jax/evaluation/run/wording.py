"""How an item is put into words that fit the model: captions to draw, and questions (paper Table 5).

A caption that is too long for the slot keeps its first words. Of a question that is too long, the dialogue or the hint
is cut at its beginning, so that the question stays; where the question alone is too long, it is cut at its beginning too.
"""

import bisect
from typing import Callable

from cm3leon_jax.datasets.items import Item

VQA = "Question: {question} The answer is"
SCIENCEQA = "Question: {question}\nContext: {context}\nOptions: {options}\nAnswer:"
VISDIAL = "{context} Question: {question} The answer is"
TEMPLATES = {"vqa": VQA, "scienceqa": SCIENCEQA, "visdial": VISDIAL}
_ANSWER_ROOM = 32  # text tokens kept free for the answer


def room(model) -> int:
  """Text tokens that a question may take, of the slot's."""
  return max(1, model.layout.text_tokens - min(_ANSWER_ROOM, model.layout.text_tokens // 2))


def beginning(text: str, room: int, length: Callable[[str], int]) -> tuple[str, bool]:
  """The most words at the beginning of a caption that fit `room` tokens, and whether some had to go."""
  if length(text) <= room:
    return text, False
  words = text.split()
  dropped = _fewest(len(words), lambda n: length(" ".join(words[:len(words) - n])) <= room)
  return " ".join(words[:len(words) - dropped]), True


def options(choices) -> str:
  """`(A) a fern (B) a moss`, as ScienceQA's own baselines write them."""
  return " ".join(f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(choices))


def before(metric: str, item: Item, room: int, length: Callable[[str], int]) -> tuple[str, bool]:
  """The words before the answer, and whether some had to go.

  Args:
    metric: `vqa`, `scienceqa` or `visdial`.
    item: the question.
    room: the most tokens that they may take.
    length: text → tokens.
  """
  put = lambda context: TEMPLATES[metric].format(question=item.text, context=context, options=options(item.choices)).strip()
  whole = put(item.context)
  if length(whole) <= room:
    return whole, False
  if length(put("")) <= room:
    return put(_end(item.context, lambda words: length(put(words)) <= room)), True
  return _end(put(""), lambda words: length(words) <= room), True


def _end(text: str, fits: Callable[[str], bool]) -> str:
  """The longest run of words at the end of `text` that fits."""
  words = text.split()
  return " ".join(words[_fewest(len(words), lambda n: fits(" ".join(words[n:]))):])


def _fewest(most: int, fits: Callable[[int], bool]) -> int:
  """The least number in 0..most from which on `fits` holds, by halving."""
  return bisect.bisect_left(range(most), True, key=fits)
