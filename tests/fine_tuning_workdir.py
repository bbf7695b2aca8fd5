"""A workdir with examples of every official set, encoded by a tiny image tokenizer; made once a process."""

import contextlib
import functools
import io
from pathlib import Path
import tempfile

from cm3leon_jax.layout import Layout
from cm3leon_jax.models.vqgan import VQGANConfig
from cm3leon_jax.pipelines.build import Pipelines
from cm3leon_jax.pipelines.fine_tuning import FineTuning
from cm3leon_jax.tasks.official import wording
from cm3leon_jax.tokenizers import image as image_lib
from cm3leon_jax.tokenizers import train_text
from cm3leon_jax.vocabulary import Vocabulary
import fine_tuning_files

VOCABULARY = Vocabulary(text_size=500, image_size=32, num_sentinels=16, total_size=0)
LAYOUT = Layout(image_tokens=4, text_tokens=160, max_documents=2, numbering="sequence")
IMAGES = VQGANConfig(image_size=32, channels=32, ch_mult=(1,), res_blocks=1, z_channels=32, embed_dim=8, codebook_size=32, patch=16)
_FOLDER = tempfile.TemporaryDirectory(prefix="fine_tuning_")


@functools.cache
def made() -> tuple[Path, FineTuning]:
  """(workdir, the mixture's settings), all examples made."""
  import jax
  import jax.numpy as jnp

  workdir = Path(_FOLDER.name)
  folders = fine_tuning_files.write_all(workdir / "official")
  texts = [t for kind in (wording.CAPTIONS, wording.PARAGRAPHS, wording.NARRATIVES, wording.QUESTIONS, wording.SCIENCE,
                          wording.SCIENCE_EXPLAINED) for template in kind for t in template]
  texts += [t for kind in wording.CONTROLS for template in (*wording.control(kind), *wording.backwards(kind)) for t in template]
  train_text.train_text(fine_tuning_files.captions_of(9) + texts, workdir / "text", size=VOCABULARY.text_size,
                        model_type="bpe", instructions=(*wording.EDIT_QUERIES.values(), "at location (199, 130) -> (204, 150)"))
  params = jax.jit(image_lib.VQGAN(IMAGES).init)(jax.random.key(0), jnp.zeros([1, 32, 32, 3]))["params"]
  image_lib.ImageTokenizer(IMAGES, params).save(workdir / "image")
  base = Pipelines(VOCABULARY, LAYOUT, text_tokenizer="text", image_tokenizer="image", num_shards=2, window_length=512,
                   mask_reserve=12)
  settings = FineTuning(base, folders)
  with contextlib.redirect_stderr(io.StringIO()):
    settings.run("examples", workdir)
  return workdir, settings
