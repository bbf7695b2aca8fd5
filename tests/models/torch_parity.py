"""What the parity tests share: weights that all matter in a torch model, its results, and ours beside them.

torch and transformers are imported where they are used: `make test`, which lacks them, reads these files too.
"""

import functools
from typing import Callable, NamedTuple

import flax.traverse_util
import jax
import numpy as np

from cm3leon_jax.models import init
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.transformer import Transformer
from cm3leon_jax.training.losses import LossConfig, loss_sums, metrics
from cm3leon_jax.vocabulary import Vocabulary
from cm3leon_jax.weights import mapping

VOCABULARY = Vocabulary(text_size=64, image_size=16, num_sentinels=4, total_size=96)
LENGTH = 20
# Largest differences in float32. Logits and hidden values are of size 1 (seen: 5e-6); the loss is about 5 nats, where
# neighbouring numbers are 5e-7 apart (seen: one step); a gradient's entry counts as a part of the largest entry of the
# same parameter's gradient (seen: 3e-6).
VALUES = 5e-5
LOSS = 5e-6
GRADIENTS = 1e-5


class Results(NamedTuple):
  hidden: np.ndarray  # [B, L, D], after the final norm
  logits: np.ndarray  # [B, L, V]
  loss: float  # mean over the targets that count, in nats
  gradients: dict  # of the loss, by parameter


def randomise(model, seed: int = 0):
  """The torch module, every parameter random: gains around 1, the rest around 0 and wide enough to matter."""
  import torch

  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, x in model.named_parameters():
      noise = torch.randn(x.shape, generator=generator)
      x.copy_(1 + 0.3 * noise if name.endswith("norm.weight") else 0.2 * noise)
  return model.eval()


def to_tree(pieces: list[mapping.Piece], weights: dict[str, np.ndarray]) -> dict:
  """A public model's parameters (or their gradients) by name → our tree, by the mapping that imports go through."""
  expected = mapping.tensors(pieces)
  assert weights.keys() == expected.keys(), f"parameters of one only: {sorted(weights.keys() ^ expected.keys())}"
  layers: dict[str, list] = {}
  for piece in pieces:
    layers.setdefault(piece.leaf, []).append(piece.join([weights[name] for name in piece.parts]))
  leaves = {name: np.stack(x) if name.startswith("layers.") else x[0] for name, x in layers.items()}
  return flax.traverse_util.unflatten_dict(leaves, sep=".")


def rows(*segments: list[int]) -> dict[str, np.ndarray]:
  """A batch from segment ids [B, L]: random tokens; positions count from 0 in each segment; segment 0 is padding.

  A token's target is the next one of its segment; the last of a segment, and padding, have none (weight 0).
  """
  segment_ids = np.asarray(segments, np.int32)
  tokens = np.random.default_rng(1).integers(0, VOCABULARY.total_size, segment_ids.shape).astype(np.int32)
  starts = np.diff(segment_ids, axis=1, prepend=-1) != 0
  count = np.arange(segment_ids.shape[1])
  positions = np.where(segment_ids > 0, count - np.maximum.accumulate(np.where(starts, count, 0), axis=1), 0)
  followed = np.diff(segment_ids, axis=1, append=-1) == 0
  return {"inputs": tokens, "targets": np.roll(tokens, -1, axis=1), "positions": positions.astype(np.int32),
          "segment_ids": segment_ids, "loss_weights": (followed & (segment_ids > 0)).astype(np.float32)}


WHOLE = rows([1] * LENGTH, [1] * LENGTH)
PACKED = rows([1] * 7 + [2] * 13, [1] * 12 + [2] * 3 + [3] * 5)


def run_torch(model, backbone, batch: dict, **masks: np.ndarray) -> Results:
  """A public model's own forward pass, head, loss and gradients.

  Args:
    model: torch module with `lm_head` and `loss_function`.
    backbone: the part of it that gives hidden states.
    **masks: `attention_mask`, `position_ids`, as the public model takes them.
  """
  import torch

  masks = {name: torch.tensor(x) for name, x in masks.items()}
  hidden = backbone(input_ids=torch.tensor(batch["inputs"]), use_cache=False, **masks).last_hidden_state
  logits = model.lm_head(hidden)
  labels = torch.tensor(np.where(batch["loss_weights"] > 0, batch["targets"], -100)).long()
  loss = model.loss_function(logits=logits, labels=None, shift_labels=labels, vocab_size=logits.shape[-1])
  model.zero_grad()
  loss.backward()
  gradients = {name: x.grad.numpy() for name, x in model.named_parameters() if x.grad is not None}
  return Results(hidden.detach().numpy(), logits.detach().numpy(), loss.item(), gradients)


def whole_forward(model, batch: dict) -> np.ndarray:
  """The logits that the public model returns."""
  import torch

  with torch.no_grad():
    return model(input_ids=torch.tensor(batch["inputs"])).logits.numpy()


def without_weights(make: Callable):
  """The torch module that `make()` gives, with the shapes of its parameters and no memory for them."""
  import torch

  with torch.device("meta"):
    return make()


@functools.partial(jax.jit, static_argnums=0)
def forward(config: TransformerConfig, params: dict, batch: dict) -> tuple[jax.Array, jax.Array]:
  """Our hidden states and logits."""
  model = Transformer(config)
  hidden = model.apply({"params": params}, batch["inputs"], batch["positions"], batch["segment_ids"])
  return hidden, model.apply({"params": params}, hidden, method="logits")


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(config: TransformerConfig, params: dict, batch: dict) -> tuple[jax.Array, dict]:
  """Of the loss that training takes."""
  loss = lambda p: metrics(loss_sums(Transformer(config), p, batch, LossConfig(), VOCABULARY))["loss"]
  return jax.value_and_grad(loss)(params)


def run_ours(config: TransformerConfig, params: dict, batch: dict) -> Results:
  jax.tree.map(lambda x, a: np.testing.assert_equal(x.shape, a.shape), params, init.abstract_parameters(config))
  loss, gradients = jax.device_get(loss_and_gradients(config, params, batch))
  return Results(*jax.device_get(forward(config, params, batch)), float(loss), gradients)


def assert_equal(ours: Results, theirs: Results, to_ours: Callable, batch: dict) -> None:
  """Hidden states and logits wherever there is a token, the loss, and the gradient of every parameter.

  Args:
    to_ours: names of the public model → our tree. It only transposes and regroups, so it maps gradients as it maps
      weights.
  """
  real = batch["segment_ids"] > 0
  np.testing.assert_allclose(ours.hidden[real], theirs.hidden[real], rtol=0, atol=VALUES)
  np.testing.assert_allclose(ours.logits[real], theirs.logits[real], rtol=0, atol=VALUES)
  np.testing.assert_allclose(ours.loss, theirs.loss, rtol=0, atol=LOSS)

  def compare(path, mine, other):
    largest = np.abs(other).max()
    assert largest > 1e-4, f"{jax.tree_util.keystr(path)} has no gradient worth comparing"
    np.testing.assert_allclose(mine, other, rtol=0, atol=GRADIENTS * largest, err_msg=jax.tree_util.keystr(path))
  jax.tree_util.tree_map_with_path(compare, ours.gradients, to_ours(theirs.gradients))
