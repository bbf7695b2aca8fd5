"""Image Paragraph (Krause et al. 2017): pictures of Visual Genome, each with a paragraph.

    root/paragraphs_v1.json   root/test_split.json   root/VG_100K/2317429.jpg   root/VG_100K_2/…
"""

from urllib.parse import urlparse

from cm3leon_jax.datasets.items import Item, Items
from cm3leon_jax.datasets.official import pictures
from cm3leon_jax.datasets.official.source import Source, one_of, sample
from cm3leon_jax.errors import InputError

SPLITS = ("test", "val", "train")


def image_paragraph(root: str, split: str = "test", images: str = "") -> Items:
  """Pictures to be described at length, in the order of the split's file; id: Visual Genome's image id.

  A picture that stands in `paragraphs_v1.json` several times has all its different paragraphs as references.

  Args:
    root: folder with `paragraphs_v1.json` and the split files, and with Visual Genome's pictures unpacked.
    split: `test`, `val` or `train`.
    images: another folder with the pictures, at any depth.
  """
  source = Source(root, f"image_paragraph/{one_of(split, SPLITS, 'ImageParagraph.split')}")
  path = source.find("paragraphs_v1.json")
  paragraphs: dict[int, list[str]] = {}
  files: dict[int, str] = {}
  for row in source.json(path, "image paragraphs"):
    # The address ends in <folder>/<image id>.jpg: which of the two archives has the picture stands nowhere else.
    files[row["image_id"]] = "/".join(urlparse(row["url"]).path.split("/")[-2:])
    found = paragraphs.setdefault(row["image_id"], [])
    if (text := row["paragraph"].strip()) and text not in found:
      found.append(text)
  ids = [int(i) for i in source.json(source.find(f"{split}_split.json"), "a list of ids")]
  bare = [i for i in ids if not paragraphs.get(i)]
  if bare:
    raise InputError(f"{path}: {len(bare):,} pictures of {split}_split.json without a paragraph: {sample(bare)}")
  place = pictures.locator(source.root, images)
  return source.finish([Item(i, image=place(files[i]), image_id=i, references=tuple(paragraphs[i])) for i in ids])
