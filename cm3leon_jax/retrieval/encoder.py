"""The frozen bi-encoder of the retriever: a trained CLIP in a folder, with its own text tokenizer.

The folder holds `manifest.json` (geometry and hashes), `weights.npz` (flat names, float16) and
`text/`, a copy of the text tokenizer that it was trained with, so that it stands alone.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
import shutil
from typing import Any, Mapping, Sequence
import zipfile

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax import manifest as manifests
from cm3leon_jax.errors import InputError
from cm3leon_jax.models.clip import CLIP, CLIPConfig
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.vocabulary import EOS_ID

KIND = "clip"
WEIGHTS_FILE = "weights.npz"
TEXT_FOLDER = "text"
_CHUNKS = (32, 256)  # rows per call; the last chunk is padded, so at most two shapes are compiled


class Encoder:
  """Texts and images → unit vectors of one space.

  Attributes:
    dim: D.
    text: the `TextTokenizer`; its fingerprint is that of the documents whose ids `encode_text` takes.
    fingerprint: hash of weights, geometry and text tokenizer, as manifests record it under `encoder`.
  """

  def __init__(self, config: CLIPConfig, params: Mapping[str, Any], text: TextTokenizer, fingerprint: str):
    self.config = config
    self.dim = config.embed_dim
    self.text = text
    self.fingerprint = fingerprint
    self._params = jax.tree.map(jnp.asarray, params)
    model = CLIP(config)
    self._text = jax.jit(lambda p, ids, mask: model.apply({"params": p}, ids, mask, method=CLIP.encode_text))
    self._images = jax.jit(lambda p, images: model.apply({"params": p}, images, method=CLIP.encode_images))

  @classmethod
  def load(cls, folder: str | os.PathLike) -> "Encoder":
    """Reads a folder written by `save`.

    Raises:
      InputError: no such folder, half written, or its weights are not those of the manifest.
    """
    manifest = manifests.read(folder, KIND)
    text = TextTokenizer.load(Path(folder) / TEXT_FOLDER)
    path = Path(folder) / WEIGHTS_FILE
    try:
      config = CLIPConfig(**manifest["config"])
      with np.load(path) as weights:
        flat = {name: weights[name] for name in weights.files}
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
      raise InputError(f"{folder}: its weights or geometry cannot be read ({error}); train the CLIP again") from error
    fingerprint = _fingerprint(config, flat, text.fingerprint)
    if fingerprint != manifest.get("fingerprint"):
      raise InputError(f"{path}: weights of hash {fingerprint}, the manifest says {manifest.get('fingerprint')}; "
                       "the folder was changed: train the CLIP again")
    params = flax.traverse_util.unflatten_dict({n: a.astype(np.float32) for n, a in flat.items()}, sep="/")
    return cls(config, params, text, fingerprint)

  def tokenize(self, text: str) -> np.ndarray:
    """int32[n] text ids, for `encode_text` after query dropout."""
    return self.text.encode(text)

  def encode_text(self, texts: Sequence[str | np.ndarray]) -> np.ndarray:
    """Strings, or arrays of this encoder's text ids → float32[N, D], unit norm."""
    strings = [i for i, text in enumerate(texts) if isinstance(text, str)]
    ids = list(texts)
    for i, encoded in zip(strings, self.text.encode_batch([texts[i] for i in strings]), strict=True):
      ids[i] = encoded
    return self._chunked(self._text, *pad_texts(ids, self.config))

  def encode_images(self, images: np.ndarray) -> np.ndarray:
    """uint8[N, H, W, 3], any size → float32[N, D], unit norm.

    Raises:
      InputError: another shape or dtype.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
      raise InputError(f"the encoder reads images as uint8[N, height, width, 3], not {images.dtype}{list(images.shape)}")
    return self._chunked(self._images, images)

  @staticmethod
  def document(text: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Vectors of a document's two parts → its own: their mean, renormalised (PAPER §2). float32[..., D]."""
    mean = (np.asarray(text, np.float32) + np.asarray(image, np.float32)) / 2
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-6)

  def _chunked(self, function, *arrays: np.ndarray) -> np.ndarray:
    count = len(arrays[0])
    size = _CHUNKS[0] if count <= _CHUNKS[0] else _CHUNKS[1]
    out = [np.zeros((0, self.dim), np.float32)]
    for start in range(0, count, size):
      rows = [array[start:start + size] for array in arrays]
      if function is self._images:
        rows = [resize(rows[0], self.config.image_size)]
      short = size - len(rows[0])
      rows = [np.pad(row, [(0, short)] + [(0, 0)] * (row.ndim - 1)) for row in rows]
      out.append(np.asarray(function(self._params, *rows))[:size - short])
    return np.concatenate(out)


def pad_texts(ids: Sequence[np.ndarray], config: CLIPConfig) -> tuple[np.ndarray, np.ndarray]:
  """Arrays of text ids → int32[N, L] and bool[N, L], L = `config.text_length`; longer ones are cut.

  The transformer tower reads its vector at an <eos> of its own, which is put at the end.
  """
  end = [EOS_ID] if config.text_tower == "transformer" else []
  length = config.text_length
  padded = np.zeros((len(ids), length), np.int32)
  mask = np.zeros((len(ids), length), bool)
  for row, text in enumerate(ids):
    text = np.concatenate([np.asarray(text, np.int32)[:length - len(end)], end]).astype(np.int32)
    padded[row, :len(text)] = text
    mask[row, :len(text)] = True
  return padded, mask


def resize(images: np.ndarray, size: int) -> np.ndarray:
  """uint8[N, H, W, 3] → uint8[N, size, size, 3], antialiased bicubic; nothing is cropped."""
  if images.shape[1:3] == (size, size):
    return images
  resized = jax.image.resize(images.astype(np.float32), (len(images), size, size, 3), "bicubic", antialias=True)
  return np.asarray(jnp.clip(jnp.round(resized), 0, 255)).astype(np.uint8)


def save(folder: str | os.PathLike, config: CLIPConfig, params: Mapping[str, Any], text_folder: str | os.PathLike,
         notes: Mapping[str, Any] | None = None) -> Encoder:
  """Writes what `Encoder.load` reads: float16 weights and a copy of the text tokenizer. Returns the encoder.

  Args:
    params: of `CLIP(config)`.
    text_folder: folder of the text tokenizer that the text tower was trained with.
    notes: what else the manifest should say, such as measured recall.
  """
  text = TextTokenizer.load(text_folder)
  if text.size > config.vocab_size:
    raise InputError(f"{text_folder}: {text.size} pieces, but the CLIP has vocab_size={config.vocab_size}; make them equal")
  flat = {name: np.asarray(array, np.float16)
          for name, array in flax.traverse_util.flatten_dict(params, sep="/").items()}
  with manifests.writing(folder, KIND) as (temporary, manifest):
    np.savez(temporary / WEIGHTS_FILE, **flat)
    shutil.copytree(text_folder, temporary / TEXT_FOLDER)
    manifest.update(config=dataclasses.asdict(config), dim=config.embed_dim, text_tokenizer=text.fingerprint,
                    fingerprint=_fingerprint(config, flat, text.fingerprint), **(notes or {}))
  return Encoder.load(folder)


def _fingerprint(config: CLIPConfig, flat: Mapping[str, np.ndarray], text_fingerprint: str) -> str:
  digest = hashlib.sha256(json.dumps([dataclasses.asdict(config), text_fingerprint], sort_keys=True).encode())
  for name in sorted(flat):
    digest.update(f"{name} {flat[name].dtype} {flat[name].shape} ".encode())
    digest.update(np.ascontiguousarray(flat[name]).tobytes())
  return digest.hexdigest()[:16]
