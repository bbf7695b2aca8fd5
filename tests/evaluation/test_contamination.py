"""Evaluation items among documents, with the shipped tokenizers and CLIP: what is left out, what the report counts."""

import io
import json
import types

from hypothesis import given, strategies as st
import numpy as np
from PIL import Image
import pytest

from cm3leon_jax import assets, cli, manifest, records
from cm3leon_jax.datasets import icon_sets, reader, render
from cm3leon_jax.datasets.emoji_names import Thing
from cm3leon_jax.datasets.icon_sets import Drawing
from cm3leon_jax.datasets.items import Item
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import contamination, contamination_report, picture_hash
from cm3leon_jax.layout import Layout
from cm3leon_jax.retrieval.encoder import Encoder
from cm3leon_jax.retrieval.index import Index
from cm3leon_jax.retriever import Retriever
from cm3leon_jax.tokenizers.image import ImageTokenizer
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.vocabulary import Vocabulary

_COUNT = 40


def scene(number):
  """An SVG like no other: bars and a disc in places and colours of its own."""
  rng = np.random.default_rng(number)
  bars = "".join('<rect x="{}" y="{}" width="{}" height="{}" fill="#{:06x}"/>'.format(
      *rng.integers(0, 40, 2), *rng.integers(8, 30, 2), rng.integers(0xffffff)) for _ in range(5))
  disc = '<circle cx="{}" cy="{}" r="9" fill="#468"/>'.format(*rng.integers(10, 50, 2))
  return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">{bars}{disc}</svg>'


def new(number):
  """uint8[64, 64, 3]: a scene that is in no corpus."""
  return render.render(scene(1000 + number), 64)


def jpeg(image, quality):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "JPEG", quality=quality)
  return np.asarray(Image.open(file))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """D with corpus/, documents/train and index/ as the pipelines leave them; only the drawings are not the artists'."""
  folder = tmp_path_factory.mktemp("workdir")
  drawings = [Drawing(f"noto/{i:02d}", "noto", scene(i), Thing(f"{i:02d}", f"thing {i}", f"{i:02d}"), "objects")
              for i in range(_COUNT)]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(icon_sets, "load", lambda: (drawings, "the test"))
    about = reader.build(folder / "corpus", progress=False)
  manifest.write_file(folder / "corpus", "corpus", {**about, "pixels": 64})
  text, image, encoder = (kind.load(assets.path(f"tokenizers/demo_{name}")) for name, kind in
                          (("text", TextTokenizer), ("image", ImageTokenizer), ("clip", Encoder)))
  pairs = list(reader.read(folder / "corpus", "train"))
  ids, captions, images = ([p[k] for p in pairs] for k in ("id", "caption", "image"))
  codes = VOCABULARY.image_ids(image.encode(np.stack(images)))
  with manifest.writing(folder / "documents" / "train", "documents") as (shards, info):
    records.write_shard(shards / records.shard_name("documents", 0, 1), (
        {"id": i, "caption": c, "text": text.encode(c), "image": x} for i, c, x in zip(ids, captions, codes)))
    info |= {"text_tokenizer": text.fingerprint, "image_tokenizer": image.fingerprint}
  vectors = encoder.document(encoder.encode_text(captions), encoder.encode_images(np.stack(images)))
  Index.build(folder / "index", vectors, ids, encoder.fingerprint, rules={"max_score": 1.0, "max_similarity": 1.0})
  return folder


VOCABULARY = Vocabulary(text_size=2048, image_size=1024, num_sentinels=16, total_size=0)  # the demo's


@pytest.fixture(scope="module")
def library(workdir):
  return contamination.open_library(workdir / "index")


@pytest.fixture(scope="module")
def training(workdir):
  return list(reader.read(workdir / "corpus", "train"))


def test_items_are_left_out_by_id_and_by_their_picture(workdir, library, training, tmp_path):
  Image.fromarray(training[1]["image"]).save(tmp_path / "other.png")
  Image.fromarray(new(0)).save(tmp_path / "new.png")
  ids = [pair["id"] for pair in training]
  items = [Item(ids[4]), Item(7, image_id=ids[5], image=new(1)), Item(8, image=str(tmp_path / "other.png")),
           Item("noto/none", image=str(tmp_path / "new.png")), Item(ids[2], image=training[2]["image"])]
  text = TextTokenizer.load(assets.path("tokenizers/demo_text"))
  retriever = Retriever(workdir / "index", VOCABULARY, Layout(64, 16, 3, "document"), text, library.image,
                        library.encoder)
  found = contamination.exclusions(items, retriever)
  # ids[2] is found both ways, and counts once.
  assert found == contamination.Exclusions(frozenset(ids[i] for i in (1, 2, 4, 5)), by_id=3, by_hash=1)
  assert contamination.exclusions(items, workdir / "index") == found  # from the folder alone
  assert ids[1] in {d.id for d in retriever.search(training[1]["image"], 3)}
  retriever.exclude = found.ids
  assert {d.id for d in retriever.search(training[1]["image"], len(ids))} == set(ids) - found.ids


def test_file_names_are_ids_and_broken_pictures_have_no_content(library, tmp_path):
  assert contamination.names([Item(1, image="/data/val2014/COCO_val2014_000000000042.jpg", image_id=42)]) == {
      "1", "42", "COCO_val2014_000000000042"}
  broken = tmp_path / "broken.png"
  broken.write_bytes(b"no picture")
  assert contamination.exclusions([Item(1, image=str(broken))], library).ids == frozenset()


def test_a_picture_of_many_questions_is_looked_at_once():
  picture = np.zeros((2, 2, 3), np.uint8)
  items = [Item(1, image="a.jpg"), Item(2, image="a.jpg"), Item(3, image=picture, image_id=9),
           Item(4, image=picture, image_id=9), Item(5, image=picture), Item(6)]
  assert [i.id for i in contamination.pictures(items)] == [1, 3, 5]


def test_clip_s_image_vector_comes_back_from_the_document_s(library, training):
  """The index keeps text and picture mixed; the cosine must be that of the pictures alone."""
  queries = library.encoder.encode_images(np.stack([new(0), new(1), training[3]["image"]]))
  exact = queries @ library.encoder.encode_images(np.stack([p["image"] for p in training])).T
  row = {pair["id"]: i for i, pair in enumerate(training)}
  matches = contamination.by_clip(queries, library)
  assert len(matches) == 3 * 16
  for match in matches:
    assert match.score == pytest.approx(exact[match.picture, row[match.id]], abs=1e-4)  # float32, mirrored once
  assert max((m for m in matches if m.picture == 2), key=lambda m: m.score).id == training[3]["id"]


def test_a_copy_saved_again_has_other_codes_and_is_found_by_clip(library, training):
  copies = [jpeg(pair["image"], 60) for pair in training]
  found = contamination.find([Item(i, image=copy) for i, copy in enumerate(copies)], library)
  by_codes = {m.id for m in found.by_codes}
  assert len(by_codes) < len(training) // 2 and found.exclusions.ids == {pair["id"] for pair in training}


def test_report(workdir, training, tmp_path):
  copied, retouched = training[3]["image"], training[5]["image"].copy()
  retouched[10:12, 10:12] = (250, 240, 10)
  other_colours = training[9]["image"] // 2
  [a, b] = picture_hash.perceptual([other_colours, training[9]["image"]])
  assert np.bitwise_count(a ^ b) <= contamination_report.BITS  # what the colours are looked at for
  caption = training[7]["caption"]
  items = [Item(0, text=f"  {caption.upper().replace(',', ' ;')}!", image=new(0), image_id="a"),
           Item(1, text="nobody said this", image=copied, image_id="b"),
           Item(2, text="Nobody said this.", image=retouched, image_id="c"),
           Item(3, references=("nor this", training[8]["caption"]), image=other_colours, image_id="d"),
           Item(4, text=caption, image=new(1), image_id="e"),
           Item(5, text=caption, image=new(1), image_id="e"), Item(6, text="...", image="nowhere.png")]
  out = tmp_path / "new" / "x"
  result = contamination_report.evaluate_contamination(
      items, workdir / "index", workdir / "corpus", out.with_suffix(".json"), out.with_suffix(".png"))
  assert json.loads(out.with_suffix(".json").read_text()) == result
  assert result["items"] == 7 and result["images"] == 5 and result["images_unreadable"] == 1
  assert result["captions"] == 4  # normalised; the dots of item 6 are no caption
  assert result["documents"] == result["corpus_pictures"] == len(training)
  shares = {key.removesuffix("_share"): value for key, value in result.items() if key.endswith("_share")}
  assert shares["caption_exact"] == shares["corpus_caption_exact"] == 2 / 4
  assert shares["image_exact"] == shares["corpus_image_exact"] == 1 / 5  # the copied one
  assert shares["corpus_image_near"] == 2 / 5  # and the retouched; the one of other colours has the hash alone
  assert 1 / 5 <= shares["image_near"] <= 2 / 5 <= shares["clip_near"]
  assert all(result[f"{name}_count"] == round(share * result["captions" if "caption" in name else "images"])
             for name, share in shares.items())
  assert result["left_out_by_id"] == 0 and result["left_out_by_hash"] >= 1
  with Image.open(out.with_suffix(".png")) as sheet:
    assert sheet.width > 900 and np.asarray(sheet).std() > 20  # six tiles wide, and not empty


def test_a_set_that_is_the_training_set_is_found_whole(workdir, training):
  items = [Item(p["id"], text=p["caption"], image=p["image"]) for p in training]
  result = contamination_report.evaluate_contamination(items, workdir / "index")
  for name in ("caption_exact", "image_exact", "image_near", "clip_near"):
    assert result[f"{name}_share"] == 1, name
  assert result["left_out_by_id"] == len(training) and result["left_out_by_hash"] == 0
  assert "corpus_pictures" not in result


@pytest.mark.parametrize("items, options, message", [
    ([Item(1)], {}, "none of the 1 items has a picture that can be read, or a caption"),
    ([Item(1, text="x")], {"cosine": 1.5}, "--cosine=1.5 must lie in 0..1"),
    ([Item(1, text="x")], {"corpus": "/nowhere"}, "/nowhere: no such folder"),
])
def test_bad_input(workdir, items, options, message):
  with pytest.raises(InputError, match=message):
    contamination_report.evaluate_contamination(items, workdir / "index", **options)


def test_the_command_says_what_is_missing(capsys):
  assert cli.main(["eval", "contamination", "--gin_file=configs/evaluation/coco_captions.gin", "--index=nowhere",
                   "--gin.coco=/nowhere"]) == 1
  assert "/nowhere" in capsys.readouterr().err


@given(st.text())
def test_normalising_twice_changes_nothing(text):
  once = contamination.normalise(text)
  assert contamination.normalise(once) == once == " ".join(once.split())


@given(st.lists(st.sampled_from(["red", "Heart", "déjà", "30"]), min_size=1), st.data())
def test_normalising_keeps_words_and_drops_the_rest(words, data):
  gaps = st.text(st.sampled_from(" \t\n.,;:!?\"'()-—"), min_size=1, max_size=3)
  text = "".join(data.draw(gaps) + (w.upper() if data.draw(st.booleans()) else w) for w in words) + data.draw(gaps)
  assert contamination.normalise(text) == " ".join(w.lower() for w in words)


def test_documents_without_a_picture_are_passed_over(library, tmp_path):
  with manifest.writing(tmp_path / "train", "documents") as (folder, _):
    records.write_shard(folder / records.shard_name("documents", 0, 1), [
        {"id": "bare", "caption": "no picture", "text": np.array([5]), "image": np.zeros(0, np.int32)}])
  bare = types.SimpleNamespace(documents=tmp_path / "train", vocabulary=library.vocabulary)
  assert not list(contamination.documents(bare))
