"""`cm3leon eval contamination`: how much of an evaluation set the index and the training corpus hold, and a sheet."""

import os
from pathlib import Path
from typing import Callable, Iterable, Sequence

import numpy as np

from cm3leon_jax import manifest
from cm3leon_jax.datasets.items import Item
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import contamination, files, picture_hash
from cm3leon_jax.evaluation.contamination import CODES, Library, Match
from cm3leon_jax.retrieval.search import decode_pictures
from cm3leon_jax.retrieval.sheet import contact_sheet

BITS = 6  # of the 64 of the perceptual hash, that may differ
COLOUR = 16  # of 255 levels: the hash sees no colour, so the mean difference of 8 × 8 averages may be this at most
COSINE = 0.97  # of CLIP's image vectors
SPLIT = "train"
_ROWS = 4096  # corpus pictures held at a time
_SHOWN = 12  # pairs of a kind on the sheet


def evaluate_contamination(items: Sequence[Item], index: str | os.PathLike, corpus: str | os.PathLike = "",
                           json: str | os.PathLike = "", out: str | os.PathLike = "", *,
                           cosine: float = COSINE) -> dict:
  """Shares of an evaluation set's pictures and captions that are in the index, and in the training corpus.

  Args:
    items: the evaluation set. A picture or caption that stands in several items counts once.
    index: folder of the index, D/index with D/documents/train beside it.
    corpus: D/corpus, to compare pixels too: its split `train`.
    json: where the numbers go.
    out: a PNG of the most similar pairs.
    cosine: of CLIP's image vectors, from which a document counts as a near copy.

  Returns:
    The flat numbers of docs/evaluating.md.

  Raises:
    InputError: a folder is missing or half written; none of the items has a picture or a caption.
  """
  if not 0 <= cosine <= 1:
    raise InputError(f"--cosine={cosine} must lie in 0..1")
  items, library = list(items), contamination.open_library(index)
  texts = {contamination.normalise(text) for item in items for text in contamination.captions(item)} - {""}
  said: set[str] = set()
  found = contamination.find(items, library, each=lambda rows: said.update(_repeated(texts, rows.captions)))
  shown, by_codes, by_clip = found.shown, found.by_codes, found.by_clip
  if not shown and not texts:
    raise InputError(f"none of the {len(items)} items has a picture that can be read, or a caption")
  result = {"items": len(items), "images": len(shown),
            "images_unreadable": len(contamination.pictures(items)) - len(shown), "captions": len(texts),
            "documents": len(library.store), "left_out_by_id": found.exclusions.by_id,
            "left_out_by_hash": found.exclusions.by_hash}
  result |= _share("caption_exact", said, texts)
  result |= _share("image_exact", {m.picture for m in by_codes if m.score == 1}, shown)
  result |= _share("image_near", {m.picture for m in by_codes}, shown) | {"image_near_from": CODES}
  result |= _share("clip_near", {m.picture for m in by_clip if m.score >= cosine}, shown) | {"clip_near_from": cosine}
  read = lambda ids: decode_pictures(library.store.get(ids), library.image, library.vocabulary.text_size)
  pairs = [(by_codes, "codes {:.0%} equal", read), (by_clip, "CLIP {:.3f}", read)]
  if corpus:
    numbers, more = _in_corpus(shown, texts, Path(corpus))
    result |= numbers
    pairs = [*more, *pairs]
  if out:
    _sheet(shown, pairs, library, out)
  if json:
    files.write_json(json, result)
  return result


def _share(name: str, found: set, total: Sequence | set) -> dict:
  return {f"{name}_count": len(found), f"{name}_share": len(found) / max(len(total), 1)}


def _repeated(texts: set[str], captions: Iterable[str]) -> set[str]:
  return texts.intersection(map(contamination.normalise, captions))


# (matches, how their score reads, ids → their pictures)
_Pairs = tuple[list[Match], str, Callable[[list[str]], Sequence[np.ndarray]]]


def _in_corpus(shown: Sequence[Item], texts: set[str], corpus: Path) -> tuple[dict, list[_Pairs]]:
  """Numbers, and pairs: equal pixels, then near perceptual hashes, scored by the share of equal bits."""
  from cm3leon_jax.datasets import reader  # brings TensorFlow

  pixels = manifest.read(corpus, "corpus", rebuild="cm3leon data corpus")["pixels"]
  digests: dict[bytes, list[int]] = {}
  hashes, colours = np.zeros(len(shown), np.uint64), np.zeros((len(shown), *picture_hash.THUMBNAIL), np.uint8)
  for numbers, images in contamination.chunks(shown, pixels):
    hashes[numbers], colours[numbers] = picture_hash.perceptual(images), picture_hash.thumbnails(images)
    for number, image in zip(numbers, images, strict=True):
      digests.setdefault(picture_hash.digest(image), []).append(number)
  equal, near, said, row = [], [], set(), {}
  count = reader.count(corpus, SPLIT, pixels)
  for start in range(0, count, _ROWS):
    part = list(reader.read(corpus, SPLIT, pixels, start, min(start + _ROWS, count)))
    said |= _repeated(texts, (pair["caption"] for pair in part))
    same = [(n, j) for j, pair in enumerate(part) for n in digests.get(picture_hash.digest(pair["image"]), ())]
    images = [pair["image"] for pair in part]
    (i, j), bits = picture_hash.near_hashes(hashes, picture_hash.perceptual(images), BITS)
    alike = np.abs(colours[i].astype(int) - picture_hash.thumbnails(images)[j]).mean((1, 2, 3)) <= COLOUR
    i, j, bits = i[alike], j[alike], bits[alike]
    equal += [Match(n, part[j]["id"], 1.0) for n, j in same]
    near += [Match(int(a), part[b]["id"], 1 - int(n) / 64) for a, b, n in zip(i, j, bits)]
    row |= {part[b]["id"]: start + int(b) for b in [*(b for _, b in same), *j]}
  read = lambda ids: [next(reader.read(corpus, SPLIT, pixels, row[i], row[i] + 1))["image"] for i in ids]
  return {"corpus_pictures": count, **_share("corpus_caption_exact", said, texts),
          **_share("corpus_image_exact", {m.picture for m in equal}, shown),
          **_share("corpus_image_near", {m.picture for m in near}, shown), "corpus_image_near_bits": BITS,
          }, [(equal, "pixels equal", read), (near, "perceptual hash {:.0%}", read)]


def _sheet(shown: Sequence[Item], pairs: Sequence[_Pairs], library: Library, out: str | os.PathLike) -> None:
  """The 12 most similar pairs of each kind, one document a picture, each pair once."""
  pictures, labels, seen = [], [], set()
  for matches, words, read in pairs:
    best: dict[int, Match] = {}
    for match in matches:
      other = best.get(match.picture)
      if (match.picture, match.id) not in seen and (other is None or match.score > other.score):
        best[match.picture] = match
    worst = sorted(best.values(), key=lambda m: (-m.score, m.id))[:_SHOWN]
    seen |= {(m.picture, m.id) for m in worst}
    for match, found in zip(worst, read([m.id for m in worst]) if worst else (), strict=True):
      item = shown[match.picture]
      [(_, [ours])] = contamination.chunks([item], library.image.image_size)
      pictures += [ours, found]
      caption = (contamination.captions(item) or ("",))[0]
      labels += [f"evaluation: {item.id}\n{caption}", f"{words.format(match.score)}: {match.id}\n"
                 f"{library.store[match.id]['caption'] if match.id in library.store else ''}"]
  Path(out).parent.mkdir(parents=True, exist_ok=True)
  contact_sheet(pictures, labels).save(out)
