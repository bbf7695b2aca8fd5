"""`cm3leon search` over a whole small workdir: documents, index, CLIP and image tokenizer."""

import shutil

import jax
import numpy as np
from PIL import Image
import pytest
import toy_world

from cm3leon_jax import manifest as manifests
from cm3leon_jax import records
from cm3leon_jax.errors import InputError
from cm3leon_jax.models.vqgan import VQGAN, VQGANConfig
from cm3leon_jax.retrieval import search
from cm3leon_jax.retrieval.encoder import Encoder
from cm3leon_jax.retrieval.index import Index
from cm3leon_jax.retrieval.selection import Rules
from cm3leon_jax.retrieval.store import DocumentStore
from cm3leon_jax.tokenizers.image import ImageTokenizer

VQ = VQGANConfig(image_size=32, channels=8, ch_mult=(1,), res_blocks=1, z_channels=8, embed_dim=8, codebook_size=16,
                 patch=8, encoder_attention=False)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, toy):
  folder = tmp_path_factory.mktemp("search")
  shutil.copytree(toy[0], folder / "assets" / "clip")
  shutil.copytree(toy[0] / "text", folder / "tokenizers" / "text")  # the documents': here the same as the CLIP's
  encoder = Encoder.load(toy[0])
  shapes = jax.eval_shape(VQGAN(VQ).init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
  rng = np.random.default_rng(0)
  ImageTokenizer(VQ, jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape), shapes)).save(folder / "tokenizers" / "image")
  tokenizer = ImageTokenizer.load(folder / "tokenizers" / "image")
  rows = toy_world.pairs()
  ids = [row["id"] for row in rows]
  text = encoder.encode_text([row["caption"] for row in rows])
  image = encoder.encode_images(np.stack([row["image"] for row in rows]))
  with manifests.writing(folder / "documents" / "train", "documents") as (temporary, manifest):
    records.write_shard(temporary / records.shard_name("documents", 0, 1), (
        {"id": row["id"], "caption": row["caption"], "text": encoder.tokenize(row["caption"]),
         "image": (rng.integers(0, 16, 16) + encoder.text.size).astype(np.int32)} for row in rows))
    manifest |= {"image_tokenizer": tokenizer.fingerprint, "text_tokenizer": encoder.text.fingerprint}
  Index.build(folder / "index", Encoder.document(text, image), ids, encoder.fingerprint)
  return folder


def test_text_finds_its_documents(workdir):
  searcher = search.open_workdir(workdir / "index")
  hits = searcher.search(text="red circle", k=2)
  assert {hit.id for hit in hits} == {"twemoji/red-circle", "openmoji/red-circle"}
  assert hits[0].score >= hits[1].score
  assert hits[0].document["caption"].startswith("red circle, ")
  assert searcher.search(text="blue square, openmoji", k=1)[0].id == "openmoji/blue-square"


def test_picture_finds_its_documents(workdir, tmp_path):
  drawn = toy_world.picture("green", "diamond", "twemoji")
  # Transparent ground and a wide frame, as pictures from elsewhere have: both become the white of the drawings.
  alpha = np.where((drawn == 255).all(-1, keepdims=True), 0, 255).astype(np.uint8)
  wide = Image.new("RGBA", (60, 32), (0, 0, 0, 0))
  wide.paste(Image.fromarray(np.concatenate([drawn, alpha], -1)), (14, 0))
  wide.save(tmp_path / "query.png")
  read = search.read_picture(tmp_path / "query.png")
  assert read.shape == (60, 60, 3)
  np.testing.assert_array_equal(read[14:46, 14:46], drawn)
  assert (read[:14] == 255).all()
  found = search.open_workdir(workdir / "index").search(image=drawn, k=1)
  assert found[0].id == "twemoji/green-diamond"


def test_command_prints_and_draws(workdir, tmp_path, capsys):
  out = tmp_path / "new" / "sheet.png"
  hits = search.main(workdir / "index", text="red circle", k=7, out=str(out), explain=True)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == len(hits) == 7
  assert lines[0].split()[0] == "1" and hits[0].id in lines[0] and hits[0].document["caption"] in lines[0]
  assert sum(line.endswith("   taken") for line in lines) <= Rules().per_query
  assert all(line.endswith("taken") or "above the cap" in line or "too similar" in line or "not needed" in line
             for line in lines)
  with Image.open(out) as sheet:
    assert sheet.width > 900 and sheet.height > 400  # the query and seven hits: two rows of at most six
    assert len(sheet.getcolors(1 << 20)) > 50, "pictures are on it"


def test_k_beyond_the_documents(workdir):
  assert len(search.open_workdir(workdir / "index").search(text="red circle", k=500)) == 36


def test_bad_queries_are_named(workdir, tmp_path):
  searcher = search.open_workdir(workdir / "index")
  for query in ({"text": " "}, {}, {"text": "red", "image": np.zeros((32, 32, 3), np.uint8)}):
    with pytest.raises(InputError, match="either a text"):
      searcher.search(**query)
  (tmp_path / "note.png").write_text("not a picture")
  with pytest.raises(InputError, match="note.png: not a readable picture"):
    search.main(workdir / "index", image=str(tmp_path / "note.png"))


def test_foreign_encoder_is_refused(workdir, toy):
  encoder = Encoder.load(toy[0])
  encoder.fingerprint = "other"
  with pytest.raises(InputError, match="another encoder"):
    search.Searcher(Index.load(workdir / "index"), DocumentStore(workdir / "documents" / "train"), encoder)
  with pytest.raises(InputError, match="no clip folder with fingerprint nobody"):
    search.find_asset("clip", "nobody", workdir)
