"""Everything that a training run changes, and where each part lies on the mesh."""

from typing import Any, Mapping

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import optax

from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.init import logical_axes
from cm3leon_jax.models.transformer import init_parameters
from cm3leon_jax.sharding import rules as rules_lib


@flax.struct.dataclass
class TrainState:
  """A pytree; the step maps one to the next.

  Attributes:
    step: int32, batches consumed: also the position of the input.
    params: the model's.
    opt_state: the optimizer's.
    ema: running mean of `params`, of the same tree; None when off.
    skipped: int32, steps left out because the gradient was not finite.
    skipped_in_row: int32, how many of the last ones.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  ema: Any
  skipped: jax.Array
  skipped_in_row: jax.Array


def init_state(config: TransformerConfig, optimizer: optax.GradientTransformation, key: jax.Array,
               use_ema: bool) -> TrainState:
  """The state before the first step."""
  params = init_parameters(config, key)
  step, skipped, skipped_in_row = (jnp.zeros((), jnp.int32) for _ in range(3))  # three buffers: they are donated
  ema = jax.tree.map(jnp.copy, params) if use_ema else None
  return TrainState(step=step, params=params, opt_state=optimizer.init(params), ema=ema, skipped=skipped,
                    skipped_in_row=skipped_in_row)


def abstract_state(config: TransformerConfig, optimizer: optax.GradientTransformation, use_ema: bool) -> TrainState:
  """The same as shapes and dtypes; makes no array."""
  return jax.eval_shape(lambda: init_state(config, optimizer, jax.random.key(0), use_ema))


def state_shardings(config: TransformerConfig, state: TrainState, mesh: Mesh,
                    rules: Mapping[str, rules_lib.MeshAxes]) -> TrainState:
  """A NamedSharding for every leaf of `state` (an abstract one will do).

  An optimizer's slot ends in the path of its parameter (`….mu.layers.qkv`) and has its shape: it lies
  where the parameter lies. Counters are replicated; a large slot that matches nothing is an error.
  """
  params = rules_lib.tree_shardings(logical_axes(config), state.params, rules, mesh)
  by_path = {tuple(map(str, path)): (leaf.shape, sharding) for (path, leaf), sharding in zip(
      jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(params))}
  replicated = NamedSharding(mesh, PartitionSpec())

  def slot(path, leaf):
    path = tuple(map(str, path))
    for start in range(len(path)):
      shape, sharding = by_path.get(path[start:], (None, None))
      if shape == leaf.shape:
        return sharding
    if leaf.size > 1024:
      raise rules_lib.ShardingError(f"optimizer slot {''.join(path)} of shape {leaf.shape} belongs to no parameter")
    return replicated

  return TrainState(step=replicated, params=params, opt_state=jax.tree_util.tree_map_with_path(slot, state.opt_state),
                    ema=None if state.ema is None else params, skipped=replicated, skipped_in_row=replicated)
