"""Likelihoods against a plain softmax in NumPy; the query pair alone counts."""

import jax
import numpy as np
import pytest

from cm3leon_jax.evaluation import likelihood
from cm3leon_jax.layout import Layout
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.transformer import Transformer, init_parameters
from cm3leon_jax.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text_size=20, image_size=16, num_sentinels=2, total_size=0)
LAYOUT = Layout(image_tokens=4, text_tokens=5, max_documents=3, numbering="document")
CONFIG = TransformerConfig(vocab_size=VOCABULARY.total_size, num_layers=2, model_dim=16, num_heads=2,
                           max_positions=LAYOUT.num_positions, init_std=0.3, dtype="float32")


def document(seed):
  rng = np.random.default_rng(seed)
  text = rng.integers(3, 20, rng.integers(1, 6)).astype(np.int32)
  return {"text": text, "image": VOCABULARY.image_ids(rng.integers(0, 16, 4))}


@pytest.fixture(scope="module")
def params():
  return jax.jit(init_parameters, static_argnums=0)(CONFIG, jax.random.key(0))


def scored(params, k, count=5, batch_size=2):
  queries = [document(i) for i in range(count)]
  retrieved = [[document(100 + 10 * i + j) for j in range(k)] for i in range(count)]
  batches = list(likelihood.query_batches(queries, retrieved, VOCABULARY, LAYOUT, batch_size))
  return likelihood.score(CONFIG, params, VOCABULARY, batches), queries, batches


@jax.jit
def all_logits(params, inputs, positions, segment_ids):
  model = Transformer(CONFIG)
  hidden = model.apply({"params": params}, inputs, positions, segment_ids)
  return model.apply({"params": params}, hidden, method="logits")


@pytest.mark.parametrize("k", [0, 1, 2])
def test_equal_to_a_plain_softmax(params, k):
  got, queries, batches = scored(params, k)
  assert got.image_tokens.tolist() == [4] * 5 and got.text_tokens.tolist() == [len(q["text"]) for q in queries]
  expected = []
  for batch in batches:
    logits = np.asarray(all_logits(params, batch["inputs"], batch["positions"], batch["segment_ids"]), np.float64)
    picked = np.take_along_axis(logits, batch["targets"][..., None].astype(int), -1)[..., 0]
    nats = np.log(np.exp(logits).sum(-1)) - picked
    for row in range(len(nats)):
      where = np.flatnonzero(batch["loss_weights"][row])
      expected.append(nats[row, where])
  # The query pair: its text, a <break> that does not count, its four codes.
  expected = [e for e in expected if len(e)]
  np.testing.assert_allclose(got.image_nats, [e[-4:].sum() for e in expected], rtol=1e-4)
  np.testing.assert_allclose(got.text_nats, [e[:-5].sum() for e in expected], rtol=1e-4)


def test_batch_size_does_not_matter_and_examples_keep_their_order(params):
  one, many = scored(params, 1, batch_size=1)[0], scored(params, 1, batch_size=4)[0]
  np.testing.assert_allclose(one.image_nats, many.image_nats, rtol=1e-4)
  assert len(set(one.image_nats.round(4))) == 5


def test_intervals_and_paired_differences(params):
  none, two = scored(params, 0)[0], scored(params, 2)[0]
  loss = none.intervals()
  assert loss["loss_image"].value == pytest.approx(none.image_nats.sum() / none.image_tokens.sum())
  assert loss["loss_text"].low <= loss["loss_text"].value <= loss["loss_text"].high
  difference = two.differences(none)["loss_image"]
  assert difference.value == pytest.approx(two.intervals()["loss_image"].value - loss["loss_image"].value)
  fewer = scored(params, 0, count=4)[0]
  with pytest.raises(ValueError, match="different image tokens"):
    two.differences(fewer)
