"""The text tokenizer of public CLIPs: lower-case byte-pair encoding, 49,408 ids in one fixed order.

256 bytes, the same at the end of a word, one id a merge, then <|startoftext|> and <|endoftext|>: the
list of merges says it all, and OpenAI's `bpe_simple_vocab_16e6.txt.gz`, a `merges.txt` and a
`tokenizer.json` hold the same one. Splitting and merging are done by the package `tokenizers`, set up
as `transformers.CLIPTokenizer` sets it up; only here, text that spells a special out is ordinary text.
OpenAI's own code repairs broken Unicode and HTML entities first (ftfy, html.unescape); this does not.
"""

import functools
import gzip
import json
import os
from pathlib import Path
from typing import Iterable, Sequence
import zlib

import numpy as np

from cm3leon_jax import manifest as manifests
from cm3leon_jax.errors import InputError

KIND = "clip_bpe"
MERGES_FILE = "merges.txt"
VOCAB_SIZE = 49_408
SOURCES = ("tokenizer.json", MERGES_FILE, "bpe_simple_vocab_16e6.txt.gz")  # tried in this order in a folder
_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
  """str ↔ CLIP's text ids; the face of `tokenizers.text.TextTokenizer`.

  Attributes:
    size: number of ids, the two special ones among them.
    start, end: ids of <|startoftext|> and <|endoftext|>, which a model wants around a text.
    fingerprint: hash of the merges.
  """

  def __init__(self, merges: Sequence[tuple[str, str]], fingerprint: str):
    self._pieces = pieces_of(merges)
    self.size = len(self._pieces)
    self.start, self.end = self.size - 2, self.size - 1
    self.fingerprint = fingerprint
    self._tokenizer = _rust_tokenizer({piece: i for i, piece in enumerate(self._pieces)}, merges)

  @classmethod
  def load(cls, folder: str | os.PathLike) -> "ClipTokenizer":
    """Reads a folder written by `write`.

    Raises:
      InputError: no such folder, its merges are missing or changed, or the package `tokenizers` is not installed.
    """
    manifest = manifests.read(folder, KIND)
    path = Path(folder) / MERGES_FILE
    if not path.is_file():
      raise InputError(f"{path}: missing, though {folder} has a manifest; import the CLIP again")
    fingerprint = manifests.hash_file(path)
    if fingerprint != manifest.get("fingerprint"):
      raise InputError(f"{path}: its hash {fingerprint} is not the manifest's {manifest.get('fingerprint')}; "
                       "the file was changed: import the CLIP again")
    if type(manifest.get("size")) is not int:
      raise InputError(f"{folder}: its manifest does not say how many ids there are; import the CLIP again")
    return cls(read_merges(path, manifest["size"]), fingerprint)

  def encode(self, text: str) -> np.ndarray:
    """int32[n] ids, without specials, whatever the text spells."""
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
    whole = [text.encode("utf-8", "replace").decode() for text in texts]  # half a surrogate pair becomes "?"
    return [np.asarray(e.ids, np.int32).reshape(-1) for e in self._tokenizer.encode_batch_fast(whole)]

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Lower-case text of the ids among `ids` that are not special; words are apart by one space."""
    ids = np.asarray(ids, np.int64).reshape(-1)
    pieces = "".join(self._pieces[i] for i in ids[(ids >= 0) & (ids < self.start)])
    data = b"".join(bytes([_bytes()[c]]) if c in _bytes() else b" " for c in pieces.replace(_WORD_END, " "))
    return data.decode("utf-8", errors="replace").strip()

  def piece(self, token_id: int) -> str:
    """One id's piece, for printing: `heart</w>`."""
    return self._pieces[int(token_id)]


@functools.cache
def _bytes() -> dict[str, int]:
  """The letter that stands for each byte → that byte, in the order of the ids (GPT-2's alphabet)."""
  printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
  others = [b for b in range(256) if b not in printable]
  return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def pieces_of(merges: Sequence[tuple[str, str]]) -> list[str]:
  """The piece of every id."""
  letters = list(_bytes())
  return [*letters, *(c + _WORD_END for c in letters), *(a + b for a, b in merges), _START, _END]


def _rust_tokenizer(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]):
  try:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
  except ImportError as error:
    raise InputError("CLIP's text tokenizer needs the package `tokenizers`: pip install tokenizers (or the extra "
                     "`eval`)") from error
  tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), continuing_subword_prefix="",
                                   end_of_word_suffix=_WORD_END))
  tokenizer.normalizer = normalizers.Sequence(
      [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
      [pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
       pre_tokenizers.ByteLevel(add_prefix_space=False)])
  return tokenizer


def read_merges(path: str | os.PathLike, size: int = VOCAB_SIZE) -> list[tuple[str, str]]:
  """The merges of a vocabulary of `size` ids, from any of the public files, or a folder that holds one.

  Raises:
    InputError: no such file, not a list of merges, or of another vocabulary.
  """
  path = Path(path)
  if path.is_dir():
    found = [path / name for name in SOURCES if (path / name).is_file()]
    if not found:
      raise InputError(f"{path}: holds no CLIP vocabulary ({', '.join(SOURCES)}); name one by --vocabulary")
    path = found[0]
  try:
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    pairs = _from_json(path, text) if path.suffix == ".json" else [line.split() for line in text.splitlines()[1:] if line]
  except FileNotFoundError as error:
    raise InputError(f"{path}: no such file") from error
  except (OSError, EOFError, zlib.error, ValueError, TypeError, RecursionError) as error:
    raise InputError(f"{path}: not a CLIP vocabulary ({type(error).__name__}: {error})") from error
  count = size - 514  # two times 256 bytes, two specials
  if path.name.startswith("bpe_simple_vocab"):
    pairs = pairs[:count]  # the file has merges that the model was not trained with
  if len(pairs) != count:
    raise InputError(f"{path}: {len(pairs)} merges, {len(pairs) + 514} ids; the model has {size} ids, so this is not its "
                     "vocabulary")
  known = set(pieces_of([]))
  for number, pair in enumerate(pairs, 1):
    if len(pair) != 2 or not known.issuperset(pair):
      raise InputError(f"{path}: merge {number} ({' '.join(pair)!r}) is not of two pieces known before it; not a CLIP "
                       "vocabulary")
    known.add("".join(pair))
  return [(a, b) for a, b in pairs]


def _from_json(path: Path, text: str) -> list[list[str]]:
  """Merges of a Hugging Face `tokenizer.json`."""
  data = json.loads(text)
  model = data.get("model") if isinstance(data, dict) else None
  if not isinstance(model, dict) or model.get("end_of_word_suffix") != _WORD_END or not isinstance(model.get("merges"), list):
    raise InputError(f"{path}: not the tokenizer.json of a CLIP (a BPE model with the word end {_WORD_END!r})")
  pairs = [merge.split() if isinstance(merge, str) else list(map(str, merge)) for merge in model["merges"]]
  expected = {piece: i for i, piece in enumerate(pieces_of(pairs))}
  vocabulary = model.get("vocab")
  if vocabulary != expected:
    wrong = next((p for p, i in expected.items() if not isinstance(vocabulary, dict) or vocabulary.get(p) != i), "its size")
    raise InputError(f"{path}: ids in another order than CLIP's (the first to differ: {wrong!r})")
  return pairs


def write(folder: str | os.PathLike, merges: Sequence[tuple[str, str]]) -> ClipTokenizer:
  """Writes what `ClipTokenizer.load` reads, and loads it."""
  with manifests.writing(folder, KIND) as (temporary, manifest):
    path = temporary / MERGES_FILE
    path.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    manifest.update(size=len(merges) + 514, fingerprint=manifests.hash_file(path))
  return ClipTokenizer.load(folder)
