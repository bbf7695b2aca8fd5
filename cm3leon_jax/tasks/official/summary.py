"""What a mixture will show a model, measured on drawn samples before any training."""

import itertools
from typing import Iterator, Mapping

import numpy as np

from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks import inspect, packing, seqio_adapter
from cm3leon_jax.tasks.objective import CM3Objective
from cm3leon_jax.tasks.official import balance
from cm3leon_jax.tasks.official.sources import TRAIN
from cm3leon_jax.vocabulary import Vocabulary

DRAWN = 256  # samples of each task
PACKED = 2048  # samples of the mixture


def masked_answers(vocabulary: Vocabulary, masked: Mapping[str, np.ndarray], samples: list[Mapping]) -> tuple[int, int]:
  """(samples whose answer is masked as a whole, samples that have one) of single-sample windows [N, W]."""
  whole = having = 0
  for tokens, sample in zip(masked["tokens"], samples):
    answer = sample["tokens"][sample["answers"] > 0]
    if not len(answer):
      continue
    having += 1
    sentinels = np.flatnonzero(vocabulary.is_sentinel(tokens))
    for tail in sentinels[len(sentinels) // 2:]:
      end = tail + 1 + len(answer)
      whole += bool(np.array_equal(tokens[tail + 1:end], answer) and tokens[end] == vocabulary.eoss_id)
  return whole, having


def lines(mixture: str, shares: Mapping[str, float], vocabulary: Vocabulary, layout: Layout, objective: CM3Objective, *,
          window: int, packing_mode: str, seed: int) -> Iterator[str]:
  """A table: of each task rows, share of the samples, repetitions an epoch, tokens an epoch, answers masked; and the
  share of padding of the whole. Tokens are those before masking; an answer is what stands before the picture.
  """
  sizes = {name: seqio_adapter.size(name, TRAIN) for name in shares}
  repeated, samples_an_epoch = balance.repetitions(shares, sizes), sum(sizes.values())
  yield f"{'task':22}{'rows':>12}{'share':>8}{'repeated':>10}{'tokens':>16}{'a sample':>10}{'answer masked':>15}"
  total = 0.0
  for name, share in shares.items():
    drawn = list(itertools.islice(seqio_adapter.examples(name, TRAIN, seed=seed), DRAWN))
    mean = float(np.mean([len(s["tokens"]) for s in drawn]))
    whole, having = masked_answers(vocabulary, inspect.mask_samples(objective, vocabulary, layout, drawn, seed), drawn)
    total += (tokens := mean * share * samples_an_epoch)
    outside = not balance.LOWEST - 1e-6 <= repeated[name] <= balance.HIGHEST + 1e-6
    asked = f"{whole / having:.0%} of {having / len(drawn):.0%}" if having else "-"
    yield (f"{name:22}{sizes[name]:>12,}{share:>8.1%}{repeated[name]:>9.2f}{'!' if outside else ' '}{tokens:>16,.0f}"
           f"{mean:>10,.0f}{asked:>15}")
  yield f"{mixture:22}{samples_an_epoch:>12,}{'100.0%':>8}{'':>10}{total:>16,.0f}{total / samples_an_epoch:>10,.0f}"
  stats = packing.PackingStats()
  drawn = itertools.islice(seqio_adapter.examples(mixture, TRAIN, seed=seed), PACKED)
  for _ in packing.pack(drawn, window, layout=layout, mode=packing_mode, stats=stats):
    pass
  yield f"padding {stats.wasted:.1%} of windows of {window:,} tokens, over {stats.samples:,} samples"
