"""The picture protocol, its yardsticks and the copying figure, on a small tokenizer and encoder of real numbers."""

import numpy as np
import pytest

from cm3leon_jax.evaluation import clip_score, copying, frechet, kid, protocol, yardsticks
from cm3leon_jax.evaluation.networks.features import FeatureNetwork
from cm3leon_jax.vocabulary import Vocabulary

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourEncoder:
  """A text is the colour that it names, a picture its mean colour."""
  fingerprint = "colours"

  def encode_text(self, texts):
    return self._unit(np.array([COLOURS[text.split()[0]] for text in texts], np.float32))

  def encode_images(self, images):
    return self._unit(images.mean(axis=(1, 2), dtype=np.float32) + 1e-3)

  @staticmethod
  def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class GreyTokenizer:
  """2 × 2 codes: the grey of each quarter; code 0 is black, 15 is white."""
  image_size = 8

  def encode(self, images):
    return (images.reshape(-1, 2, 4, 2, 4, 3).mean(axis=(2, 4, 5)) / 17).round().astype(np.int32).reshape(-1, 4)

  def decode(self, codes):
    grey = (codes.reshape(-1, 2, 2) * 17).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    return np.repeat(grey[..., None], 3, axis=3)


def quarters(params, x):
  return x.reshape(-1, 2, 4, 2, 4, 3).mean((2, 4)).reshape(-1, 12) / 255


@pytest.fixture(scope="module")
def network():
  return FeatureNetwork(name="quarters", key="fd_quarters", dim=12, weights_hash="0" * 16, published=False,
                        preprocessing="none", params={}, function=quarters)


def drawings(noise, count=40, seed=0):
  rng = np.random.default_rng(seed)
  captions = [list(COLOURS)[i % 3] + " square" for i in range(count)]
  colours = np.array([COLOURS[c.split()[0]] for c in captions])[:, None, None]
  return np.clip(colours + rng.normal(0, noise, (count, 8, 8, 3)), 0, 255).astype(np.uint8), captions


def test_better_pictures_score_better_with_paired_intervals(network):
  real, captions = drawings(20)
  reference = protocol.Reference(real, captions, ColourEncoder(), network)
  good, bad = reference.evaluate(drawings(25, seed=1)[0]), reference.evaluate(drawings(120, seed=2)[0])
  assert set(good.intervals) == {"fd_quarters", "kid", "clip_score"}
  for scores in (good, bad):
    for name, interval in scores.intervals.items():
      assert interval.low <= interval.value <= interval.high, name
  difference = reference.differences(good, bad)
  assert difference["fd_quarters"].high < 0 and difference["kid"].high < 0 and difference["clip_score"].low > 0
  assert reference.differences(good, good)["fd_quarters"] == pytest.approx((0, 0, 0))


def test_values_are_those_of_the_single_metrics(network):
  real, captions = drawings(20)
  generated = drawings(60, seed=3)[0]
  got = protocol.evaluate_images(generated, real, captions, ColourEncoder(), network)
  a, b = network.features(generated), network.features(real)
  assert got["fd_quarters"].value == pytest.approx(frechet.frechet_from_features(a, b), rel=1e-9)
  assert got["kid"].value == pytest.approx(kid.kid(a, b))
  assert got["clip_score"].value == pytest.approx(clip_score.clip_scores(ColourEncoder(), generated, captions).mean())
  assert got == protocol.evaluate_images(generated, real, captions, ColourEncoder(), network), "the seed fixes it"


def test_clip_scores_belong_to_their_captions():
  images, captions = drawings(0, 3)
  assert clip_score.clip_scores(ColourEncoder(), images, captions) == pytest.approx(np.ones(3), abs=1e-4)
  assert clip_score.clip_scores(ColourEncoder(), images[[1, 2, 0]], captions) == pytest.approx(np.zeros(3), abs=1e-4)
  with pytest.raises(ValueError, match="3 pictures and 2 captions"):
    clip_score.clip_scores(ColourEncoder(), images, captions[:2])


def test_counts_must_fit(network):
  real, captions = drawings(20)
  with pytest.raises(ValueError, match="40 pictures and 3 captions"):
    protocol.Reference(real, captions[:3], ColourEncoder(), network)
  with pytest.raises(ValueError, match="39 pictures for 40 prompts"):
    protocol.Reference(real, captions, ColourEncoder(), network).evaluate(real[1:])


def test_yardsticks():
  vocabulary = Vocabulary(text_size=10, image_size=16, num_sentinels=2, total_size=0)
  store = {name: {"id": name, "image": vocabulary.image_ids([code, 0, 0, 15])} for name, code in (("a", 3), ("b", 7))}
  tokenizer = GreyTokenizer()
  ceiling = yardsticks.reconstructions([store["b"], store["a"]], tokenizer, vocabulary)
  assert ceiling.shape == (2, 8, 8, 3) and (tokenizer.encode(ceiling) == [[7, 0, 0, 15], [3, 0, 0, 15]]).all()
  neighbours = [{"by_text_ids": ["b", "a"], "by_image_ids": ["a"]}, {"by_text_ids": [], "by_image_ids": ["a"]}]
  copies = yardsticks.nearest(neighbours, store, tokenizer, vocabulary)
  np.testing.assert_array_equal(copies[0], ceiling[0])
  assert (copies[1] == 255).all(), "nothing to copy: white"


def test_copying_counts_drawn_cells_of_the_closest_document():
  tokenizer = GreyTokenizer()
  blank = copying.blank_codes(tokenizer)
  assert blank.tolist() == [15]
  codes = np.array([[15, 1, 2, 3], [15, 1, 2, 3], [15, 15, 15, 15], [1, 1, 1, 1]])
  documents = [np.array([[15, 1, 9, 9], [15, 1, 2, 9]]), np.array([[15, 9, 9, 9]]), np.array([[15, 15, 15, 15]]),
               np.zeros((0, 4))]
  np.testing.assert_allclose(copying.copied_shares(codes, documents, blank), [2 / 3, 0, np.nan, np.nan])
