"""Generated items → numbers: what `result.json` and `per_item.jsonl` hold. One function for each metric."""

import json
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import numpy as np

from cm3leon_jax.datasets.items import Item, Items
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import (
    bootstrap, captions, clip_score, feature_store, fid, images, ranking, scienceqa, visdial, vqa)
from cm3leon_jax.evaluation.networks.features import FeatureNetwork
from cm3leon_jax.evaluation.run.generate import PICTURES

PER_ITEM = "per_item.jsonl"
PREDICTIONS = "predictions.json"
Rows = Sequence[Mapping[str, Any]]
Scores = tuple[dict, dict[str, np.ndarray]]  # flat numbers; and number of each item, float64[N]


def complete(rows: Mapping[int, dict], items: Sequence[Item], allow_missing: bool) -> tuple[list[dict], dict]:
  """The lines to score, by item number, and what the result says of those left out.

  Raises:
    InputError: items failed, or have no line, unless `allow_missing`.
  """
  failed = {n: row["error"] for n, row in rows.items() if "error" in row}
  missing = [n for n in range(len(items)) if n not in rows]
  good = [rows[n] for n in sorted(rows) if n not in failed]
  if (failed or missing) and not allow_missing:
    first = f"; the first is item {min(failed)} (id {items[min(failed)].id!r}): {failed[min(failed)]}" if failed else ""
    raise InputError(f"{len(failed)} of {len(items)} items failed and {len(missing)} are missing{first}; "
                     "score what is there with --allow_missing")
  if not good:
    raise InputError("no item was generated, so there is nothing to score")
  return good, {"count": len(good), "share_scored": len(good) / len(items)}


def pictures(workdir: Path, rows: Rows, network: FeatureNetwork, encoder: clip_score.Encoder) -> Scores:
  """Distance of each rank from the real pictures, KID, precision …, and the CLIP score of the best candidates."""
  if len(rows) < 2:
    raise InputError("1 item: a distance needs the pictures of at least 2")
  folder = workdir / PICTURES
  files_of = lambda rank: [folder / row["candidates"][rank]["file"] for row in rows]
  real = feature_store.features_of_files([folder / row["real"] for row in rows], network).features  # other runs' too
  result: dict = {}
  for rank in range(len(rows[0]["candidates"])):
    drawn = feature_store.features_of_files(files_of(rank), network, workdir / "features").features
    if rank == 0:
      result |= fid.compare(fid.Side(drawn), fid.Side(real), network.key, keep_halves=True)
    result[f"{network.key}_rank{rank}"] = fid.distance(fid.Side(drawn), fid.Side(real))
  prompts = [row["question"] for row in rows]  # the whole captions, also where the model had no room for all
  scores = np.concatenate([clip_score.clip_scores(encoder, chunk, prompts[start:start + len(chunk)])
                           for start, chunk in _chunks(files_of(0))])
  result |= bootstrap.mean_interval(scores).as_fields("clip_score")
  note = "; ".join(filter(None, [result.get("note"), fid.weights_note(network)]))
  result |= {"note": note} if note else {}
  return result, {"clip_score": scores}


def _chunks(paths: Sequence[Path]) -> Iterator[tuple[int, np.ndarray]]:
  start = 0
  for chunk in images.read_chunks(list(paths)):
    yield start, chunk
    start += len(chunk)


def texts(rows: Rows, tokenizer: str) -> Scores:
  """CIDEr-D, BLEU and ROUGE-L of the best candidates against the people's captions."""
  said = [row["candidates"][0]["text"] for row in rows]
  tokens = captions.tokenize(said + [reference for row in rows for reference in row["references"]], tokenizer)
  rest = iter(tokens[len(said):])
  references = [[next(rest) for _ in row["references"]] for row in rows]
  result = captions.score(tokens[:len(said)], references)
  result["empty_captions"] = sum(not t for t in tokens[:len(said)])
  return result, captions.per_item(tokens[:len(said)], references)


def answers(rows: Rows, items: Items) -> Scores:
  """VQA accuracy in percent, by the official rule of the set."""
  accuracy = vqa.vizwiz_accuracy if vizwiz(items) else vqa.accuracy
  scores = 100 * np.array([accuracy(row["candidates"][0]["text"], list(row["references"])) for row in rows])
  result = bootstrap.mean_interval(scores).as_fields("vqa_accuracy")
  return result | by_category(rows, scores), {"accuracy": scores / 100}


def science(rows: Rows) -> Scores:
  """Accuracy in percent; an answer that names no option counts as wrong, and is counted."""
  chosen = [scienceqa.extract(row["candidates"][0]["text"], row["choices"]) for row in rows]
  right = np.array([number is not None and row["choices"][number] == row["references"][0]
                    for number, row in zip(chosen, rows)], float)
  result = bootstrap.mean_interval(100 * right).as_fields("accuracy")
  result["answers_without_option"] = sum(number is None for number in chosen)
  return result | by_category(rows, 100 * right), {"accuracy": right}


def dialogues(rows: Rows, items: Sequence[Item]) -> Scores:
  """NDCG against dense relevance; MRR, recall and mean rank of the answer that was given."""
  ranks = np.stack([ranking.ranks(row["choice_log_probs"]) for row in rows])
  relevance = np.array([items[row["number"]].relevance for row in rows])
  truth = [row["choices"].index(row["references"][0]) for row in rows]
  return visdial.score(ranks, relevance, truth), {
      "ndcg": visdial.ndcg(ranks, relevance), "rank": visdial.ranks_of_truth(ranks, truth).astype(float)}


def vizwiz(items: Items) -> bool:
  """Whether the questions are VizWiz's, which has a rule and a form of its own."""
  return items.name.startswith("vizwiz")


def by_category(rows: Rows, scores: np.ndarray) -> dict[str, float]:
  """`category/NAME` → mean of its items."""
  names = np.array([row["category"] for row in rows])
  return {f"category/{name}": float(scores[names == name].mean()) for name in np.unique(names) if name}


def write_predictions(workdir: Path, metric: str, items: Items, rows: Rows) -> None:
  """W/predictions.json in the form that the sets' own scripts and servers read; none for pictures."""
  key = "image" if vizwiz(items) else "question_id"
  best = lambda row: row["candidates"][0]["text"]
  forms = {
      "captions": lambda row: {"image_id": row["id"], "caption": best(row)},
      "vqa": lambda row: {key: row["id"], "answer": best(row)},
      "scienceqa": lambda row: {"question_id": row["id"], "answer": best(row)},
      "visdial": lambda row: {"image_id": row["image_id"], "round_id": int(str(row["id"]).rpartition("_")[2]),
                              "ranks": ranking.ranks(row["choice_log_probs"]).tolist()}}
  if metric in forms:
    temporary = workdir / (PREDICTIONS + ".partial")
    temporary.write_text(json.dumps([forms[metric](row) for row in rows], ensure_ascii=False), encoding="utf-8")
    temporary.replace(workdir / PREDICTIONS)


def write_per_item(workdir: Path, rows: Rows, numbers: Mapping[str, np.ndarray]) -> None:
  """One line an item: number, id, category and its numbers."""
  temporary = workdir / (PER_ITEM + ".partial")
  with open(temporary, "w", encoding="utf-8") as file:
    for at, row in enumerate(rows):
      own = {name: float(values[at]) for name, values in numbers.items()}
      file.write(json.dumps({"number": row["number"], "id": row["id"], "category": row["category"], **own}) + "\n")
  temporary.replace(workdir / PER_ITEM)
