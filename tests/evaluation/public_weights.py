"""Deterministic random weights in pytorch-fid's public layout, and pictures to go with them.

The published weights cannot be had everywhere; whoever reads these reads those. Also run by
`make_goldens.py`, so that both sides of a comparison get the same numbers without a file of 90 MB.
"""

import jax
import numpy as np

from cm3leon_jax.evaluation.networks import inception_v3
from cm3leon_jax.evaluation.networks.features import shapes_of


def pictures(count: int, size: int) -> np.ndarray:
  """uint8[count, size, size, 3]: smooth coloured waves and some noise, different for each."""
  rng = np.random.default_rng(count * 1000 + size)
  y, x = np.mgrid[:size, :size] / size
  waves = [[np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(0, 3, (3, 3))] for _ in range(count)]
  return np.clip(128 + 90 * np.array(waves).transpose(0, 2, 3, 1) + rng.normal(0, 15, (count, size, size, 3)), 0,
                 255).astype(np.uint8)


def inception_state() -> dict[str, np.ndarray]:
  """Tensor name → float32 array (BatchNorm counters are int64), He-initialised so that features stay near 1."""
  state = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes_of(inception_v3.InceptionV3(), inception_v3.SIZE)):
    *modules, kind = (key.key for key in path)
    if kind != "kernel":
      continue
    name = ".".join(modules)
    height, width, inputs, outputs = leaf.shape
    rng = np.random.default_rng([ord(c) for c in name])
    scale = (2 / (height * width * inputs))**0.5
    state[f"{name}.conv.weight"] = rng.standard_normal((outputs, inputs, height, width), np.float32) * np.float32(scale)
    state[f"{name}.bn.weight"] = rng.uniform(0.8, 1.2, outputs).astype(np.float32)
    state[f"{name}.bn.bias"] = rng.normal(0, 0.1, outputs).astype(np.float32)
    state[f"{name}.bn.running_mean"] = rng.normal(0, 0.1, outputs).astype(np.float32)
    state[f"{name}.bn.running_var"] = rng.uniform(0.8, 1.2, outputs).astype(np.float32)
    state[f"{name}.bn.num_batches_tracked"] = np.array(0)
  state["fc.weight"] = np.zeros((1008, inception_v3.DIM), np.float32)
  state["fc.bias"] = np.zeros(1008, np.float32)
  return state
