"""The frozen bi-encoder of the retriever: a CLIP in a folder, with its own text tokenizer.

The folder holds `manifest.json` (geometry and hashes), `weights.npz` (flat names; float16, or a public file's own
type) and `text/`, a copy of the text tokenizer that it was trained with, so that it stands alone.
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
from PIL import Image

from cm3leon_jax import manifest as manifests
from cm3leon_jax.errors import InputError
from cm3leon_jax.models.clip import CLIP, PUBLIC, CLIPConfig
from cm3leon_jax.tokenizers import clip_bpe
from cm3leon_jax.tokenizers.clip_bpe import ClipTokenizer
from cm3leon_jax.tokenizers.text import TextTokenizer

KIND = "clip"
WEIGHTS_FILE = "weights.npz"
TEXT_FOLDER = "text"
# Rows per call: the least that holds all, or the largest; the last chunk is padded, so that few shapes are compiled.
_CHUNKS = (32, 256)
_TRANSFORMER_CHUNKS = (1, 8, 64)  # a row costs up to a second on a CPU, and 256 rows gigabytes
# Fields that CLIPConfig did not have at first: at these values they leave older fingerprints as they are.
_ADDED = {f.name: f.default for f in dataclasses.fields(CLIPConfig)
          if f.name in ("activation", "image_fit", "text_start", "text_end")}


class Encoder:
  """Texts and images → unit vectors of one space.

  Attributes:
    dim: D.
    name: `vit_b_32` and the like for a public geometry, else `clip`.
    published: whether it was imported from a file that OpenAI published.
    text: the text tokenizer, whose ids `encode_text` takes.
    fingerprint: hash of weights, geometry and text tokenizer, as manifests record it under `encoder`.
    params: of `CLIP(config)`, float32.
  """

  def __init__(self, config: CLIPConfig, params: Mapping[str, Any], text: TextTokenizer | ClipTokenizer, fingerprint: str,
               published: bool = False):
    self.config = config
    self.name = name_of(config)
    self.published = published
    self.dim = config.embed_dim
    self.text = text
    self.fingerprint = fingerprint
    self.params = jax.tree.map(jnp.asarray, params)
    model = CLIP(config)

    def jitted(method):
      def function(params, *arrays):
        with jax.default_matmul_precision("highest"):  # the same vectors on every device
          return model.apply({"params": params}, *arrays, method=method)
      return jax.jit(function)

    self._text, self._images = jitted(CLIP.encode_text), jitted(CLIP.encode_images)

  @classmethod
  def load(cls, folder: str | os.PathLike) -> "Encoder":
    """Reads a folder written by `save`.

    Raises:
      InputError: no such folder, half written, or its weights are not those of the manifest.
    """
    manifest = manifests.read(folder, KIND)
    text = _load_text(Path(folder) / TEXT_FOLDER)
    path = Path(folder) / WEIGHTS_FILE
    try:
      config = CLIPConfig(**manifest["config"])
      with np.load(path) as weights:
        flat = {name: weights[name] for name in weights.files}
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
      raise InputError(f"{folder}: its weights or geometry cannot be read ({error}); make the folder again") from error
    fingerprint = _fingerprint(config, flat, text.fingerprint)
    if fingerprint != manifest.get("fingerprint"):
      raise InputError(f"{path}: weights of hash {fingerprint}, the manifest says {manifest.get('fingerprint')}; "
                       "the folder was changed: make it again")
    params = flax.traverse_util.unflatten_dict({n: a.astype(np.float32, copy=False) for n, a in flat.items()}, sep="/")
    return cls(config, params, text, fingerprint, bool(manifest.get("published", False)))

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
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or len(images) and not images.size:
      raise InputError(f"the encoder reads images as uint8[N, height, width, 3], not {images.dtype}{list(images.shape)}")
    return self._chunked(self._images, images, pictures=True)

  @staticmethod
  def document(text: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Vectors of a document's two parts → its own: their mean, renormalised (PAPER §2). float32[..., D]."""
    mean = (np.asarray(text, np.float32) + np.asarray(image, np.float32)) / 2
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-6)

  def _chunked(self, function, *arrays: np.ndarray, pictures: bool = False) -> np.ndarray:
    count = len(arrays[0])
    tower = self.config.image_tower if pictures else self.config.text_tower
    chunks = _TRANSFORMER_CHUNKS if tower in ("vit", "transformer") else _CHUNKS
    size = next((size for size in chunks if count <= size), chunks[-1])
    out = [np.zeros((0, self.dim), np.float32)]
    for start in range(0, count, size):
      rows = [array[start:start + size] for array in arrays]
      if pictures:
        rows = [fit(rows[0], self.config)]
      short = size - len(rows[0])
      rows = [np.pad(row, [(0, short)] + [(0, 0)] * (row.ndim - 1)) for row in rows]
      out.append(np.asarray(function(self.params, *rows))[:size - short])
    return np.concatenate(out)


def name_of(config: CLIPConfig) -> str:
  """`vit_b_32` and the like for a public geometry, else `clip`."""
  return next((name for name, public in PUBLIC.items() if public == config), "clip")


def pad_texts(ids: Sequence[np.ndarray], config: CLIPConfig) -> tuple[np.ndarray, np.ndarray]:
  """Arrays of text ids → int32[N, L] and bool[N, L], L = `config.text_length`; longer ones are cut.

  The transformer tower reads its vector at an id of its own, `text_end`, which is put at the end.
  """
  start, end = [], []
  if config.text_tower == "transformer":
    start, end = [config.text_start] if config.text_start >= 0 else [], [config.text_end]
  length = config.text_length
  padded = np.zeros((len(ids), length), np.int32)
  mask = np.zeros((len(ids), length), bool)
  for row, text in enumerate(ids):
    text = np.asarray(text, np.int32)[:length - len(start) - len(end)]
    text = np.concatenate([start, text, end]).astype(np.int32)
    padded[row, :len(text)] = text
    mask[row, :len(text)] = True
  return padded, mask


def fit(images: np.ndarray, config: CLIPConfig) -> np.ndarray:
  """uint8[N, H, W, 3] → uint8[N, S, S, 3], S = `config.image_size`, in the way of `config.image_fit`."""
  return (crop if config.image_fit == "crop" else resize)(images, config.image_size)


def crop(images: np.ndarray, size: int) -> np.ndarray:
  """uint8[N, H, W, 3] → uint8[N, size, size, 3]: the short side by PIL's bicubic, then the centre, as CLIP was trained."""
  height, width = images.shape[1:3]
  if (height, width) == (size, size):
    return images
  short = min(height, width)
  height, width = (size if side == short else int(size * side / short) for side in (height, width))
  left, top = round((width - size) / 2), round((height - size) / 2)  # to even, as torchvision
  out = np.empty((len(images), size, size, 3), np.uint8)
  for row, image in enumerate(images):
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    out[row] = np.asarray(resized)[top:top + size, left:left + size]
  return out


def resize(images: np.ndarray, size: int) -> np.ndarray:
  """uint8[N, H, W, 3] → uint8[N, size, size, 3], antialiased bicubic; nothing is cropped."""
  if images.shape[1:3] == (size, size):
    return images
  resized = jax.image.resize(images.astype(np.float32), (len(images), size, size, 3), "bicubic", antialias=True)
  return np.asarray(jnp.clip(jnp.round(resized), 0, 255)).astype(np.uint8)


def save(folder: str | os.PathLike, config: CLIPConfig, params: Mapping[str, Any], text_folder: str | os.PathLike,
         notes: Mapping[str, Any] | None = None) -> Encoder:
  """`write` of float16 weights. Returns the encoder."""
  write(folder, config, params, text_folder, notes, np.float16)
  return Encoder.load(folder)


def write(folder: str | os.PathLike, config: CLIPConfig, params: Mapping[str, Any], text_folder: str | os.PathLike,
          notes: Mapping[str, Any] | None = None, dtype: type | None = None) -> str:
  """Writes what `Encoder.load` reads: weights and a copy of the text tokenizer. Returns the fingerprint.

  Args:
    params: of `CLIP(config)`.
    text_folder: folder of the text tokenizer that the text tower was trained with.
    notes: what else the manifest should say, such as measured recall.
    dtype: of the weights as written; None: each array's own.
  """
  text = _load_text(text_folder)
  if text.size > config.vocab_size:
    raise InputError(f"{text_folder}: {text.size} pieces, but the CLIP has vocab_size={config.vocab_size}; make them equal")
  flat = {name: np.asarray(array, dtype)
          for name, array in flax.traverse_util.flatten_dict(params, sep="/").items()}
  with manifests.writing(folder, KIND) as (temporary, manifest):
    np.savez(temporary / WEIGHTS_FILE, **flat)
    shutil.copytree(text_folder, temporary / TEXT_FOLDER)
    manifest.update(config=_record(config), dim=config.embed_dim, text_tokenizer=text.fingerprint,
                    fingerprint=_fingerprint(config, flat, text.fingerprint), **(notes or {}))
  return manifest["fingerprint"]


def _load_text(folder: str | os.PathLike) -> TextTokenizer | ClipTokenizer:
  """The text tokenizer in a folder, of the kind that its manifest says."""
  try:
    kind = json.loads((Path(folder) / manifests.FILE_NAME).read_text(encoding="utf-8")).get("kind")
  except (OSError, ValueError, AttributeError):
    kind = None  # TextTokenizer says what is wrong
  return (ClipTokenizer if kind == clip_bpe.KIND else TextTokenizer).load(folder)


def _record(config: CLIPConfig) -> dict:
  return {name: value for name, value in dataclasses.asdict(config).items() if _ADDED.get(name, ...) != value}


def _fingerprint(config: CLIPConfig, flat: Mapping[str, np.ndarray], text_fingerprint: str) -> str:
  digest = hashlib.sha256(json.dumps([_record(config), text_fingerprint], sort_keys=True).encode())
  for name in sorted(flat):
    digest.update(f"{name} {flat[name].dtype} {flat[name].shape} ".encode())
    digest.update(np.ascontiguousarray(flat[name]).tobytes())
  return digest.hexdigest()[:16]
