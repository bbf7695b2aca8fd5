"""How tensors of a public layout make up ours: one `Piece` for each layer of each of our leaves, used in both directions.

A torch `Linear` stores [out, in], ours [in, out]; our leaves stack the layers and join what one matmul computes.
Letters: D width, K key/value heads, G query heads a key/value head, H head width, M feed-forward width, V vocabulary.
"""

import dataclasses
import math
from typing import Callable, Sequence

import numpy as np

from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.weights.blocks import transposed

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
  """One layer of one of our leaves, and the public tensors that hold the same numbers.

  Attributes:
    leaf: name as in `store.flatten`: "tokens", "layers.qkv".
    layer: number of the layer; None where the leaf is not stacked.
    parts: public name → shape.
    join: public arrays, in the order of `parts` → our array.
    split: the inverse; may give views.
  """

  leaf: str
  layer: int | None
  parts: dict[str, Shape]
  join: Callable[[Sequence[np.ndarray]], np.ndarray]
  split: Callable[[np.ndarray], Sequence[np.ndarray]]


def tensors(pieces: Sequence[Piece]) -> dict[str, Shape]:
  """Every public name and its shape, in the order of the pieces."""
  return {name: shape for piece in pieces for name, shape in piece.parts.items()}


def same(leaf: str, layer: int | None, name: str, shape: Shape, ours: Shape | None = None) -> Piece:
  """The same numbers in the same order; `ours`: our shape, where it differs."""
  ours = shape if ours is None else ours
  return Piece(leaf, layer, {name: shape}, lambda x: x[0].reshape(ours), lambda x: [x.reshape(shape)])


def linear(leaf: str, layer: int, name: str, inputs: Shape, outputs: Shape) -> Piece:
  """[out, in] → [*inputs, *outputs]."""
  shape = (math.prod(outputs), math.prod(inputs))
  return Piece(leaf, layer, {name: shape}, lambda x: transposed(x[0]).reshape(*inputs, *outputs),
               lambda x: [transposed(x.reshape(shape[::-1]))])


def qkv(c: TransformerConfig, layer: int, q: str, k: str, v: str) -> Piece:
  """Three projections → [D, K, G + 2, H]: the query heads of one key/value head lie next to each other."""
  d, kv, g, h = c.model_dim, c.num_kv_heads, c.queries_per_kv, c.head_dim

  def join(x):
    groups = (g, 1, 1)
    return np.concatenate([transposed(a).reshape(d, kv, n, h) for a, n in zip(x, groups)], axis=2)

  def split(x):
    return [transposed(np.reshape(part, (d, -1))) for part in (x[:, :, :g], x[:, :, g], x[:, :, g + 1])]

  return Piece("layers.qkv", layer, {q: (kv * g * h, d), k: (kv * h, d), v: (kv * h, d)}, join, split)


def gate_and_up(c: TransformerConfig, layer: int, gate: str, up: str) -> Piece:
  """Two projections → [D, 2, M]."""
  shape = (c.mlp_dim, c.model_dim)
  return Piece("layers.mlp_in", layer, {gate: shape, up: shape}, lambda x: np.stack([transposed(a) for a in x], axis=1),
               lambda x: [transposed(x[:, 0]), transposed(x[:, 1])])


def attention_out(c: TransformerConfig, layer: int, name: str) -> Piece:
  """[D, heads] → [K, G, H, D]."""
  return linear("layers.attention_out", layer, name, (c.num_kv_heads, c.queries_per_kv, c.head_dim), (c.model_dim,))


def rows(leaf: str, name: str, shape: Shape, theirs: np.ndarray | None) -> Piece:
  """A table [V, D]; `theirs` int[V]: the public id of each of our ids, None where the ids are the same."""
  if theirs is None:
    return same(leaf, None, name, shape)
  ours = np.argsort(theirs)
  return Piece(leaf, None, {name: shape}, lambda x: x[0][theirs], lambda x: [x[ours]])
