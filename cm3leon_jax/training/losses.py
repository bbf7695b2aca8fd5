"""What the loss counts, and its sums by modality and by position."""

import dataclasses
from typing import Mapping

import jax
import jax.numpy as jnp

from cm3leon_jax.models.transformer import Transformer
from cm3leon_jax.training.head_loss import head_loss
from cm3leon_jax.vocabulary import Vocabulary

MODALITIES = ("text", "image", "special")
BUCKET = 1024  # positions
Sums = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """What a token's loss counts.

  Attributes:
    text_weight: of targets that are text or special ids; the paper weighs all tokens alike (1).
    image_weight: of targets that are image codes.
    z_loss: coefficient of log²Z (Chameleon: 1e-5).
    chunk: tokens of the length, on one device, whose logits exist at once; 0 takes all. It must divide the length.
  """

  text_weight: float = 1.0
  image_weight: float = 1.0
  z_loss: float = 0.0
  chunk: int = 0


def loss_sums(model: Transformer, params, batch: Mapping[str, jax.Array], config: LossConfig, vocabulary: Vocabulary,
              dropout_key: jax.Array | None = None) -> Sums:
  """Sums over a batch, to be divided or added to those of other batches.

  Args:
    batch: inputs, targets, segment_ids, positions int32[B, L]; loss_weights float32[B, L].
    dropout_key: None for evaluation.

  Returns:
    float32 scalars: `objective` and `weight` (their quotient is the loss), and for each modality of
    targets, and for each bucket of 1,024 positions where there are several (does context help?), `nll_…` in nats and
    `tokens_…`, both weighted by `loss_weights` alone; and for `activation_rms` sums over all tokens, padding too.
  """
  rngs = None if dropout_key is None else {"dropout": dropout_key}
  hidden, seen = model.apply({"params": params}, batch["inputs"], batch["positions"], batch["segment_ids"],
                             deterministic=dropout_key is None, rngs=rngs, mutable=["intermediates"])
  targets, weights = batch["targets"], batch["loss_weights"]
  image = vocabulary.is_image(targets)
  special = vocabulary.is_special(targets)
  counted = weights * jnp.where(image, config.image_weight, config.text_weight)
  head = params["tokens"] if model.config.tie_embeddings else params["head"]
  objective, nll = head_loss(hidden, head, targets, counted, config.z_loss, config.chunk)
  residual = jax.lax.stop_gradient(seen["intermediates"]["residual"][0].astype(jnp.float32))
  sums = {"objective": objective, "weight": counted.sum(), "square_residual": (residual**2).mean(-1).sum(),
          "count_residual": jnp.float32(targets.size)}
  groups = dict(zip(MODALITIES, (~image & ~special, image, special)))
  buckets = -(-model.config.max_positions // BUCKET)
  if buckets > 1:
    groups |= {f"position_{i}k": batch["positions"] // BUCKET == i for i in range(buckets)}
  for name, here in groups.items():
    sums[f"nll_{name}"] = (weights * nll * here).sum()
    sums[f"tokens_{name}"] = (weights * here).sum()
  return sums


def metrics(sums: Sums) -> dict[str, jax.Array]:
  """`loss` (the objective), per modality and bucket `loss_…` in nats a token and `tokens_…`, and `activation_rms`.

  The last is the root mean square of the residual stream after the last layer; it grows before a run diverges.
  """
  result = {"loss": sums["objective"] / jnp.maximum(sums["weight"], 1e-6),
            "activation_rms": (sums["square_residual"] / sums["count_residual"]) ** 0.5}
  for name in (key.removeprefix("nll_") for key in sums if key.startswith("nll_")):
    result[f"loss_{name}"] = sums[f"nll_{name}"] / jnp.maximum(sums[f"tokens_{name}"], 1e-6)
    result[f"tokens_{name}"] = sums[f"tokens_{name}"]
  return result
