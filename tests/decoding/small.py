"""A small random model whose every part matters (fresh output projections are zero), and its requests."""

import jax
import numpy as np

from cm3leon_jax.decoding import prompts
from cm3leon_jax.decoding.prompts import Pair
from cm3leon_jax.layout import Layout
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.transformer import init_parameters
from cm3leon_jax.vocabulary import Vocabulary

V = Vocabulary(text_size=40, image_size=24, num_sentinels=8, total_size=0)
LAYOUT = Layout(image_tokens=9, text_tokens=5, max_documents=3, numbering="document")


def config(**changes) -> TransformerConfig:
  fields = dict(vocab_size=V.total_size, num_layers=2, model_dim=32, num_heads=4, num_kv_heads=2,
                max_positions=LAYOUT.num_positions, position_period=LAYOUT.stride, dtype="float32")
  return TransformerConfig(**(fields | changes))


def parameters(c: TransformerConfig, seed: int = 0) -> dict:
  """Normal values, large enough for a peaked, input-dependent distribution."""
  leaves, tree = jax.tree.flatten(init_parameters(c, jax.random.key(seed)))
  keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
  return tree.unflatten([0.3 * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves)])


def image(seed: int) -> np.ndarray:
  return V.image_ids(np.random.default_rng(seed).integers(0, V.image_size, LAYOUT.image_tokens))


def text(seed: int, length: int = 3) -> np.ndarray:
  return np.random.default_rng(seed).integers(3, V.text_size, length).astype(np.int32)


def documents(count: int, seed: int = 50) -> list[Pair]:
  return [Pair(text(seed + i, 2 + i), image(seed + i)) for i in range(count)]


def pictures(seed: int, docs: int = 1, layout: Layout = LAYOUT):
  """A text-to-image prompt and its twin."""
  found = documents(docs, 50 + seed)
  return (prompts.text_to_image(V, layout, text(seed), found), prompts.unconditional(V, layout, found))
