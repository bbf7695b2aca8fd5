"""The selection rules, each alone and together."""

import dataclasses

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from cm3leon_jax.retrieval.selection import LEFT_OUT, TAKEN, Candidate, Rules, best, judge, select


def candidate(id, score, angle, **parts):
  """A document whose vector stands at `angle` degrees in the plane."""
  return Candidate(id, score, np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))]), **parts)


GOOD = candidate("good", 0.5, 0)


@pytest.mark.parametrize("bad, reason", [
    (candidate("query", 0.7, 90), "the query itself"),
    (candidate("copy", 0.95, 90), "score 0.950 above the cap 0.9"),
    (candidate("nan", float("nan"), 90), "above the cap"),
    (candidate("mute", 0.7, 90, has_text=False), "no text"),
    (candidate("blind", 0.7, 90, has_image=False), "no image"),
    (candidate("twin", 0.4, 5), "too similar to good (0.996)"),
])
def test_each_rule(bad, reason):
  verdicts = {v.candidate.id: v.reason for v in judge("query", [bad, GOOD])}
  assert reason in verdicts[bad.id]
  assert verdicts["good"] == TAKEN


def test_the_cap_is_inclusive():
  assert judge("q", [candidate("edge", 0.9, 0)])[0].reason == TAKEN


def test_near_copies_of_the_whole_query_go():
  copy = candidate("copy", 0.6, 1)
  assert "too similar to the query" in judge("q", [copy], query_vector=GOOD.vector)[0].reason
  assert judge("q", [copy])[0].reason == TAKEN


def test_two_are_taken_and_the_best_ones():
  verdicts = judge("q", [candidate(name, score, angle) for name, score, angle in
                         (("c", 0.3, 120), ("a", 0.8, 0), ("b", 0.6, 60))])
  assert [(v.candidate.id, v.reason) for v in verdicts] == [
      ("a", TAKEN), ("b", TAKEN), ("c", "not needed: 2 are taken")]


def test_one_document_serves_one_query():
  a, b, c, d, e = (candidate(name, score, angle) for name, score, angle in
                   (("a", 0.8, 0), ("b", 0.7, 45), ("c", 0.6, 90), ("d", 0.5, 135), ("e", 0.4, 46)))
  by_text, by_image = select("q", [a, b, c], [b, a, e, c, d])
  assert [x.id for x in by_text] == ["a", "b"]
  assert [x.id for x in by_image] == ["c", "d"]  # a, b are taken, e is b's twin


vectors = st.lists(st.floats(0, 360), min_size=0, max_size=12)


@settings(deadline=None)
@given(angles=vectors, other=vectors, scores=st.lists(st.floats(-1, 1), min_size=12, max_size=12),
       per_query=st.integers(0, 4), max_similarity=st.floats(0, 1))
def test_what_is_taken_is_always_legal(angles, other, scores, per_query, max_similarity):
  rules = Rules(per_query=per_query, max_similarity=max_similarity)
  lists = [[candidate(str(i), score, angle) for i, (angle, score) in enumerate(zip(part, scores))]
           for part in (angles, other)]
  chosen = select("3", *lists, rules)
  for taken in chosen:
    assert len(taken) <= per_query
    assert [c.score for c in taken] == sorted((c.score for c in taken), reverse=True)
  both = [c for taken in chosen for c in taken]
  assert len({c.id for c in both}) == len(both) and "3" not in {c.id for c in both}
  assert all(c.score <= rules.max_score for c in both)
  assert all(a.vector @ b.vector <= max_similarity for i, a in enumerate(both) for b in both[:i])
  # The order in which the index found them does not matter.
  again = select("3", lists[0][::-1], lists[1][::-1], rules)
  assert [[c.id for c in t] for t in again] == [[c.id for c in t] for t in chosen]


def test_what_is_left_out_is_said_and_makes_room():
  a, b, c = (candidate(name, score, angle) for name, score, angle in (("a", 0.8, 0), ("b", 0.7, 90), ("c", 0.6, 180)))
  verdicts = judge("", [a, b, c], Rules(per_query=2), excluded={"a"})
  assert [v.reason for v in verdicts] == [LEFT_OUT, TAKEN, TAKEN]


@settings(deadline=None)
@given(documents=st.lists(st.tuples(st.floats(0, 360), st.floats(-1, 1)), max_size=40, unique_by=lambda d: d[1]),
       excluded=st.sets(st.integers(0, 39)), k=st.integers(0, 5), first=st.integers(1, 8),
       max_similarity=st.floats(-1, 1))
def test_nothing_excluded_comes_back_and_k_remain_where_k_are_legal(documents, excluded, k, first, max_similarity):
  index = sorted((candidate(str(i), score, angle) for i, (angle, score) in enumerate(documents)),
                 key=lambda c: -c.score)
  names, rules, asked = {str(i) for i in excluded}, Rules(per_query=k, max_similarity=max_similarity), []

  def ask(n):
    asked.append(n)
    return index[:n]

  found = best(ask, len(index), rules, excluded=names, first=first)
  assert not names & {c.id for c in found}
  # As many, and the same ones, as an index that never held what is left out gives when all of it is judged.
  without = [c for c in index if c.id not in names]
  assert [c.id for c in found] == [c.id for c in select("", without, (), rules)[0]]
  assert asked == sorted(set(asked)) and asked[-1] <= len(index)  # each time more, never more than there are


def test_rules_are_data():
  assert dataclasses.asdict(Rules()) == {"per_query": 2, "max_score": 0.9, "max_similarity": 0.97}
