import hypothesis
from hypothesis import strategies
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.tasks.official import balance

SIZES = strategies.dictionaries(strategies.sampled_from("abcdefghijklmnopq"), strategies.integers(1, 10**7), min_size=1)
EXPONENTS = strategies.floats(0, 3)


@hypothesis.given(SIZES, EXPONENTS)
def test_shares_add_up_and_repetitions_stay_within_the_papers_threshold(sizes, exponent):
  rates = balance.rates(sizes, exponent)
  assert rates.keys() == sizes.keys() and sum(rates.values()) == pytest.approx(1)
  for repeated in balance.repetitions(rates, sizes).values():
    assert 0.3 - 1e-6 <= repeated <= 3 + 1e-6  # PAPER §7.1


@hypothesis.given(SIZES)
def test_exponent_1_draws_every_row_once(sizes):
  assert list(balance.repetitions(balance.rates(sizes), sizes).values()) == pytest.approx([1.0] * len(sizes))


@hypothesis.given(SIZES, EXPONENTS, strategies.integers(2, 9))
def test_only_the_proportions_count(sizes, exponent, factor):
  assert balance.rates({n: s * factor for n, s in sizes.items()}, exponent) == pytest.approx(
      balance.rates(dict(reversed(sizes.items())), exponent), abs=1e-9)


@hypothesis.given(SIZES, strategies.floats(0, 1), strategies.floats(0, 1))
def test_a_smaller_exponent_never_takes_from_the_smallest(sizes, one, other):
  smallest = min(sizes, key=sizes.get)
  low, high = sorted((one, other))
  assert balance.rates(sizes, low)[smallest] >= balance.rates(sizes, high)[smallest] - 1e-9


def test_figures_by_hand():
  # Of 1,000 and 9,000 rows with exponent 0: half each would repeat the small set 5 times, so 3 times 10 %, and the rest.
  assert balance.rates({"small": 1000, "large": 9000}, 0) == pytest.approx({"small": 0.3, "large": 0.7})
  # Exponent 1/2: sqrt(1) : sqrt(4) = 1/3 : 2/3, repeated 5/3 and 5/6 times, both within the limits.
  assert balance.rates({"a": 100, "b": 400}, 0.5) == pytest.approx({"a": 1 / 3, "b": 2 / 3})
  assert balance.repetitions({"a": 1, "b": 2}, {"a": 100, "b": 400}) == pytest.approx({"a": 5 / 3, "b": 5 / 6})


@pytest.mark.parametrize("sizes,exponent", [({}, 1), ({"a": 0, "b": 2}, 1), ({"a": 1}, -1)])
def test_nonsense_is_refused(sizes, exponent):
  with pytest.raises(InputError, match="a mixture needs tasks with rows and an exponent of 0 or more"):
    balance.rates(sizes, exponent)
