"""What must hold for every registered task: the paper's over small official files, and the demo's."""

import numpy as np
import pytest

from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks import batches, inspect, packing, pretrain, seqio_adapter, sft, templates
from cm3leon_jax.tasks.objective import CM3Objective
from cm3leon_jax.tasks.official import tasks as official
from cm3leon_jax.tokenizers import train_text
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.vocabulary import EOS_ID, Vocabulary
from task_samples import write_corpus
import fine_tuning_workdir

OFFICIAL = list(official.known())
DEMO = [pretrain.TASK, *(f"{pretrain.TASK}_k{k}" for k in range(3)), sft.EDIT, sft.CAPTION]
OBJECTIVE = CM3Objective(max_spans=4, answer_mask_probability=1.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """name of a task → (vocabulary, layout, text tokenizer), everything registered."""
  workdir, settings = fine_tuning_workdir.made()
  settings.register(workdir)
  ours = (fine_tuning_workdir.VOCABULARY, fine_tuning_workdir.LAYOUT, TextTokenizer.load(workdir / "text"))
  demo = tmp_path_factory.mktemp("demo")
  text = train_text.train_text(["man cook, light skin, noto"], demo / "text", size=400, model_type="bpe", instructions=(
      templates.EDIT_QUERY, templates.CAPTION_QUERY) * 10 + train_text.INSTRUCTIONS)
  vocabulary = Vocabulary(text_size=400, image_size=32, num_sentinels=16, total_size=0)
  layout = Layout(image_tokens=9, text_tokens=40, max_documents=3, numbering="document")
  write_corpus(demo, layout, vocabulary, encode=text.encode, text_tokenizer=text.fingerprint)
  pretrain.register_emoji(demo, vocabulary, layout, text_tokenizer=text)
  sft.register_emoji_sft(demo, vocabulary, layout, text)
  return lambda name: ours if name in OFFICIAL else (vocabulary, layout, text)


def check_grammar(vocabulary, layout, tokens):
  """E (T b I b)×K T b I E; returns the texts and images."""
  assert tokens[0] == EOS_ID and tokens[-1] == EOS_ID
  texts, images, at = [], [], 1
  while at < len(tokens):
    start = at
    while vocabulary.is_text(tokens[at]) and tokens[at] != EOS_ID:
      at += 1
    texts.append(tokens[start:at])
    assert 0 < len(texts[-1]) <= layout.text_tokens and tokens[at] == vocabulary.break_id
    images.append(tokens[at + 1:at + 1 + layout.image_tokens])
    assert vocabulary.is_image(images[-1]).all() and len(images[-1]) == layout.image_tokens
    at += 1 + layout.image_tokens
    assert tokens[at] == (EOS_ID if at == len(tokens) - 1 else vocabulary.break_id)
    at += 1
  assert 1 <= len(texts) <= layout.max_documents
  return texts, images


@pytest.mark.parametrize("name", OFFICIAL + DEMO)
def test_task(world, name):
  vocabulary, layout, text = world(name)
  for split in seqio_adapter.splits(name):
    rows = seqio_adapter.size(name, split)
    samples = list(seqio_adapter.examples(name, split, seed=3))
    assert len(samples) == rows and (rows > 0 or split == "heldout_things")
    for sample in samples:
      length = len(sample["tokens"])
      assert {k: (v.dtype, v.shape) for k, v in sample.items()} == {
          "tokens": (np.int32, (length,)), "positions": (np.int32, (length,)), "answers": (np.int32, (length,)),
          "loss_weights": (np.float32, (length,))}
      texts, _ = check_grammar(vocabulary, layout, sample["tokens"])
      np.testing.assert_array_equal(sample["positions"], layout.sample_positions([len(t) for t in texts]))
      assert sample["loss_weights"].sum() > 0
      marked = np.flatnonzero(sample["answers"])
      if len(marked):  # one run of tokens at the end of the last text
        assert marked[-1] - marked[0] + 1 == len(marked) and marked[-1] == length - 3 - layout.image_tokens
        assert text.decode(sample["tokens"][marked]).strip()
    again = list(seqio_adapter.examples(name, split, seed=3))
    for a, b in zip(samples, again, strict=True):
      for key in a:
        np.testing.assert_array_equal(a[key], b[key])
    if samples:
      check_masks(vocabulary, layout, samples)


def check_masks(vocabulary, layout, samples):
  """Masked, packed and shifted: every id in range, an answer masked as a whole, and un-masking gives the sample back."""
  masked = inspect.mask_samples(OBJECTIVE, vocabulary, layout, samples, seed=0)
  for i, sample in enumerate(samples):
    real = masked["segment_ids"][i] > 0
    tokens = masked["tokens"][i][real]
    assert tokens.min() >= 1 and tokens.max() < vocabulary.sentinel_end
    source, tails = unmask(vocabulary, tokens)
    np.testing.assert_array_equal(source, sample["tokens"])
    if sample["answers"].any():
      np.testing.assert_array_equal(tails[0], sample["tokens"][sample["answers"] > 0])
      assert len(tails) == 1
  windows = list(packing.pack(samples, 1024, layout=layout))
  batch = batches.to_batch({k: np.stack([w[k] for w in windows]) for k in windows[0]})
  assert batch["inputs"].shape == (len(windows), 1023)
  assert not batch["loss_weights"][batch["segment_ids"] == 0].any()


def unmask(vocabulary, tokens):
  """(the sample's tokens, the content of each tail) of a masked sample."""
  sentinels = np.flatnonzero(vocabulary.is_sentinel(tokens))
  starts = sentinels[len(sentinels) // 2:]
  tails = [tokens[a + 1:b - 1] for a, b in zip(starts, [*starts[1:], len(tokens)])]
  source = tokens[:starts[0]] if len(starts) else tokens
  parts = [tails[t - vocabulary.sentinel_start] if vocabulary.is_sentinel(t) else [t] for t in source]
  return np.concatenate(parts), tails


def test_every_builder_is_known(world):
  """A task that is registered by the program and not named here would not be tested."""
  registered = {n for n in seqio_adapter.names() if n in OFFICIAL or n.startswith("emoji_")}
  mixtures = {pretrain.MIXTURE, sft.MIXTURE}
  assert registered - mixtures == set(OFFICIAL) | set(DEMO)
