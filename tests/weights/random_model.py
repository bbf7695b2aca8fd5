"""Released checkpoints with random weights, all of which matter; made in milliseconds."""

from pathlib import Path

import jax
import numpy as np

from cm3leon_jax.layout import Layout
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.init import abstract_parameters
from cm3leon_jax.training import checkpoints
from cm3leon_jax.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text_size=64, image_size=16, num_sentinels=4, total_size=96)
LAYOUT = Layout(image_tokens=4, text_tokens=5, max_documents=2)
CM3LEON = TransformerConfig(vocab_size=96, num_layers=3, model_dim=32, num_heads=4, max_positions=24, dtype="float32")
CHAMELEON = TransformerConfig(vocab_size=96, num_layers=3, model_dim=32, num_heads=4, mlp_dim=88, max_positions=24,
                              position="rope", norm="rmsnorm", qk_norm=True, activation="swiglu", tie_embeddings=False,
                              dtype="float32")


def parameters(config: TransformerConfig, seed: int = 0) -> dict:
  """Gains around 1, the rest around 0, wide enough to matter."""
  rng = np.random.default_rng(seed)

  def draw(path, x):
    noise = rng.normal(size=x.shape).astype(np.float32)
    return 1 + 0.3 * noise if "scale" in jax.tree_util.keystr(path) else 0.2 * noise

  return jax.tree_util.tree_map_with_path(draw, abstract_parameters(config))


def write(folder: Path, config: TransformerConfig, layout: Layout = LAYOUT, dtype=np.float32, seed: int = 0) -> dict:
  """Writes model.json and weights.npz; returns name → array, as written."""
  folder.mkdir(parents=True)
  checkpoints.write_model_file(folder, checkpoints.model_description(config, VOCABULARY, layout, {"step": 7}))
  arrays = {name: x.astype(dtype) for name, x in checkpoints.flatten(parameters(config, seed)).items()}
  bits = {name: x.view(np.uint16) if x.dtype.name == "bfloat16" else x for name, x in arrays.items()}
  np.savez(folder / "weights.npz", **bits)
  return arrays
