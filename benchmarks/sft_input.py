"""Fine-tuning input at the paper's size: drawing samples, reading masked windows, and the padding of whole samples.

    python benchmarks/sft_input.py

Made `examples` folders (1,024 random codes of 8,192 a picture, 1,000 pictures with five texts of one length, three tasks)
under the demo's text tokenizer; files are in the page cache. Padding: samples drawn by the numbers of Table 5 (PAPER §7.2),
with text lengths of Poisson distributions about typical means, first fit into 64 open rows, 24 tokens kept for masks.
"""

import argparse
import itertools
from pathlib import Path
import tempfile
import time

import numpy as np

from cm3leon_jax import assets, manifest, records
from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks import packing, seqio_adapter, windows
from cm3leon_jax.tasks.objective import CM3Objective
from cm3leon_jax.tasks.official import store, tasks
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.vocabulary import Vocabulary

LENGTH, RESERVE = 4352, 24
LAYOUT = Layout(image_tokens=1024, text_tokens=256, max_documents=4, numbering="sequence")
CAPTION = {"caption": "A man riding a wave on top of a surfboard near the beach."}
QUESTION = {"question": "What color is the box that stands in the corner of the room?", "answers": [["blue", 6], ["green", 4]]}
SETS = {"vqa2": (1, QUESTION), "coco_captions": (1, CAPTION), "canny": (2, CAPTION)}  # pictures, fields
# Table 5: thousands of examples, pictures, mean text tokens (queries included).
TABLE = ((127, 2, 24), (300, 1, 15), (3000, 1, 150), (1000, 2, 24), (1000, 2, 24), (1000, 2, 24), (142, 2, 24), (1000, 2, 24),
         (1000, 2, 24), (500, 2, 24), (591, 1, 14), (144, 1, 16), (14, 1, 90), (164, 1, 60), (1300, 1, 20), (92, 1, 20),
         (26, 1, 20), (6, 1, 120))


def make(workdir: Path) -> None:
  rng = np.random.default_rng(0)
  for name, (pictures, fields) in SETS.items():
    folder = workdir / "examples" / name / "train"
    folder.mkdir(parents=True)
    records.write_shard(folder / records.shard_name(store.KIND, 0, 1), (
        {"id": str(i), "images": rng.integers(0, 8192, (pictures, 1024)).astype(np.uint16), "texts": [fields] * 5}
        for i in range(1000)))
    store.write_texts(folder)
    manifest.write_file(folder, store.KIND, {"image_tokens": 1024, "codebook_size": 8192, "image_tokenizer": "", "count": 1000})


def rate(what: str, tokens: int, wall: float, cpu: float) -> None:
  now = time.time(), time.process_time()
  print(f"{what}: {tokens / (now[0] - wall):,.0f} tokens/s, {tokens / (now[1] - cpu):,.0f} a second of CPU time", flush=True)


def padding(length: int, samples: int) -> float:
  rng = np.random.default_rng(0)
  numbers, pictures, texts = (np.array(column) for column in zip(*TABLE))
  chosen = rng.choice(len(TABLE), samples, p=numbers / numbers.sum())
  sizes = 1 + pictures[chosen] * 1026 + rng.poisson(texts[chosen])
  stats = packing.PackingStats()
  for _ in packing.pack(({"tokens": np.zeros(n, np.int32)} for n in sizes), length + 1 - RESERVE, layout=LAYOUT, stats=stats):
    pass
  return stats.wasted


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--samples", type=int, default=4000)
  args = parser.parse_args()
  vocabulary = Vocabulary(text_size=2048, image_size=8192, num_sentinels=512, total_size=0)
  with tempfile.TemporaryDirectory() as folder:
    workdir = Path(folder)
    make(workdir)
    tasks.register(workdir, vocabulary, LAYOUT, TextTokenizer.load(assets.path("tokenizers/demo_text")), list(SETS))
    seqio_adapter.register_mixture("mixture", dict.fromkeys(SETS, 1.0))
    drawn = seqio_adapter.examples("mixture", "train")
    next(drawn)
    wall, cpu = time.time(), time.process_time()
    rate("drawn", sum(len(s["tokens"]) for s in itertools.islice(drawn, args.samples)), wall, cpu)
    drawn.close()
    windows.write_windows("mixture", "train", workdir / "windows", vocabulary=vocabulary, layout=LAYOUT, length=LENGTH,
                          reserve=RESERVE, shards=4)
    source = windows.WindowSource(workdir / "windows", batch_size=16, objective=CM3Objective(max_spans=8))
    source.batch(0)
    wall, cpu = time.time(), time.process_time()
    for step in range(1, 21):
      source.batch(step)
    rate("windows read, masked, shifted", 20 * 16 * LENGTH, wall, cpu)
  for length in (4096, 4224, LENGTH, 4480):
    print(f"padding in rows of {length:,}: {padding(length, args.samples):.1%}")


if __name__ == "__main__":
  main()
