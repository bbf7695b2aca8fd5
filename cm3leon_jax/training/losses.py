"""Next-token cross-entropy by modality, in chunks of the length when the logits would be large."""

import dataclasses
from typing import Mapping

import jax
import jax.numpy as jnp

from cm3leon_jax.models.transformer import Transformer
from cm3leon_jax.vocabulary import Vocabulary

MODALITIES = ("text", "image", "special")
Sums = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """What a token's loss counts.

  Attributes:
    text_weight: of targets that are text or special ids; the paper weighs all tokens alike (1).
    image_weight: of targets that are image codes.
    z_loss: coefficient of log²Z (Chameleon: 1e-5).
    chunk: tokens of the length whose logits exist at once; 0 takes the whole length. It must divide the length.
  """

  text_weight: float = 1.0
  image_weight: float = 1.0
  z_loss: float = 0.0
  chunk: int = 0


def token_losses(logits_xV: jax.Array, targets_x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(negative log-likelihood, log Z), float32 of the targets' shape.

  The target's logit is picked by comparison, not by gather: the gradient of a gather is a scatter,
  which is slow on every platform, whereas this one fuses into the softmax's.
  """
  log_z = jax.nn.logsumexp(logits_xV, axis=-1)
  ids = jax.lax.broadcasted_iota(jnp.int32, logits_xV.shape, logits_xV.ndim - 1)
  picked = jnp.where(ids == targets_x[..., None], logits_xV, 0.0).sum(-1)
  return log_z - picked, log_z


def _sums(model: Transformer, params, hidden, targets, weights, config: LossConfig, vocabulary: Vocabulary) -> Sums:
  """Sums over the tokens of [B, L, D] hidden states."""
  nll, log_z = token_losses(model.apply({"params": params}, hidden, method="logits"), targets)
  image = vocabulary.is_image(targets)
  special = vocabulary.is_special(targets)
  counted = weights * jnp.where(image, config.image_weight, config.text_weight)
  sums = {"objective": (counted * (nll + config.z_loss * log_z**2)).sum(), "weight": counted.sum()}
  for name, here in zip(MODALITIES, (~image & ~special, image, special)):
    sums[f"nll_{name}"] = (weights * nll * here).sum()
    sums[f"tokens_{name}"] = (weights * here).sum()
  return sums


def loss_sums(model: Transformer, params, batch: Mapping[str, jax.Array], config: LossConfig, vocabulary: Vocabulary,
              dropout_key: jax.Array | None = None) -> Sums:
  """Sums over a batch, to be divided or added to those of other batches.

  Args:
    batch: inputs, targets, segment_ids, positions int32[B, L]; loss_weights float32[B, L].
    dropout_key: None for evaluation.

  Returns:
    float32 scalars: `objective` and `weight` (their quotient is the loss), and for each modality of
    targets `nll_…` in nats and `tokens_…`, both weighted by `loss_weights` alone.
  """
  rngs = None if dropout_key is None else {"dropout": dropout_key}
  hidden = model.apply({"params": params}, batch["inputs"], batch["positions"], batch["segment_ids"],
                       deterministic=dropout_key is None, rngs=rngs)
  parts = (hidden, batch["targets"], batch["loss_weights"])
  length = batch["targets"].shape[1]
  if config.chunk in (0, length):
    return _sums(model, params, *parts, config, vocabulary)
  if length % config.chunk:
    raise ValueError(f"loss chunk={config.chunk} does not divide the length {length}")
  chunks = [x.reshape(x.shape[0], -1, config.chunk, *x.shape[2:]).swapaxes(0, 1) for x in parts]
  # Recomputed in the backward pass, so that the logits of one chunk exist at a time there too.
  one_chunk = jax.checkpoint(lambda h, t, w: _sums(model, params, h, t, w, config, vocabulary), prevent_cse=False)
  zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(one_chunk, *(c[0] for c in chunks)))
  add = lambda total, chunk: (jax.tree.map(jnp.add, total, one_chunk(*chunk)), None)
  return jax.lax.scan(add, zero, tuple(chunks))[0]


def metrics(sums: Sums) -> dict[str, jax.Array]:
  """`loss` (the objective), and per modality `loss_…` in nats a token and `tokens_…`."""
  result = {"loss": sums["objective"] / jnp.maximum(sums["weight"], 1e-6)}
  for name in MODALITIES:
    result[f"loss_{name}"] = sums[f"nll_{name}"] / jnp.maximum(sums[f"tokens_{name}"], 1e-6)
    result[f"tokens_{name}"] = sums[f"tokens_{name}"]
  return result
