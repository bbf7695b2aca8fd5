from pathlib import Path
import re

import numpy as np

from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks import seqio_adapter
from cm3leon_jax.tasks import sft
from cm3leon_jax.tasks import templates
from cm3leon_jax.tokenizers import train_text
from cm3leon_jax.vocabulary import Vocabulary
from task_samples import write_corpus

GUIDE = Path(__file__).parents[2] / "docs" / "adding_a_task.md"
LAYOUT = Layout(image_tokens=9, text_tokens=40, max_documents=3, numbering="document")


def test_the_guide_runs(tmp_path):
  text = train_text.train_text(["cook, noto"], tmp_path / "text", size=300, model_type="bpe", instructions=(
      templates.EDIT_QUERY, templates.CAPTION_QUERY, "mirror it done"))
  vocabulary = Vocabulary(text_size=300, image_size=32, num_sentinels=16, total_size=0)
  splits = write_corpus(tmp_path, LAYOUT, vocabulary, encode=lambda s: text.encode(s)[:20],
                        text_tokenizer=text.fingerprint)
  sft.register_emoji_sft(tmp_path, vocabulary, LAYOUT, text)

  code = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL).group(1)
  assert len(code.splitlines()) <= 40
  guide = {}
  exec(compile(code, str(GUIDE), "exec"), guide)  # the guide's own code
  batch = next(guide["make_batches"](tmp_path, vocabulary, LAYOUT, text, 160))
  assert batch["inputs"].shape == (4, 160)

  codes = [s["tokens"][vocabulary.is_image(s["tokens"])].reshape(2, 3, 3)
           for s in seqio_adapter.examples("mirror", "train")]
  assert len(codes) == len(splits["train"])
  for one, other in codes:
    np.testing.assert_array_equal(one, other[:, ::-1])
