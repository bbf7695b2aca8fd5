"""Logits rules: pure functions, applied in one fixed order (`ORDER`).

guidance or contrast → grammar → temperature → top-k → top-p → sample

Shapes: B rows (candidates), V columns of the head (not always the whole vocabulary: `ids` [V]
names them). Settings are arrays [B], so that one compiled program serves any mix of requests.
A logit of -inf means impossible. Ties are kept together: what is cut never depends on the order
of the columns.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cm3leon_jax.errors import InputError

ORDER = ("guidance or contrast", "grammar", "temperature", "top_k", "top_p", "sample")
_LOWEST = -87.0  # log of the smallest normal float32: a floor for an amateur's log-probability


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Settings of one request.

  Attributes:
    guidance: weight of the text, logits = u + s (c - u); 1 = no guidance.
    image_guidance: weight of the input image in edits (two-way guidance).
    contrast: share of the candidates that are drawn by CD-K instead of guidance (the paper's
      best result mixes half and half).
    contrast_k: k of CD-K: plausible is what has at least `contrast_alpha` times the k-th largest
      probability. The paper leaves both open.
    contrast_alpha: see `contrast_k`.
    temperature: 0 = the most likely token.
    top_k: keep the k most likely; 0 = all.
    top_p: keep the smallest set of most likely tokens with this mass; 1 = all. CD-K candidates
      do without it, as plausibility already cuts the tail.
  """

  guidance: float = 3.0
  image_guidance: float = 1.5
  contrast: float = 0.0
  contrast_k: int = 8
  contrast_alpha: float = 0.5
  temperature: float = 0.9
  top_k: int = 0
  top_p: float = 0.9

  def __post_init__(self):
    for name, low, high in (("guidance", 0, 100), ("image_guidance", 0, 100), ("contrast", 0, 1),
                            ("contrast_alpha", 0, 1), ("temperature", 0, 100), ("top_p", 0, 1)):
      value = getattr(self, name)
      if not low <= value <= high:
        raise InputError(f"{name}={value} must lie in {low}..{high}")
    if self.top_p == 0:
      raise InputError("top_p=0 keeps nothing: for the most likely token use temperature=0")
    if self.top_k < 0 or self.contrast_k < 1:
      raise InputError(f"top_k={self.top_k} must be at least 0 and contrast_k={self.contrast_k} at least 1")

  def contrasted(self, candidate: int, candidates: int) -> bool:
    """Whether candidate number `candidate` is drawn by CD-K: the last ones are."""
    return candidate >= candidates - round(self.contrast * candidates)

  def describe(self, streams: int) -> list[str]:
    """The rules in the order in which they are applied, with their settings."""
    two_way = f"two-way guidance (text {self.guidance:g}, image {self.image_guidance:g})"
    lines = [] if streams == 1 else [two_way if streams == 3 else f"guidance {self.guidance:g}"]
    if streams > 1 and self.contrast:
      lines = [f"{lines[0]}; CD-K (k={self.contrast_k}, alpha={self.contrast_alpha:g}) "
               f"for the last {self.contrast:.0%} of the candidates"]
    lines.append("grammar")
    if self.temperature == 0:
      return lines + ["most likely token"]
    lines.append(f"temperature {self.temperature:g}")
    lines += [f"top_k {self.top_k}"] if self.top_k else []
    lines += [f"top_p {self.top_p:g}"] if self.top_p < 1 else []
    return lines + ["sample"]


def guide(conditional, unconditional, scale):
  """u + s (c - u), [B, V] with scale [B]; written so that scale 1 gives exactly c.

  What c finds impossible stays so; where only u does, there is nothing to push from: c stays.
  """
  return jnp.where(jnp.isfinite(conditional) & jnp.isfinite(unconditional),
                   conditional + (scale[:, None] - 1) * (conditional - unconditional), conditional)


def guide_two_way(full, image_only, unconditional, text_scale, image_scale):
  """u + s_I (i - u) + s_T (f - i), [B, V] with scales [B] (InstructPix2Pix, paper §4.1)."""
  finite = jnp.isfinite(full) & jnp.isfinite(image_only) & jnp.isfinite(unconditional)
  guided = full + (text_scale[:, None] - 1) * (full - image_only) + (image_scale[:, None] - 1) * (
      image_only - unconditional)
  return jnp.where(finite, guided, full)


def contrast(expert, amateur, k, alpha):
  """CD-K (paper Eq. 3): log p_expert - log p_amateur where p_expert ≥ alpha · (k-th largest p_expert), else -inf.

  Args:
    expert: [B, V] logits given the text.
    amateur: [B, V] logits given a sentinel in its place.
    k: int[B].
    alpha: [B] in 0..1.
  """
  expert, amateur = jax.nn.log_softmax(expert), jax.nn.log_softmax(amateur)
  kth = _kth_largest(expert, k)
  plausible = (expert >= kth + jnp.log(alpha)[:, None]) & (expert > -jnp.inf)
  return jnp.where(plausible, expert - jnp.maximum(amateur, _LOWEST), -jnp.inf)


def allow(logits, ids, ranges):
  """Grammar: [B, V] logits, -inf for ids int[V] outside `ranges` int[B, R, 2] (half-open)."""
  inside = (ids[None, :, None] >= ranges[:, None, :, 0]) & (ids[None, :, None] < ranges[:, None, :, 1])
  return jnp.where(inside.any(axis=-1), logits, -jnp.inf)


def temper(logits, temperature):
  """[B, V] / [B]; rows of temperature 0 stay as they are (`sample` takes their maximum)."""
  return logits / jnp.where(temperature > 0, temperature, 1.0)[:, None]


def keep_top_k(logits, k):
  """-inf below the k-th largest of each row; k int[B], 0 = all. Ties with the k-th stay."""
  kth = _kth_largest(logits, jnp.maximum(k, 1))
  return jnp.where((logits >= kth) | (k == 0)[:, None], logits, -jnp.inf)


def keep_top_p(logits, p):
  """Nucleus: the most likely tokens until their mass reaches p [B], all ties of the last one; p ≥ 1 = all."""
  ordered = jnp.sort(logits, axis=-1, descending=True)
  mass = jnp.cumsum(jax.nn.softmax(ordered), axis=-1)
  # Kept are those before which the mass is still below p; the first one always is.
  last = jnp.sum(mass < p[:, None], axis=-1)
  threshold = jnp.take_along_axis(ordered, jnp.minimum(last, logits.shape[-1] - 1)[:, None], axis=-1)
  return jnp.where((logits >= threshold) | (p >= 1)[:, None], logits, -jnp.inf)


def sample(logits, keys, temperature):
  """int32[B]: a column drawn per row with its own key [B]; the maximum where temperature is 0 (first of ties)."""
  drawn = jax.vmap(jax.random.categorical)(keys, logits)
  return jnp.where(temperature > 0, drawn, jnp.argmax(logits, axis=-1)).astype(jnp.int32)


def _kth_largest(values, k):
  """[B, 1] the k-th largest of each row of [B, V]; k int[B] ≥ 1, at most V."""
  ordered = jnp.sort(values, axis=-1, descending=True)
  return jnp.take_along_axis(ordered, jnp.minimum(k, values.shape[-1])[:, None] - 1, axis=-1)
