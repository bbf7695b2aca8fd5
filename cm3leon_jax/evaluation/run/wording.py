"""How a question is put to the model: the words before the hole that it fills in (paper Table 5).

Where a dialogue or a hint is too long for the slot, it is cut at its beginning: the question itself stays.
"""

from typing import Callable

from cm3leon_jax.datasets.items import Item

VQA = "Question: {question} The answer is"
SCIENCEQA = "Question: {question}\nContext: {context}\nOptions: {options}\nAnswer:"
VISDIAL = "{context} Question: {question} The answer is"
_ANSWER_ROOM = 32  # text tokens kept free for the answer


def room(model) -> int:
  """Text tokens that a question may take, of the slot's."""
  return max(1, model.layout.text_tokens - min(_ANSWER_ROOM, model.layout.text_tokens // 2))


def options(choices) -> str:
  """`(A) a fern (B) a moss`, as ScienceQA's own baselines write them."""
  return " ".join(f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(choices))


def before(metric: str, item: Item, room: int, length: Callable[[str], int]) -> str:
  """The words before the answer.

  Args:
    metric: `vqa`, `scienceqa` or `visdial`.
    item: the question.
    room: the most tokens that they may take.
    length: text → tokens.
  """
  template = {"vqa": VQA, "scienceqa": SCIENCEQA, "visdial": VISDIAL}[metric]
  words = item.context.split()
  put = lambda context: template.format(question=item.text, context=context, options=options(item.choices)).strip()
  if length(put(item.context)) <= room:
    return put(item.context)
  low, high = 0, len(words)  # the smallest number of words to drop, by halving
  while low < high:
    middle = (low + high) // 2
    if length(put(" ".join(words[middle:]))) <= room:
      high = middle
    else:
      low = middle + 1
  return put(" ".join(words[low:]))
