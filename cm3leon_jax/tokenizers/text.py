"""The text tokenizer: a SentencePiece model in a folder with a manifest.

Ids are the first range of the one id space (vocabulary.py): <pad>=0, <eos>=1, <unk>=2, then
256 byte pieces, then pieces. The three special pieces are *control* pieces: text that spells
them out, "<eos>" say, is read as ordinary characters.
"""

import os
from pathlib import Path
from typing import Iterable, Sequence

import numpy as np
import sentencepiece

from cm3leon_jax import manifest as manifests
from cm3leon_jax.errors import InputError
from cm3leon_jax.vocabulary import EOS_ID, PAD_ID, UNK_ID

KIND = "text_tokenizer"
MODEL_FILE = "text.model"


class TextTokenizer:
  """str ↔ text ids.

  Attributes:
    size: number of text ids, the special ones among them (`Vocabulary.text_size`).
    fingerprint: hash of the model file, as manifests record it under `text_tokenizer`.
  """

  def __init__(self, processor: sentencepiece.SentencePieceProcessor, fingerprint: str):
    self._processor = processor
    self.fingerprint = fingerprint
    self.size = processor.get_piece_size()

  @classmethod
  def load(cls, folder: str | os.PathLike) -> "TextTokenizer":
    """Reads a folder written by `train_text`.

    Raises:
      InputError: no such folder, or its model file is missing, changed or not a SentencePiece model.
    """
    manifest = manifests.read(folder, KIND)
    path = Path(folder) / MODEL_FILE
    if not path.is_file():
      raise InputError(f"{path}: missing, though {folder} has a manifest; train the text tokenizer again")
    fingerprint = manifests.hash_file(path)
    if fingerprint != manifest.get("fingerprint"):
      raise InputError(f"{path}: its hash {fingerprint} is not the manifest's {manifest.get('fingerprint')}; "
                       "the file was changed: train the text tokenizer again")
    try:
      processor = sentencepiece.SentencePieceProcessor(model_file=os.fspath(path))
    except RuntimeError as error:
      raise InputError(f"{path}: not a SentencePiece model ({error})") from error
    found = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if found != (PAD_ID, EOS_ID, UNK_ID):
      raise InputError(f"{path}: its <pad>, <eos>, <unk> are {found}, not {(PAD_ID, EOS_ID, UNK_ID)}; "
                       "train SentencePiece with pad_id=0, eos_id=1, unk_id=2")
    return cls(processor, fingerprint)

  def encode(self, text: str) -> np.ndarray:
    """int32[n] ids, without specials: never <pad> or <eos>, whatever the text spells."""
    return np.asarray(self._processor.encode(text), np.int32).reshape(-1)

  def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
    return [np.asarray(ids, np.int32).reshape(-1) for ids in self._processor.encode(list(texts))]

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Text of the text ids among `ids`; specials and image codes are dropped."""
    ids = np.asarray(ids, np.int64).reshape(-1)
    return self._processor.decode(ids[(ids > UNK_ID) & (ids < self.size)].tolist())

  def piece(self, token_id: int) -> str:
    """One id's piece, for printing: `▁heart`, `<0x41>`."""
    return self._processor.id_to_piece(int(token_id))
