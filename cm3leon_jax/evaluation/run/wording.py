"""How a question is put to the model: the words before the hole that it fills in (paper Table 5).

Where a dialogue or a hint is too long for the slot, it is cut at its beginning, so that the question stays;
where the question alone is too long, it is cut at its beginning too.
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


def before(metric: str, item: Item, room: int, length: Callable[[str], int]) -> tuple[str, bool]:
  """The words before the answer, and whether some had to go.

  Args:
    metric: `vqa`, `scienceqa` or `visdial`.
    item: the question.
    room: the most tokens that they may take.
    length: text → tokens.
  """
  template = {"vqa": VQA, "scienceqa": SCIENCEQA, "visdial": VISDIAL}[metric]
  put = lambda context: template.format(question=item.text, context=context, options=options(item.choices)).strip()
  whole = put(item.context)
  if length(whole) <= room:
    return whole, False
  if length(put("")) <= room:
    return put(_end(item.context, lambda words: length(put(words)) <= room)), True
  return _end(put(""), lambda words: length(words) <= room), True


def _end(text: str, fits: Callable[[str], bool]) -> str:
  """The longest run of words at the end of `text` that fits."""
  words = text.split()
  low, high = 0, len(words)  # how many to drop, by halving
  while low < high:
    middle = (low + high) // 2
    if fits(" ".join(words[middle:])):
      high = middle
    else:
      low = middle + 1
  return " ".join(words[low:])
