"""Lines of generations → numbers: each answer meets the references of its own item, whatever the order of the lines."""

import dataclasses

import numpy as np
import official_files
from PIL import Image
import pytest

from cm3leon_jax.datasets.official import karpathy, scienceqa, vizwiz, visdial, vqa
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import images
from cm3leon_jax.evaluation.networks.features import FeatureNetwork
from cm3leon_jax.evaluation.run import score

READERS = {"captions": (official_files.karpathy_coco, karpathy.coco_karpathy), "vqa": (official_files.vqa2, vqa.vqa2),
           "vizwiz": (official_files.vizwiz, vizwiz.vizwiz), "scienceqa": (official_files.scienceqa, scienceqa.scienceqa),
           "visdial": (official_files.visdial, visdial.visdial)}
SCORES = {"captions": lambda rows, items: score.texts(rows, "rules"), "vqa": score.answers, "vizwiz": score.answers,
          "scienceqa": lambda rows, items: score.science(rows), "visdial": score.dialogues}


def most(values):
  return max(values, key=values.count)


def scored(name, folder, shift):
  """Numbers where each item is answered with what people said of it, or of the item `shift` further on."""
  make, read = READERS[name]
  items = read(str(make(folder)))
  rows = []
  for number, item in enumerate(items):
    told = items[(number + shift) % len(items)]
    rows.append({"number": number, "id": item.id, "category": item.category, "references": list(item.references),
                 "choices": list(item.choices), "candidates": [{"text": most(told.references)}],
                 "choice_log_probs": [r - 1 + (c == told.references[0]) / 2 for r, c in zip(told.relevance, item.choices)]})
  return SCORES[name](rows, items)


@pytest.mark.parametrize("name, key, best", [
    ("captions", "rouge_l", 1), ("vqa", "vqa_accuracy", None), ("vizwiz", "vqa_accuracy", None), ("scienceqa", "accuracy", 100),
    ("visdial", "ndcg", 1)])
def test_answers_meet_their_own_references(tmp_path, name, key, best):
  right, per_item = scored(name, tmp_path / "a", 0)
  wrong, per_item_wrong = scored(name, tmp_path / "b", 1)
  assert right[key] == pytest.approx(best) if best else right[key] > 80, "people agree with themselves"
  assert wrong[key] < right[key]
  item_key = {"rouge_l": "rouge_l", "ndcg": "ndcg"}.get(key, "accuracy")
  for result, values in ((right, per_item[item_key]), (wrong, per_item_wrong[item_key])):
    assert result[key] == pytest.approx(np.mean(values) * (100 if item_key == "accuracy" else 1))


class OneHot:
  """A picture of value 10·n and the text `n` are one direction."""

  def encode_text(self, texts):
    return np.eye(8, dtype=np.float32)[[int(text) for text in texts]]

  def encode_images(self, pictures):
    return np.eye(8, dtype=np.float32)[pictures[:, 0, 0, 0] // 10]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
  """Five items; the best candidates are the real pictures, the second ones are brighter. Two pictures are read at a time."""
  monkeypatch.setattr(images, "CHUNK", 2)
  monkeypatch.setenv("CM3LEON_CACHE", str(tmp_path / "cache"))
  (tmp_path / score.PICTURES).mkdir()
  rows = []
  for n in range(5):
    names = {"real": 10 * n, "0": 10 * n, "1": 10 * n + 100}
    for name, value in names.items():
      Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(tmp_path / score.PICTURES / f"{n}_{name}.png")
    rows.append({"number": n, "question": str(n), "real": f"{n}_real.png",
                 "candidates": [{"file": f"{n}_{rank}.png"} for rank in range(2)]})
  return rows


NETWORK = FeatureNetwork(name="mean colour", key="fid", dim=3, weights_hash="0" * 16, published=False, preprocessing="none",
                         params={}, function=lambda params, x: x.mean(axis=(1, 2)))


def test_pictures_of_each_rank_meet_the_real_ones_and_their_own_texts(tmp_path, drawn):
  result, per_item = score.pictures(tmp_path, drawn, NETWORK, OneHot())
  assert result["fid"] == result["fid_rank0"] == pytest.approx(0, abs=1e-6)
  assert result["fid_rank1"] == pytest.approx(3 * 100**2, rel=1e-6), "the means lie 100 apart in three colours"
  assert per_item["clip_score"].tolist() == [1] * 5 and result["clip_score"] == 1
  assert "not pytorch-fid's published file" in result["note"]
  result, _ = score.pictures(tmp_path, drawn, dataclasses.replace(NETWORK, published=True), OneHot())
  assert "published" not in result["note"]
  with pytest.raises(InputError, match="at least 2"):
    score.pictures(tmp_path, drawn[:1], NETWORK, OneHot())
