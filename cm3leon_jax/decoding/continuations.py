"""Log-probabilities of given continuations of one prompt: what ranks answers to choose from.

The prompt is read once; the continuations attend to its keys and values side by side.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.decoding import program, rules
from cm3leon_jax.decoding.prompts import Prompt
from cm3leon_jax.errors import InputError
from cm3leon_jax.models import attention
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.transformer import Transformer, block

_PLACES = 64  # sizes are rounded up to these, so that few shapes are compiled
_STEPS = 8


def log_probs(config: TransformerConfig, params: dict, prompt: Prompt, continuations: list[np.ndarray]) -> list[np.ndarray]:
  """Of each continuation int[n], float32[n]: what `Output.log_probs` would hold had the model drawn it.

  Args:
    config: of the model.
    params: made by `program.unstacked`.
    prompt: to be continued; its plan says where each token stands and which ids are legal there.
    continuations: ids, each of 1 to `prompt.steps` tokens.

  Raises:
    InputError: a continuation is empty, or longer than the plan; the model's logits are not finite.
  """
  for n, ids in enumerate(continuations):
    if not 0 < len(ids) <= prompt.steps:
      raise InputError(f"continuation {n} has {len(ids)} tokens; this prompt takes 1 to {prompt.steps}")
  places = -(-max(len(prompt.tokens) - 1, 1) // _PLACES) * _PLACES
  steps = -(-max(map(len, continuations)) // _STEPS) * _STEPS
  rows = 1 << (len(continuations) - 1).bit_length()
  free = prompt.allowed.reshape(-1, 2)
  head = tuple(sorted({(int(a), int(b)) for a, b in np.unique(free, axis=0) if b > a}))

  def left_padded(vector, dtype=np.int32):
    return np.pad(vector[:-1], (places - len(vector) + 1, 0))[None].astype(dtype)

  targets = np.stack([np.pad(ids, (0, steps - len(ids))) for ids in continuations]
                     + [np.zeros(steps, int)] * (rows - len(continuations))).astype(np.int32)
  inputs = np.concatenate([np.full((rows, 1), prompt.tokens[-1]), targets[:, :-1]], 1).astype(np.int32)
  planned = np.append(prompt.positions[-1:], prompt.planned_positions)[:steps]
  planned = np.pad(planned, (0, steps - len(planned)), mode="edge").astype(np.int32)
  allowed = prompt.allowed[:steps]
  allowed = np.pad(allowed, [(0, steps - len(allowed)), (0, 0), (0, 0)], mode="edge").astype(np.int32)
  result = np.asarray(_log_probs(
      config, head, params, left_padded(prompt.tokens), left_padded(prompt.positions),
      left_padded(np.ones(len(prompt.tokens)), bool), inputs, planned, allowed, targets))
  found = [result[n, :len(ids)] for n, ids in enumerate(continuations)]
  if any(np.isnan(own).any() for own in found):
    raise InputError("the model's logits are not finite: the checkpoint is damaged or its training diverged; use another one")
  return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def _log_probs(config, head, params, tokens, positions, valid, inputs, planned, allowed, targets) -> jax.Array:
  """float32[C, T]; tokens, positions, valid [1, P]; inputs, targets [C, T]; planned [T]; allowed [T, 2, 2]."""
  model, variables = Transformer(config), program.flax_variables(params)
  count, steps = inputs.shape
  positions_CxT = jnp.broadcast_to(planned, inputs.shape)
  seen = jnp.concatenate([jnp.broadcast_to(valid, (steps, valid.shape[1])), jnp.tril(jnp.ones((steps, steps), bool))], 1)
  bias = attention.bias_from_mask(jnp.broadcast_to(seen, (count, 1, *seen.shape)))
  x = model.apply(variables, inputs, positions_CxT, method="embed")
  for w, prompt in zip(params["layers"], program.prefill(config, params, tokens, positions, valid)):

    def attend(q, k, v, prompt=prompt):
      keys, values = (jnp.concatenate([jnp.broadcast_to(before, (count, *before.shape[1:])), own], 1)
                      for before, own in zip(prompt, (k, v)))
      return attention.attend_reference(q, keys, values, bias)

    x = block(config, w, x, positions_CxT, attend)
  hidden = model.apply(variables, x, method="final_norm")
  logits = jnp.concatenate([model.apply(variables, hidden, a, b - a, method="logits") for a, b in head], -1)
  ids = jnp.concatenate([jnp.arange(a, b, dtype=jnp.int32) for a, b in head])
  per_row = jnp.broadcast_to(allowed, (count, *allowed.shape))
  legal = jax.vmap(rules.allow, (1, None, 1), 1)(logits.astype(jnp.float32), ids, per_row)  # step by step
  scores = jax.nn.log_softmax(legal)
  column = jnp.argmax(ids[None, None] == targets[..., None], axis=-1)
  return jnp.take_along_axis(scores, column[..., None], axis=-1)[..., 0]
