"""documents + neighbours → windows: what training and its evaluation read, by index.

    D/windows/pretrain  D/windows/sft            training: drawn, packed, shuffled
    D/windows/<set>_k0 … _k2                     held-out: K documents before each, loss on the query pair

<set>: `drawings` and `things` of the demo, `heldout` of another corpus; `sft` is the demo's alone.
"""

import itertools
import os
from pathlib import Path
import sys
from typing import Iterable, Sequence

from absl import logging
from tqdm import tqdm

from cm3leon_jax import manifest, records
from cm3leon_jax.datasets import reader
from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks import pretrain, seqio_adapter, sft
from cm3leon_jax.tasks import windows as windows_lib
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.vocabulary import Vocabulary

SETS = {"drawings": "heldout_drawings", "things": "heldout_things", "heldout": "heldout"}


def windows(workdir: str | os.PathLike, *, text_tokenizer: str | os.PathLike, vocabulary: Vocabulary, layout: Layout,
            length: int, packing: str, reserve: int, epochs: int, document_counts: Sequence[float], text_only: float,
            held_out_samples: int, seed: int) -> None:
  """Writes all window folders of a workdir; one that is whole is not made again.

  Args:
    workdir: D, with `documents/` and `neighbours/`.
    text_tokenizer: folder of the text tokenizer.
    length: tokens of a training row after masking.
    packing: of the training windows, see `tasks.packing.pack`; held-out samples stay whole.
    reserve: of these, kept free for sentinels in the training windows.
    epochs: passes over the corpus for pretraining, each with new draws; fine-tuning gets one.
    document_counts: probabilities of K = 0, 1, 2, … in training.
    text_only: chance that a training sample's documents are those of the text query alone.
    held_out_samples: samples in each held-out folder, the same drawings for every K.
    seed: of all draws.
  """
  workdir = Path(workdir)
  logging.set_verbosity(logging.ERROR)  # seqio warns that an uncached task is shuffled little: ours are drawn shuffled
  text = TextTokenizer.load(text_tokenizer)
  pretrain.register_emoji(workdir, vocabulary, layout, k_probabilities=document_counts, text_only=text_only, text_tokenizer=text)
  sft.register_emoji_sft(workdir, vocabulary, layout, text)
  common = {"vocabulary": vocabulary, "layout": layout, "length": length, "seed": seed}
  drawn = {"document_counts": list(document_counts), "text_only": text_only}
  training = [("pretrain", pretrain.MIXTURE, epochs, drawn)]
  if "thing" in records.Reader(workdir / "documents" / "train", "documents")[0]:  # only the drawings have exact answers
    training.append(("sft", sft.MIXTURE, 1, {}))
  for name, task, passes, about in training:
    samples = seqio_adapter.examples(task, "train", seed=seed, epochs=passes)
    count = passes * seqio_adapter.size(task, "train")
    _write(workdir / "windows" / name, samples, count, reserve=reserve, packing_mode=packing,
           about={"task": task, "epochs": passes, **about}, **common)
  for set_name, split in SETS.items():
    if split not in reader.splits_of(workdir / "corpus"):
      continue
    for k in range(layout.max_documents):
      if (k + 1) * layout.stride > length:
        print(f"  windows/{set_name}_k{k}: left out, {k} documents and a query may be longer than {length} tokens", file=sys.stderr)
        continue
      task = f"{pretrain.TASK}_k{k}"
      count = min(held_out_samples, seqio_adapter.size(task, split))
      samples = itertools.islice(seqio_adapter.examples(task, split, seed=seed), count)
      _write(workdir / "windows" / f"{set_name}_k{k}", samples, count, reserve=0, shards=1, about={"task": task, "k": k},
             **common)
  manifest.write_file(workdir / "windows", "windows_folders", {"vocabulary": vocabulary.fingerprint()})


def _write(folder: Path, samples: Iterable[dict], count: int, **options) -> None:
  if manifest.exists(folder):
    return
  bar = tqdm(samples, total=count, desc=f"windows/{folder.name}", unit=" samples", file=sys.stderr, mininterval=1)
  made = windows_lib.write_samples(bar, folder, **options)
  print(f"  windows/{folder.name}: {made['count']} windows, {made['tokens']} tokens, {made['wasted']:.1%} padding",
        file=sys.stderr)
