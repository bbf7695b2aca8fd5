"""What a run writes about itself: rows for the sinks, a progress bar; and the FLOPs behind MFU."""

import math
import sys
import time
from typing import Mapping

from etils import epath
import jax
import tqdm

from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.init import abstract_parameters
from cm3leon_jax.training import sinks
from cm3leon_jax.training.losses import MODALITIES

# Dense bf16 peak of one device in FLOP/s, by the start of `device_kind` (vendors' data sheets).
PEAK_FLOPS = {
  "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5p": 459e12, "TPU v5": 459e12,
  "TPU v6 lite": 918e12, "TPU v6e": 918e12, "NVIDIA A100": 312e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12,
}


def train_flops_per_token(config: TransformerConfig, length: int) -> float:
  """Model FLOPs of one token's forward and backward pass, recomputation not counted.

  6 a weight that a token is multiplied with (the layers and the head, not the lookups), and for causal
  attention 6·layers·L·D: two matmuls of L·D multiply-adds a token, three passes, half of them masked.
  """
  abstract = abstract_parameters(config)
  matrices = sum(x.size for name, x in abstract["layers"].items() if not name.endswith(("_scale", "_bias")))
  head = config.vocab_size * config.model_dim
  return 6.0 * (matrices + head) + 6.0 * config.num_layers * length * config.num_heads * config.head_dim


def peak_flops(devices) -> float | None:
  """Peak of all `devices` together; None where it is not known (CPU)."""
  for name, peak in PEAK_FLOPS.items():
    if devices[0].device_kind.startswith(name):
      return peak * len(devices)
  return None


class Reporter:
  """Rows of a run to the sinks and the progress bar. Writes on process 0 only."""

  def __init__(self, workdir: epath.Path, step: int, steps: int, flops_per_token: float, devices,
               wandb_project: str = ""):
    """`step` is the one restored (0 at first), `steps` the run's total."""
    self._flops, self._peak = flops_per_token, peak_flops(devices)
    self._main = jax.process_index() == 0
    self._sinks = []
    if self._main:
      self._sinks.append(sinks.JsonLines(workdir / "metrics.jsonl", step))
      try:
        self._sinks.append(sinks.TensorBoard(workdir / "tensorboard", step))
      except ImportError:
        print("tensorboard is not installed: no event files", file=sys.stderr)
      try:
        self._sinks += [sinks.WandB(workdir, wandb_project)] if wandb_project else []
      except ImportError:
        print(f"wandb is not installed: nothing goes to its project {wandb_project}", file=sys.stderr)
    self._bar = tqdm.tqdm(total=steps, initial=step, desc="train", file=sys.stderr, mininterval=1.0, unit="step",
                          disable=not self._main)
    self._time, self._tokens, self._smooth = time.perf_counter(), 0, None

  def count(self, tokens: int) -> None:
    """A step of `tokens` tokens was dispatched."""
    self._tokens += tokens
    self._bar.update()

  def pause(self) -> None:
    """Time until now (an evaluation, a checkpoint) does not count as training."""
    self._time, self._tokens = time.perf_counter(), 0

  def train(self, step: int, metrics: Mapping[str, float]) -> None:
    """A row of the training loss: all of `metrics` as they are, perplexities, tokens/s, MFU."""
    now = time.perf_counter()
    speed = self._tokens / (now - self._time) if self._tokens else None
    self._time, self._tokens = now, 0
    row = {"step": step, **with_perplexity(metrics), "tokens_per_second": speed and round(speed, 1)}
    if speed and self._peak:
      row["mfu"] = round(self._flops * speed / self._peak, 4)
    self._write(row)
    shown = metrics["loss_image"] if metrics["tokens_image"] else metrics["loss"]
    self._smooth = shown if self._smooth is None or not math.isfinite(shown) else 0.9 * self._smooth + 0.1 * shown
    self._bar.set_postfix(nats=f"{self._smooth:.3f}", tokens_s=f"{speed or 0:.0f}", refresh=False)

  def evaluation(self, step: int, name: str, metrics: Mapping[str, float]) -> None:
    """A row of held-out losses, keys prefixed `name/`."""
    row = {f"{name}/{k}": v for k, v in with_perplexity(metrics).items()}
    self._write({"step": step, **row})
    if self._main:
      losses = ", ".join(f"{m} {metrics[f'loss_{m}']:.4f}" for m in MODALITIES)
      self._bar.write(f"step {step} · {name}: {losses}", file=sys.stderr)

  def _write(self, row: Mapping) -> None:
    for sink in self._sinks:
      sink.write(row)

  def flush(self) -> None:
    """Everything so far is on disk, or in the bucket."""
    for sink in self._sinks:
      sink.flush()

  def close(self) -> None:
    for sink in self._sinks:
      sink.close()
    self._bar.close()


def with_perplexity(metrics: Mapping[str, float]) -> dict[str, float]:
  """Adds `perplexity_…` of each modality that occurs."""
  row = {}
  for name, value in metrics.items():
    row[name] = value
    modality = name.removeprefix("loss_")
    if name != modality and modality in MODALITIES and metrics["tokens_" + modality]:
      row["perplexity_" + modality] = math.exp(min(value, 50.0))
  return row
