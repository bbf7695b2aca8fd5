"""The demo's held-out drawings as items, from the real corpus."""

import numpy as np
import pytest

from cm3leon_jax import manifest
from cm3leon_jax.datasets.official import demo
from cm3leon_jax.errors import InputError


@pytest.fixture(scope="module")
def workdir(corpus, tmp_path_factory):
  """As `cm3leon data corpus` leaves it."""
  root = tmp_path_factory.mktemp("workdir")
  (root / "corpus").mkdir()
  for folder in corpus.iterdir():
    (root / "corpus" / folder.name).symlink_to(folder)
  manifest.write_file(root / "corpus", "corpus", {"pixels": 64, "source": "npm"})
  return root


def test_prompts_and_captions_are_of_the_same_drawings(workdir, rows):
  prompts, captions = demo.demo_heldout(str(workdir)), demo.demo_heldout(str(workdir), use="captions")
  held_out = {r["id"]: r for r in rows if r["split"] == "heldout_drawings" and not r["skin_tone"]}
  assert {i.id for i in prompts} == set(held_out) and len(prompts) == len(held_out) > 500
  assert [i.id for i in captions] == [i.id for i in prompts]
  for prompt, caption in zip(prompts[:50], captions[:50]):
    row = held_out[prompt.id]
    assert prompt.text == row["caption"] and caption.text == "" and caption.references == (row["caption"],)
    assert prompt.image.dtype == np.uint8 and np.array_equal(prompt.image, row["image"])
    assert prompt.category == row["style"]


def test_the_first_few_are_of_many_artists(workdir):
  few = demo.demo_heldout(str(workdir), count=40)
  assert len({i.category for i in few}) == 7
  assert [i.id for i in few[:10]] == [i.id for i in demo.demo_heldout(str(workdir), count=10)]
  assert {i.category for i in demo.demo_heldout(str(workdir), count=40, split="heldout_things")} <= {i.category for i in few}


@pytest.mark.parametrize("settings, sentence", [
    ({"count": 10**6}, r"DemoHeldOut.count=1000000: heldout_drawings of .* has \d+ drawings"),
    ({"use": "vqa"}, "DemoHeldOut.use='vqa': known are prompts, captions"),
    ({"split": "train"}, "DemoHeldOut.split='train': known are"),
])
def test_what_it_has_not(workdir, settings, sentence):
  with pytest.raises(InputError, match=sentence):
    demo.demo_heldout(str(workdir), **settings)


def test_no_corpus(tmp_path):
  with pytest.raises(InputError, match="cm3leon data corpus"):
    demo.demo_heldout(str(tmp_path))
