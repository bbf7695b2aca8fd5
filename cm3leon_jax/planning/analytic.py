"""Bytes, FLOPs and seconds of a training step from shapes alone: in a second, for any number of devices, GPUs too.

Parameters, optimizer and gradients are exact (the real state's shapes under the real sharding rules); activations follow
the remat policy; what compilers add (copies, fragmentation, overlap) is in constants that were set once against steps
compiled for v5e and v5p (`docs/plans.md` shows both side by side). It cannot see a kernel's speed or a network's hops.
"""

import dataclasses
import math
from typing import Any, Mapping

import jax

from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.init import abstract_parameters
from cm3leon_jax.planning.hlo_cost import Chip
from cm3leon_jax.training.metrics import train_flops_per_token

LANES = 128  # a TPU array's last dimension is padded to as many elements, and its matrix unit is as wide
BLOCK = 512  # of attention's kernel: those on the diagonal are computed whole
MATMUL_RATE = 0.985  # of the peak: XLA:TPU's schedule of large matmuls with 32 MiB of VMEM
GPU_MATMUL_RATE = 0.65  # of the data sheet's peak, which a GPU's power limit does not let it hold; not measured here
# Passes over a [rows, length, width] bf16 array that one layer's forward and backward make, and those of recomputing it.
PASSES, PASSES_AGAIN = 72, 26
STACKED = 4  # passes over what is kept: made, stacked, taken out, read
LOGIT_BYTES = 22  # moved for each logit
WEIGHT_PASSES = 5  # over the bf16 weights
UNHIDDEN = 0.75  # of the memory traffic's time does not run beside a matmul


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on one device; `total` is compared with what the device has."""

  parameters: int
  optimizer: int
  ema: int
  gradients: int
  activations: int
  temporaries: int

  @property
  def total(self) -> int:
    return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Costs:
  """Of one step on one device: FLOPs with recomputation, bytes to and from memory, bytes sent by kind, seconds."""

  flops: float
  hbm_bytes: float
  collective_bytes: Mapping[str, float]
  compute_seconds: float
  memory_seconds: float
  network_seconds: float
  blocking_seconds: float

  @property
  def step_seconds(self) -> float:
    """Element-wise work beside the matmuls is not hidden by them; gathers of weights are, sums of gradients are not."""
    busy = self.compute_seconds + self.memory_seconds
    return max(busy, self.network_seconds) + self.blocking_seconds

  @property
  def bound(self) -> str:
    times = {"matmuls": self.compute_seconds, "memory": self.memory_seconds,
             "network": self.network_seconds + self.blocking_seconds}
    return max(times, key=times.get)


def shard_bytes(tree: Any, shardings: Any) -> int:
  """Bytes of one device's part of a tree of abstract arrays."""
  sizes = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings)
  return sum(jax.tree.leaves(sizes))


def kept_per_token(c: TransformerConfig, tensor: int, pad: bool) -> float:
  """Bytes that one layer keeps of a token for the backward pass, by remat policy; its input (2·D) is always kept."""
  head = -(-c.head_dim // LANES) * LANES if pad else c.head_dim
  attention = 2 * c.num_heads * head / tensor + 4 * c.num_heads / tensor  # output and log-sum
  qkv = 2 * (c.num_heads + 2 * c.num_kv_heads) * head / tensor
  gates = 2 if c.activation == "swiglu" else 1
  mlp_in = 2 * c.mlp_dim * gates / tensor
  once = 2 * c.model_dim
  return {
      "full": once,
      "attention": once + attention,
      "projections": once + attention + qkv + mlp_in,
      "dots": once + qkv + mlp_in + 2 * once,  # and both output projections
      "none": 4 * once + attention + qkv + 2 * mlp_in,  # both norms' outputs, the middle residual, the activation
  }[c.remat]


def recomputed_share(c: TransformerConfig, length: int) -> float:
  """FLOPs of one layer that the backward pass computes again, over those of its forward pass."""
  d, gates = c.model_dim, 2 if c.activation == "swiglu" else 1
  qkv = d * (c.num_heads + 2 * c.num_kv_heads) * c.head_dim
  out, mlp_in, mlp_out = d * d, gates * d * c.mlp_dim, c.mlp_dim * d
  scores = length * d  # causal: half of two matmuls of L·D
  all_ = qkv + out + mlp_in + mlp_out + scores
  # The last projection is never made again: its output is only added.
  again = {"full": qkv + out + mlp_in + scores, "attention": qkv + out + mlp_in, "projections": out, "dots": scores,
           "none": 0}[c.remat]
  return again / all_


def memory(c: TransformerConfig, state: Any, shardings: Any, *, rows: int, length: int, parts: int, chunk: int,
           mesh: Mapping[str, int], pad: bool) -> Memory:
  """Bytes on one device.

  Args:
    state, shardings: the abstract train state and where it lies.
    rows: of one device, computed at once; `length` tokens each, before the sequence axis splits them.
    parts: parts of the batch; above 1 a second gradient is kept.
    chunk: tokens of the length whose logits exist at once, 0 for all.
    pad: whether narrow heads are padded (TPU).
  """
  tensor, own = mesh.get("tensor", 1), length // mesh.get("sequence", 1)
  tokens = rows * own
  parameters = shard_bytes(state.params, shardings.params)
  table = 4 * c.vocab_size * c.model_dim / tensor
  abstract = abstract_parameters(c)
  layer = sum(x.size for x in jax.tree.leaves(abstract["layers"])) / c.num_layers / tensor
  scores = 0 if pad else rows * own * length  # cuDNN is given a mask, a byte a pair of tokens
  inside = tokens * (2 * 4 * c.model_dim + 2 * 2 * c.mlp_dim / tensor) + scores
  logits = rows * min(chunk or own, own) * c.vocab_size * (4 + 2) / tensor
  # Layers and head are not at work at the same time; weights are gathered ahead of their use.
  temporaries = max(inside + 1.5 * 2 * layer * 2, logits + 1.5 * table)
  return Memory(parameters=parameters, optimizer=shard_bytes(state.opt_state, shardings.opt_state),
                ema=0 if state.ema is None else parameters, gradients=parameters * (1 if parts == 1 else 2),
                activations=int(c.num_layers * tokens * kept_per_token(c, tensor, pad)), temporaries=int(temporaries))


def costs(c: TransformerConfig, chip: Chip, mesh: Mapping[str, int], *, rows: int, length: int, parts: int,
          state_bytes: int, gpu: bool = False) -> Costs:
  """Of one step: `parts` times forward and backward of `rows` rows a device, and one update.

  Args:
    state_bytes: of parameters and optimizer on one device.
  """
  tensor, sequence = mesh.get("tensor", 1), mesh.get("sequence", 1)
  fsdp, data = mesh.get("fsdp", 1), mesh.get("data", 1)
  own = length // sequence
  tokens = rows * own * parts
  model = train_flops_per_token(c, length) * tokens / tensor
  head = 6.0 * c.vocab_size * c.model_dim * tokens / tensor
  # A fused attention kernel computes its scores again in the backward pass: 9 matmuls of [L, L/2 and half a block] for 6.
  kernel = c.num_layers * c.num_heads * c.head_dim * length * tokens / tensor * (9 * (1 + BLOCK / length) - 6)
  flops = model + kernel + (model - head) / 3 * recomputed_share(c, length)
  kept = kept_per_token(c, tensor, pad=not gpu) - 2 * c.model_dim
  share = recomputed_share(c, length) / recomputed_share(dataclasses.replace(c, remat="full"), length)
  wide = 2 * c.model_dim * tokens
  weights = sum(x.size for x in jax.tree.leaves(abstract_parameters(c))) / tensor
  sent = {}
  if fsdp > 1:  # weights in bf16, for both passes; gradients summed by an all-reduce over the whole slice
    sent["all-gather"] = parts * 2 * 2 * weights * (fsdp - 1) / fsdp
    sent["all-reduce"] = parts * 2 * 2 * weights * (fsdp - 1) / fsdp
  if data > 1:
    sent["all-reduce"] = sent.get("all-reduce", 0.0) + parts * 2 * 2 * weights / fsdp * (data - 1) / data
  if tensor > 1:  # two sums of activations a layer and pass, and one again when the layer is computed again
    sums = 4 + (c.remat in ("full", "attention", "projections"))
    sent["all-reduce"] = sent.get("all-reduce", 0.0) + c.num_layers * sums * 2 * wide * (tensor - 1) / tensor
  if sequence > 1:  # attention's inputs and cotangents with the length whole: docs/sharding.md
    sent["all-gather"] = sent.get("all-gather", 0.0) + c.num_layers * 4 * wide * (sequence - 1)
  hbm = (c.num_layers * (wide * (PASSES + PASSES_AGAIN * share) + STACKED * kept * tokens)
         + LOGIT_BYTES * c.vocab_size * tokens / tensor + WEIGHT_PASSES * 2 * weights * parts + 4 * state_bytes)
  compute = flops / (chip.flops * (GPU_MATMUL_RATE if gpu else MATMUL_RATE))
  if not gpu and c.head_dim % LANES:  # matmuls from and to narrow heads leave a part of the unit idle
    heads = 2 * c.model_dim * (2 * c.num_heads + 2 * c.num_kv_heads) * c.head_dim / tensor * c.num_layers * tokens
    compute += heads * (3 + share) * (-(-c.head_dim // LANES) * LANES / c.head_dim - 1) / chip.flops
  return Costs(flops=flops, hbm_bytes=hbm, collective_bytes=sent, compute_seconds=compute,
               memory_seconds=UNHIDDEN * hbm / chip.hbm, network_seconds=sent.get("all-gather", 0.0) / chip.ici,
               blocking_seconds=sent.get("all-reduce", 0.0) / chip.ici)
