"""What a run has cost since its first step, over all restarts: tokens, FLOPs, device-hours."""

import dataclasses
import time
from typing import Mapping

import jax
import jax.numpy as jnp

from cm3leon_jax.vocabulary import Vocabulary

_SEEN = "seen_"


def seen_tokens(batch: Mapping[str, jax.Array], vocabulary: Vocabulary) -> dict[str, jax.Array]:
  """`seen_text`, `seen_image`, `seen_special`: int32 counts of the inputs that are not padding, whatever their weight."""
  ids, there = batch["inputs"], batch["segment_ids"] > 0
  image, special = vocabulary.is_image(ids), vocabulary.is_special(ids)
  parts = {"text": ~image & ~special, "image": image, "special": special}
  return {_SEEN + name: jnp.sum(part & there, dtype=jnp.int32) for name, part in parts.items()}


@dataclasses.dataclass
class Totals:
  """Saved with each checkpoint: a resumed run goes on counting where that one stood.

  Attributes:
    tokens: inputs trained on, padding not counted; the next three are its parts.
    flops: model FLOPs of all positions, padding counted, as in MFU; recomputation is not.
    device_hours: devices × hours since the run's start, compilation and evaluations counted. What was
      lost with a kill is not in it.
  """

  tokens: int = 0
  tokens_text: int = 0
  tokens_image: int = 0
  tokens_special: int = 0
  flops: float = 0.0
  device_hours: float = 0.0

  def start(self, devices: int) -> None:
    """The clock of `device_hours` runs from now on."""
    self._devices, self._since, self._before = devices, time.monotonic(), self.device_hours

  def count(self, metrics: dict[str, float], flops: float) -> None:
    """Adds a step, and takes what `seen_tokens` gave out of its metrics."""
    for name in [name for name in metrics if name.startswith(_SEEN)]:
      seen = int(metrics.pop(name))
      field = "tokens_" + name.removeprefix(_SEEN)
      setattr(self, field, getattr(self, field) + seen)
      self.tokens += seen
    self.flops += flops
    self.device_hours = self._before + self._devices * (time.monotonic() - self._since) / 3600

  def row(self) -> dict[str, float]:
    """For metrics.jsonl: `total_tokens`, …, `total_flops`, `device_hours`."""
    fields = dataclasses.asdict(self)
    hours = round(fields.pop("device_hours"), 6)
    return {f"total_{name}": value for name, value in fields.items()} | {"device_hours": hours}
