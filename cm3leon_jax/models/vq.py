"""Vector quantisation: nearest code, the codebook as running means, k-means start, dead codes revived.

Pure functions on arrays; the codebook is [codes, dim] float32. Source: van den Oord et al. 2017, appendix A.1
(running means); the straight-through gradient and β = 0.25 as in PAPER §1.1.
"""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class RunningCodebook:
  """A codebook whose entries are running means of the vectors assigned to them.

  Attributes:
    codebook: float32 [codes, dim], what is looked up.
    counts: float32 [codes], running number of vectors per step and code.
    sums: float32 [codes, dim], running sum of those vectors.
  """
  codebook: jax.Array
  counts: jax.Array
  sums: jax.Array


def nearest(vectors: jax.Array, codebook: jax.Array) -> jax.Array:
  """Index of the nearest code in squared distance, float32; the lowest index of several equally near.

  Args:
    vectors: [..., dim].
    codebook: [codes, dim].

  Returns:
    int32 [...].
  """
  codebook = codebook.astype(jnp.float32)
  dot = jnp.einsum("...d,cd->...c", vectors.astype(jnp.float32), codebook, precision=jax.lax.Precision.HIGHEST)
  return jnp.argmin(jnp.sum(codebook * codebook, axis=-1) - 2.0 * dot, axis=-1).astype(jnp.int32)


def straight_through(vectors: jax.Array, quantised: jax.Array) -> jax.Array:
  """`quantised` in the forward pass, the gradient of `vectors` in the backward pass."""
  return vectors + jax.lax.stop_gradient(quantised - vectors)


def start(codebook: jax.Array) -> RunningCodebook:
  """Running means that begin at `codebook` [codes, dim], each entry as if seen once a step."""
  codebook = codebook.astype(jnp.float32)
  return RunningCodebook(codebook, jnp.ones(codebook.shape[0]), codebook)


def update(running: RunningCodebook, vectors: jax.Array, codes: jax.Array, decay: float) -> RunningCodebook:
  """One step of the running means, with `vectors` [n, dim] assigned to `codes` [n]."""
  size = running.codebook.shape[0]
  counts = decay * running.counts + (1 - decay) * jax.ops.segment_sum(jnp.ones(codes.shape), codes, size)
  sums = decay * running.sums + (1 - decay) * jax.ops.segment_sum(vectors, codes, size)
  # A code that nobody asks for keeps its place; its count only decays.
  codebook = jnp.where(counts[:, None] > 1e-5, sums / jnp.maximum(counts, 1e-5)[:, None], running.codebook)
  return RunningCodebook(codebook, counts, sums)


def revive(running: RunningCodebook, vectors: jax.Array, codes: jax.Array, key: jax.Array,
           threshold: float) -> RunningCodebook:
  """Moves codes whose running count fell below `threshold` to vectors of this batch that are badly served.

  Vectors [n, dim] are drawn without replacement with chance in proportion to their squared error (as k-means++ does).
  """
  size = running.codebook.shape[0]
  error = jnp.sum((vectors - running.codebook[codes]) ** 2, axis=-1)
  scores = jnp.log(error + 1e-12) + jax.random.gumbel(key, error.shape)  # Gumbel top-k: a draw without replacement
  slots = min(size, vectors.shape[0])
  _, drawn = jax.lax.top_k(scores, slots)
  dead = running.counts < threshold
  rank = jnp.cumsum(dead) - 1  # the i-th dead code takes the i-th drawn vector
  dead = dead & (rank < slots)
  new = vectors[drawn[jnp.clip(rank, 0, slots - 1)]]
  counts = jnp.where(dead, 2 * threshold, running.counts)
  return RunningCodebook(
      codebook=jnp.where(dead[:, None], new, running.codebook),
      counts=counts,
      sums=jnp.where(dead[:, None], new * counts[:, None], running.sums),
  )


def kmeans(vectors: jax.Array, size: int, key: jax.Array, iterations: int = 12) -> jax.Array:
  """A codebook [size, dim] by k-means on `vectors` [n, dim]: Lloyd's rounds, empty clusters moved in each.

  Not scikit-learn's: this module must run where only JAX is installed, and 12 rounds are enough for a start.
  """
  keys = jax.random.split(key, iterations + 1)
  vectors = vectors.astype(jnp.float32)
  running = start(vectors[jax.random.choice(keys[0], vectors.shape[0], (size,), replace=vectors.shape[0] < size)])

  @jax.jit
  def round_(running: RunningCodebook, key: jax.Array) -> RunningCodebook:
    codes = nearest(vectors, running.codebook)
    running = update(running, vectors, codes, decay=0.0)
    return revive(running, vectors, codes, key, threshold=0.5)

  for key in keys[1:-1]:
    running = round_(running, key)
  # The last round moves no code to a single vector.
  return update(running, vectors, nearest(vectors, running.codebook), decay=0.0).codebook


def perplexity(counts: jax.Array) -> jax.Array:
  """exp of the entropy of the use of the codes: the number of codes that evenly used would carry as much."""
  share = counts / jnp.maximum(jnp.sum(counts), 1e-9)
  return jnp.exp(-jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-20)), 0.0)))
