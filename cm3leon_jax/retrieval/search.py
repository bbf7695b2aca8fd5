"""`cm3leon search`: what the retriever finds for a text or a picture, as text and as a picture."""

import dataclasses
import os
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image

from cm3leon_jax import assets
from cm3leon_jax import manifest as manifests
from cm3leon_jax.errors import InputError
from cm3leon_jax.retrieval import encoder as encoders
from cm3leon_jax.retrieval import selection
from cm3leon_jax.retrieval.encoder import Encoder
from cm3leon_jax.retrieval.index import Index
from cm3leon_jax.retrieval.sheet import contact_sheet
from cm3leon_jax.retrieval.store import DocumentStore
from cm3leon_jax.tokenizers import image as image_tokenizers
from cm3leon_jax.tokenizers import text as text_tokenizers
from cm3leon_jax.tokenizers.image import ImageTokenizer
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Hit:
  """A document that was found: `score` is its inner product with the query, `vector` what the index holds."""

  id: str
  score: float
  vector: np.ndarray
  document: dict


class Searcher:
  """An index with the encoder that made it and the documents that it points to."""

  def __init__(self, index: Index, store: DocumentStore, encoder: Encoder):
    """Raises InputError when the index was made by another encoder."""
    if index.manifest["encoder"] != encoder.fingerprint:
      raise InputError(f"the index was made with another encoder ({index.manifest['encoder']}, "
                       f"not {encoder.fingerprint}); make it with: cm3leon data index")
    self.index = index
    self.store = store
    self.encoder = encoder

  def search(self, *, text: str = "", image: np.ndarray | None = None, k: int = 8) -> list[Hit]:
    """The k best documents for a text, or for a picture uint8[H, W, 3]; fewer if the index holds fewer.

    Raises:
      InputError: neither or both, or an empty text.
    """
    if (image is None) == (not text.strip()):
      raise InputError("search takes either a text (--text, not empty) or a picture (--image)")
    query = self.encoder.encode_text([text]) if image is None else self.encoder.encode_images(image[None])
    [found] = self.index.candidates(query, k)
    documents = self.store.get([c.id for c in found])
    return [Hit(c.id, c.score, c.vector, document) for c, document in zip(found, documents, strict=True)]


def read_picture(path: str | os.PathLike) -> np.ndarray:
  """uint8[S, S, 3]: transparent parts are white, and the shorter side is filled up with white.

  Raises:
    InputError: not a picture.
  """
  try:
    with Image.open(path) as picture:
      picture = picture.convert("RGBA")
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise InputError(f"{path}: not a readable picture ({error})") from error
  side = max(picture.size)
  square = Image.new("RGBA", (side, side), "white")
  square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
  return np.asarray(square.convert("RGB"))


def find_asset(kind: str, fingerprint: str, workdir: Path) -> Path:
  """The folder of that kind and hash in `workdir`, its `assets/` or `tokenizers/`, or among the shipped ones.

  The image tokenizer's manifest calls its hash `weights`.

  Raises:
    InputError: it is nowhere.
  """
  places = [workdir, workdir / "assets", workdir / "tokenizers", assets.root("tokenizers")]
  for place in places:
    for path in sorted(place.glob(f"*/{manifests.FILE_NAME}")):
      try:
        manifest = manifests.read(path.parent, kind)
      except InputError:
        continue  # of another kind
      if manifest.get("fingerprint", manifest.get("weights")) == fingerprint:
        return path.parent
  raise InputError(f"no {kind} folder with fingerprint {fingerprint} in {', '.join(map(str, places))}; "
                   "put the one that the index was made with there, or make documents and index again")


def text_size(store: DocumentStore, workdir: Path) -> int:
  """Text ids of the documents' vocabulary; a public CLIP has a text tokenizer of its own, with other ids."""
  return TextTokenizer.load(find_asset(text_tokenizers.KIND, store.manifest["text_tokenizer"], workdir)).size


def open_workdir(index_dir: str | os.PathLike) -> Searcher:
  """A searcher from an index folder in its workdir: D/index beside D/documents/train, made by D's encoder."""
  index = Index.load(index_dir)
  workdir = Path(index_dir).resolve().parent
  store = DocumentStore(workdir / "documents" / "train")
  encoder = Encoder.load(find_asset(encoders.KIND, index.manifest["encoder"], workdir))
  return Searcher(index, store, encoder)


def verdicts(hits: Sequence[Hit], rules: selection.Rules) -> list[str]:
  """What the selection rules say to each hit: `taken`, or why not."""
  candidates = [selection.Candidate(hit.id, hit.score, hit.vector, has_text=len(hit.document["text"]) > 0,
                                    has_image=len(hit.document["image"]) > 0) for hit in hits]
  reasons = {verdict.candidate.id: verdict.reason for verdict in selection.judge("", candidates, rules)}
  return [reasons[hit.id] for hit in hits]


def decode_pictures(documents: Sequence[dict], tokenizer: ImageTokenizer, text_size: int) -> list[np.ndarray]:
  """The pictures of documents, from their image ids: uint8[H, W, 3] each."""
  vocabulary = Vocabulary(text_size=text_size, image_size=tokenizer.codebook_size, num_sentinels=1, total_size=0)
  return list(tokenizer.decode(vocabulary.image_codes(np.stack([d["image"] for d in documents]))))


def main(index_dir: str | os.PathLike, *, text: str = "", image: str = "", k: int = 8, out: str = "",
         explain: bool = False) -> list[Hit]:
  """Prints rank, score, id and caption of what is found; with `explain` the verdict of the selection rules.

  Args:
    index_dir: D/index, or `tokenizers/demo_model/index`, which ships.
    text, image: the query: a text, or the path of a picture.
    k: how many.
    out: path of a contact sheet to write; its pictures are decoded from the documents' codes.
    explain: judge the hits as the retriever would for training and generation.
  """
  index_dir = assets.find(index_dir)
  searcher = open_workdir(index_dir)
  workdir = Path(index_dir).resolve().parent
  picture = read_picture(image) if image else None
  hits = searcher.search(text=text, image=picture, k=k)
  reasons = verdicts(hits, selection.Rules(**searcher.index.manifest["rules"])) if explain else [""] * len(hits)
  width = max(len(hit.id) for hit in hits)
  for rank, (hit, reason) in enumerate(zip(hits, reasons, strict=True), 1):
    print(f"{rank:3}  {hit.score:.3f}  {hit.id:{width}}  {hit.document['caption']}{'   ' + reason if reason else ''}")
  if out:
    tokenizer = ImageTokenizer.load(
        find_asset(image_tokenizers.KIND, searcher.store.manifest["image_tokenizer"], workdir))
    found = decode_pictures([hit.document for hit in hits], tokenizer, text_size(searcher.store, workdir))
    labels = [f"{rank}. {hit.score:.3f} {reason}\n{hit.document['caption']}"
              for rank, (hit, reason) in enumerate(zip(hits, reasons, strict=True), 1)]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    contact_sheet([picture, *found], [f"query: {text or Path(image).name}", *labels]).save(out)
  return hits
