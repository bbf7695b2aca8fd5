"""VisDial against the challenge's formulae (visdialch/metrics.py), written out plainly below; ranks of likelihoods."""

import json
import math

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from cm3leon_jax import cli
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import ranking, visdial


def challenge_ndcg(scores, relevance):
  """One round, from scores: rank by score (stable), cut at k, discount by log2(place + 2) with places from 0."""
  k = sum(r != 0 for r in relevance)
  ranked = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
  ideal = sorted(range(len(relevance)), key=lambda i: -relevance[i])[:k]
  dcg = lambda options: sum(relevance[i] / math.log2(place + 2) for place, i in enumerate(options))
  return dcg(ranked) / dcg(ideal)


# Few distinct scores and relevances, as people's are (steps of 0.2): ties everywhere.
rounds = st.integers(2, 12).flatmap(lambda n: st.tuples(
    st.lists(st.sampled_from([-3.0, -1.5, -1.5, 0.0, 2.0]), min_size=n, max_size=n),
    st.lists(st.sampled_from([0, 0, 0.2, 0.4, 1.0]), min_size=n, max_size=n).filter(any)))


@given(rounds)
@settings(max_examples=300, deadline=None)
def test_ndcg_is_the_challenges_with_ties(data):
  scores, relevance = data
  ranks = ranking.ranks(scores)
  assert visdial.ndcg(ranks[None], [relevance])[0] == pytest.approx(challenge_ndcg(scores, relevance), abs=1e-9)


def test_ndcg_by_hand():
  # k = 2. Places 1 and 2 hold relevances 0.5 and 0: 0.5 / log2(2) = 0.5. Best: 1 / 1 + 0.5 / log2(3).
  value = visdial.ndcg([[2, 1, 3, 4]], [[0, 0.5, 1, 0]])[0]
  assert value == pytest.approx(0.5 / (1 + 0.5 / math.log2(3)), abs=1e-12)
  assert visdial.ndcg([[3, 2, 1, 4]], [[0, 0.5, 1, 0]])[0] == 1
  with pytest.raises(ValueError, match="row 1 has no relevant option"):
    visdial.ndcg([[1, 2], [1, 2]], [[1, 0], [0, 0]])


def test_ranks_of_the_given_answer():
  ranks = np.array([[1, 2, 3], [3, 1, 2], [2, 3, 1], [7, 1, 2]])
  # ranks 1, 3, 2, 7: MRR (1 + 1/3 + 1/2 + 1/7) / 4
  result = visdial.score(ranks, truth=[0, 0, 0, 0])
  assert result["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 2 + 1 / 7) / 4)
  assert [result[f"recall_{k}"] for k in (1, 5, 10)] == [0.25, 0.75, 1]
  assert result["mean_rank"] == pytest.approx(13 / 4) and "ndcg" not in result


def test_likelihoods_to_ranks():
  assert ranking.ranks([-2.0, -1.0, -3.0]).tolist() == [2, 1, 3]
  assert ranking.ranks([-1.0, -1.0, -0.5, -1.0]).tolist() == [2, 3, 1, 4]  # of equal ones the earlier first
  assert ranking.ranks([[0, -np.inf, 0], [1, 2, 3]]).tolist() == [[1, 3, 2], [3, 2, 1]]
  with pytest.raises(ValueError, match="not a number"):
    ranking.ranks([0, np.nan])


OPTIONS = 4
DENSE = [{"image_id": 1, "round_id": 2, "gt_relevance": [0, 0.5, 1.0, 0]},
         {"image_id": 2, "round_id": 1, "gt_relevance": [1, 0, 0, 0]}]
DIALOGS = {"version": "1.0", "split": "val", "data": {"questions": ["q"], "answers": ["a"], "dialogs": [
    {"image_id": image, "caption": "c", "dialog": [
        {"question": 0, "answer": 0, "answer_options": [0] * OPTIONS, "gt_index": image}] * 2} for image in (1, 2)]}}
RANKS = [{"image_id": i, "round_id": r, "ranks": [2, 1, 3, 4]} for i in (1, 2) for r in (1, 2)]


@pytest.fixture
def run(tmp_path):

  def evaluate(ranks=RANKS, dense=DENSE, dialogs=None, **settings):
    for name, value in (("ranks", ranks), ("dense", dense), ("dialogs", dialogs)):
      (tmp_path / f"{name}.json").write_text(json.dumps(value))
    return visdial.evaluate_visdial(tmp_path / "ranks.json", tmp_path / "dense.json", tmp_path / "out.json",
                                    dialogs=tmp_path / "dialogs.json" if dialogs else "", **settings)

  return evaluate


def test_files(run, tmp_path, capsys):
  result = run(dialogs=DIALOGS)
  # Image 1 as by hand above. Image 2: k = 1, place 1 holds an option of relevance 0.
  assert result["ndcg"] == pytest.approx((0.5 / (1 + 0.5 / math.log2(3)) + 0) / 2)
  # The given answers: options 1 (rank 1) and 2 (rank 3), two rounds each.
  assert result["mrr"] == pytest.approx((1 + 1 / 3) / 2) and result["mean_rank"] == 2 and result["recall_1"] == 0.5
  assert result["count"] == 2 and result["rounds"] == 4 and result["share_of_rounds"] == 1
  assert json.loads((tmp_path / "out.json").read_text()) == result
  names = {"predictions": "ranks", "references": "dense", "dialogs": "dialogs"}
  arguments = [f"--{flag}={tmp_path / name}.json" for flag, name in names.items()]
  assert not cli.main(["eval", "visdial", *arguments])
  assert f"ndcg\t{result['ndcg']}" in capsys.readouterr().out


def test_without_dialogues_other_rounds_count_for_nothing(run):
  result = run()
  assert "mrr" not in result and result["count"] == 2 and result["share_scored"] == 1


def test_the_training_sets_name_of_relevance(run):
  assert run(dense=[{"image_id": 1, "round_id": 2, "relevance": [0, 1, 0, 0]}], ranks=RANKS[:2])["ndcg"] == 1


def test_what_is_there_can_be_scored(run):
  result = run(ranks=RANKS[:2], dialogs=DIALOGS, allow_missing=True)
  assert result["share_scored"] == 0.5 and result["share_of_rounds"] == 0.5


@pytest.mark.parametrize("settings, says", [
    (dict(ranks=RANKS[:2]), r"ranks.json: 1 round of .*dense.json without an answer: \(2, 1\)"),
    (dict(ranks=RANKS[1:3], dialogs=DIALOGS), r"ranks.json: 2 rounds of .*dialogs.json without an answer: \(1, 1\), \(2, 2\)"),
    (dict(ranks=RANKS + RANKS[:1]), r"ranks.json: 1 round more than once: \(1, 1\)"),
    (dict(ranks=[{"image_id": 9, "round_id": 1, "ranks": [1]}]), r"1 round \(image, round\) not in .*dense.json: \(9, 1\)"),
    (dict(ranks=[{"image_id": 1, "round_id": 2, "ranks": [0, 1, 2, 3]}]), "whose `ranks` are not each of 1 … .*1 = best"),
    (dict(ranks=[{"image_id": 1, "round_id": 2, "ranks": [1, 1, 2, 3]}]), "whose `ranks` are not each of 1"),
    (dict(ranks=[{**row, "ranks": [1, 2]} for row in RANKS]), "2 rounds whose number of ranks is not that of the relevance"),
    (dict(dense=[{"image_id": 1, "round_id": 2, "gt_relevance": [0, 0, 0, 0]}], ranks=RANKS[:2]),
     "dense.json: 1 round whose `gt_rel"),
    (dict(dense=DIALOGS), "dense.json: dense annotations must be a list.*looks like dialogues of VisDial"),
    (dict(dialogs=DENSE), "dialogs.json: not a file of VisDial dialogues.*looks like dense annotations"),
    (dict(ranks=[{"image_id": 1, "caption": "a dog"}]), "ranks.json: .*looks like captions"),
])
def test_bad_files_are_said(run, settings, says):
  with pytest.raises(InputError, match=says):
    run(**settings)
