"""What a corpus is made from and how; `pipelines/corpus.py` makes it. Without Beam, so that gin can bind it anywhere."""

import dataclasses
from typing import Any, Sequence

from cm3leon_jax.datasets import caption_cleaning, pictures
from cm3leon_jax.datasets.corpora.raw import Source
from cm3leon_jax.errors import InputError

REJECTS = {
    **pictures.REJECTS,
    "no_caption": "no caption, or one that is not text",
    "caption_not_utf8": "a caption whose bytes are not UTF-8",
    "empty_caption": "nothing left of the caption after cleaning",
    "broken_record": "a record that the format's reader cannot read",
    "broken_shard": "a file that breaks off; all after it is lost",
    "unreadable_file": "a picture file that the system does not give",
    "duplicate_id": "an id that an earlier record has",
    "duplicate_picture": "a picture equal to an earlier one, pixel by pixel once prepared",
}
CHOSEN = ("duplicate_picture",)  # left out because a person asked for it: not counted as bad records


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Where pairs come from and what becomes of them; bound in gin (docs/corpora.md).

  Attributes:
    source: a reader, such as `@WebDataset()`.
    cleaning: names of `caption_cleaning` steps, in order.
    keep: other fields of the source that a pair carries on.
    min_side, max_pixels, max_aspect: see `pictures.Preparation`.
    drop_duplicates: leave out pictures that equal an earlier one in every pixel once prepared.
    held_out: share of the pictures set aside as split `heldout`.
    most_rejects: share of bad records up to which the corpus is made all the same.
  """

  source: Source
  cleaning: Sequence[str] = caption_cleaning.DEFAULT
  keep: Sequence[str] = ("url", "license")
  min_side: int = 16
  max_pixels: int = pictures.PILLOW_LIMIT
  max_aspect: float = 0.0
  drop_duplicates: bool = True
  held_out: float = 0.01
  most_rejects: float = 0.1

  def __post_init__(self):
    caption_cleaning.steps(self.cleaning)
    for name in ("held_out", "most_rejects"):
      if not 0 <= getattr(self, name) <= 1:
        raise InputError(f"Corpus.{name}={getattr(self, name)}: a share, 0 to 1")

  def settings(self, pixels: int) -> dict[str, Any]:
    """What decides the result, for the manifest."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("source", "most_rejects")}
    return {**fields, "cleaning": list(self.cleaning), "keep": list(self.keep), "pixels": pixels, "source": repr(self.source)}
