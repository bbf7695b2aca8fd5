"""What runs on the device: prefill of distinct prompts, then one token a row and step until all are done.

Letters: D distinct prompts, P places of a prompt, S streams, R requests, N candidates a request,
C = R·N candidates in all, B = S·C rows (stream-major, so that streams are slices), T steps,
L tokens read at once, V columns of the head.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from cm3leon_jax.decoding import cache as shared
from cm3leon_jax.decoding import jacobi, rules
from cm3leon_jax.models import attention
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.transformer import Transformer, block
from cm3leon_jax.vocabulary import PAD_ID


class Batch(NamedTuple):
  """Arrays of one batch of requests.

  Attributes:
    tokens, positions: int32[D, P] prompts without their last token, left-padded.
    valid: bool[D, P].
    prompt_of: int32[S, R] the row of each stream's prompt.
    last: int32[S, R] the last token of each stream's prompt: what the first step reads.
    read_positions: int32[S, R, T] where the token that step n reads stands.
    allowed: int32[R, T, 2, 2] id ranges.
    given: int32[S, R, T] id or -1; the streams agree on where, not on the id (a twin counts its sentinels anew).
    steps: int32[R] how many tokens are planned.
    stop: int32[R] id or -1.
    seeds: uint32[R].
    settings: dict of arrays [C], fields of `rules.Sampling` and `contrasted` bool[C].
  """

  tokens: jax.Array
  positions: jax.Array
  valid: jax.Array
  prompt_of: jax.Array
  last: jax.Array
  read_positions: jax.Array
  allowed: jax.Array
  given: jax.Array
  steps: jax.Array
  stop: jax.Array
  seeds: jax.Array
  settings: dict


class Static(NamedTuple):
  """What a program is compiled for, besides the shapes in `Batch`.

  Attributes:
    candidates: N.
    head: id ranges (start, stop) that the output head computes.
    contrast, top_k, top_p: whether any candidate needs the rule.
    window: tokens guessed and checked in one pass (`jacobi`); 0 = one token a pass.
  """

  candidates: int
  head: tuple[tuple[int, int], ...]
  contrast: bool
  top_k: bool
  top_p: bool
  window: int = 0


class Decoded(NamedTuple):
  """Attributes:
    tokens: int32[C, T], <pad> after the end.
    log_probs: float32[C, T] of the chosen tokens under the conditional stream and the grammar, at
      temperature 1 and without guidance; 0 for given tokens and after the end.
    broken: int32[S] the first step at which a stream's logits were not finite, T if never.
    passes: int32[C] forward passes until the candidate was done.
  """

  tokens: jax.Array
  log_probs: jax.Array
  broken: jax.Array
  passes: jax.Array


def unstacked(config: TransformerConfig, params: dict) -> dict:
  """`params` with `layers` as a tuple of one dict a layer.

  A slice of a stack inside the token loop would copy the layer at every step; at one row that costs as much as
  the step itself.
  """
  layers = tuple({name: stack[i] for name, stack in params["layers"].items()} for i in range(config.num_layers))
  return params | {"layers": layers}


def flax_variables(params: dict) -> dict:
  """For `embed`, `final_norm` and `logits`: they read no layer, but Flax wants the stacked entries to be there."""
  first = params["layers"][0]
  unused = {name: jnp.zeros((len(params["layers"]), *w.shape), w.dtype) for name, w in first.items()}
  return {"params": params | {"layers": unused}}


def prefill(config: TransformerConfig, params: dict, tokens: jax.Array, positions: jax.Array, valid: jax.Array):
  """Keys and values of left-padded prompts [D, P]: a list of (k, v) [D, P, K, Dh], one entry a layer."""
  causal = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
  bias = attention.bias_from_mask(valid[:, None, None, :] & causal)
  x = Transformer(config).apply(flax_variables(params), tokens, positions, method="embed")
  filled = []

  def attend(q, k, v):
    filled.append((k, v))
    return attention.attend_reference(q, k, v, bias)

  for w in params["layers"]:
    x = block(config, w, x, positions, attend)
  return filled


@functools.partial(jax.jit, static_argnames=("config", "static"))
def decode(config: TransformerConfig, static: Static, params: dict, batch: Batch) -> Decoded:
  """Prefills and decodes one batch, of `params` made by `unstacked`; see `Batch` and `Decoded`."""
  return _decode(config, static, params, batch)


@functools.partial(jax.jit, static_argnames=("config", "static", "mesh"))
def decode_on_each(config: TransformerConfig, static: Static, mesh: Mesh, params: dict, batches: Batch) -> Decoded:
  """`decode` of as many batches as `mesh` has devices, one each; all arrays have that axis in front.

  The devices share nothing but the program: each stops when its own requests are done.
  """
  def own(params, batches):
    decoded = _decode(config, static, params, jax.tree.map(lambda x: x[0], batches))
    return jax.tree.map(lambda x: x[None], decoded)

  rows = PartitionSpec(*mesh.axis_names)
  # Values that start equal on all devices and then differ are what `check_vma` would have us annotate.
  return jax.shard_map(own, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows, check_vma=False)(params, batches)


def _decode(config: TransformerConfig, static: Static, params: dict, batch: Batch) -> Decoded:
  model = Transformer(config)
  variables = flax_variables(params)
  streams, requests, total = batch.read_positions.shape
  per_candidate = functools.partial(jnp.repeat, repeats=static.candidates, axis=0)
  allowed, limit, stop = (per_candidate(x) for x in (batch.allowed, batch.steps, batch.stop))
  given = jnp.repeat(batch.given, static.candidates, axis=1)  # [S, C, T]
  positions = jnp.repeat(batch.read_positions, static.candidates, axis=1).reshape(-1, total)  # [B, T]
  ids = jnp.concatenate([jnp.arange(a, b, dtype=jnp.int32) for a, b in static.head])
  candidate_keys = jax.vmap(lambda seed: jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(
      jnp.arange(static.candidates)))(batch.seeds).reshape(-1)

  filled = prefill(config, params, batch.tokens, batch.positions, batch.valid)
  caches = shared.share(config, filled, batch.valid, batch.prompt_of.reshape(-1), static.candidates, total + static.window)

  def advance(read, steps, caches, place):
    """Reads tokens and chooses the ones that follow them.

    Args:
      read: int32[S, C, L].
      steps: int32[C, L], which tokens follow; what is chosen for steps from T on has no meaning.
      caches: updated.
      place: where the first of `read` goes in the cache, int32[B] or one for all rows.

    Returns:
      (chosen int32[S, C, L], the given ones included; log-probabilities [C, L]; finite bool[S, C, L]; caches)
    """
    steps = jnp.minimum(steps, total - 1)
    where = jnp.take_along_axis(positions, jnp.tile(steps, (streams, 1)), axis=1)
    x = model.apply(variables, read.reshape(where.shape), where, method="embed")
    for i, w in enumerate(params["layers"]):
      def attend(q, k, v, i=i):
        nonlocal caches
        out, caches = shared.attend(q, k, v, i, caches, place)
        return out

      x = block(config, w, x, where, attend)
    hidden = model.apply(variables, x, method="final_norm").reshape(streams, steps.size, -1)
    parts = [model.apply(variables, hidden, a, b - a, method="logits") for a, b in static.head]
    logits = jnp.concatenate(parts, axis=-1)  # [S, C·L, V]
    settings = jax.tree.map(lambda x: jnp.repeat(x, steps.shape[1], axis=0), batch.settings)
    ranges = jnp.take_along_axis(allowed, steps[..., None, None], axis=1).reshape(-1, *allowed.shape[2:])
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(candidate_keys, steps).reshape(-1)
    column, log_prob = (x.reshape(steps.shape) for x in _choose(static, settings, logits, ids, ranges, keys))
    fixed = jnp.take_along_axis(given, steps[None], axis=2)
    chosen = jnp.where(fixed >= 0, fixed, ids[column])
    log_prob = jnp.where(fixed[0] >= 0, 0.0, log_prob)
    return chosen, log_prob, jnp.isfinite(logits).all(axis=-1).reshape(chosen.shape), caches

  last, count = jnp.repeat(batch.last, static.candidates, axis=1), requests * static.candidates
  if static.window:
    return Decoded(*jacobi.decode(static.window, advance, caches, last, given, limit, stop))

  def step(loop):
    """Reads token n - 1 (before the first: the prompt's last), chooses token n."""
    n, read, tokens, log_probs, done, broken, passes, caches = loop
    chosen, log_prob, finite, caches = advance(read, jnp.full((count, 1), n), caches, n)
    token = jnp.where(done, PAD_ID, chosen[0, :, 0])
    log_prob = jnp.where(done, 0.0, log_prob[:, 0])
    return (n + 1, chosen, tokens.at[:, n].set(token), log_probs.at[:, n].set(log_prob),
            done | (token == stop) | (n + 1 >= limit), jnp.where(finite.all(axis=(1, 2)), broken, jnp.minimum(broken, n)),
            passes + ~done, caches)

  loop = (jnp.int32(0), last[..., None], jnp.full((count, total), PAD_ID, jnp.int32), jnp.zeros((count, total), jnp.float32),
          jnp.zeros(count, bool), jnp.full(streams, total, jnp.int32), jnp.zeros(count, jnp.int32), caches)
  loop = jax.lax.while_loop(lambda loop: (loop[0] < total) & ~loop[4].all(), step, loop)
  return Decoded(*loop[2:4], *loop[5:7])


def _choose(static: Static, settings: dict, logits, ids, ranges, keys):
  """The rules in their order (`rules.ORDER`): logits [S, C, V], a key each → (column int32[C], its log-probability)."""
  conditional = logits[0]
  guided = conditional
  if len(logits) == 3:
    guided = rules.guide_two_way(*logits, settings["guidance"], settings["image_guidance"])
  elif len(logits) == 2:
    guided = rules.guide(*logits, settings["guidance"])
  if static.contrast:
    contrasted = rules.contrast(conditional, logits[-1], settings["contrast_k"], settings["contrast_alpha"])
    guided = jnp.where(settings["contrasted"][:, None], contrasted, guided)
  scores = rules.temper(rules.allow(guided, ids, ranges), settings["temperature"])
  if static.top_k:
    scores = rules.keep_top_k(scores, settings["top_k"])
  if static.top_p:
    scores = rules.keep_top_p(scores, settings["top_p"])
  column = rules.sample(scores, keys, settings["temperature"])
  log_probs = jax.nn.log_softmax(rules.allow(conditional, ids, ranges))
  return column, jnp.take_along_axis(log_probs, column[:, None], axis=-1)[:, 0]
