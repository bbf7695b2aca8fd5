"""VisDial: NDCG over people's relevance scores, and the rank of the answer that was given.

The model ranks the 100 candidate answers of a round (rank 1 = best). Sources: Das et al. 2017; the VisDial challenge of
2018 and later, whose `visdialch/metrics.py` gives the formulae.
"""

import os
from typing import Sequence

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import bootstrap, files

Round = tuple[int | str, int]  # image id, round from 1


def ndcg(ranks: np.ndarray, relevance: np.ndarray) -> np.ndarray:
  """Normalised discounted cumulative gain of each round, float64[N].

  With k the number of options of a relevance above 0: Σ relevance / log2(rank + 1) over the k options ranked highest,
  divided by the best that this sum can be.

  Args:
    ranks: int[N, options], each row a permutation of 1 … options.
    relevance: float[N, options], 0 or more.

  Raises:
    ValueError: the shapes differ, or a round has no relevant option.
  """
  ranks, relevance = np.asarray(ranks), np.asarray(relevance, np.float64)
  if ranks.shape != relevance.shape or ranks.ndim != 2:
    raise ValueError(f"ranks and relevance must have one shape [N, options], got {ranks.shape} and {relevance.shape}")
  relevant = np.count_nonzero(relevance, axis=1)
  if not relevant.all():
    raise ValueError(f"row {int(np.argmin(relevant))} has no relevant option")
  places = np.arange(1, ranks.shape[1] + 1)
  gain = np.where(places <= relevant[:, None], 1 / np.log2(places + 1), 0.0)  # of the option on each place
  found = (np.take_along_axis(relevance, np.argsort(ranks, axis=1, kind="stable"), axis=1) * gain).sum(axis=1)
  best = (-np.sort(-relevance, axis=1) * gain).sum(axis=1)
  return found / best


def ranks_of_truth(ranks: np.ndarray, truth: Sequence[int]) -> np.ndarray:
  """int64[N]: the rank that each row of ranks [N, options] gives to the option number `truth` (from 0)."""
  return np.take_along_axis(np.asarray(ranks, np.int64), np.asarray(truth, np.int64)[:, None], axis=1)[:, 0]


def score(ranks: np.ndarray, relevance: np.ndarray | None = None,
          truth: Sequence[int] | None = None) -> dict[str, float]:
  """Numbers of N rounds, each with `_low` and `_high` (95 % interval over rounds).

  Args:
    ranks: int[N, options].
    relevance: float[N, options]: gives `ndcg`, in 0..1.
    truth: int[N], the number of the answer that was given: gives `mrr`, `recall_1`, `recall_5`, `recall_10` (in 0..1),
      `mean_rank` (from 1).
  """
  result = {}
  if relevance is not None:
    result |= bootstrap.mean_interval(ndcg(ranks, relevance)).as_fields("ndcg")
  if truth is not None:
    rank = ranks_of_truth(ranks, truth)
    columns = {"mrr": 1 / rank, **{f"recall_{k}": (rank <= k).astype(float) for k in (1, 5, 10)}, "mean_rank": rank}
    for name, values in columns.items():
      result |= bootstrap.mean_interval(values).as_fields(name)
  return result


def evaluate_visdial(predictions: str | os.PathLike, references: str | os.PathLike, json_out: str | os.PathLike = "",
                     *, dialogs: str | os.PathLike = "", allow_missing: bool = False) -> dict:
  """Scores ranks in the form of the challenge's server.

  Args:
    predictions: JSON `[{"image_id", "round_id", "ranks": [100 ranks]}, …]`; rounds count from 1.
    references: dense annotations, `[{"image_id", "round_id", "gt_relevance": […]}, …]` (or `relevance`, as in the
      training set): one round an image.
    json_out: where the result goes; empty for nowhere.
    dialogs: `visdial_1.0_val.json`; with it every round of it is scored for the given answer as well.
    allow_missing: score the rounds that have ranks, instead of stopping at those without.

  Returns:
    Flat: `ndcg`, and with dialogs `mrr`, `recall_1`, `recall_5`, `recall_10`, `mean_rank` (each also `_low`, `_high`);
    `count`, `share_scored` of the dense annotations, `rounds`, `share_of_rounds` of the dialogues. Ranks of other
    rounds of known images count for nothing without dialogs.

  Raises:
    InputError: a file is missing or of another form; ranks that are no permutation; unknown, missing or duplicate
      rounds; a round without a relevant option.
  """
  ranks = _read_ranks(predictions)
  relevance = _read_relevance(references)
  known = _read_dialogs(dialogs) if dialogs else None
  images = {image for image, _ in relevance}
  other = [i for i in ranks if i not in known] if known else [i for i in ranks if i[0] not in images]
  if other:
    raise InputError(f"{predictions}: {files.count(len(other), 'round')} (image, round) not in {dialogs or references}: "
                     f"{files.sample(other)}")
  dense = files.check_ids([i for i in ranks if i in relevance], list(relevance), predictions, references, "round",
                          allow_missing)
  result = score(*_matching({i: ranks[i] for i in dense}, relevance, predictions)) if dense else {}
  result |= {"count": len(dense), "share_scored": len(dense) / len(relevance)}
  if known:
    rounds = files.check_ids(list(ranks), list(known), predictions, dialogs, "round", allow_missing)
    wrong = [i for i in rounds if len(ranks[i]) != known[i][1]]
    if wrong:
      raise InputError(f"{predictions}: {files.count(len(wrong), 'round')} whose number of ranks is not that of the options "
                       f"in {dialogs}: {files.sample(wrong)}")
    result |= score(_stacked([ranks[i] for i in rounds], predictions), truth=[known[i][0] for i in rounds])
    result |= {"rounds": len(rounds), "share_of_rounds": len(rounds) / len(known)}
  if not dense and not known:
    raise InputError(f"{predictions}: holds none of the rounds of {references}")
  if json_out:
    files.write_json(json_out, result)
  return result


def _matching(ranks: dict[Round, list], relevance: dict[Round, list], path) -> tuple[np.ndarray, np.ndarray]:
  wrong = [i for i in ranks if len(ranks[i]) != len(relevance[i])]
  if wrong:
    raise InputError(f"{path}: {files.count(len(wrong), 'round')} whose number of ranks is not that of the relevance "
                     f"scores: {files.sample(wrong)}")
  return _stacked(list(ranks.values()), path), np.array([relevance[i] for i in ranks], np.float64)


def _stacked(rows: list[list], path) -> np.ndarray:
  if len({len(row) for row in rows}) > 1:
    raise InputError(f"{path}: rounds of different numbers of ranks: {sorted({len(row) for row in rows})}")
  return np.array(rows, np.int64)


def _read_ranks(path) -> dict[Round, list[int]]:
  rows = files.rows(files.read_json(path), {"image_id": (int, str), "round_id": int, "ranks": list}, path, "ranks")
  ids = [(row["image_id"], row["round_id"]) for row in rows]
  files.check_unique(ids, path, "round")
  bad = [i for i, row in zip(ids, rows) if not row["ranks"] or not all(type(r) is int for r in row["ranks"]) or
         sorted(row["ranks"]) != list(range(1, len(row["ranks"]) + 1))]
  if bad:
    raise InputError(f"{path}: {files.count(len(bad), 'round')} whose `ranks` are not each of 1 … (number of "
                     f"options) once: {files.sample(bad)}; `ranks` holds the rank of each option in the options' order, 1 = best")
  return dict(zip(ids, [row["ranks"] for row in rows]))


def _read_relevance(path) -> dict[Round, list[float]]:
  data = files.read_json(path)
  training = isinstance(data, list) and data and isinstance(data[0], dict) and "relevance" in data[0]
  name = "relevance" if training else "gt_relevance"
  rows = files.rows(data, {"image_id": (int, str), "round_id": int, name: list}, path, "dense annotations")
  ids = [(row["image_id"], row["round_id"]) for row in rows]
  files.check_unique(ids, path, "round")
  bad = [i for i, row in zip(ids, rows) if not any(row[name]) or
         not all(isinstance(r, (int, float)) and r >= 0 for r in row[name])]
  if bad:
    raise InputError(f"{path}: {files.count(len(bad), 'round')} whose `{name}` is not a list of numbers from 0 with "
                     f"one above 0: {files.sample(bad)}")
  return dict(zip(ids, [row[name] for row in rows]))


def _read_dialogs(path) -> dict[Round, tuple[int, int]]:
  """(image, round) → number of the given answer, number of options."""
  data = files.read_json(path)
  inner = data.get("data") if isinstance(data, dict) else None
  if not isinstance(inner, dict) or "dialogs" not in inner:
    raise InputError(f"{path}: not a file of VisDial dialogues: it must hold "
                     f"{{\"data\": {{\"dialogs\": […]}}}}{files.looks_like(data)}")
  dialogs = files.rows(inner["dialogs"], {"image_id": (int, str), "dialog": list}, path, "dialogs")
  files.check_unique([row["image_id"] for row in dialogs], path, "image id")
  known = {}
  for dialog in dialogs:
    for number, turn in enumerate(dialog["dialog"], 1):
      options = turn.get("answer_options") if isinstance(turn, dict) else None
      truth = turn.get("gt_index") if isinstance(turn, dict) else None
      if not isinstance(options, list) or type(truth) is not int or not 0 <= truth < len(options):
        raise InputError(f"{path}: image {dialog['image_id']!r}, round {number}: no `gt_index` among "
                         "`answer_options` (the test split has none; use the validation split)")
      known[dialog["image_id"], number] = truth, len(options)
  return known
