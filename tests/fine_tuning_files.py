"""Small fine-tuning sets in the true form of the official files, train and validation; returns `SFT.folders`."""

import json
from pathlib import Path

from PIL import Image

import official_files
from official_files import captions_of, caption_id, coco_name, picture, write

COCO = {"train": (9, 25, 30), "restval": (42,), "val": (73, 74), "test": (133,)}  # image ids by Karpathy's split
FOLDER = {"train": "train2014", "restval": "val2014", "val": "val2014", "test": "val2014"}
SIZE = (48, 40)
SECOND = (9, 1)  # a picture and caption that is empty


def write_all(root: Path) -> dict[str, str]:
  root.mkdir(parents=True, exist_ok=True)
  makers = {"coco": coco, "flickr30k": flickr30k, "paragraphs": paragraphs, "narratives": narratives, "vizwiz": vizwiz,
            "scienceqa": scienceqa, "instruct_pix2pix": instruct_pix2pix, "textocr": textocr, "controls": controls}
  for name, make in makers.items():
    make(root / name)
  return {name: str(root / name) for name in makers}


def karpathy(root: Path, name: str, rows: list[dict]) -> None:
  write(root / f"dataset_{name}.json", {"images": rows, "dataset": name})


def coco(root: Path) -> None:
  rows = []
  for split, ids in COCO.items():
    for i in ids:
      texts = captions_of(i)
      if i == SECOND[0]:
        texts[SECOND[1]] = " "
      rows.append({"filepath": FOLDER[split], "filename": coco_name(FOLDER[split], i).split("/")[1], "imgid": i,
                   "split": split, "cocoid": i, "sentids": [caption_id(i, n) for n in range(5)],
                   "sentences": [{"tokens": t.split(), "raw": t, "imgid": i, "sentid": caption_id(i, n)}
                                 for n, t in enumerate(texts)]})
      picture(root / coco_name(FOLDER[split], i), i, SIZE)
  karpathy(root, "coco", rows)
  for year, splits in (("train2014", ("train",)), ("val2014", ("restval", "val", "test"))):
    ids = [i for split in splits for i in COCO[split]]
    questions(root, "v2_", year, ids)
    questions(root, "", year, ids[:2])
    instances(root, year, ids)


def questions(root: Path, prefix: str, year: str, ids: list[int]) -> None:
  """Two questions of each picture; people disagree over the second."""
  asked = [(i * 10 + n, i, q) for i in ids for n, q in enumerate(("What colour is the box?", "Is it big?"))]
  write(root / f"{prefix}OpenEnded_mscoco_{year}_questions.json", {"questions": [
      {"question_id": q, "image_id": i, "question": text} for q, i, text in asked]})
  answers = lambda n: ["blue"] * 10 if n == 0 else ["no"] * 3 + ["yes"] * 6 + [""]
  write(root / f"{prefix}mscoco_{year}_annotations.json", {"annotations": [
      {"question_id": q, "image_id": i, "answer_type": "other", "question_type": "what", "multiple_choice_answer": "…",
       "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(answers(q % 10), 1)]}
      for q, i, _ in asked]})


# Of every picture of 48 × 40, whose middle square is x 4..44: [category, bbox, crowd].
BOXES = ((44, [14.0, 10.0, 10.0, 20.0], 0),  # inside
         (81, [4.0, 0.0, 40.0, 40.0], 0),  # the square itself
         (44, [0.0, 0.0, 5.0, 5.0], 0),  # four fifths of it left of the square
         (44, [40.0, 30.0, 20.0, 20.0], 0),  # outside the picture
         (1, [0.0, 0.0, 48.0, 40.0], 1))  # a crowd


def instances(root: Path, year: str, ids: list[int]) -> None:
  def outline(x, y, w, h, crowd):
    if not crowd:
      return [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {"counts": [0, 40 * 10, 40 * 38], "size": [40, 48]}  # the ten columns at the left

  write(root / "annotations" / f"instances_{year}.json", {
      "images": [{"id": i, "file_name": coco_name(year, i).split("/")[1], "width": SIZE[0], "height": SIZE[1]} for i in ids],
      "categories": [{"id": 1, "name": "person", "supercategory": "person"}, {"id": 44, "name": "bottle", "supercategory": "x"},
                     {"id": 81, "name": "sink", "supercategory": "x"}],
      "annotations": [{"id": i * 10 + n, "image_id": i, "category_id": category, "bbox": box, "iscrowd": crowd,
                       "area": box[2] * box[3], "segmentation": outline(*box, crowd)}
                      for i in ids for n, (category, box, crowd) in enumerate(BOXES)]})


FLICKR = {"train": (1000092795, 10002456), "val": (1000268201,), "test": (1000344755,)}


def flickr30k(root: Path) -> None:
  rows = []
  for split, ids in FLICKR.items():
    for i in ids:
      rows.append({"filename": f"{i}.jpg", "imgid": i, "split": split, "sentids": list(range(5)), "sentences": [
          {"tokens": [], "raw": t.strip(), "imgid": i, "sentid": i * 10 + n} for n, t in enumerate(captions_of(i))]})
      picture(root / "flickr30k-images" / f"{i}.jpg", i)
  karpathy(root, "flickr30k", rows)


def paragraphs(root: Path) -> None:
  official_files.image_paragraph(root)
  write(root / "train_split.json", [2414610, 2365091])
  write(root / "val_split.json", [2317429])


def narratives(root: Path) -> None:
  """COCO's training narratives in two files: of a picture of train, restval, and test (which is not to be trained on)."""
  def lines(path, ids, set_):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({
        "dataset_id": set_, "image_id": i, "annotator_id": 1, "caption": f"In this image I can see box {i}. ",
        "timed_caption": [], "traces": [], "voice_recording": "…"}) + "\n" for i in ids), encoding="utf-8")

  lines(root / "coco_train_localized_narratives-00000-of-00002.jsonl", ["9", "42"], "mscoco_train2017")
  lines(root / "coco_train_localized_narratives-00001-of-00002.jsonl", ["133", "9"], "mscoco_train2017")
  lines(root / "coco_val_localized_narratives.jsonl", ["73"], "mscoco_val2017")
  lines(root / "flickr30k_train_localized_narratives.jsonl", ["1000092795"], "Flickr30k_train")
  lines(root / "flickr30k_val_localized_narratives.jsonl", ["1000268201"], "Flickr30k_val")


def vizwiz(root: Path) -> None:
  official_files.vizwiz(root)
  rows = json.loads((root / "Annotations" / "val.json").read_text())
  for row in rows:
    row["image"] = row["image"].replace("val", "train")
    picture(root / "train" / row["image"], 5)
  write(root / "Annotations" / "train.json", rows)


def scienceqa(root: Path) -> None:
  official_files.scienceqa(root)
  problems = json.loads((root / "problems.json").read_text())
  problems["17"] = {**problems["1"], "solution": "", "split": "train"}
  write(root / "problems.json", problems)
  write(root / "pid_splits.json", {"train": ["1", "17"], "val": ["4", "5"], "test": ["16"]})
  for split, pid in (("train", 1), ("train", 17), ("val", 5)):
    picture(root / "images" / split / str(pid) / "image.png", pid)


def instruct_pix2pix(root: Path) -> None:
  """Twenty folders: 18 of train, 1 of val, 1 of test; the first has two seeds, the second an empty instruction."""
  names = [f"{n:07d}" for n in range(20)]
  write(root / "seeds.json", [[name, ["111", "222"] if n == 0 else ["333"]] for n, name in enumerate(names)])
  for n, name in enumerate(names):
    write(root / name / "prompt.json", {"input": "a box", "edit": "" if n == 1 else f"make it number {n}", "output": "…"})
    for seed in ("111", "222", "333"):
      for side in (0, 1):
        picture(root / name / f"{seed}_{side}.jpg", 100 * n + side, (32, 32))


def textocr(root: Path) -> None:
  """Of a picture of 48 × 40: two lines, an unreadable word, and one outside the middle square."""
  words = (("SALE", [20, 20, 10, 6]), ("BIG", [6, 21, 10, 6]), ("now!", [10, 30, 12, 6]), (".", [30, 4, 8, 4]),
           ("EDGE", [0, 0, 4, 4]))
  for split, id_ in (("train", "a4ea732cd3d5948a"), ("val", "b4ea732cd3d5948b")):
    write(root / f"TextOCR_0.1_{split}.json", {
        "info": {}, "imgs": {id_: {"id": id_, "width": 48, "height": 40, "set": split, "file_name": f"train/{id_}.jpg"}},
        "anns": {f"{id_}_{n}": {"id": f"{id_}_{n}", "image_id": id_, "bbox": box, "utf8_string": word, "points": [], "area": 1.0}
                 for n, (word, box) in enumerate(words, 1)},
        "imgToAnns": {id_: [f"{id_}_{n}" for n in range(1, len(words) + 1)]}})
    picture(root / "train_images" / f"{id_}.jpg", 3, SIZE)


def controls(root: Path) -> None:
  for kind in ("hed", "pose", "depth", "normal"):
    for split, ids in COCO.items():
      for i in ids:
        path = root / kind / (Path(coco_name(FOLDER[split], i)).stem + ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (i % 256, 0, len(kind) * 20)).save(path)
