"""A demo model, trained here without QK-norm on the shipped documents, draws the same in transformers, token for token.

The shipped tokenizers/demo_model has QK-norm, which OPT has no place for, and is refused.
"""

import dataclasses
import shutil

import numpy as np
import pytest
import random_model

from cm3leon_jax import assets, cli, config as gin_config
from cm3leon_jax.decoding import prompts
from cm3leon_jax.decoding.engine import Engine, Request
from cm3leon_jax.decoding.prompts import Pair
from cm3leon_jax.decoding.rules import Sampling
from cm3leon_jax.errors import InputError
from cm3leon_jax.retrieval.store import DocumentStore
from cm3leon_jax.sharding.mesh import MeshConfig
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.train import fit_model
from cm3leon_jax.training import checkpoints
from cm3leon_jax.training.loop import train
from cm3leon_jax.training.losses import LossConfig
from cm3leon_jax.vocabulary import EOS_ID
from cm3leon_jax.weights import exporter

STEPS, ROWS, LENGTH = 150, 4, 256
DOCUMENTS = 300  # few, so that a minute of training fits them
GREEDY = Sampling(guidance=1.0, temperature=0.0, top_p=1.0)
PROMPTS = ("a red heart, twemoji", "green apple, noto", "grinning cat, openmoji", "the sun, fluent")


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
  """The shipped documents, as (text, image); copied, since opening may write a map beside them."""
  folder = tmp_path_factory.mktemp("documents") / "train"
  shutil.copytree(assets.path("tokenizers/demo_model/documents/train"), folder)
  store = DocumentStore(folder)
  rows = store.get([name.decode() for name in np.random.default_rng(0).choice(store._ids, DOCUMENTS, replace=False)])
  return [Pair(row["text"].astype(np.int32)[:16], row["image"].astype(np.int32)) for row in rows]


def sample(v, layout, pairs):
  """(tokens, positions) of E (T b I b)×K T b I E."""
  parts = [x for text, image in pairs for x in ([v.break_id], text, [v.break_id], image)][1:]
  return np.concatenate([[EOS_ID], *parts, [EOS_ID]]), layout.sample_positions([len(text) for text, _ in pairs])


def batches(step, v, layout, documents):
  """Rows of one sample with two retrieved documents, or of several without."""
  while True:
    rng = np.random.default_rng(step)
    batch = {name: np.zeros((ROWS, LENGTH), np.int32) for name in ("inputs", "targets", "segment_ids", "positions")}
    batch["loss_weights"] = np.zeros((ROWS, LENGTH), np.float32)
    for row in range(ROWS):
      at, pairs = 0, rng.choice([1, 3])
      for segment in range(1, 1 + 3 // pairs):
        tokens, positions = sample(v, layout, [documents[i] for i in rng.integers(0, len(documents), pairs)])
        place = row, slice(at, at + len(tokens) - 1)
        at += len(tokens) - 1
        for name, value in (("inputs", tokens[:-1]), ("targets", tokens[1:]), ("positions", positions[:-1]),
                            ("segment_ids", segment), ("loss_weights", 1.0)):
          batch[name][place] = value
    yield batch
    step += 1


@pytest.fixture(scope="module")
def run(tmp_path_factory, documents):
  """A run folder: the demo's recipe, but for QK-norm and the number of steps."""
  gin_config.load(["configs/runs/demo_pretrain.gin"], ["Transformer.qk_norm=False", "Transformer.dtype='float32'"])
  v, layout = gin_config.configured("Vocabulary"), gin_config.configured("Layout")
  folder = tmp_path_factory.mktemp("run")
  train(model=fit_model(gin_config.configured("Transformer"), v, layout), vocabulary=v, layout=layout,
        optimizer=dataclasses.replace(gin_config.configured("Optimizer"), warmup_steps=30), loss=LossConfig(),
        mesh=MeshConfig(fsdp=1), input_fn=lambda step: batches(step, v, layout, documents), workdir=folder, steps=STEPS,
        log_every=50)
  return folder


def drawn_by(model, prompt, v, give_positions):
  """The codes that transformers' own greedy search finds, among image codes."""
  import torch

  codes = list(range(v.image_start, v.image_end))
  given = {"position_ids": torch.tensor(prompt.positions[None]).long()} if give_positions else {}
  drawn = model.generate(torch.tensor(prompt.tokens[None]).long(), max_new_tokens=prompt.steps, do_sample=False,
                         prefix_allowed_tokens_fn=lambda *_: codes, **given)
  return drawn[0, len(prompt.tokens):].numpy()


@pytest.mark.slow
def test_a_trained_demo_model_draws_the_same_greedy_tokens(run, documents, tmp_path):
  transformers = pytest.importorskip("transformers", reason="in requirements-reference.txt")
  config, v, layout, params, _ = checkpoints.load_for_inference(run)
  text = TextTokenizer.load(assets.path("tokenizers/demo_text"))
  asked = [prompts.text_to_image(v, layout, text.encode(words), docs) for words in PROMPTS for docs in ((), documents[:2])]
  ours = [output.tokens[0] for output in Engine(config, params).generate([Request((p,), GREEDY) for p in asked])]
  # A model that has learnt nothing draws one code again and again.
  assert len(set(np.concatenate(ours))) > 20 and len({tuple(x) for x in ours}) > 4

  assert cli.main(["export", "--format=opt", f"--checkpoint={run}", f"--out={tmp_path / 'opt'}"]) == 0
  model = transformers.OPTForCausalLM.from_pretrained(tmp_path / "opt").eval()
  for prompt, wanted in zip(asked, ours, strict=True):
    np.testing.assert_array_equal(drawn_by(model, prompt, v, give_positions=True), wanted)


@pytest.mark.parametrize("numbering", ["sequence", "document"])
def test_a_tiny_random_model_draws_the_same_greedy_tokens(numbering, tmp_path):
  """The paper's numbering is transformers' own; the demo's is given."""
  transformers = pytest.importorskip("transformers", reason="in requirements-reference.txt")
  layout = dataclasses.replace(random_model.LAYOUT, numbering=numbering)
  random_model.write(tmp_path / "ours", random_model.CM3LEON, layout)
  config, v, layout, params, _ = checkpoints.load_for_inference(tmp_path / "ours")
  prompt = prompts.text_to_image(v, layout, [7, 9, 30])
  ours = Engine(config, params).generate([Request((prompt,), GREEDY)])[0].tokens[0]
  exporter.export(tmp_path / "ours", tmp_path / "opt", "opt")
  model = transformers.OPTForCausalLM.from_pretrained(tmp_path / "opt").eval()
  np.testing.assert_array_equal(drawn_by(model, prompt, v, give_positions=numbering == "document"), ours)


def test_the_shipped_demo_model_is_refused_by_name(tmp_path):
  with pytest.raises(InputError, match="OPT cannot express this model's qk_norm=True;"):
    exporter.export("tokenizers/demo_model", tmp_path / "out", "opt")
