"""Small evaluation sets in the true form of the official files, with real pictures; one function a set.

Each writes 3 to 6 items into a folder, laid out as the official archives unpack, and returns the folder.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COCO_IDS = (42, 73, 74, 133, 136)  # of val2014
_COLOURS = ("red", "green", "blue", "yellow", "white")


def picture(path: Path, number: int, size: tuple[int, int] = (48, 40)) -> None:
  """A real JPEG or PNG, (width, height) = `size`: a box of its own place and colour on grey."""
  rng = np.random.default_rng(number)
  pixels = np.full((size[1], size[0], 3), 128, np.uint8)
  x, y = rng.integers(0, size[0] // 2), rng.integers(0, size[1] // 2)
  pixels[y:y + 16, x:x + 20] = rng.integers(0, 255, 3)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


def write(path: Path, data) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(data), encoding="utf-8")


def coco_name(folder: str, image_id: int) -> str:
  return f"{folder}/COCO_{folder}_{image_id:012d}.jpg"


def coco_pictures(root: Path, folder: str = "val2014", ids=COCO_IDS) -> None:
  for number in ids:
    picture(root / coco_name(folder, number), number)


def captions_of(image_id: int) -> list[str]:
  """Five captions; some end in a newline, as in the official file."""
  colour = _COLOURS[image_id % 5]
  return [f"A {colour} box on grey.", f"a {colour} square\n", f"One {colour} thing, number {image_id}.",
          f"There is a {colour} box", f"A box that is {colour} "]


def caption_id(image_id: int, number: int) -> int:
  return image_id * 10 + number


def coco(root: Path) -> Path:
  """captions_val2014.json and its pictures: 5 pictures with 5 captions each."""
  write(root / "annotations" / "captions_val2014.json", {
      "info": {"description": "COCO 2014 Dataset", "year": 2014}, "licenses": [{"id": 3, "name": "…"}],
      "images": [{"license": 3, "file_name": f"COCO_val2014_{i:012d}.jpg", "height": 40, "width": 48, "id": i,
                  "coco_url": f"http://images.cocodataset.org/val2014/COCO_val2014_{i:012d}.jpg"} for i in COCO_IDS],
      # The official file has the captions of a picture far apart.
      "annotations": [{"image_id": i, "id": caption_id(i, n), "caption": captions_of(i)[n]}
                      for n in range(5) for i in reversed(COCO_IDS)]})
  coco_pictures(root)
  return root


def karpathy_coco(root: Path) -> Path:
  """dataset_coco.json: 3 pictures of test, 1 of val, 1 of restval."""
  splits = ("test", "restval", "test", "val", "test")
  sentence = lambda i, n: {"tokens": captions_of(i)[n].lower().strip(" .\n").split(), "raw": captions_of(i)[n],
                           "imgid": COCO_IDS.index(i), "sentid": caption_id(i, n)}
  write(root / "dataset_coco.json", {"images": [
      {"filepath": "val2014", "sentids": [caption_id(i, n) for n in range(5)], "filename": f"COCO_val2014_{i:012d}.jpg",
       "imgid": number, "split": split, "sentences": [sentence(i, n) for n in range(5)], "cocoid": i}
      for number, (i, split) in enumerate(zip(COCO_IDS, splits))], "dataset": "coco"})
  coco_pictures(root)
  return root


FLICKR_IDS = (1000092795, 10002456, 1000268201, 1000344755)


def flickr30k(root: Path) -> Path:
  """dataset_flickr30k.json (3 of test, 1 of train) and results_20130124.token."""
  splits = ("test", "test", "train", "test")
  write(root / "dataset_flickr30k.json", {"images": [
      {"sentids": [number * 5 + n for n in range(5)], "imgid": number, "split": split, "filename": f"{i}.jpg",
       "sentences": [{"tokens": captions_of(i)[n].split(), "raw": captions_of(i)[n].strip(), "imgid": number,
                      "sentid": number * 5 + n} for n in range(5)]}
      for number, (i, split) in enumerate(zip(FLICKR_IDS, splits))], "dataset": "flickr30k"})
  (root / "results_20130124.token").write_text("".join(
      f"{i}.jpg#{n}\t{captions_of(i)[n].strip()}\n" for i in FLICKR_IDS for n in range(5)), encoding="utf-8")
  for i in FLICKR_IDS:
    picture(root / "flickr30k-images" / f"{i}.jpg", i)
  return root


def _answers(*answers: str) -> list[dict]:
  return [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(answers, 1)]


VQA_QUESTIONS = ((42000, 42, "What color is the box?", "other", "what color is the", ["blue"] * 7 + ["navy"] * 3),
                 (42001, 42, "Is there a box?", "yes/no", "is there a", ["yes"] * 10),
                 (73000, 73, "How many boxes are there?", "number", "how many", ["1"] * 9 + ["one"]),
                 (74000, 74, "What is behind the box?", "other", "what is", ["grey"] * 5 + ["a wall"] * 5))


def vqa2(root: Path) -> Path:
  """Questions and annotations of val2014, and questions of test-dev2015 with a picture of test2015."""
  head = {"info": {"description": "This is v2.0 of the VQA dataset.", "version": "2.0", "year": 2017},
          "license": {"name": "CC BY 4.0"}, "data_type": "mscoco"}
  write(root / "v2_OpenEnded_mscoco_val2014_questions.json", {
      **head, "task_type": "Open-Ended", "data_subtype": "val2014",
      "questions": [{"image_id": image, "question": q, "question_id": i} for i, image, q, *_ in VQA_QUESTIONS]})
  write(root / "v2_mscoco_val2014_annotations.json", {
      **head, "data_subtype": "val2014", "annotations": [
          {"question_type": kind, "multiple_choice_answer": answers[0], "answers": _answers(*answers), "image_id": image,
           "answer_type": answer_type, "question_id": i}
          for i, image, _, answer_type, kind, answers in reversed(VQA_QUESTIONS)]})
  write(root / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {
      **head, "task_type": "Open-Ended", "data_subtype": "test-dev2015",
      "questions": [{"image_id": 262144, "question": "Is the ball flying?", "question_id": 262144005},
                    {"image_id": 262144, "question": "What is it?", "question_id": 262144006}]})
  coco_pictures(root)
  picture(root / coco_name("test2015", 262144), 262144)
  return root


def okvqa(root: Path) -> Path:
  """Questions and annotations of val2014; each of five people's answers stands twice, raw and stemmed."""
  head = {"info": {"version": "1.0", "year": 2019}, "license": {"name": "CC BY 4.0"}, "data_type": "mscoco",
          "data_subtype": "val2014"}
  rows = ((423, 42, "What sport is this box used in?", "four", ["golf"] * 6 + ["polo"] * 4),
          (424, 73, "What dish is in the box?", "five", ["pizza"] * 10),
          (745, 74, "What is this made of?", "other", ["card"] * 8 + ["paper"] * 2))
  write(root / "OpenEnded_mscoco_val2014_questions.json", {
      **head, "task_type": "Open-Ended",
      "questions": [{"image_id": image, "question": q, "question_id": i} for i, image, q, *_ in rows]})
  write(root / "mscoco_val2014_annotations.json", {
      **head, "question_types": {"four": "Sports and Recreation", "five": "Cooking and Food", "other": "Other"},
      "annotations": [
          {"image_id": image, "answer_type": "other", "question_type": kind, "question_id": i, "confidence": 3,
           "answers": [{**a, "raw_answer": a["answer"] + "s"} for a in _answers(*answers)]}
          for i, image, _, kind, answers in rows]})
  coco_pictures(root)
  return root


def vizwiz(root: Path) -> Path:
  """val.json with answers, test.json without; as Annotations.zip and the zips of pictures unpack."""
  rows = (("Ok. There is another picture I hope it is a better one.", "unanswerable", 0, ["unanswerable"] * 10),
          ("What is this? And what color is it?", "other", 1, ["red box"] * 6 + ["box"] * 4),
          ("Is this a box?", "yes/no", 1, ["yes"] * 10))
  write(root / "Annotations" / "val.json", [
      {"image": f"VizWiz_val_{n:08d}.jpg", "question": q, "answer_type": kind, "answerable": can,
       "answers": [{"answer": a, "answer_confidence": "yes"} for a in answers]}
      for n, (q, kind, can, answers) in enumerate(rows)])
  write(root / "Annotations" / "test.json", [{"image": f"VizWiz_test_{n:08d}.jpg", "question": q}
                                             for n, (q, *_) in enumerate(rows)])
  for n in range(3):
    picture(root / "val" / f"VizWiz_val_{n:08d}.jpg", n, (40, 56))
    picture(root / "test" / f"VizWiz_test_{n:08d}.jpg", n + 10, (40, 56))
  return root


def scienceqa(root: Path) -> Path:
  """problems.json, pid_splits.json: 4 questions of test, one without a picture, one without a hint."""
  problem = lambda q, choices, answer, hint, image, subject, split="test": {
      "question": q, "choices": choices, "answer": answer, "hint": hint, "image": image, "task": "closed choice",
      "grade": "grade5", "subject": subject, "topic": "physics", "category": "Magnets", "skill": "…",
      "lecture": "Magnets are pieces of iron.", "solution": "Like poles repel.", "split": split}
  write(root / "problems.json", {
      "1": problem("Which is a box?", ["this", "that"], 0, "", "image.png", "natural science", "train"),
      "4": problem("Which figure of speech is used?", ["simile", "pun"], 1, "He sang.", None, "language science"),
      "5": problem("Will these magnets attract or repel?", ["repel", "attract"], 1, "Two magnets are placed.\n",
                   "image.png", "natural science"),
      "11": problem("Which of these states is farthest north?", ["Ohio", "Maine", "Iowa", "Utah"], 1, "", "image.png",
                    "social science"),
      "16": problem("Is the box solid?", ["yes", "no", "both"], 0, "A box.", "image.png", "natural science")})
  write(root / "pid_splits.json", {"train": ["1"], "val": [], "test": ["4", "5", "11", "16"], "minitest": ["5"]})
  for pid in (5, 11, 16):
    picture(root / "images" / "test" / str(pid) / "image.png", pid, (60, 30))
  return root


VISDIAL_IDS = (185565, 284024, 574189)


def visdial(root: Path) -> Path:
  """Three dialogues of ten rounds; of each, one round (1, 5, 10) has the relevance of its hundred answers."""
  questions = [f"is box {n} red" for n in range(40)]
  answers = [f"answer number {n}" for n in range(120)]
  dialogs, dense = [], []
  for number, image in enumerate(VISDIAL_IDS):
    rounds = [{"question": number * 10 + turn, "answer": 7 * turn + number, "gt_index": 3 * turn + number,
               "answer_options": []} for turn in range(10)]
    for turn in rounds:
      others = [n for n in range(120) if n != turn["answer"]][:99]
      turn["answer_options"] = [*others[:turn["gt_index"]], turn["answer"], *others[turn["gt_index"]:]]
    dialogs.append({"image_id": image, "caption": f"a red box, picture {number}", "dialog": rounds})
    round_id = (1, 5, 10)[number]
    relevance = [0.0] * 100
    relevance[rounds[round_id - 1]["gt_index"]] = 1.0
    relevance[(rounds[round_id - 1]["gt_index"] + 1) % 100] = 0.4
    dense.append({"image_id": image, "round_id": round_id, "gt_relevance": relevance})
    picture(root / "VisualDialog_val2018" / f"VisualDialog_val2018_{image:012d}.jpg", image)
  write(root / "visdial_1.0_val.json", {"version": "1.0", "split": "val2018", "data": {
      "questions": questions, "answers": answers, "dialogs": dialogs}})
  write(root / "visdial_1.0_val_dense_annotations.json", dense[::-1])
  return root


def image_paragraph(root: Path) -> Path:
  """paragraphs_v1.json: 3 pictures of test in both of Visual Genome's folders, one of them listed twice, and 1 of train."""
  rows = ((2356347, "VG_100K", "A large red box stands on grey ground. It is square.\n"),
          (2317429, "VG_100K_2", "A white round plate is on a table. There are boxes on it."),
          (2414610, "VG_100K_2", "There is a blue box. Nothing else is there."),
          (2317429, "VG_100K_2", "A plate holds several boxes. The table is brown."),
          (2365091, "VG_100K", "A green box. A second one stands behind it. "))
  write(root / "paragraphs_v1.json", [
      {"url": f"https://cs.stanford.edu/people/rak248/{folder}/{i}.jpg", "image_id": i, "paragraph": text}
      for i, folder, text in rows])
  write(root / "train_split.json", [2414610])
  write(root / "val_split.json", [])
  write(root / "test_split.json", [2365091, 2317429, 2356347])
  for i, folder, _ in rows:
    picture(root / folder / f"{i}.jpg", i)
  return root
