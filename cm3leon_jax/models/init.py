"""The table of parameters: shape, logical axis names and initial value of each, written once.

The model declares its parameters from it, `sharding/` reads the names, `planning/` the shapes.
Layers are stacked along a leading `layers` axis.
"""

from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp

from cm3leon_jax.models.config import TransformerConfig


class Parameter(NamedTuple):
  shape: tuple[int, ...]
  axes: tuple[str, ...]  # one logical name a dimension; rules.py maps them to mesh axes
  init: Callable  # (key, shape, dtype) → array


def truncated_normal(std: float) -> Callable:
  """Normal of this σ, cut at 3σ (PAPER §4.1)."""
  return lambda key, shape, dtype: (std * jax.random.truncated_normal(key, -3.0, 3.0, shape)).astype(dtype)


def _zeros(key, shape, dtype):
  return jnp.zeros(shape, dtype)


def _ones(key, shape, dtype):
  return jnp.ones(shape, dtype)


def _norm(config: TransformerConfig, name: str, shape: tuple, axes: tuple) -> dict[str, Parameter]:
  """Gain and bias of one normalisation; none for the paper's."""
  table = {}
  if config.norm != "layernorm_noaffine":
    table[f"{name}_scale"] = Parameter(shape, axes, _ones)
  if config.norm == "layernorm":
    table[f"{name}_bias"] = Parameter(shape, axes, _zeros)
  return table


def parameter_table(config: TransformerConfig) -> dict:
  """{name: Parameter, "layers": {name: Parameter}}; the same tree as the model's `params`."""
  c = config
  n, d, kv, g, h, m = c.num_layers, c.model_dim, c.num_kv_heads, c.queries_per_kv, c.head_dim, c.mlp_dim
  normal = truncated_normal(c.init_std)
  layers = {
    # One matmul makes queries, keys and values. Grouped by kv head, so that a tensor axis cuts between groups.
    "qkv": Parameter((n, d, kv, g + 2, h), ("layers", "embed", "kv_heads", "qkv", "head_dim"), normal),
    # Output projections start at zero: each block starts as the identity (PAPER §4.1).
    "attention_out": Parameter((n, kv, g, h, d), ("layers", "kv_heads", "qkv", "head_dim", "embed"), _zeros),
    "mlp_out": Parameter((n, m, d), ("layers", "mlp", "embed"), _zeros),
  }
  if c.activation == "swiglu":
    layers["mlp_in"] = Parameter((n, d, 2, m), ("layers", "embed", "gate", "mlp"), normal)
  else:
    layers["mlp_in"] = Parameter((n, d, m), ("layers", "embed", "mlp"), normal)
  layers |= _norm(c, "attention_norm", (n, d), ("layers", "norm"))
  layers |= _norm(c, "mlp_norm", (n, d), ("layers", "norm"))
  if c.qk_norm:
    q, q_axes = (n, kv, g, h), ("layers", "kv_heads", "qkv", "head_dim")
    k, k_axes = (n, kv, h), ("layers", "kv_heads", "head_dim")
    layers |= {"q_norm_scale": Parameter(q, q_axes, _ones), "q_norm_bias": Parameter(q, q_axes, _zeros)}
    layers |= {"k_norm_scale": Parameter(k, k_axes, _ones), "k_norm_bias": Parameter(k, k_axes, _zeros)}

  table = {"tokens": Parameter((c.vocab_size, d), ("vocab", "embed"), normal), "layers": layers}
  table |= _norm(c, "final_norm", (d,), ("norm",))
  place = truncated_normal(c.position_init_std)
  if c.position == "learned" and c.position_period:
    slots = -(-c.max_positions // c.position_period)
    table["position_offsets"] = Parameter((c.position_period, d), ("position", "embed"), place)
    table["position_slots"] = Parameter((slots, d), ("position", "embed"), place)
  elif c.position == "learned":
    table["positions"] = Parameter((c.max_positions, d), ("position", "embed"), place)
  if not c.tie_embeddings:
    table["head"] = Parameter((c.vocab_size, d), ("vocab", "embed"), normal)
  return table


def is_parameter(x) -> bool:
  return isinstance(x, Parameter)


def logical_axes(config: TransformerConfig) -> dict:
  """The tree of `params` with each leaf's logical axis names."""
  return jax.tree.map(lambda p: p.axes, parameter_table(config), is_leaf=is_parameter)


def abstract_parameters(config: TransformerConfig) -> dict:
  """The tree of `params` as shapes and dtypes; makes no array."""
  return jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.dtype(config.param_dtype)),
                      parameter_table(config), is_leaf=is_parameter)


def init_entry(config: TransformerConfig, name: str, key: jax.Array):
  """Initial value of one top-level entry of the table: an array, or for `layers` a dict of arrays."""
  leaves, tree = jax.tree.flatten(parameter_table(config)[name], is_leaf=is_parameter)
  dtype = jnp.dtype(config.param_dtype)
  return tree.unflatten([p.init(jax.random.fold_in(key, i), p.shape, dtype) for i, p in enumerate(leaves)])


def count_parameters(config: TransformerConfig) -> int:
  return sum(x.size for x in jax.tree.leaves(abstract_parameters(config)))
