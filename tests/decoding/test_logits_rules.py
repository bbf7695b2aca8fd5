"""Every rule against plain NumPy in float64, with -inf and ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cm3leon_jax.decoding import rules
from cm3leon_jax.decoding.rules import Sampling
from cm3leon_jax.errors import InputError

B, V = 40, 23
INF = np.inf


def draw(seed):
  """[B, V] logits on a grid of quarters, so that ties abound; a fifth of them -inf, never a whole row."""
  rng = np.random.default_rng(seed)
  logits = rng.integers(-12, 13, (B, V)) / 4.0
  logits[rng.random((B, V)) < 0.2] = -INF
  logits[:, 5] = np.where(np.isfinite(logits[:, 5]), logits[:, 5], 0.25)
  return logits


def log_softmax(x):
  x = x - x.max(axis=-1, keepdims=True)
  with np.errstate(divide="ignore"):
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def f32(*arrays):
  return [jnp.asarray(a, jnp.float32) for a in arrays]


def test_guidance():
  c, u, scale = draw(0), draw(1), np.linspace(0, 7, B)
  expected = np.empty_like(c)
  for b in range(B):
    for v in range(V):
      finite = np.isfinite(c[b, v]) and np.isfinite(u[b, v])
      expected[b, v] = u[b, v] + scale[b] * (c[b, v] - u[b, v]) if finite else c[b, v]
  np.testing.assert_allclose(rules.guide(*f32(c, u, scale)), expected, rtol=1e-5, atol=1e-5)


def test_guidance_of_one_is_the_conditional_bit_for_bit():
  c, u = f32(np.random.default_rng(0).normal(size=(B, V)), np.random.default_rng(1).normal(size=(B, V)))
  np.testing.assert_array_equal(rules.guide(c, u, jnp.ones(B)), c)


def test_two_way_guidance():
  f, i, u, text, image = draw(0), draw(1), draw(2), np.linspace(0, 7.5, B), np.linspace(3, 0, B)
  expected = np.empty_like(f)
  for b in range(B):
    for v in range(V):
      finite = np.isfinite([f[b, v], i[b, v], u[b, v]]).all()
      expected[b, v] = (u[b, v] + image[b] * (i[b, v] - u[b, v]) + text[b] * (f[b, v] - i[b, v])) if finite else f[b, v]
  np.testing.assert_allclose(rules.guide_two_way(*f32(f, i, u, text, image)), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
def test_contrast(alpha):
  expert, amateur = draw(3), draw(4)
  k = 1 + np.arange(B) % 9
  alphas = np.full(B, alpha * 0.999)  # off the grid of exact ties between alpha · p and another p
  p, q = np.exp(log_softmax(expert)), np.exp(log_softmax(amateur))
  expected = np.full((B, V), -INF)
  for b in range(B):
    kth = np.sort(p[b])[::-1][k[b] - 1]
    for v in range(V):
      if p[b, v] > 0 and p[b, v] >= alphas[b] * kth:
        expected[b, v] = np.log(p[b, v]) - max(np.log(q[b, v]) if q[b, v] > 0 else -INF, -87.0)
  got = rules.contrast(*f32(expert, amateur), jnp.asarray(k), *f32(alphas))
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_contrast_with_k_1_and_alpha_1_is_greedy():
  """The paper: with k = 1 the constraint of Li et al. collapses to greedy; alpha = 1 is its limit."""
  expert, amateur = f32(np.random.default_rng(0).normal(size=(B, V)), np.random.default_rng(1).normal(size=(B, V)))
  got = np.asarray(rules.contrast(expert, amateur, jnp.ones(B, int), jnp.ones(B)))
  np.testing.assert_array_equal(np.isfinite(got).sum(axis=1), 1)
  np.testing.assert_array_equal(got.argmax(axis=1), np.asarray(expert).argmax(axis=1))


def test_grammar():
  logits, ids = draw(5), np.arange(100, 100 + V)
  rng = np.random.default_rng(6)
  ranges = np.sort(rng.integers(98, 102 + V, (B, 2, 2)), axis=-1)
  expected = logits.copy()
  for b in range(B):
    for v in range(V):
      if not any(lo <= ids[v] < hi for lo, hi in ranges[b]):
        expected[b, v] = -INF
  np.testing.assert_array_equal(rules.allow(*f32(logits), jnp.asarray(ids), jnp.asarray(ranges)), expected)


def test_temperature():
  logits, temperature = draw(7), np.linspace(0, 2, B)
  expected = logits / np.where(temperature > 0, temperature, 1)[:, None]
  np.testing.assert_allclose(rules.temper(*f32(logits, temperature)), expected, rtol=1e-6)


def test_top_k():
  logits, k = draw(8), np.arange(B) % (V + 2)
  expected = logits.copy()
  for b in range(B):
    if 0 < k[b] <= V:
      expected[b, logits[b] < np.sort(logits[b])[::-1][k[b] - 1]] = -INF
  np.testing.assert_array_equal(rules.keep_top_k(*f32(logits), jnp.asarray(k)), expected)


def test_top_p():
  logits, p = draw(9), np.linspace(0.013, 1.0, B)
  expected = logits.copy()
  for b in range(B):
    mass, kept = 0.0, []
    for value in np.sort(logits[b])[::-1]:
      if mass >= p[b]:
        break
      mass += np.exp(log_softmax(logits[b])[np.flatnonzero(logits[b] == value)[0]])
      kept.append(value)
    if p[b] < 1:
      expected[b, logits[b] < kept[-1]] = -INF
  got = np.asarray(rules.keep_top_p(*f32(logits, p)))
  np.testing.assert_array_equal(got, expected)
  assert np.isfinite(got).sum() < np.isfinite(logits).sum()  # it does cut


def test_top_p_keeps_all_ties_of_the_last_one():
  logits = jnp.array([[0.0, 1.0, 1.0, 1.0, -5.0]])
  np.testing.assert_array_equal(np.isfinite(rules.keep_top_p(logits, jnp.array([0.2]))), [[0, 1, 1, 1, 0]])


def test_sample_follows_the_distribution_and_never_draws_the_impossible():
  logits = jnp.log(jnp.array([0.5, 0.0, 0.3, 0.2]))
  keys = jax.random.split(jax.random.key(0), 4000)
  drawn = np.asarray(rules.sample(jnp.tile(logits, (4000, 1)), keys, jnp.ones(4000)))
  counts = np.bincount(drawn, minlength=4)
  assert counts[1] == 0
  assert scipy.stats.chisquare(counts[[0, 2, 3]], [2000, 1200, 800]).pvalue > 1e-3


def test_temperature_zero_takes_the_first_of_the_largest():
  logits = jnp.array([[0.0, 2.0, 2.0, -jnp.inf]] * 3)
  keys = jax.random.split(jax.random.key(0), 3)
  np.testing.assert_array_equal(rules.sample(logits, keys, jnp.zeros(3)), [1, 1, 1])


def test_a_rows_draw_depends_on_its_own_key_alone():
  logits = jax.random.normal(jax.random.key(1), (6, V))
  keys = jax.random.split(jax.random.key(0), 6)
  whole = rules.sample(logits, keys, jnp.ones(6))
  np.testing.assert_array_equal(rules.sample(logits[4:], keys[4:], jnp.ones(2)), whole[4:])


def test_description_is_the_order():
  assert rules.ORDER == ("guidance or contrast", "grammar", "temperature", "top_k", "top_p", "sample")
  expected = ["guidance 3", "grammar", "temperature 0.9", "top_k 50", "top_p 0.9", "sample"]
  assert Sampling(top_k=50).describe(2) == expected
  assert Sampling(guidance=7.5).describe(3)[0] == "two-way guidance (text 7.5, image 1.5)"
  assert Sampling(temperature=0.0).describe(1) == ["grammar", "most likely token"]
  assert "CD-K (k=8, alpha=0.5) for the last 50% of the candidates" in Sampling(contrast=0.5).describe(2)[0]


def test_the_last_half_of_the_candidates_is_contrasted():
  assert [Sampling(contrast=0.5).contrasted(i, 8) for i in range(8)] == [False] * 4 + [True] * 4
  assert not any(Sampling().contrasted(i, 8) for i in range(8))


@pytest.mark.parametrize("settings", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -2},
                                      {"guidance": float("nan")}, {"contrast": 2}, {"contrast_k": 0}])
def test_settings_out_of_range_are_refused_by_name(settings):
  with pytest.raises(InputError, match=next(iter(settings))):
    Sampling(**settings)
