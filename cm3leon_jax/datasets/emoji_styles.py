"""TFDS builder `emoji_styles`: the same things drawn by seven artists.

`reader.build` and `reader.read` are the demo's way in; `tfds.load("emoji_styles/64px")` works
too once this module is imported.
"""

from collections import Counter
from typing import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from cm3leon_jax.datasets import captions, icon_sets, render, splits
from cm3leon_jax.datasets.attribution import ATTRIBUTION

SPLIT_PIXELS = 64  # splits are made on pictures of this size, so they are the same in every config
_VERSION = tfds.core.Version("1.0.0")
TEXT_FIELDS = ("id", "caption", "thing", "name", "style", "skin_tone", "gender", "category", "group")

# (items, their number, what is done) → the same items, with a progress bar
Progress = Callable[[Iterable, int, str], Iterable]


class EmojiStyles(tfds.core.GeneratorBasedBuilder):
  """Emoji of seven sets, rendered on white, with captions that name the thing and the artist.

  `info.metadata` says where the drawings came from (`source`), and counts them by split and style
  (`drawings`; `dropped` are held-out drawings with a near twin in training).
  """

  VERSION = _VERSION
  BUILDER_CONFIGS = [
      tfds.core.BuilderConfig(name=f"{pixels}px", version=_VERSION, description=f"{pixels}×{pixels} pixels")
      for pixels in (64, 128)
  ]
  progress: Progress = staticmethod(lambda items, total, what: items)

  @property
  def pixels(self) -> int:
    return int(self.builder_config.name.removesuffix("px"))

  def _info(self) -> tfds.core.DatasetInfo:
    features = {name: tfds.features.Text() for name in TEXT_FIELDS}
    features["image"] = tfds.features.Image(shape=(self.pixels, self.pixels, 3), encoding_format="png")
    return tfds.core.DatasetInfo(
        builder=self,
        description="The same things drawn by seven artists, with held-out drawings and held-out things.",
        features=tfds.features.FeaturesDict(features),
        supervised_keys=("caption", "image"),
        license="; ".join(a.line() for a in ATTRIBUTION.values()),
        disable_shuffling=True,  # rows keep the order of their ids
        metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # npm fetches
    drawings, source = icon_sets.load()
    images = self._render(drawings, self.pixels)
    small = images if self.pixels == SPLIT_PIXELS else self._render(drawings, SPLIT_PIXELS)
    visible = [i for i, image in enumerate(small) if image.min() < 255]
    items = [splits.Item(d.id, d.style, d.thing.id, d.thing.base, splits.pixel_key(small[i]))
             for i, d in ((i, drawings[i]) for i in visible)]
    other_styles = min(2, len({x.style for x in items}) - 1)  # the fallback has one style only
    thumbnails = np.stack([splits.thumbnail(small[i]) for i in visible])
    assignment = splits.assign(items, thumbnails, other_styles=other_styles)
    counts = {split: Counter(items[i].style for i in assignment.indices(split))
              for split in (*splits.SPLITS, splits.DROPPED)}
    self.info.metadata.update(source=source, blank=len(drawings) - len(visible),
                              drawings={split: dict(sorted(count.items())) for split, count in counts.items()})
    return {
        split: self._generate_examples(split, [(drawings[visible[i]], images[visible[i]], assignment.groups[i])
                                               for i in assignment.indices(split)])
        for split in splits.SPLITS
    }

  def _render(self, drawings: Sequence[icon_sets.Drawing], pixels: int) -> np.ndarray:
    """uint8[N, pixels, pixels, 3]."""
    images = np.empty((len(drawings), pixels, pixels, 3), np.uint8)
    rendered = render.render_all([d.svg for d in drawings], pixels)
    for i, image in enumerate(self.progress(rendered, len(drawings), f"emoji_styles: drawing at {pixels} px")):
      images[i] = image
    return images

  def _generate_examples(self, split: str, rows: Sequence[tuple[icon_sets.Drawing, np.ndarray, str]]
                         ) -> Iterator[tuple[int, dict]]:
    for number, (drawing, image, group) in enumerate(self.progress(rows, len(rows), f"emoji_styles: writing {split}")):
      thing = drawing.thing
      index = captions.template_index(drawing.id)
      yield number, {
          "id": drawing.id,
          "caption": captions.caption(thing.name, drawing.style, thing.skin_tone, index, drawing.category),
          "image": image,
          "thing": thing.id,
          "name": thing.name,
          "style": drawing.style,
          "skin_tone": thing.skin_tone,
          "gender": thing.gender,
          "category": drawing.category,
          "group": group,
      }
