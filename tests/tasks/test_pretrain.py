import itertools
import zlib

import numpy as np
import pytest
import tensorflow as tf

from cm3leon_jax.errors import InputError
from cm3leon_jax.tasks import pretrain
from cm3leon_jax.tasks import seqio_adapter
from cm3leon_jax.tasks import windows as windows_lib
from cm3leon_jax.tasks.objective import CM3Objective
from cm3leon_jax.vocabulary import Vocabulary
from task_samples import LAYOUT, VOCABULARY, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("corpus")
  splits = write_corpus(workdir)
  pretrain.register_emoji(workdir, VOCABULARY, LAYOUT)
  return workdir, splits


def images(tokens):
  codes = tokens[VOCABULARY.is_image(tokens)]
  return [tuple(c) for c in codes.reshape(-1, LAYOUT.image_tokens).tolist()]


def queried(split, rows):
  """Drawings that a sample asks for: those without a skin tone, and in training a fifth of the others, by a hash."""
  return [d for d in rows if not d["skin_tone"] or split == "train" and zlib.crc32(d["id"].encode()) / 2**32 < 0.2]


def test_few_skin_tones_are_asked_for(corpus):
  train = corpus[1]["train"]
  toned = [d for d in queried("train", train) if d["skin_tone"]]
  assert len(toned) < 0.5 * sum(bool(d["skin_tone"]) for d in train)
  share = np.mean([bool(queried("train", [{"id": str(i), "skin_tone": "dark"}])) for i in range(2000)])
  assert abs(share - 0.2) < 4 * (0.2 * 0.8 / 2000)**0.5
  assert not queried("heldout_drawings", [{"id": "a", "skin_tone": "dark"}])


def test_training_samples(corpus):
  _, splits = corpus
  queries_of = queried("train", splits["train"])
  count = len(queries_of)
  samples = list(seqio_adapter.examples("emoji_retrieval_pretrain", "train", seed=1, epochs=20))
  assert len(samples) == 20 * count == 20 * seqio_adapter.size("emoji_retrieval_pretrain", "train")
  known = {tuple(d["image"].tolist()): d["id"] for d in splits["train"]}
  ids = [[known[i] for i in images(s["tokens"])] for s in samples]
  # Each epoch has every query once, in its own order; K is drawn anew.
  queries = [[i[-1] for i in ids[e * count:(e + 1) * count]] for e in range(20)]
  assert all(sorted(q) == sorted(d["id"] for d in queries_of) for q in queries) and queries[0] != queries[1]
  ks = np.bincount([len(i) - 1 for i in ids]) / len(ids)
  np.testing.assert_allclose(ks, [0.25, 0.25, 0.5], atol=4 * (0.25 / len(ids))**0.5)
  assert all(len(set(i)) == len(i) for i in ids)
  assert all(s["loss_weights"].all() for s in samples[:50])
  by_query = {}
  for i in ids:
    by_query.setdefault(i[-1], set()).add(tuple(i[:-1]))
  assert max(map(len, by_query.values())) > 4  # random choice and order

  again = list(seqio_adapter.examples("emoji_retrieval_pretrain", "train", seed=1, epochs=2))
  assert all(np.array_equal(a["tokens"], b["tokens"]) for a, b in zip(again, samples))
  other = list(seqio_adapter.examples("emoji_retrieval_pretrain", "train", seed=2, epochs=1))
  assert any(not np.array_equal(a["tokens"], b["tokens"]) for a, b in zip(other, samples))


@pytest.mark.parametrize("k", [0, 1, 2])
def test_evaluation_samples(corpus, k):
  workdir, splits = corpus
  rows = queried("heldout_drawings", splits["heldout_drawings"])
  train = {d["id"]: d for d in splits["train"]}
  near = {r["id"]: r for r in windows_lib.records.Reader(workdir / "neighbours/heldout_drawings", "neighbours")}
  samples = list(seqio_adapter.examples(f"emoji_retrieval_k{k}", "heldout_drawings", shuffle=False))
  assert len(samples) == len(rows)
  for s, d in zip(samples, rows):
    want = [train[i]["image"] for i in near[d["id"]]["by_text_ids"][:k]] + [d["image"]]
    assert images(s["tokens"]) == [tuple(w.tolist()) for w in want]
    size = len(d["text"]) + 1 + LAYOUT.image_tokens  # text, <break>, image
    assert np.flatnonzero(s["loss_weights"]).tolist() == list(range(len(s["tokens"]) - 1 - size, len(s["tokens"]) - 1))


def test_windows_of_a_task(corpus, tmp_path):
  objective = CM3Objective(max_spans=4)
  options = {"vocabulary": VOCABULARY, "layout": LAYOUT, "length": 128, "reserve": objective.reserve, "epochs": 2,
             "seed": 3}
  manifest = windows_lib.write_windows("emoji_retrieval_pretrain", "train", tmp_path / "a", **options)
  assert manifest["samples"] == 2 * len(queried("train", corpus[1]["train"]))
  assert manifest["task"] == "emoji_retrieval_pretrain"
  assert manifest["counts"]["truncated_texts"] == 0 < manifest["counts"]["texts"]
  windows_lib.write_windows("emoji_retrieval_pretrain", "train", tmp_path / "b", **options)
  a, b = (windows_lib.WindowSource(tmp_path / x, batch_size=4, objective=objective).batch(1) for x in "ab")
  assert all(np.array_equal(a[name], b[name]) for name in a)


def test_online_iterator_resumes(corpus):
  """The online path: the tf.data iterator of a mixture, checkpointed after 30 samples, goes on with the 31st."""
  options = tf.data.Options()
  options.experimental_symbolic_checkpoint = True
  samples = seqio_adapter.dataset("emoji_retrieval_pretrain", "train", seed=4, epochs=None)
  make = lambda: iter(samples.with_options(options))
  whole = make()
  for _ in itertools.islice(whole, 30):
    pass
  checkpoint = tf.train.Checkpoint(it=whole)
  path = checkpoint.write(str(corpus[0] / "iterator"))
  want = [next(whole)["tokens"].numpy() for _ in range(10)]
  fresh = make()
  tf.train.Checkpoint(it=fresh).read(path)
  for tokens in want:
    np.testing.assert_array_equal(next(fresh)["tokens"].numpy(), tokens)


def test_errors(corpus, tmp_path):
  with pytest.raises(InputError, match="no task or mixture is named 'emoji_retreival'; nearest: emoji_retrieval"):
    next(seqio_adapter.examples("emoji_retreival", "train"))
  with pytest.raises(InputError, match="emoji_retrieval_k0 has no split 'train'; it has: heldout_drawings, "):
    next(seqio_adapter.examples("emoji_retrieval_k0", "train"))
  with pytest.raises(InputError, match="up to 3 retrieved documents, but Layout.max_documents=3 has room for 2"):
    pretrain.register_emoji(tmp_path, VOCABULARY, LAYOUT, k_probabilities=(0.1, 0.2, 0.3, 0.4))
  try:
    pretrain.register_emoji(tmp_path, VOCABULARY, LAYOUT)
    with pytest.raises(InputError, match="neighbours/train: no such folder"):
      next(seqio_adapter.examples("emoji_retrieval_pretrain", "train"))
    pretrain.register_emoji(corpus[0], Vocabulary(text_size=65, image_size=32, num_sentinels=16, total_size=0), LAYOUT)
    with pytest.raises(InputError, match="made with another vocabulary"):
      next(seqio_adapter.examples("emoji_retrieval_pretrain", "train"))
  finally:
    pretrain.register_emoji(corpus[0], VOCABULARY, LAYOUT)
