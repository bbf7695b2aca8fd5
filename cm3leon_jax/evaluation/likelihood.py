"""Negative log-likelihood of held-out pairs under a checkpoint, with K retrieved documents in front.

Per example, so that intervals and paired differences can be made: the same pairs under
K = 0, 1, 2 differ much less than two pairs do.
"""

import dataclasses
import functools
from typing import Any, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.evaluation import bootstrap
from cm3leon_jax.layout import Layout
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.transformer import Transformer
from cm3leon_jax.tasks.documents import SampleBuilder
from cm3leon_jax.training.head_loss import token_losses
from cm3leon_jax.vocabulary import Vocabulary

Batch = Mapping[str, np.ndarray]
_CHUNK = 64  # tokens of the length whose logits exist at once
_FIELDS = ("inputs", "targets", "loss_weights", "segment_ids", "positions")


@dataclasses.dataclass(frozen=True)
class Likelihoods:
  """Per example: summed nats and number of scored tokens, of image codes and of text; all float64[N]."""
  image_nats: np.ndarray
  image_tokens: np.ndarray
  text_nats: np.ndarray
  text_tokens: np.ndarray

  def intervals(self) -> dict[str, bootstrap.Interval]:
    """`loss_image`, `loss_text`: nats a token over all examples, with intervals over examples."""
    return {f"loss_{name}": bootstrap.ratio_interval(nats, tokens) for name, nats, tokens in self._parts()
            if tokens.any()}

  def differences(self, other: "Likelihoods") -> dict[str, bootstrap.Interval]:
    """The same minus `other`'s, on the same examples (paired): below 0 means that this one predicts better.

    Raises:
      ValueError: the two were not scored on the same tokens.
    """
    result = {}
    for (name, nats, tokens), (_, other_nats, other_tokens) in zip(self._parts(), other._parts()):
      if not np.array_equal(tokens, other_tokens):
        raise ValueError(f"the two sides scored different {name} tokens, so they cannot be paired")
      if tokens.any():
        result[f"loss_{name}"] = bootstrap.ratio_interval(nats - other_nats, tokens)
    return result

  def _parts(self):
    return (("image", self.image_nats, self.image_tokens), ("text", self.text_nats, self.text_tokens))


def query_batches(queries: Sequence[Mapping[str, Any]], retrieved: Sequence[Sequence[Mapping[str, Any]]],
                  vocabulary: Vocabulary, layout: Layout, batch_size: int = 16) -> Iterator[dict[str, np.ndarray]]:
  """Batches of one sample a row, unmasked, that weigh the query pair only; the last is padded with empty rows.

  Args:
    queries: N records of the `documents` kind.
    retrieved: for each query its retrieved documents, in the order in which they stand before it.
  """
  builder = SampleBuilder(vocabulary, layout)
  samples = [builder.retrieval_sample(query, documents, query_loss_only=True)
             for query, documents in zip(queries, retrieved, strict=True)]
  longest = max((len(s["tokens"]) for s in samples), default=1) - 1
  length = -(-longest // _CHUNK) * _CHUNK
  for start in range(0, len(samples), batch_size):
    batch = {name: np.zeros((batch_size, length), np.float32 if name == "loss_weights" else np.int32)
             for name in _FIELDS}
    for row, sample in enumerate(samples[start:start + batch_size]):
      n = len(sample["tokens"]) - 1
      batch["inputs"][row, :n] = sample["tokens"][:-1]
      batch["targets"][row, :n] = sample["tokens"][1:]
      batch["loss_weights"][row, :n] = sample["loss_weights"][1:]
      batch["positions"][row, :n] = sample["positions"][:-1]
      batch["segment_ids"][row, :n] = 1
    yield batch


def score(config: TransformerConfig, params: Any, vocabulary: Vocabulary, batches: Iterable[Batch]) -> Likelihoods:
  """Scores every row that has a weighted text or image token.

  Args:
    params: of `Transformer(config)`.
    batches: of the `batch` kind; a token counts where its loss weight is not 0, and counts once.
  """
  model = Transformer(config)
  sums = [np.asarray(_row_sums(model, vocabulary, params, {name: batch[name] for name in _FIELDS}), np.float64)
          for batch in batches]
  rows = np.concatenate(sums) if sums else np.zeros((0, 4))
  rows = rows[(rows[:, 1] + rows[:, 3]) > 0]
  return Likelihoods(*rows.T)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _row_sums(model: Transformer, vocabulary: Vocabulary, params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
  """float32[B, 4]: image nats, image tokens, text nats, text tokens."""
  hidden = model.apply({"params": params}, batch["inputs"], batch["positions"], batch["segment_ids"])
  targets, scored = batch["targets"], batch["loss_weights"] != 0
  rows, length = targets.shape
  chunk = _CHUNK if length % _CHUNK == 0 else length

  def chunk_nats(part):
    hidden, targets = part
    return token_losses(model.apply({"params": params}, hidden, method="logits"), targets)[0]

  split = lambda x: x.reshape(rows, length // chunk, chunk, *x.shape[2:]).swapaxes(0, 1)
  nats = jax.lax.map(chunk_nats, (split(hidden), split(targets))).swapaxes(0, 1).reshape(rows, length)
  image = scored & vocabulary.is_image(targets)
  text = scored & vocabulary.is_text(targets)
  return jnp.stack([jnp.where(image, nats, 0).sum(1), image.sum(1), jnp.where(text, nats, 0).sum(1), text.sum(1)], 1)
