"""A frozen feature network: pictures in, one vector each out, in jitted batches of one size."""

import concurrent.futures
import dataclasses
import functools
from typing import Any, Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

BATCH = 16  # on two CPU cores as fast as any larger one, and the least is lost to padding


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
  """What a distance between sets of pictures is measured by.

  Attributes:
    name: for people, e.g. "FD (EfficientNet-Lite0)"; only InceptionV3 with pytorch-fid's weights may say FID.
    key: of the distance in results, e.g. `fd_efficientnet_lite0`.
    dim: D, numbers a picture.
    weights_hash: of the weight file, 16 hex digits.
    published: whether that is the file that published numbers come from.
    preprocessing: what happens to a picture first, in words.
    params: pytree.
    function: (params, float32[B, H, W, 3] in 0..255) → float32[B, D]; jitted here. One object per network,
      so that loading twice compiles once.
    resize: uint8[H, W, 3] → float32[H', W', 3], done to each picture on the host first; None for nothing.
  """
  name: str
  key: str
  dim: int
  weights_hash: str
  published: bool
  preprocessing: str
  params: Any = dataclasses.field(repr=False)
  function: Callable[[Any, jax.Array], jax.Array] = dataclasses.field(repr=False)
  resize: Callable[[np.ndarray], np.ndarray] | None = dataclasses.field(default=None, repr=False)

  def __post_init__(self):
    object.__setattr__(self, "params", jax.device_put(self.params))
    object.__setattr__(self, "_jitted", jax.jit(self.function))

  def features(self, images: np.ndarray) -> np.ndarray:
    """uint8[N, H, W, 3] → float32[N, D].

    Raises:
      ValueError: `images` is of another shape or type.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
      raise ValueError(f"images must be uint8[N, H, W, 3], got {images.dtype}{list(images.shape)}")
    out = np.empty((len(images), self.dim), np.float32)
    pending = None  # fetched one batch late, so that the next one is prepared while this one computes
    size = min(BATCH, 1 << max(len(images) - 1, 0).bit_length())  # a few pictures need no large batch
    for start in range(0, len(images), size):
      batch = images[start:start + size]
      batch = batch if self.resize is None else np.stack(list(_threads().map(self.resize, batch)))
      padded = np.zeros((size,) + batch.shape[1:], np.float32)
      padded[:len(batch)] = batch
      previous, pending = pending, (start, len(batch), self._jitted(self.params, padded))
      _store(out, previous)
    _store(out, pending)
    return out


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
  return concurrent.futures.ThreadPoolExecutor(thread_name_prefix="resize")


def _store(out: np.ndarray, pending) -> None:
  if pending is not None:
    start, size, features = pending
    out[start:start + size] = features[:size]


def fold_batch_norm(state: Mapping[str, np.ndarray], conv: str, norm: str, epsilon: float) -> dict[str, np.ndarray]:
  """A convolution without bias and the BatchNorm after it, as one convolution with a bias.

  Args:
    state: PyTorch names → arrays; `{conv}.weight` is [out, in, h, w].

  Returns:
    `kernel` float32[h, w, in, out] and `bias` float32[out].

  Raises:
    KeyError: a tensor is missing.
  """
  variance = state[f"{norm}.running_var"].astype(np.float64)
  scale = state[f"{norm}.weight"].astype(np.float64) / np.sqrt(variance + epsilon)
  kernel = state[f"{conv}.weight"].astype(np.float64) * scale[:, None, None, None]
  bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
  return {"kernel": kernel.transpose(2, 3, 1, 0).astype(np.float32), "bias": bias.astype(np.float32)}


def check_shapes(params: Any, expected: Any, path: str) -> str:
  """Compares parameter trees; returns one sentence on the first difference, empty when there is none."""
  got = {jax.tree_util.keystr(k): np.shape(v) for k, v in jax.tree_util.tree_leaves_with_path(params)}
  want = {jax.tree_util.keystr(k): np.shape(v) for k, v in jax.tree_util.tree_leaves_with_path(expected)}
  for name in want:
    if got.get(name) != want[name]:
      return f"{path}: {name} is {got.get(name)}, expected {want[name]}"
  return ""


def shapes_of(module, size: int) -> Any:
  """Abstract parameters of a module that takes float32[1, size, size, 3]."""
  return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]
