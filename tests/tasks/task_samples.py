"""Small windows and record folders that several tests of this folder use."""

import numpy as np

from cm3leon_jax import manifest
from cm3leon_jax import records
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
      [np.full(len(p["tokens"]), i + 1 if isolated else 1, np.int32) for i, p in enumerate(parts)]
      or [np.zeros(0, np.int32)])
  if not isolated:
    joined["positions"] = np.arange(size, dtype=np.int32)
  return {k: np.pad(v, (0, width - size)) for k, v in joined.items()}


def stack(windows):
  return {k: np.stack([w[k] for w in windows]) for k in windows[0]}


STYLES = ("noto", "twemoji", "openmoji")


def document(rng, thing, style, skin_tone="", gender="", layout=LAYOUT, vocabulary=VOCABULARY, encode=None):
  """A document record as the tokenize pipeline writes it; `encode`: text → ids, random ids without."""
  name = " ".join(filter(None, (gender, thing)))
  caption = ", ".join(filter(None, (name, skin_tone and skin_tone + " skin", style)))
  text = encode(caption) if encode else rng.integers(3, vocabulary.text_size, rng.integers(1, 7)).astype(np.int32)
  return {
      "id": "/".join([style, *name.split(), *([skin_tone] if skin_tone else [])]), "text": text,
      "image": vocabulary.image_ids(rng.integers(0, vocabulary.image_size, layout.image_tokens)),
      "caption": caption, "thing": name, "name": name, "style": style, "skin_tone": skin_tone, "gender": gender}


def write_corpus(workdir, layout=LAYOUT, vocabulary=VOCABULARY, things=6, encode=None, text_tokenizer="",
                 image_tokenizer=""):
  """documents/ and neighbours/ of three splits: everyday things, and people with skin tones and genders.

  The held-out drawings are openmoji's of the last two things and of one cook; `heldout_things` has one thing.
  """
  rng = np.random.default_rng(0)
  make = lambda *about: document(rng, *about, layout=layout, vocabulary=vocabulary, encode=encode)
  every = [make(f"thing{i}", style) for i in range(things) for style in STYLES]
  every += [make("cook", style, tone, gender) for style in STYLES for gender in ("man", "woman", "person")
            for tone in ("", "light", "dark")]
  held = lambda d: d["style"] == "openmoji" and (
      d["name"] in (f"thing{things - 1}", f"thing{things - 2}") or (d["name"], d["skin_tone"]) == ("man cook", "dark"))
  splits = {"train": [d for d in every if not held(d)], "heldout_drawings": [d for d in every if held(d)],
            "heldout_things": [make("unseen", "noto")]}
  train_ids = [d["id"] for d in splits["train"]]
  for split, rows in splits.items():
    with manifest.writing(workdir / "documents" / split, "documents") as (folder, about):
      records.write_shard(folder / records.shard_name("documents", 0, 1), rows)
      about.update(vocabulary=vocabulary.fingerprint(), text_tokenizer=text_tokenizer,
                   image_tokenizer=image_tokenizer, count=len(rows), image_tokens=layout.image_tokens)
    with manifest.writing(workdir / "neighbours" / split, "neighbours") as (folder, about):
      near = []
      for d in rows:
        found = rng.permutation([i for i in train_ids if i != d["id"]]).tolist()
        near.append({"id": d["id"], "by_text_ids": found[:2], "by_text_scores": np.array([0.8, 0.7], np.float32),
                     "by_image_ids": found[1:3], "by_image_scores": np.array([0.8, 0.7], np.float32)})
      records.write_shard(folder / records.shard_name("neighbours", 0, 1), near)
      about.update(count=len(rows))
  return splits
