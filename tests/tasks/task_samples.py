"""Small windows and record folders that several tests of this folder use."""

import numpy as np

from cm3leon_jax.layout import Layout
from cm3leon_jax.vocabulary import EOS_ID, Vocabulary

VOCABULARY = Vocabulary(text_size=64, image_size=32, num_sentinels=16, total_size=0)
LAYOUT = Layout(image_tokens=9, text_tokens=6, max_documents=3, numbering="document")


def sample(rng, text_lengths, layout=LAYOUT, vocabulary=VOCABULARY):
  """A sample with random contents: a dict of [N] arrays."""
  tokens = [[EOS_ID]]
  for i, length in enumerate(text_lengths):
    if i:
      tokens.append([vocabulary.break_id])
    tokens += [rng.integers(3, vocabulary.text_size, length), [vocabulary.break_id],
               vocabulary.image_ids(rng.integers(0, vocabulary.image_size, layout.image_tokens))]
  tokens = np.concatenate(tokens + [[EOS_ID]]).astype(np.int32)
  positions = layout.sample_positions(text_lengths)
  return {"tokens": tokens, "loss_weights": rng.random(len(tokens)).astype(np.float32), "positions": positions}


def window(rng, texts, width, layout=LAYOUT, isolated=True):
  """A window of one sample for each entry of `texts` (the text lengths of its pairs)."""
  parts = [sample(rng, lengths, layout) for lengths in texts]
  size = sum(len(p["tokens"]) for p in parts)
  assert size <= width, (size, width)
  empty = sample(rng, [1], layout)
  joined = {k: np.concatenate([p[k] for p in parts] or [v[:0]]) for k, v in empty.items()}
  joined["segment_ids"] = np.concatenate(
      [np.full(len(p["tokens"]), i + 1 if isolated else 1, np.int32) for i, p in enumerate(parts)] or [np.zeros(0, np.int32)])
  if not isolated:
    joined["positions"] = np.arange(size, dtype=np.int32)
  return {k: np.pad(v, (0, width - size)) for k, v in joined.items()}


def stack(windows):
  return {k: np.stack([w[k] for w in windows]) for k in windows[0]}
