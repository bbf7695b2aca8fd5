"""Intervals cover what they should, and resampling is paired and repeatable."""

from hypothesis import given, strategies as st
import numpy as np
import pytest

from cm3leon_jax.evaluation import bootstrap


def test_interval_of_a_mean_is_the_normal_one_for_many_values():
  values = np.random.default_rng(0).normal(3, 2, 400)
  got = bootstrap.mean_interval(values, repeats=4000)
  error = 1.96 * values.std() / 20
  assert got.value == pytest.approx(values.mean())
  assert got.low == pytest.approx(values.mean() - error, abs=0.02)
  assert got.high == pytest.approx(values.mean() + error, abs=0.02)


def test_95_percent_intervals_cover_95_percent_of_the_time():
  rng = np.random.default_rng(1)
  intervals = [bootstrap.mean_interval(rng.exponential(1, 60), repeats=300, seed=i) for i in range(300)]
  covered = np.mean([i.low <= 1 <= i.high for i in intervals])
  assert 0.88 < covered < 0.98  # skewed values at n = 60 cover a little less than 0.95


def test_half_samples_vary_as_whole_samples_do():
  values = np.random.default_rng(2).normal(0, 1, 200)
  halves = values[bootstrap.half_samples(200, 2000)].mean(axis=1)
  assert halves.std() == pytest.approx(values.std() / 200**0.5, rel=0.1)
  got = bootstrap.half_sample_interval(10.0, halves + 5)  # a bias that all halves share does not move the interval
  assert got.low == pytest.approx(10 - 1.96 * values.std() / 200**0.5, abs=0.03)


def test_pairs_are_kept_together():
  noise = np.random.default_rng(3).normal(0, 100, 50)
  got = bootstrap.difference_interval(noise + 1, noise)
  assert got == pytest.approx((1, 1, 1))
  with pytest.raises(ValueError, match="one shape"):
    bootstrap.difference_interval(noise, noise[:-1])


def test_ratio_counts_tokens_not_texts():
  got = bootstrap.ratio_interval(np.array([10.0, 2.0]), np.array([9.0, 1.0]))
  assert got.value == pytest.approx(12 / 10)
  assert got.low == pytest.approx(10 / 9) and got.high == pytest.approx(2)


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5))
def test_same_seed_same_rows(size, repeats, seed):
  first, second = (np.concatenate(list(bootstrap.resamples(size, repeats, seed))) for _ in range(2))
  assert first.shape == (repeats, size) and (first == second).all() and first.min() >= 0 and first.max() < size


def test_chunks_do_not_matter(monkeypatch):
  whole = bootstrap.resampled_means(np.arange(20.0), 50)
  monkeypatch.setattr(bootstrap, "_CHUNK", 100)
  np.testing.assert_array_equal(bootstrap.resampled_means(np.arange(20.0), 50), whole)


def test_no_values():
  with pytest.raises(ValueError, match="no values"):
    bootstrap.mean_interval([])
