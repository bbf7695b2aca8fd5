"""A data set of TensorFlow Datasets by its name, already prepared in its data folder."""

import dataclasses
from typing import Any, Iterator

from cm3leon_jax.datasets.corpora import raw
from cm3leon_jax.datasets.corpora.raw import Raw
from cm3leon_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class TfdsByName:
  """A shard is a stretch of `shard_rows` rows of the split, in the order in which they are stored.

  Attributes:
    name: such as `coco_captions:1.1.0`.
    split: such as `train`.
    data_dir: TFDS's data folder; `` is its own default.
    image, caption, id: where the fields lie, steps joined by `/`: `captions/text`. Of a sequence the first is taken.
      Without an id, a record is named by its row.
    shard_rows: rows of a shard.
  """

  name: str
  split: str = "train"
  data_dir: str = ""
  image: str = "image"
  caption: str = "caption"
  id: str = "id"
  shard_rows: int = 1000

  def _builder(self):
    import tensorflow_datasets as tfds

    try:
      builder = tfds.builder(self.name, data_dir=self.data_dir or None)
    except (tfds.core.DatasetNotFoundError, ValueError, ImportError, OSError) as error:
      raise InputError(f"TfdsByName.name={self.name!r}: {str(error).splitlines()[0]}") from error
    if self.split not in builder.info.splits:
      raise InputError(f"TfdsByName.split={self.split!r}: {self.name} in {builder.data_path} has "
                       f"{', '.join(builder.info.splits) or 'no split: prepare it with `tfds build` first'}")
    return builder

  def shards(self) -> list[str]:
    return raw.ranges(self.split, self._builder().info.splits[self.split].num_examples, self.shard_rows)

  def read(self, shard: str) -> Iterator[Raw]:
    import tensorflow_datasets as tfds

    split, begin, end = raw.split_range(shard)
    builder = self._builder()
    rows = builder.as_dataset(split=f"{split}[{begin}:{end}]", shuffle_files=False, decoders=self._undecoded())
    for number, row in enumerate(tfds.as_numpy(rows), begin):
      named = _at(row, self.id)
      image, caption = _at(row, self.image), _at(row, self.caption)
      yield Raw(f"{split}/{number}" if named is None else _text(named), image, caption)

  def _undecoded(self) -> dict:
    import tensorflow_datasets as tfds

    tree: Any = tfds.decode.SkipDecoding()
    for step in reversed(self.image.split("/")):
      tree = {step: tree}
    return tree


def _at(row: Any, path: str) -> Any:
  """The value at `a/b/c`; of sequences the first; None where there is none."""
  for step in path.split("/"):
    if not isinstance(row, dict) or step not in row:
      return None
    row = row[step]
  while hasattr(row, "shape") and row.shape:
    if not len(row):
      return None
    row = row[0]
  return row.item() if hasattr(row, "item") else row


def _text(value: Any) -> str:
  return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
