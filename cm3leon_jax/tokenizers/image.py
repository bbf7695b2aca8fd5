"""The image tokenizer as the rest of the program sees it: pictures to codes and back.

A folder holds `manifest.json` (kind `image_tokenizer`, the network's shape, the hash of the weights) and
`weights.npz` (flat `/`-joined names; float16, or float32 where they were imported). Networks and training:
models/vqgan.py, tokenizers/train_image.py.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, Mapping
import zipfile

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cm3leon_jax import manifest
from cm3leon_jax.errors import InputError
from cm3leon_jax.models.vqgan import VQGAN, VQGANConfig

KIND = "image_tokenizer"
WEIGHTS = "weights.npz"
REBUILD = "cm3leon demo --fresh"


class ImageTokenizer:
  """uint8 pictures [n, size, size, 3] ↔ int32 codes [n, image_tokens], in raster order."""

  # Every call runs the one program of `batch` pictures, padded: the codes of a picture then do not depend on how many
  # others came with it, and nothing compiles twice. The paper's network holds some 0.3 GB an activation at PIXELS.
  BATCH = 32
  PIXELS = 2**19  # of a batch: 8 pictures of 256 px, 2 of 512

  def __init__(self, config: VQGANConfig, params: Mapping[str, Any], *, fingerprint: str = ""):
    """Args:
      config: the network's shape.
      params: its weights, nested, any float dtype.
      fingerprint: hash of the weights file; `load` gives it.
    """
    self.config = config
    self.fingerprint = fingerprint
    self.batch = max(1, min(self.BATCH, self.PIXELS // config.image_size**2))
    self._params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), dict(params))
    model = VQGAN(config)

    @jax.jit
    def encode(params, images):
      return model.apply({"params": params}, jnp.asarray(images, jnp.float32) / 127.5 - 1.0, method="encode")

    @jax.jit
    def decode(params, codes):
      pictures = model.apply({"params": params}, codes, method="decode")
      return jnp.round((pictures + 1.0) * 127.5).astype(jnp.uint8)

    self._encode, self._decode = encode, decode

  @property
  def codebook_size(self) -> int:
    return self.config.codebook_size

  @property
  def grid(self) -> int:
    """Codes a side."""
    return self.config.grid

  @property
  def image_tokens(self) -> int:
    """Codes a picture."""
    return self.config.grid**2

  @property
  def image_size(self) -> int:
    """Pixels a side."""
    return self.config.image_size

  def encode(self, images: np.ndarray) -> np.ndarray:
    """uint8 [n, size, size, 3] → int32 [n, image_tokens].

    Raises:
      InputError: another size or dtype.
    """
    images = np.asarray(images)
    shape = (self.image_size, self.image_size, 3)
    if images.dtype != np.uint8 or images.shape[1:] != shape:
      raise InputError(f"the image tokenizer reads uint8 pictures [n, {shape[0]}, {shape[1]}, 3], got {images.dtype} "
                       f"{list(images.shape)}; resize or crop them to {shape[0]} pixels a side first")
    return self._batched(self._encode, images, np.zeros((0, self.image_tokens), np.int32))

  def decode(self, codes: np.ndarray) -> np.ndarray:
    """int [n, image_tokens] → uint8 [n, size, size, 3].

    Raises:
      InputError: not `image_tokens` codes a picture, or a code outside the codebook.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] != self.image_tokens or not np.issubdtype(codes.dtype, np.integer):
      raise InputError(f"the image tokenizer draws from integer codes [n, {self.image_tokens}], got {codes.dtype} "
                       f"{list(codes.shape)}")
    if codes.size and (codes.min() < 0 or codes.max() >= self.codebook_size):
      raise InputError(f"image codes must lie in 0…{self.codebook_size - 1}, got {codes.min()}…{codes.max()}; "
                       "subtract the vocabulary's image offset first")
    empty = np.zeros((0, self.image_size, self.image_size, 3), np.uint8)
    return self._batched(self._decode, codes.astype(np.int32), empty)

  def _batched(self, function, rows: np.ndarray, empty: np.ndarray) -> np.ndarray:
    done = []
    for first in range(0, len(rows), self.batch):
      part = rows[first:first + self.batch]
      padded = np.concatenate([part, np.repeat(part[-1:], self.batch - len(part), axis=0)])
      done.append(np.asarray(function(self._params, padded))[:len(part)])
    return np.concatenate(done) if done else empty

  def save(self, folder: str | os.PathLike, *, extra_files: Mapping[str, Image.Image] | None = None,
           dtype: np.typing.DTypeLike = np.float16, **fields) -> None:
    """Writes the folder.

    Args:
      folder: replaced if it exists.
      dtype: of the stored weights.
      extra_files: file name → picture, put beside the weights.
      **fields: further manifest fields.
    """
    flat = traverse_util.flatten_dict(self._params, sep="/")
    with manifest.writing(folder, KIND) as (temporary, record):
      np.savez(temporary / WEIGHTS, **{name: np.asarray(x, dtype) for name, x in flat.items()})
      for name, picture in (extra_files or {}).items():
        picture.save(temporary / name, optimize=True)
      record.update(fields, network=dataclasses.asdict(self.config), codebook_size=self.codebook_size,
                    image_tokens=self.image_tokens, image_size=self.image_size,
                    parameters=int(sum(x.size for x in flat.values())), weights=manifest.hash_file(temporary / WEIGHTS))

  @classmethod
  def load(cls, folder: str | os.PathLike) -> "ImageTokenizer":
    """Reads a folder.

    Raises:
      InputError: not a tokenizer's folder, a network this version does not know, weights damaged or of another shape.
    """
    folder = Path(folder)
    record = manifest.read(folder, KIND, rebuild=REBUILD)
    path = folder / WEIGHTS
    try:
      config = VQGANConfig(**record["network"])
      expected = record["weights"]
    except (KeyError, TypeError, ValueError) as error:
      raise InputError(f"{folder / manifest.FILE_NAME}: does not describe a network this version knows ({error}); "
                       f"make the folder anew with: {REBUILD}") from error
    if not path.is_file():
      raise InputError(f"{path}: missing; make the folder anew with: {REBUILD}")
    if manifest.hash_file(path) != expected:
      raise InputError(f"{path}: damaged or from another tokenizer (its hash is not the manifest's {expected}); "
                       f"copy it again or make the folder anew with: {REBUILD}")
    try:
      with np.load(path, allow_pickle=False) as file:
        flat = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
      raise InputError(f"{path}: not a readable .npz file ({error})") from error
    _check_shapes(path, flat, config)
    return cls(config, traverse_util.unflatten_dict(flat, sep="/"), fingerprint=expected)


def _check_shapes(path: Path, flat: Mapping[str, np.ndarray], config: VQGANConfig) -> None:
  image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
  wanted = jax.eval_shape(lambda x: VQGAN(config).init(jax.random.key(0), x)["params"], image)
  wanted = {name: x.shape for name, x in traverse_util.flatten_dict(wanted, sep="/").items()}
  for name in sorted(wanted.keys() | flat.keys()):
    have, want = flat[name].shape if name in flat else None, wanted.get(name)
    if have != want:
      raise InputError(f"{path}: {name} is {have or 'missing'}, the network of the manifest needs {want or 'none'}")
