"""Trains the CLIP of the retriever from scratch on captioned drawings that fit in memory.

What makes it see both what is drawn and whose hand drew it: a quarter of a batch are second drawings
of things in it by other artists, so the caption's style word decides between them; and
captions without the style word are true of all of them, which the loss is told (no false negatives).
"""

import dataclasses
import functools
import os
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cm3leon_jax.datasets.captions import STYLE_NAMES
from cm3leon_jax.errors import InputError
from cm3leon_jax.models.clip import CLIP, DEMO, CLIPConfig, contrastive_loss
from cm3leon_jax.retrieval import clip_metrics
from cm3leon_jax.retrieval.encoder import Encoder, pad_texts, save
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.training import small

# How often a drawing is described by: its caption · "red heart, twemoji" · "red heart". The last leaves the
# artist out, so that "red heart" alone finds red hearts by all.
_VARIANT_SHARE = (0.4, 0.3, 0.3)
_VARIANT_HAS_STYLE = np.array([True, True, False])
_DROP_SHARE = 0.5  # of the rows lose parts, as the training queries of the retriever do
_DROP_RATE = 0.2  # of their tokens and patches (PAPER §2: query dropout)
_SHIFT = 3  # pixels, the largest shift of a drawing
_PARTNERS = 4  # one row in so many is a second drawing of another row's thing
_COARSE = 4  # pixels of the blur, half a patch of the demo's image tokenizer


@dataclasses.dataclass(frozen=True)
class Drawings:
  """Captioned images in memory, one row each.

  Attributes:
    images: uint8[N, H, W, 3].
    captions: str[N], as documents have them.
    plain: str[N], what is drawn, without the artist: "red heart", "woman elf, dark skin".
    styles: str[N], the artist as captions spell it; may be "".
    things: str[N], equal for drawings of the same thing in the same skin tone.
    toned: bool[N], a skin-tone variant: one of five near duplicates, so drawn five times more seldom.
  """

  images: np.ndarray
  captions: Sequence[str]
  plain: Sequence[str]
  styles: Sequence[str]
  things: Sequence[str]
  toned: np.ndarray

  def __post_init__(self):
    lengths = {field.name: len(getattr(self, field.name)) for field in dataclasses.fields(self)}
    if len(set(lengths.values())) != 1:
      raise InputError(f"the drawings' fields differ in length: {lengths}")


def drawings(pairs: Iterable[Mapping[str, Any]]) -> Drawings:
  """Raw pairs of the corpus `emoji_styles` (fields id, caption, image, thing, name, style, skin_tone) → `Drawings`."""
  rows = list(pairs)
  if not rows:
    raise InputError("no raw pairs to train the CLIP on; build the corpus first")
  plain = []
  for row in rows:
    tone = row["skin_tone"].replace("+", " and ")
    plain.append(f"{row['name']}, {tone} skin" if tone else row["name"])
  return Drawings(images=np.stack([row["image"] for row in rows]), captions=[row["caption"] for row in rows],
                  plain=plain, styles=[STYLE_NAMES.get(row["style"], row["style"]) for row in rows],
                  things=[f"{row['thing']} {row['skin_tone']}" for row in rows],
                  toned=np.array([bool(row["skin_tone"]) for row in rows]))


def train_clip(train: Drawings, folder: str | os.PathLike, text_folder: str | os.PathLike, *,
               config: CLIPConfig = DEMO, steps: int = 600, batch_size: int = 128, learning_rate: float = 2e-3,
               weight_decay: float = 0.1, seed: int = 0, heldout: Mapping[str, Drawings] | None = None,
               on_log: Callable[[int, dict[str, float]], None] | None = None) -> Encoder:
  """Trains, measures on `heldout`, writes `folder`, returns the encoder.

  Args:
    train: the training split only.
    folder: where the encoder's folder goes.
    text_folder: the text tokenizer's folder.
    config: geometry; its vocab_size is set to the tokenizer's size.
    steps, batch_size, learning_rate, weight_decay: AdamW, cosine to zero after a tenth of warm-up.
    seed: of parameters, batches and augmentation.
    heldout: name → drawings never trained on; their figures go into the manifest under `metrics`.
    on_log: gets (step, means of loss, `found` and scale) every 50 steps; `found` is the share of texts whose most
      similar image of the batch is a true one.

  Raises:
    InputError: fewer drawings than one batch, or fields of different length.
  """
  if len(train.images) < batch_size:
    raise InputError(f"{len(train.images)} training drawings are fewer than clip batch_size={batch_size}; lower it")
  text = TextTokenizer.load(text_folder)
  config = dataclasses.replace(config, vocab_size=text.size)
  model = CLIP(config)
  key = jax.random.key(seed)
  params = model.init(key, jnp.zeros((1, config.image_size, config.image_size, 3)),
                      *map(jnp.asarray, pad_texts([text.encode("red heart")], config)))["params"]
  schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, max(1, steps // 10), steps)
  decayed = jax.tree.map(lambda p: p.ndim > 1, params)  # neither gains, biases nor the logit scale
  optimizer = optax.chain(optax.clip_by_global_norm(1.0),
                          optax.adamw(schedule, b2=0.98, weight_decay=weight_decay, mask=decayed))
  report = None if on_log is None else lambda step, means, _: on_log(step, means)
  fitted = small.fit(functools.partial(_loss, model), params, optimizer, batches(train, text, config, batch_size, seed),
                     steps, key=key, log_every=50, on_log=report, label="clip")
  encoder = save(folder, config, fitted.params, text_folder)
  if heldout:
    metrics = clip_metrics.measure(encoder, train, heldout)
    encoder = save(folder, config, fitted.params, text_folder, {"metrics": metrics, "steps": steps, "seed": seed})
  return encoder


def batches(train: Drawings, text: TextTokenizer, config: CLIPConfig, batch_size: int, seed: int) -> Iterator[dict]:
  """Endless batches; batch t is a pure function of (seed, t).

  Fields: images uint8[B, S, S, 3] · ids int32[B, L] · mask bool[B, L] · positives bool[B, B].
  """
  variants = [[caption, f"{plain}, {style}" if style else plain, plain]
              for caption, plain, style in zip(train.captions, train.plain, train.styles, strict=True)]
  ids, mask = pad_texts(text.encode_batch([variant for row in variants for variant in row]), config)
  ids, mask = (a.reshape(len(variants), len(_VARIANT_SHARE), -1) for a in (ids, mask))
  things = np.unique(np.asarray(train.things), return_inverse=True)[1]
  styles = np.unique(np.asarray(train.styles), return_inverse=True)[1]
  by_thing = np.argsort(things, kind="stable")
  first = np.searchsorted(things[by_thing], np.arange(things.max() + 2))
  share = np.where(train.toned, 0.2, 1.0)
  share = share / share.sum()
  # <eos>, where the text tower reads, is the last token and is never dropped.
  kept_tail = 1 if config.text_tower == "transformer" else 0
  step = 0
  while True:
    rng = np.random.default_rng((seed, step))
    second = batch_size // _PARTNERS
    anchors = rng.choice(len(things), batch_size - second, replace=False, p=share)
    thing = things[anchors[:second]]
    partners = by_thing[first[thing] + rng.integers(0, 1 << 30, len(thing)) % (first[thing + 1] - first[thing])]
    rows = np.concatenate([anchors, partners])
    variant = rng.choice(len(_VARIANT_SHARE), batch_size, p=_VARIANT_SHARE)
    row_mask = mask[rows, variant]
    length = row_mask.sum(1, keepdims=True)
    droppable = (np.arange(row_mask.shape[1]) < length - kept_tail) & (rng.random((batch_size, 1)) < _DROP_SHARE)
    kept = row_mask & ~(droppable & (rng.random(row_mask.shape) < _DROP_RATE))
    kept = np.where(kept.sum(1, keepdims=True) > kept_tail, kept, row_mask)
    row_ids, row_mask = _close_up(ids[rows, variant], kept)
    same_thing = things[rows][:, None] == things[rows][None, :]
    same_style = styles[rows][:, None] == styles[rows][None, :]
    positives = same_thing & (same_style | ~_VARIANT_HAS_STYLE[variant][:, None])
    yield {"images": train.images[rows], "ids": row_ids, "mask": row_mask, "positives": positives}
    step += 1


def _close_up(ids: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Moves the kept tokens of each row to its front, in order: int32[B, L], bool[B, L]."""
  order = np.argsort(~kept, axis=1, kind="stable")
  kept = np.take_along_axis(kept, order, axis=1)
  return np.where(kept, np.take_along_axis(ids, order, axis=1), 0), kept


def _loss(model: CLIP, params: Any, state: Any, batch: dict, key: jax.Array):
  images = _augment(batch["images"].astype(jnp.float32), key)
  image_vectors, text_vectors, scale = model.apply({"params": params}, images, batch["ids"], batch["mask"])
  loss = contrastive_loss(image_vectors, text_vectors, scale, batch["positives"])
  found = jnp.take_along_axis(batch["positives"], (text_vectors @ image_vectors.T).argmax(1)[:, None], axis=1)
  return loss, (state, {"found": found.mean(), "scale": scale})


def _augment(images: jax.Array, key: jax.Array) -> jax.Array:
  """float32[B, S, S, 3] in 0..255: shifted; some blurred (as decoded codes are), some with missing patches."""
  batch, size = images.shape[:2]
  shift_key, blur_key, row_key, drop_key = jax.random.split(key, 4)
  padded = jnp.pad(images, [(0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)], constant_values=255)
  corners = jax.random.randint(shift_key, (batch, 2), 0, 2 * _SHIFT + 1)
  images = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (size, size, 3)))(padded, corners)
  coarse = images.reshape(batch, size // _COARSE, _COARSE, size // _COARSE, _COARSE, 3).mean((2, 4))
  coarse = jax.image.resize(coarse, images.shape, "bilinear")
  blur = jax.random.uniform(blur_key, (batch, 1, 1, 1), minval=-1.0, maxval=0.8)
  images = images + jnp.maximum(blur, 0) * (coarse - images)
  grid = size // 8
  missing = jax.random.bernoulli(drop_key, _DROP_RATE, (batch, grid, grid))
  missing &= jax.random.bernoulli(row_key, _DROP_SHARE, (batch, 1, 1))
  missing = jnp.repeat(jnp.repeat(missing, 8, axis=1), 8, axis=2)[..., None]
  return jnp.where(missing, 255.0, images)
