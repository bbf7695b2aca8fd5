"""LPIPS (Zhang et al. 2018, arXiv:1801.03924): how different two pictures look, by VGG16's features and learned weights.

The variant of the public package and of taming-transformers' perceptual loss: `vgg`, version 0.1. Public weights:
weights/lpips.py.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Widths of the convolutions of each of VGG16's five stages; a stage begins with 2 × 2 maxima of the one before.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Of pixels in −1..1: the package's numbers for ImageNet's means and deviations.
_SHIFT = np.array((-0.030, -0.088, -0.188), np.float32)
_SCALE = np.array((0.458, 0.448, 0.450), np.float32)
_EPSILON = 1e-10


class VGG16(nn.Module):
  """Pixels in −1..1 [B, H, W, 3] → what leaves each stage: [B, H, W, 64], [B, H/2, W/2, 128] … [B, H/16, W/16, 512]."""

  @nn.compact
  def __call__(self, x: jax.Array) -> list[jax.Array]:
    x = (x - _SHIFT) / _SCALE
    found = []
    for stage, widths in enumerate(STAGES, 1):
      if stage > 1:
        x = nn.max_pool(x, (2, 2), (2, 2))
      for i, width in enumerate(widths, 1):
        x = nn.relu(nn.Conv(width, (3, 3), padding=1, name=f"conv{stage}_{i}")(x))
      found.append(x)
    return found


class LPIPS(nn.Module):
  """Two batches of pictures in −1..1, [B, H, W, 3] of at least 16 px → distances float32[B].

  Differentiable everywhere; in training its parameters are not among those that are trained.
  """

  @nn.compact
  def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
    features = VGG16(name="vgg16")(jnp.concatenate([first, second]).astype(jnp.float32))
    total = jnp.zeros(len(first), jnp.float32)
    for stage, x in enumerate(features, 1):
      weights = self.param(f"head{stage}", nn.initializers.ones, (x.shape[-1],))
      a, b = jnp.split(_unit(x), 2)
      total = total + jnp.square(a - b).mean((1, 2)) @ weights
    return total


def _unit(x: jax.Array) -> jax.Array:
  """Along the channels; where all are 0, 0 with a gradient of 0."""
  squares = jnp.square(x).sum(-1, keepdims=True)
  norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
  return x / (norm + _EPSILON)
