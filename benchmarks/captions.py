"""Caption metrics end to end, files in and numbers out: ours (no Java) against pycocoevalcap with its Java tokenizer.

    python benchmarks/captions.py --images=5000 --rounds=3

Both read the same two COCO files from disk and give CIDEr-D, BLEU-1..4 and ROUGE-L; each in a process of its own, so
imports and Java's start count. They take turns, the best turn of each counts. Ours also resamples 1,000 times for its
intervals; a second row leaves that out. METEOR and SPICE are in neither. The captions are made, the same each time:
words are drawn by Zipf's law, P(rank r) ∝ 1/(r + 2.7), from a vocabulary of 8,000 (COCO val2014: about 9,900 types) with
"a" as the commonest; lengths are 8 + Poisson(2.4) words (COCO: 10.4 on average, 8 at least). Each image has a sentence of
14 words of its own: a caption is a part of it in order, with one word of four drawn anew, which gives scores of the size
of good models' on COCO. Nine of ten end in a full stop; one of ten holds a number, a clitic, a hyphen or a quotation, the
share of COCO's captions that are not plain words.

Needs Java and `pip install pycocoevalcap` besides the project.
"""

import argparse
import json
from pathlib import Path
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

VOCABULARY = 8000
ODD = ["3", "isn't", "man's", "black-and-white", '"STOP"', "t-shirt", "U.S.", "it's", "10:30", "and/or"]


def make(folder: Path, images: int, references: int = 5, seed: int = 0) -> None:
  """Writes `captions.json` and `results.json` in COCO's form."""
  rng = np.random.default_rng(seed)
  letters = list("etaoinshrdlucmfwypvbgk")
  words = ["a", "on", "of", "the", "in", "with", "and", "is", "man", "to"]
  words += ["".join(rng.choice(letters, rng.integers(3, 9))) for _ in range(VOCABULARY - len(words))]
  share = 1 / (np.arange(VOCABULARY) + 2.7)
  share /= share.sum()

  def sentence(own: np.ndarray) -> str:
    length = 8 + rng.poisson(2.4)
    part = own[np.sort(rng.permutation(len(own))[:length])]
    length = len(part)
    picked = np.where(rng.random(length) < 0.75, part, rng.choice(VOCABULARY, length, p=share))
    text = [words[i] for i in picked]
    if text[-1] == "a":  # no caption ends so; the Java tokenizer's stop of single letters depends on the line after it
      text[-1] = "man"
    if rng.random() < 0.1:
      text[rng.integers(length)] = ODD[rng.integers(len(ODD))]
    return " ".join(text).capitalize() + ("." if rng.random() < 0.9 else "")

  annotations, results = [], []
  for image in range(images):
    own = rng.choice(VOCABULARY, 14, p=share)
    results.append({"image_id": image, "caption": sentence(own)})
    annotations += [{"id": len(annotations) + i, "image_id": image, "caption": sentence(own)} for i in range(references)]
  (folder / "captions.json").write_text(json.dumps({"images": [{"id": i} for i in range(images)], "annotations": annotations}))
  (folder / "results.json").write_text(json.dumps(results))


OURS = """
import sys
from cm3leon_jax.evaluation import bootstrap, captions
if sys.argv[2] == "bare":
  bootstrap.REPEATS = 1
  bootstrap.resampled_means.__defaults__ = (1, 0)
  bootstrap.mean_interval.__kwdefaults__["repeats"] = 1
captions.evaluate_captions(sys.argv[1] + "/results.json", sys.argv[1] + "/captions.json", sys.argv[1] + "/ours.json")
"""

# What pycocoevalcap's COCOEvalCap.evaluate does, without METEOR and SPICE and without pycocotools' reader.
THEIRS = """
import json, sys
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
gts, res = {}, {}
for row in json.load(open(sys.argv[1] + "/captions.json"))["annotations"]:
  gts.setdefault(row["image_id"], []).append(row)
for row in json.load(open(sys.argv[1] + "/results.json")):
  res[row["image_id"]] = [row]
gts, res = PTBTokenizer().tokenize(gts), PTBTokenizer().tokenize(res)
bleu = Bleu(4).compute_score(gts, res, verbose=0)[0]
scores = {"cider": Cider().compute_score(gts, res)[0], "rouge_l": Rouge().compute_score(gts, res)[0]}
scores |= {f"bleu_{n + 1}": value for n, value in enumerate(bleu)}
json.dump({name: float(value) for name, value in scores.items()}, open(sys.argv[1] + "/theirs.json", "w"))
"""


def seconds(program: str, *arguments: str) -> tuple[float, float]:
  """Wall time and CPU time (all threads, Java's too) of a process."""
  used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
  start, before = time.perf_counter(), used()
  subprocess.run([sys.executable, "-c", program, *arguments], check=True, stderr=subprocess.DEVNULL)
  return time.perf_counter() - start, used() - before


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--images", type=int, default=5000)
  parser.add_argument("--rounds", type=int, default=3)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    make(Path(folder), args.images)
    times = {"pycocoevalcap": [], "ours": [], "ours, no intervals": []}
    for _ in range(args.rounds):
      times["pycocoevalcap"].append(seconds(THEIRS, folder))
      times["ours, no intervals"].append(seconds(OURS, folder, "bare"))
      times["ours"].append(seconds(OURS, folder, "full"))
    ours, theirs = (json.loads((Path(folder) / f"{name}.json").read_text()) for name in ("ours", "theirs"))
  print("| | × pycocoevalcap, clock | × , CPU time | clock, s | CPU, s |\n|---|---|---|---|---|")
  best = {name: np.min(taken, axis=0) for name, taken in times.items()}
  for name, (clock, cpu) in best.items():
    ratio, cpu_ratio = best["pycocoevalcap"] / (clock, cpu)
    print(f"| {name} | {ratio:.1f} | {cpu_ratio:.1f} | {clock:.2f} | {cpu:.2f} |")
  print("largest difference:", max(abs(ours[name] - value) for name, value in theirs.items()))
  print({name: round(value, 4) for name, value in theirs.items()})


if __name__ == "__main__":
  main()
