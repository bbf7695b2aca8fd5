"""From a checkpoint to pictures and texts, with random weights: what is drawn, from what, and how it fails."""

import json
import shutil

import numpy as np
from PIL import Image
import pytest
import tiny_workdir

from cm3leon_jax import api
from cm3leon_jax.errors import InputError


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny_workdir.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(workdir):
  return api.load(workdir / "model", index=workdir / "index")


@pytest.fixture(scope="module")
def picture():
  return tiny_workdir.pictures(1, seed=5)[0]


def test_text_to_image_is_ordered_by_clip_and_says_what_it_read(model):
  results = model.text_to_image("a red heart", docs=2, candidates=4, guidance=3.0, seed=0)
  assert len(results) == 4 and sorted(r.candidate for r in results) == [0, 1, 2, 3]
  scores = [r.score for r in results]
  assert scores == sorted(scores, reverse=True)
  for r in results:
    assert r.image.shape == (32, 32, 3) and r.image.dtype == np.uint8
    np.testing.assert_array_equal(model.image.decode(r.codes[None])[0], r.image)
    vectors = model.encoder.encode_text(["a red heart"])[0] @ model.encoder.encode_images(r.image[None])[0]
    np.testing.assert_allclose(r.score, vectors, atol=1e-5)
    assert [d.id for d in r.retrieved] == [d.id for d in results[0].retrieved]
  assert len({d.id for d in results[0].retrieved}) == 2
  assert all(d.caption in tiny_workdir.CAPTIONS and d.score <= 0.9 for d in results[0].retrieved)


def test_the_same_seed_draws_the_same_and_another_does_not(model):
  first = model.text_to_image("house", candidates=2, seed=1)
  again = api.load(model_folder(model), index=None).text_to_image("house", candidates=2, seed=1)
  np.testing.assert_array_equal([r.codes for r in first], [r.codes for r in again])
  other = model.text_to_image("house", candidates=2, seed=2)
  assert not np.array_equal([r.codes for r in first], [r.codes for r in other])


def model_folder(model):
  return model._index.parent / "model"


def test_jobs_in_one_run_equal_single_calls(model):
  jobs = [model.job("text_to_image", text=t, candidates=2, seed=i) for i, t in enumerate(["house", "the sun", "cat"])]
  together = dict(model.run(jobs))
  alone = model.text_to_image("the sun", candidates=2, seed=1)
  np.testing.assert_array_equal([r.codes for r in together[1]], [r.codes for r in alone])


def test_documents_can_be_given_by_id(model):
  results = model.text_to_image("house", docs=["tiny/3", "tiny/1"], seed=0)
  assert [(d.id, d.score) for d in results[0].retrieved] == [("tiny/3", None), ("tiny/1", None)]
  with pytest.raises(InputError, match="no document 'tiny/99'"):
    model.text_to_image("house", docs=["tiny/99"])


def test_what_is_left_out_of_retrieval_never_comes_back(workdir):
  ids = [f"tiny/{i}" for i in range(len(tiny_workdir.CAPTIONS))]
  retriever = api.load(workdir / "model", index=workdir / "index", exclude=ids[:2]).retriever
  found = [d.id for d in retriever.search("house, twemoji", 6)]
  assert found and not set(ids[:2]) & set(found)
  assert found[0] not in [d.id for d in retriever.search("house, twemoji", 6, exclude=found[:1])]
  retriever.exclude = frozenset(ids)
  assert retriever.search("house, twemoji", 2) == ()


def test_captions_and_answers_are_texts_ordered_by_likelihood(model, picture):
  greedy = model.image_to_text(picture)
  assert len(greedy) == 1 and greedy[0].image is None and isinstance(greedy[0].text, str)
  several = model.vqa(picture, "what is it?", candidates=5)
  scores = [r.score for r in several]
  assert scores == sorted(scores, reverse=True) and scores[0] < 0
  assert scores == [r.log_prob for r in several]


@pytest.mark.parametrize("docs", [0, 2])
def test_pairs_get_the_log_probabilities_of_what_was_drawn_and_said(model, docs):
  drawn = model.text_to_image("house", docs=docs, candidates=1, seed=3, guidance=1.0)[0]
  ids = model.vocabulary.image_ids(drawn.codes)
  image, text = model.pair_log_probs(model.job("text_to_image", text="house", docs=docs), ids)
  np.testing.assert_allclose(image.mean(), drawn.log_prob, atol=1e-4)
  other = model.vocabulary.image_ids((drawn.codes + 1) % model.image.codebook_size)
  again, changed = (model.pair_log_probs(model.job("text_to_image", text="house", docs=docs), i)[1] for i in (ids, other))
  np.testing.assert_array_equal(text, again)
  assert np.abs(text - changed).max() > 1e-3  # the caption is read off the picture
  assert len(text) == len(model.text.encode("house")) + 1 and np.isfinite(text).all()


def test_infill_keeps_every_code_outside_the_region(model, picture):
  source = model.image.encode(picture[None])[0]
  results = model.infill(picture, (8, 8, 24, 20), "a box", candidates=4, seed=3)
  inside = np.zeros((4, 4), bool)  # 8 pixels a cell
  inside[1:3, 1:3] = True
  for r in results:
    np.testing.assert_array_equal(r.codes[~inside.reshape(-1)], source[~inside.reshape(-1)])
  assert any((r.codes != source).any() for r in results)
  assert all(r.score is None for r in model.infill(picture, (0, 0, 8, 8)))  # no text: nothing to score against


def test_edit_reads_the_picture_and_the_instruction(model, picture):
  job = model.job("edit", text="make it blue", image=picture, candidates=2)
  assert len(job.request.streams) == 3
  results = model.edit(picture, "make it blue", candidates=2, guidance=3.0)
  assert [r.candidate for r in results] == [0, 1] and results[0].score is None
  assert results[0].image.shape == (32, 32, 3)


def test_pictures_of_any_mode_and_size_are_read(model, tmp_path, picture):
  wide = Image.new("RGBA", (96, 64), (255, 0, 0, 0))  # transparent: becomes white
  np.testing.assert_array_equal(api.squared(api.open_picture(wide), 32), np.full((32, 32, 3), 255, np.uint8))
  for mode in ("L", "P", "RGB", "1", "CMYK"):
    path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
    Image.fromarray(picture).resize((50, 40)).convert(mode).save(path)
    assert api.squared(api.open_picture(path), 32).shape == (32, 32, 3)
  # A region of a wide picture is one of its middle square: 64 of 96 pixels, from x = 16, halved.
  assert api._in_square((16, 0, 32, 9), wide, 32) == (0, 0, 8, 5)
  assert api._in_square((0, 0, 32, 9), wide, 32) == (0, 0, 8, 5)
  with pytest.raises(InputError, match="outside the middle square .* x 16..80"):
    api._in_square((0, 0, 15, 9), wide, 32)


@pytest.mark.parametrize("call, message", [
    (lambda m, p: m.text_to_image("  "), "text_to_image needs a text that is not empty"),
    (lambda m, p: m.edit(p, ""), "edit needs a text that is not empty: the instruction"),
    (lambda m, p: m.vqa(p, ""), "vqa needs a text that is not empty: the question"),
    (lambda m, p: m.text_to_image("word " * 40), r"the text has \d+ tokens, the model reads at most 16"),
    (lambda m, p: m.text_to_image("house", docs=3), "docs=3: this model reads at most 2 documents"),
    (lambda m, p: m.text_to_image("house", docs=-1), "docs=-1"),
    (lambda m, p: m.edit(p, "make it blue", docs=2), r"4 pairs of text and image \(K=3 before the last\)"),
    (lambda m, p: m.text_to_image("house", candidates=0), "candidates=0"),
    (lambda m, p: m.text_to_image("house", temperature=-1.0), "temperature=-1.0"),
    (lambda m, p: m.infill(p, (0, 0, 99, 8)), "outside the picture of 32 x 32"),
    (lambda m, p: m.infill(p, (0, 0, 8)), "write it as x0,y0,x1,y1"),
    (lambda m, p: m.image_to_text("nowhere.png"), "nowhere.png: no such picture"),
    (lambda m, p: m.image_to_text(__file__), "not a picture that can be read"),
    (lambda m, p: m.job("infill", image=p), "infill needs a region"),
    (lambda m, p: m.job("edit", text="x"), "edit needs a picture"),
    (lambda m, p: m.job("paint"), "task=paint: no such task; known: text_to_image"),
])
def test_bad_input_is_one_sentence(model, picture, call, message):
  with pytest.raises(InputError, match=message):
    call(model, picture)


def test_text_that_spells_special_tokens_is_only_text(model):
  job = model.job("text_to_image", text="<eos> <break>")
  v, tokens = model.vocabulary, job.request.streams[0].tokens
  assert list(tokens[[0, -1]]) == [1, v.break_id] and (v.is_text(tokens[1:-1]) & (tokens[1:-1] > 2)).all()


def test_documents_without_an_index_are_refused(workdir):
  with pytest.raises(InputError, match="retrieved documents need an index"):
    api.load(workdir / "model").text_to_image("house", docs=1)


def test_parts_made_by_something_else_are_named(workdir, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(workdir, copy)
  description = json.loads((copy / "model" / "model.json").read_text())

  def with_meta(**changes):
    (copy / "model" / "model.json").write_text(json.dumps(description | {"meta": description["meta"] | changes}))

  with_meta(image_tokenizer="feedfeedfeedfeed")
  with pytest.raises(InputError, match="image tokenizer feedfeedfeedfeed, which is not found .*tokenizers/image"):
    api.load(copy / "model")
  with_meta(text_tokenizer="")
  with pytest.raises(InputError, match="does not say which text_tokenizer"):
    api.load(copy / "model")
  with_meta(encoder="feedfeedfeedfeed")
  assert api.load(copy / "model").text_to_image  # CLIP is looked for when it is needed
  with pytest.raises(InputError, match="encoder feedfeedfeedfeed, which is not found"):
    api.load(copy / "model", index=copy / "index")


def test_tokenizers_may_lie_elsewhere(workdir, tmp_path):
  (tmp_path / "elsewhere").mkdir()
  shutil.copytree(workdir / "tokenizers" / "image", tmp_path / "elsewhere" / "image")
  shutil.copytree(workdir / "model", tmp_path / "alone" / "model")
  with pytest.raises(InputError, match="image tokenizer"):
    api.load(tmp_path / "alone" / "model")
  assert api.load(tmp_path / "alone" / "model", tokenizers=tmp_path / "elsewhere").image.image_size == 32
