"""Several image tokens a forward pass, the same ones that one token a pass gives (speculative Jacobi decoding).

Teng et al. 2024 (arXiv 2410.01699) guess the next W tokens, read the guesses in one pass, and accept those that
agree with the distributions found after them. Here the random numbers of a token are fixed by seed, candidate and step
(`rules.sample` draws as argmax(logits + noise)), so a token is a function of the tokens before it. A guess is right when it
equals what the model, under all its rules, chooses after right tokens; wrong ones are chosen anew after the guesses
before them, which is the Jacobi iteration of that function (Wiggers & Hoogeboom 2020, arXiv 2002.09928). So tokens equal
those of plain decoding, seed by seed, for every logits rule, up to float rounding; for temperature 0 the noise is none. What is
saved depends on the model: guesses turn out right where a token depends little on its nearest neighbours.

Letters as in `program`; W tokens of the window.
"""

import jax
import jax.numpy as jnp

from cm3leon_jax.vocabulary import PAD_ID


def decode(window: int, advance, caches, last, given, limit, stop):
  """Decodes until all candidates are done; each moves on by as many tokens as were right.

  Args:
    window: W, at least 2.
    advance: reads tokens and chooses what follows, see `program`.
    caches: with room for T + W places.
    last: int32[S, C] the last token of each prompt.
    given: int32[S, C, T] id or -1.
    limit, stop: int32[C].

  Returns:
    The fields of `program.Decoded`; `broken` is up to W - 1 steps early, as one NaN in a window reaches all of it.
  """
  streams, count, total = given.shape
  offsets = jnp.arange(window)

  def known(read, first):
    """Guesses [S, C, W] of tokens first - 1, first, …, with what the layout gives put in."""
    at = jnp.clip(first[:, None] - 1 + offsets, 0, total - 1)
    fixed = jnp.take_along_axis(given, at[None], axis=2)
    return jnp.where((fixed >= 0) & (offsets > 0), fixed, read)

  def step(loop):
    """Reads tokens first - 1 … first + W - 2, of which only the first is sure; chooses first … first + W - 1."""
    read, first, tokens, log_probs, done, broken, passes, caches = loop
    steps = first[:, None] + offsets
    chosen, log_prob, finite, caches = advance(read, steps, caches, jnp.tile(first, streams))
    right = (chosen[:, :, :-1] == read[:, :, 1:]).all(axis=0)  # the guess of a step, by the step itself
    after_right = jnp.pad(jnp.cumprod(right, axis=1), ((0, 0), (1, 0)), constant_values=1) > 0
    ends = (chosen[0] == stop[:, None]) | (steps + 1 >= limit[:, None])
    final = after_right & (jnp.cumsum(ends, axis=1) - ends == 0) & ~done[:, None]
    put = jax.vmap(lambda row, new, at: jax.lax.dynamic_update_slice(row, new, (at,)))
    tokens = put(tokens, jnp.where(final, chosen[0], PAD_ID), first)
    log_probs = put(log_probs, jnp.where(final, log_prob, 0.0), first)
    broken = jnp.minimum(broken, jnp.where(final & ~finite, steps, total).min(axis=(1, 2)))
    moved = final.sum(axis=1)
    # Guesses behind the window repeat its last token.
    source = jnp.clip(moved[:, None] - 1 + offsets, 0, window - 1)
    first = first + moved
    read = known(jnp.take_along_axis(chosen, source[None], axis=2), first)
    return read, first, tokens, log_probs, done | (ends & final).any(axis=1), broken, passes + ~done, caches

  first = jnp.zeros(count, jnp.int32)
  read = known(jnp.repeat(last[..., None], window, axis=2), first)
  loop = (read, first, jnp.full((count, total + window), PAD_ID, jnp.int32),
          jnp.zeros((count, total + window), jnp.float32), jnp.zeros(count, bool), jnp.full(streams, total, jnp.int32),
          jnp.zeros(count, jnp.int32), caches)
  _, _, tokens, log_probs, _, broken, passes, _ = jax.lax.while_loop(lambda loop: ~loop[4].all(), step, loop)
  return tokens[:, :total], log_probs[:, :total], broken, passes
