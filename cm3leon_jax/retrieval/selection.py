"""Which retrieved documents may stand before a query: the rules of PAPER §2, as a pure function.

In order: not the query itself · not left out by the caller, as evaluation items are · score at most 0.9
(a near copy teaches copying) · text and image both present · not too similar to the query or to a document
already taken · two for each query.
"""

import dataclasses
from typing import Callable, Collection, Sequence

import numpy as np

TAKEN = "taken"
LEFT_OUT = "left out: an evaluation item"


@dataclasses.dataclass(frozen=True)
class Rules:
  """The thresholds.

  Attributes:
    per_query: documents taken for the text query and for the image query (paper: 2 and 2).
    max_score: relevance cap on the inner product of query and document (paper: 0.9).
    max_similarity: redundancy cap on the inner product of two documents; the paper gives no figure.
  """

  per_query: int = 2
  max_score: float = 0.9
  max_similarity: float = 0.97


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A document that the index found.

  Attributes:
    id: of the document.
    score: inner product with the query.
    vector: float[D], the document's own, unit norm.
    has_text, has_image: which of its two parts are there.
  """

  id: str
  score: float
  vector: np.ndarray
  has_text: bool = True
  has_image: bool = True


@dataclasses.dataclass(frozen=True)
class Verdict:
  """`reason` is `taken`, or says in words why not."""

  candidate: Candidate
  reason: str


def judge(query_id: str, candidates: Sequence[Candidate], rules: Rules = Rules(), *, taken: Sequence[Candidate] = (),
          query_vector: np.ndarray | None = None, excluded: Collection[str] = ()) -> list[Verdict]:
  """A verdict on each candidate of one query, best first.

  Args:
    query_id: the query's own document; "" when it has none.
    candidates: in any order; equal scores stand in the order of their ids.
    taken: documents that another query has taken already.
    query_vector: float[D] of the query's own whole document, where there is one: drops its near copies.
    excluded: ids that may not be taken; a set, where there are many.
  """
  kept = list(taken)
  verdicts = []
  for candidate in sorted(candidates, key=lambda c: (-c.score, c.id)):
    reason = LEFT_OUT if candidate.id in excluded else _reason(candidate, query_id, rules, kept, query_vector)
    if reason == TAKEN and len(kept) - len(taken) == rules.per_query:
      reason = f"not needed: {rules.per_query} are taken"
    if reason == TAKEN:
      kept.append(candidate)
    verdicts.append(Verdict(candidate, reason))
  return verdicts


def select(query_id: str, by_text: Sequence[Candidate], by_image: Sequence[Candidate], rules: Rules = Rules(), *,
           query_vector: np.ndarray | None = None) -> tuple[list[Candidate], list[Candidate]]:
  """The documents for the text query and for the image query, best first; none twice, none redundant across both."""
  chosen: list[list[Candidate]] = []
  for candidates in (by_text, by_image):
    before = [candidate for part in chosen for candidate in part]
    verdicts = judge(query_id, candidates, rules, taken=before, query_vector=query_vector)
    chosen.append([verdict.candidate for verdict in verdicts if verdict.reason == TAKEN])
  return chosen[0], chosen[1]


def best(ask: Callable[[int], Sequence[Candidate]], total: int, rules: Rules = Rules(), *,
         excluded: Collection[str] = (), first: int = 32) -> list[Candidate]:
  """The `rules.per_query` best legal documents of an index for one query, best first; fewer only where it has fewer.

  Args:
    ask: n → the index's n best candidates for the query; asked again with four times n until enough are legal.
    total: documents in the index.
    excluded: ids that may not be taken.
    first: how many to ask for at first.
  """
  asked = max(first, rules.per_query)
  while True:
    verdicts = judge("", ask(min(asked, total)), rules, excluded=excluded)
    taken = [verdict.candidate for verdict in verdicts if verdict.reason == TAKEN]
    if len(taken) == rules.per_query or asked >= total:
      return taken
    asked *= 4


def _reason(candidate: Candidate, query_id: str, rules: Rules, kept: Sequence[Candidate],
            query_vector: np.ndarray | None) -> str:
  if candidate.id == query_id:
    return "the query itself"
  if not candidate.score <= rules.max_score:  # NaN is not legal either
    return f"score {candidate.score:.3f} above the cap {rules.max_score}"
  if not (candidate.has_text and candidate.has_image):
    return f"no {'image' if candidate.has_text else 'text'}"
  if query_vector is not None:
    similarity = float(np.dot(candidate.vector, query_vector))
    if similarity > rules.max_similarity:
      return f"too similar to the query ({similarity:.3f})"
  for other in kept:
    if other.id == candidate.id:
      return "taken already, by the other query"
    similarity = float(np.dot(candidate.vector, other.vector))
    if similarity > rules.max_similarity:
      return f"too similar to {other.id} ({similarity:.3f})"
  return TAKEN
