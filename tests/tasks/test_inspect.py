import io

import numpy as np
from PIL import Image
import pytest

from cm3leon_jax import manifest
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.models.vqgan import VQGANConfig
from cm3leon_jax.tasks import inspect
from cm3leon_jax.tasks import templates
from cm3leon_jax.tasks import windows as windows_lib
from cm3leon_jax.tasks.objective import CM3Objective
from cm3leon_jax.tokenizers import image as image_lib
from cm3leon_jax.tokenizers import train_text
from cm3leon_jax.vocabulary import Vocabulary
from task_samples import STYLES, write_corpus

LAYOUT = Layout(image_tokens=4, text_tokens=24, max_documents=3, numbering="document")


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A workdir as the demo leaves one: tokenizers, documents, neighbours, windows."""
  import jax
  import jax.numpy as jnp

  workdir = tmp_path_factory.mktemp("inspect")
  captions = [f"{name} {tone}{style}" for name in ("cook", "thing") for tone in ("", "light ") for style in STYLES]
  text = train_text.train_text(captions, workdir / "assets/text", size=400, model_type="bpe", instructions=(
      templates.EDIT_QUERY, templates.CAPTION_QUERY) * 10 + train_text.INSTRUCTIONS)
  config = VQGANConfig(image_size=16, channels=32, ch_mult=(1, 1), res_blocks=1, z_channels=32, embed_dim=8,
                       codebook_size=32, patch=4)
  params = jax.jit(image_lib.VQGAN(config).init)(jax.random.key(0), jnp.zeros([1, 16, 16, 3]))["params"]
  image_lib.ImageTokenizer(config, params).save(workdir / "assets/image")
  images = image_lib.ImageTokenizer.load(workdir / "assets/image")
  assert images.image_tokens == LAYOUT.image_tokens
  vocabulary = Vocabulary(text_size=400, image_size=32, num_sentinels=16, total_size=0)
  write_corpus(workdir, LAYOUT, vocabulary, encode=text.encode, text_tokenizer=text.fingerprint,
               image_tokenizer=images.fingerprint)
  sample = {"tokens": np.ones(4, np.int32), "positions": np.ones(4, np.int32), "loss_weights": np.ones(4, np.float32)}
  windows_lib.write_samples([sample], workdir / "windows/pretrain", vocabulary=vocabulary, layout=LAYOUT, length=96,
                            reserve=9)
  return workdir


def test_pretraining(workdir, tmp_path):
  out = io.StringIO()
  inspect.show_task("emoji_retrieval_pretrain", workdir, n=2, seed=1, out=tmp_path, stream=out,
                    objective=CM3Objective(max_spans=3, min_spans=1, whole_segment_probability=1))
  shown = out.getvalue()
  assert "emoji_retrieval_pretrain · train · example 2 of 2" in shown and "\x1b" not in shown
  assert any(f'{style}"' in shown for style in STYLES), "captions are decoded"
  for word in ("<eos>", "<break>", "[4 image codes]", "<sentinel:0>", "tail:", "<eoss>", "samples without a span 0.00"):
    assert word in shown
  assert Image.open(tmp_path / "emoji_retrieval_pretrain.png").size[1] == 2 * (32 + 8) + 8


def test_terminal_gets_colours_and_pictures(workdir):
  out = Terminal()
  always = CM3Objective(max_spans=3, answer_mask_probability=1)
  inspect.show_task("emoji_caption", workdir, n=1, stream=out, objective=always)
  shown = out.getvalue()
  assert "▀" in shown and "answer: " in shown
  # The sentinel in the source, and in the tail the sentinel, the answer and <eoss>, share a colour.
  assert shown.count(inspect.colour_of("<sentinel:0>")) == 4


def test_masked_cells():
  vocabulary = Vocabulary(text_size=400, image_size=32, num_sentinels=16, total_size=0)
  codes = vocabulary.image_ids(np.arange(4))
  s0, s1, b, e = vocabulary.sentinel(0), vocabulary.sentinel(1), vocabulary.break_id, vocabulary.eoss_id
  sample = np.array([1, 7, 8, b, *codes, 1], np.int32)
  row = np.array([1, s0, b, codes[0], s1, codes[3], 1, s0, 7, 8, e, s1, codes[1], codes[2], e, 0], np.int32)
  masked = {"tokens": row, "segment_ids": (row > 0).astype(np.int32)}
  assert inspect.masked_cells(vocabulary, LAYOUT, sample, masked).tolist() == [[False, True, True, False]]


def test_errors(workdir, tmp_path):
  with pytest.raises(InputError, match="nearest: emoji_edit"):
    inspect.show_task("emoji_edits", workdir)
  with pytest.raises(InputError, match="no windows/pretrain or windows/sft"):
    inspect.show_task("emoji_edit", tmp_path)
  with manifest.writing(tmp_path / "documents/train", "documents") as (_, about):
    about.update(text_tokenizer="0123", image_tokenizer="4567")
  (tmp_path / "windows").mkdir()
  (tmp_path / "windows/pretrain").symlink_to(workdir / "windows/pretrain")
  with pytest.raises(InputError, match="no text_tokenizer with fingerprint 0123"):
    inspect.show_task("emoji_edit", tmp_path)
