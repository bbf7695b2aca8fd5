import dataclasses

import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks import seqio_adapter
from cm3leon_jax.tasks import sft
from cm3leon_jax.tasks import templates
from cm3leon_jax.tasks import windows as windows_lib
from cm3leon_jax.tasks.objective import CM3Objective
from cm3leon_jax.tokenizers import train_text
from cm3leon_jax.vocabulary import Vocabulary
from task_samples import STYLES, write_corpus

LAYOUT = Layout(image_tokens=9, text_tokens=24, max_documents=3, numbering="document")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """(workdir, documents of each split, text tokenizer, vocabulary), the SFT tasks registered."""
  workdir = tmp_path_factory.mktemp("sft")
  captions = [f"{name}, {tone}{style}" for name in ("man cook", "woman cook", "person cook", "thing1", "unseen")
              for tone in ("", "light skin, ", "dark skin, ") for style in STYLES]
  instructions = (templates.EDIT_QUERY, templates.CAPTION_QUERY) * 10 + train_text.INSTRUCTIONS
  text = train_text.train_text(captions, workdir / "text", size=400, model_type="bpe", instructions=instructions)
  vocabulary = Vocabulary(text_size=400, image_size=32, num_sentinels=16, total_size=0)
  splits = write_corpus(workdir, LAYOUT, vocabulary, encode=text.encode, text_tokenizer=text.fingerprint)
  sft.register_emoji_sft(workdir, vocabulary, LAYOUT, text)
  return workdir, splits, text, vocabulary


def read(corpus, sample):
  """(texts, documents by image, the answer's text) of a sample's pairs."""
  _, splits, text, vocabulary = corpus
  known = {tuple(d["image"].tolist()): {**d, "split": split} for split, rows in splits.items() for d in rows}
  tokens = sample["tokens"]
  images = tokens[vocabulary.is_image(tokens)].reshape(-1, LAYOUT.image_tokens).tolist()
  runs = np.split(tokens, np.flatnonzero((tokens == vocabulary.break_id) | (tokens == 1)))
  texts = [text.decode(run) for run in runs if len(run) > 1 and not vocabulary.is_image(run[1])]
  return texts, [known[tuple(i)] for i in images], text.decode(tokens[sample["answers"] > 0])


def check_edit(instruction, before, after):
  """What the instruction says is what differs, and nothing else does."""
  fields = ("thing", "style", "name", "skin_tone", "gender")
  changed = {f for f in fields if before[f] != after[f]}
  for wordings, field, allowed in ((templates.RESTYLE, "style", {"style"}),
                                   (templates.SKIN_TONE, "skin_tone", {"skin_tone"}),
                                   (templates.GENDER, "gender", {"gender", "thing", "name"})):
    if instruction in [templates.instruction(wordings, i, after[field]) for i in range(len(wordings))]:
      assert changed == allowed
      return field
  raise AssertionError(f"unknown instruction {instruction!r}")


def test_edits_are_true_pairs(corpus):
  samples = list(seqio_adapter.examples("emoji_edit", "train", seed=0, epochs=30))
  kinds, wordings = [], set()
  for sample in samples:
    (query, instruction), (before, after), answer = read(corpus, sample)
    assert query == templates.EDIT_QUERY and not answer
    assert before["split"] == after["split"] == "train"
    kinds.append((after["name"], after["skin_tone"], check_edit(instruction, before, after)))
    wordings.add(instruction)
  assert sample["loss_weights"].all()
  # A drawing once an epoch; of a cook's with a skin tone, each kind of edit in a third of the epochs.
  toned = [kind for name, tone, kind in kinds if "cook" in name and tone == "light"]
  shares = {k: toned.count(k) / len(toned) for k in ("style", "skin_tone", "gender")}
  np.testing.assert_allclose(list(shares.values()), 1 / 3, atol=4 * (2 / 9 / len(toned))**0.5)
  assert {kind for name, _, kind in kinds if "thing" in name} == {"style"}
  assert len(wordings) == 2 * (len(STYLES) + 2 + 3)  # every value in both wordings


def test_heldout_edits_start_from_train_drawings(corpus):
  samples = list(seqio_adapter.examples("emoji_edit", "heldout_drawings", shuffle=False))
  assert len(samples) == 3
  for sample in samples:
    (_, instruction), (before, after), _ = read(corpus, sample)
    assert (before["split"], after["split"]) == ("train", "heldout_drawings")
    assert check_edit(instruction, before, after) == "style"
    assert np.flatnonzero(sample["loss_weights"])[-1] == len(sample["tokens"]) - 2
    assert sample["loss_weights"].sum() < 9 + 1 + LAYOUT.text_tokens
  assert list(seqio_adapter.examples("emoji_edit", "heldout_things")) == []


def test_captions_are_marked_and_asked_for_as_at_inference(corpus, tmp_path):
  _, splits, text, vocabulary = corpus
  samples = list(seqio_adapter.examples("emoji_caption", "train", shuffle=False))
  assert len(samples) == len(splits["train"])
  for sample, d in zip(samples, splits["train"]):
    texts, (image,), answer = read(corpus, sample)
    assert texts == [f"{templates.CAPTION_QUERY} {d['caption']}"] and image["id"] == d["id"] and answer == d["caption"]
  # Masked, a window is the inference prompt, then the caption and <eoss>.
  objective = CM3Objective(max_spans=4, answer_mask_probability=1.0)
  windows_lib.write_windows("emoji_caption", "train", tmp_path / "w", vocabulary=vocabulary, layout=LAYOUT, length=64,
                            reserve=objective.reserve, shards=2)
  source = windows_lib.WindowSource(tmp_path / "w", batch_size=4, objective=objective)
  row = {k: v[0] for k, v in source.batch(0).items()}
  tokens = row["inputs"][row["segment_ids"] == 1]
  query = text.encode(templates.CAPTION_QUERY).tolist()
  s0, b = vocabulary.sentinel(0), vocabulary.break_id
  head, tail = [1, *query, s0, b], tokens[len(query) + 3 + 9:].tolist()
  assert tokens[:len(head)].tolist() == head and tail[:2] == [1, s0] and tail[-1] == vocabulary.eoss_id
  image = tokens[len(head):len(head) + 9]
  d = next(d for d in splits["train"] if d["image"].tolist() == image.tolist())
  assert text.decode(tail[2:-1]) == d["caption"]
  # The sentinel of the tail stands where the caption began, and the caption counts up from there.
  begin = LAYOUT.text_positions(2, 24)[len(query)]
  positions = row["positions"][row["segment_ids"] == 1][-len(tail) + 1:]
  assert positions.tolist() == [begin, *range(begin, begin + len(tail) - 2)]


def test_mixture(corpus):
  samples = list(seqio_adapter.examples("emoji_sft", "train", seed=0, epochs=4))
  rows = seqio_adapter.size("emoji_edit", "train") + seqio_adapter.size("emoji_caption", "train")
  assert len(samples) == 4 * rows
  share = np.mean([bool(s["answers"].any()) for s in samples])
  assert abs(share - 0.5) < 4 * 0.5 / len(samples)**0.5


def test_captions_that_do_not_fit_are_left_out_whole(corpus):
  workdir, splits, text, vocabulary = corpus
  room = len(text.encode(templates.CAPTION_QUERY)) + 5
  tasks = sft.EmojiSFT(workdir, vocabulary, dataclasses.replace(LAYOUT, text_tokens=room), text)
  fit = [i for i, d in enumerate(splits["train"]) if len(d["text"]) <= 5]
  assert tasks.caption_rows("train") == fit and 0 < len(fit) < len(splits["train"])
  with pytest.raises(InputError, match="Layout.text_tokens=2 is too short"):
    sft.EmojiSFT(workdir, vocabulary, dataclasses.replace(LAYOUT, text_tokens=2), text)


def test_another_text_tokenizer_is_refused(corpus, tmp_path):
  workdir, _, _, vocabulary = corpus
  other = train_text.train_text(["red heart, noto", "blue cat, twemoji"], tmp_path / "text", size=320, model_type="bpe")
  tasks = sft.EmojiSFT(workdir, vocabulary, dataclasses.replace(LAYOUT, text_tokens=64), other)
  with pytest.raises(InputError, match="made with another text_tokenizer"):
    tasks.caption_rows("train")
