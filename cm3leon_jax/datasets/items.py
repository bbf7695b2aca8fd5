"""One thing to evaluate: what the model is given, and what people answered.

Every reader of an evaluation set gives a list of these, in the order of the official file.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
  """A prompt, a picture to describe, or a question.

  Attributes:
    id: as in the official file; unique in the set. Predictions are keyed by it.
    text: the caption to draw, or the question; empty for captioning.
    image: path of the picture, or uint8[H, W, 3]; None where there is none. Of a prompt to draw: the real
      picture, the reference of FID.
    image_id: the picture's own id, for leaving it out of retrieval and for grouping; None where there is none.
    references: people's captions or answers.
    category: type of the question or answer, for tables by category; may be empty.
    context: what stands before the question in the words the model reads (a hint, the dialogue so far); may be empty.
    choices: answers to choose from or to rank; empty where the answer is free.
    relevance: VisDial: people's relevance of each choice, in 0..1; empty otherwise.
  """

  id: int | str
  text: str = ""
  image: str | np.ndarray | None = None
  image_id: int | str | None = None
  references: tuple[str, ...] = ()
  category: str = ""
  context: str = ""
  choices: tuple[str, ...] = ()
  relevance: tuple[float, ...] = ()
