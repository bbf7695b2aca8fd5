"""Trains the image tokenizer on pictures that fit in memory: the demo's, and the shipped one.

Steps: a short warm-up without quantisation, the codebook by k-means on what the encoder then gives, and the joint
training with the codebook as running means. tokenizers/demo_image/README.md holds the recipe and its figures.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
import time
from typing import Any, Callable, Iterator, Mapping, Sequence

from flax import serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from cm3leon_jax.errors import InputError
from cm3leon_jax.models import vq
from cm3leon_jax.models.vqgan import VQGAN, VQGANConfig, fold
from cm3leon_jax.tokenizers import image as image_tokenizer
from cm3leon_jax.training import small


@dataclasses.dataclass(frozen=True)
class ImageRecipe:
  """How to train.

  Attributes:
    steps: all steps, the warm-up among them.
    warmup_steps: steps without quantisation, before the codebook is made by k-means.
    batch_size: pictures a step.
    learning_rate: Adam's; 100 steps up, constant, then down to 1 % of it over the last `decay_steps`.
    decay_steps: see there. A save made before the decay also serves a run of more or fewer `steps`.
    l1, l2, edge: weights of the mean absolute error, of the mean squared error, and of the mean absolute error of
      the differences between neighbouring pixels; pictures in [-1, 1].
    codebook_decay: of the running means.
    dead_below: a code used by fewer vectors a step than this (running count) is moved.
    weights_decay: of the running mean of the weights; the mean is what is kept.
    flip: mirrors half of the pictures.
  """
  steps: int = 5000
  warmup_steps: int = 100
  batch_size: int = 16
  learning_rate: float = 1e-3
  decay_steps: int = 1600
  l1: float = 1.0
  l2: float = 3.0
  edge: float = 0.25
  codebook_decay: float = 0.995
  dead_below: float = 0.015
  weights_decay: float = 0.999
  flip: bool = True


# The demo's network: f = 8, 64 px → 8×8 codes of 1,024; the whole of it works on the grid of cells.
DEMO = VQGANConfig(image_size=64, patch=8, ch_mult=(1,), channels=64, res_blocks=0, z_channels=64, embed_dim=32,
                   codebook_size=1024, patch_path=True, grid_positions=True, encoder_attention=False,
                   decoder_channels=128, decoder_mid_blocks=2)
# What made tokenizers/demo_image, and what `cm3leon demo --fresh` has time for.
SHIPPED = ImageRecipe(steps=5000, decay_steps=1600)
FRESH = ImageRecipe(steps=1000, decay_steps=500, weights_decay=0.995)


def to_float(images: np.ndarray | jax.Array) -> jax.Array:
  """uint8 → float32 in [-1, 1]."""
  return jnp.asarray(images, jnp.float32) / 127.5 - 1.0


def thin_variants(skin_tones: Sequence[str], share: float = 0.25, seed: int = 0) -> np.ndarray:
  """Mask of the drawings to train on: all without a skin tone, `share` of those with one (they are near twins)."""
  return (np.asarray(skin_tones) == "") | (np.random.default_rng(seed).random(len(skin_tones)) < share)


def principal_components(images: np.ndarray, cell: int, components: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Mean [cell·cell·3] and orthonormal directions [components, cell·cell·3] of the cells of uint8 `images`."""
  pick = np.random.default_rng(seed).permutation(len(images))[:2000]
  cells = np.asarray(fold(to_float(images[np.sort(pick)]), cell)).reshape(-1, cell * cell * 3).astype(np.float64)
  mean = cells.mean(axis=0)
  _, vectors = np.linalg.eigh(np.cov(cells - mean, rowvar=False))
  directions = vectors[:, ::-1][:, :components].T
  # An eigenvector's sign is the library's choice: fix it, so that every machine starts alike.
  directions *= np.sign(directions[np.arange(components), np.abs(directions).argmax(axis=1)])[:, None]
  return mean.astype(np.float32), directions.astype(np.float32)


def _batches(images: np.ndarray, recipe: ImageRecipe, seed: int, first: int) -> Iterator[np.ndarray]:
  """The batch of step t is a function of (seed, t): a permutation per epoch, mirrored at random."""
  per_epoch = max(1, len(images) // recipe.batch_size)
  order_of, order = -1, None
  step = first
  while True:
    epoch, place = divmod(step, per_epoch)
    if epoch != order_of:
      order_of, order = epoch, np.random.default_rng((seed, epoch)).permutation(len(images))
    rows = order[np.arange(place * recipe.batch_size, (place + 1) * recipe.batch_size) % len(images)]
    batch = images[rows]
    if recipe.flip:
      mirrored = np.random.default_rng((seed, epoch, place)).random(len(batch)) < 0.5
      batch = np.where(mirrored[:, None, None, None], batch[:, :, ::-1], batch)
    yield batch
    step += 1


def _errors(x: jax.Array, y: jax.Array, recipe: ImageRecipe) -> tuple[jax.Array, jax.Array]:
  """(weighted loss, mean squared error) of reconstructions `y` of pictures `x`."""
  error = y - x
  squared = jnp.mean(error**2)
  loss = recipe.l1 * jnp.mean(jnp.abs(error)) + recipe.l2 * squared
  if recipe.edge:
    loss += recipe.edge * (jnp.mean(jnp.abs(jnp.diff(error, axis=1))) + jnp.mean(jnp.abs(jnp.diff(error, axis=2))))
  return loss, squared


def _losses(model: VQGAN, recipe: ImageRecipe) -> tuple[small.LossFn, small.LossFn]:
  """The loss functions of the warm-up and of the joint training."""

  def averaged(state, params):
    return {**state, "weights": optax.incremental_update(params, state["weights"], 1 - recipe.weights_decay)}

  def warm_up(params, state, batch, key):
    x = to_float(batch)

    def through(module):
      return module.pictures(module.latents(x))

    loss, squared = _errors(x, model.apply({"params": params}, method=through), recipe)
    return loss, (averaged(state, params), {"mse": squared})

  def joint(params, state, batch, key):
    x = to_float(batch)
    running = state["running"]
    y, latents, codes = model.apply({"params": {**params, "codebook": running.codebook}}, x)
    loss, squared = _errors(x, y, recipe)
    commitment = jnp.mean(jnp.sum((latents - running.codebook[codes]) ** 2, axis=-1)) / latents.shape[-1]
    vectors, flat = jax.lax.stop_gradient(latents).reshape(-1, latents.shape[-1]), codes.reshape(-1)
    running = vq.update(running, vectors, flat, recipe.codebook_decay)
    running = vq.revive(running, vectors, flat, key, recipe.dead_below)
    state = averaged({**state, "running": running}, params)
    metrics = {"mse": squared, "commitment": commitment, "perplexity": vq.perplexity(running.counts)}
    return loss + model.config.commitment * commitment, (state, metrics)

  return warm_up, joint


def _initial(model: VQGAN, images: np.ndarray, seed: int) -> dict:
  config = model.config
  params = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, config.image_size, config.image_size, 3)))["params"]
  if config.patch_path:
    mean, directions = principal_components(images, config.cell, config.embed_dim, seed)
    params["patch_in"] = {"kernel": jnp.asarray(directions.T), "bias": jnp.asarray(-directions @ mean)}
    params["patch_out"] = {"kernel": jnp.asarray(directions), "bias": jnp.asarray(mean)}
  return params


def _codebook(model: VQGAN, params: Mapping[str, Any], images: np.ndarray, seed: int) -> jax.Array:
  """k-means over the latents of up to 800 pictures (51,200 cells of the demo, 50 a code)."""
  pick = np.sort(np.random.default_rng(seed).permutation(len(images))[:800])
  latents = jax.jit(lambda x: model.apply({"params": params}, to_float(x), method="latents"))
  # A last short batch would compile a second time: wrap around instead.
  groups = np.resize(pick, (-(-len(pick) // 50), 50))
  vectors = jnp.concatenate([latents(images[group]).reshape(-1, model.config.embed_dim) for group in groups])
  return vq.kmeans(vectors, model.config.codebook_size, jax.random.key(seed))


def quality(tokenizer: image_tokenizer.ImageTokenizer, images: np.ndarray) -> dict[str, float]:
  """PSNR of uint8 reconstructions, use and perplexity of the codebook, on uint8 `images` [n, size, size, 3].

  `psnr` is that of the mean squared error over all pixels of all pictures; `psnr_mean` is the mean over pictures.
  """
  codes = tokenizer.encode(images)
  error = (tokenizer.decode(codes).astype(np.float32) - images.astype(np.float32)) / 255.0
  per_image = np.maximum(np.mean(error**2, axis=(1, 2, 3)), 1e-6)
  counts = np.bincount(codes.ravel(), minlength=tokenizer.codebook_size)
  share = counts[counts > 0] / counts.sum()
  return {
      "psnr": round(float(-10 * np.log10(per_image.mean())), 3),
      "psnr_mean": round(float(np.mean(-10 * np.log10(per_image))), 3),
      "usage": round(float((counts > 0).mean()), 4),
      "perplexity": round(float(np.exp(-np.sum(share * np.log(share)))), 1),
      "pictures": len(images),
  }


def reconstruction_grid(tokenizer: image_tokenizer.ImageTokenizer, images: np.ndarray, columns: int = 16,
                        zoom: int = 2) -> Image.Image:
  """Rows of originals, each above its reconstructions."""
  again = tokenizer.decode(tokenizer.encode(images))
  rows = []
  for first in range(0, len(images), columns):
    for part in (images[first:first + columns], again[first:first + columns]):
      row = np.full((part.shape[1], columns * part.shape[2], 3), 255, np.uint8)
      row[:, :len(part) * part.shape[2]] = np.concatenate(list(part), axis=1)
      rows.append(row)
  grid = Image.fromarray(np.concatenate(rows))
  return grid.resize((grid.width * zoom, grid.height * zoom), Image.Resampling.NEAREST)


def check_pictures(images: np.ndarray, config: VQGANConfig, name: str) -> None:
  size = config.image_size
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3) or not len(images):
    raise InputError(f"{name}: need uint8 pictures [n, {size}, {size}, 3], got {images.dtype} {list(images.shape)}; "
                     "render them at the tokenizer's size")


def train_image_tokenizer(
    images: np.ndarray,
    held_out: np.ndarray,
    folder: str | os.PathLike,
    config: VQGANConfig,
    recipe: ImageRecipe = ImageRecipe(),
    *,
    seed: int = 0,
    log_every: int = 100,
    save_every: int = 1000,
    notes: Mapping[str, Any] | None = None,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
) -> image_tokenizer.ImageTokenizer:
  """Trains and writes a tokenizer folder: weights, manifest with held-out figures, a grid of reconstructions.

  Args:
    images: uint8 [n, size, size, 3], the training split only.
    held_out: uint8 [m, size, size, 3], measured at the end, never trained on.
    folder: written whole at the end. Until then `<folder>.progress` holds the latest save: the same call goes on
      from it, and ends with the same weights as an unbroken run.
    config, recipe, seed: what to train and how; the result is a function of these and the pictures.
    save_every: steps between saves.
    notes: further manifest fields, e.g. the corpus' name.
    on_log: (step, means since the last).
  """
  check_pictures(images, config, "training pictures")
  check_pictures(held_out, config, "held-out pictures")
  folder = Path(folder)
  began = time.monotonic()
  model = VQGAN(config)
  warm_up, joint = _losses(model, recipe)
  decay_from = max(0, recipe.steps - recipe.decay_steps)
  peak, ramp = recipe.learning_rate, min(100, 1 + decay_from)
  schedule = optax.join_schedules([
      optax.linear_schedule(peak / 100, peak, ramp),
      optax.linear_schedule(peak, peak / 100, recipe.decay_steps, transition_begin=decay_from - ramp),
  ], [ramp])
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b1=0.9, b2=0.99))
  params = _initial(model, images, seed)
  state = {"weights": params, "running": vq.start(params["codebook"])}
  fitted = small.start(params, optimizer, state)

  progress = folder.with_name(folder.name + ".progress")
  lengths = [recipe.steps, recipe.decay_steps]
  but_lengths = {**dataclasses.asdict(recipe), "steps": 0, "decay_steps": 0}
  made_by = hashlib.sha256(json.dumps([dataclasses.asdict(config), but_lengths, seed,
                                       hashlib.sha256(images.tobytes()).hexdigest()]).encode()).digest()
  if progress.is_file() and (saved := progress.read_bytes()).startswith(made_by):
    of, earlier = serialization.from_bytes((lengths, fitted), saved[len(made_by):])
    if of == lengths or int(earlier.step) <= min(decay_from, of[0] - of[1]):
      fitted = earlier

  last_save = int(fitted.step)

  def log(step: int, metrics: dict[str, float], now: small.Fitted) -> None:
    nonlocal last_save
    if step - last_save >= save_every:
      _save(progress, made_by, (lengths, now))
      last_save = step
    if on_log is not None:
      on_log(step, metrics)

  key = jax.random.key(seed)
  stages = ((warm_up, recipe.warmup_steps, "tokenizer warm-up"), (joint, recipe.steps, "tokenizer"))
  for loss_fn, until, label in stages:
    first = int(fitted.step)
    if first < until:
      if loss_fn is joint and first == recipe.warmup_steps:
        codebook = _codebook(model, fitted.params, images, seed)
        fitted = fitted.replace(state={"weights": fitted.params, "running": vq.start(codebook)})
      fitted = small.resume(loss_fn, fitted, optimizer, _batches(images, recipe, seed, first), until, key=key,
                            log_every=log_every, on_log=log, label=label)

  weights = {**fitted.state["weights"], "codebook": fitted.state["running"].codebook}
  weights = jax.tree.map(lambda x: np.asarray(x, np.float16), weights)  # as they are kept: measure what is saved
  tokenizer = image_tokenizer.ImageTokenizer(config, weights)
  figures = quality(tokenizer, held_out)
  grid = reconstruction_grid(tokenizer, held_out[np.linspace(0, len(held_out) - 1, min(64, len(held_out))).astype(int)])
  tokenizer.save(folder, extra_files={"held_out.png": grid}, recipe=dataclasses.asdict(recipe), seed=seed,
                 held_out=figures, seconds=round(time.monotonic() - began), training_pictures=len(images),
                 **(notes or {}))
  progress.unlink(missing_ok=True)
  return image_tokenizer.ImageTokenizer.load(folder)


def _save(path: Path, made_by: bytes, progress: tuple[list[int], small.Fitted]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + ".partial")
  temporary.write_bytes(made_by + serialization.to_bytes(jax.device_get(progress)))
  os.replace(temporary, path)
