"""AdamW, or Muon on the weight matrices with AdamW on the rest; warm-up, then polynomial decay.

The paper does not state its optimizer; these defaults follow the scaling-laws paper that it takes
rates and batch from (PAPER §4.3).
"""

import dataclasses

import jax
import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers

from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.init import Parameter, is_parameter, parameter_table

NAMES = ("adamw", "muon")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Hyperparameters.

  Attributes:
    name: `adamw`, or `muon` for the layers' matrices (embeddings and gains stay with AdamW).
    learning_rate: AdamW's peak.
    muon_learning_rate: Muon's peak; an update has singular values near 1, times sqrt(max(1, out/in)).
    warmup_steps: linear from 0 to the peak.
    end_fraction: the rate at the last step, over the peak.
    power: of the decay; 1 is linear.
    beta1, beta2, eps: AdamW's.
    muon_beta: momentum of Muon (Nesterov).
    muon_steps: Newton-Schulz iterations; each costs 3 matmuls a matrix.
    weight_decay: decoupled, times the rate; not applied to gains and biases of norms.
    clip: global norm that gradients are cut to.
    moment_dtype: of the first moment; empty is the parameters'.
  """

  name: str = "adamw"
  learning_rate: float = 6e-4
  muon_learning_rate: float = 0.02
  warmup_steps: int = 1500
  end_fraction: float = 0.1
  power: float = 1.0
  beta1: float = 0.9
  beta2: float = 0.98
  eps: float = 1e-8
  muon_beta: float = 0.95
  muon_steps: int = 5
  weight_decay: float = 0.1
  clip: float = 1.0
  moment_dtype: str = ""

  def __post_init__(self):
    if self.name not in NAMES:
      raise ValueError(f"optimizer name={self.name!r}; known: {', '.join(NAMES)}")


def schedule(config: OptimizerConfig, steps: int, peak: float) -> optax.Schedule:
  """Rate at each step: 0 → peak over the warm-up, peak → end_fraction·peak over the rest of `steps`."""
  warmup = min(config.warmup_steps, steps)
  return optax.join_schedules([
    optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1)),
    optax.polynomial_schedule(peak, config.end_fraction * peak, config.power, max(steps - warmup, 1)),
  ], [warmup])


def _muon_dimensions(name: str, p: Parameter) -> MuonDimensionNumbers | None:
  """Which axes of a stacked weight form one matrix; all others are batch axes, orthogonalised apart.

  So every layer stands alone, and so do queries, keys and values inside the fused `qkv`, and the two
  halves of a gated feed-forward. None: not a matrix of a layer, AdamW takes it.
  """
  index = {axis: i for i, axis in enumerate(p.axes)}
  if name == "qkv":
    return MuonDimensionNumbers(index["embed"], (index["kv_heads"], index["head_dim"]))
  if name == "attention_out":
    return MuonDimensionNumbers((index["kv_heads"], index["qkv"], index["head_dim"]), index["embed"])
  if name == "mlp_in":
    return MuonDimensionNumbers(index["embed"], index["mlp"])
  if name == "mlp_out":
    return MuonDimensionNumbers(index["mlp"], index["embed"])
  return None


def make_optimizer(config: OptimizerConfig, model: TransformerConfig, steps: int) -> optax.GradientTransformation:
  """The transformation for a run of `steps` steps; the rate depends on its own count of updates made."""
  def is_matrix(path, p):
    return not path[-1].key.endswith(("_scale", "_bias"))

  table = parameter_table(model)
  decayed = jax.tree_util.tree_map_with_path(is_matrix, table, is_leaf=is_parameter)
  rate = schedule(config, steps, config.learning_rate)
  moment_dtype = config.moment_dtype or None
  if config.name == "adamw":
    update = optax.adamw(rate, config.beta1, config.beta2, config.eps, weight_decay=config.weight_decay, mask=decayed,
                         mu_dtype=moment_dtype)
  else:
    dimensions = jax.tree_util.tree_map_with_path(lambda path, p: _muon_dimensions(path[-1].key, p), table,
                                                  is_leaf=is_parameter)
    update = optax.contrib.muon(
        schedule(config, steps, config.muon_learning_rate), ns_steps=config.muon_steps, beta=config.muon_beta,
        eps=config.eps, weight_decay=config.weight_decay, mu_dtype=moment_dtype, adam_b1=config.beta1,
        adam_b2=config.beta2, adam_weight_decay=config.weight_decay, adam_learning_rate=rate,
        muon_weight_dimension_numbers=dimensions)
  return optax.chain(optax.clip_by_global_norm(config.clip), update)
