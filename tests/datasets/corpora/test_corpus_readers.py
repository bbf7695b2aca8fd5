"""Every format gives the same records from the same pairs; what is broken in it is told, not raised."""

import base64
import json
from pathlib import Path
import pickle

import pytest

import corpus_files
from cm3leon_jax.datasets.corpora.coco import CocoFiles
from cm3leon_jax.datasets.corpora.folder import ImageFolder
from cm3leon_jax.datasets.corpora.jsonl import JsonLines
from cm3leon_jax.datasets.corpora.parquet import Parquet
from cm3leon_jax.datasets.corpora.tfds import TfdsByName
from cm3leon_jax.datasets.corpora.webdataset import WebDataset
from cm3leon_jax.errors import InputError

ROWS = corpus_files.good(7)


def read(source):
  """All records, through a copy of the reader as a worker gets it."""
  shards = source.shards()
  assert list(shards) == list(source.shards())
  return [list(pickle.loads(pickle.dumps(source)).read(s)) for s in shards]


def check(shards, sizes, rows=ROWS, ids=True):
  assert [len(s) for s in shards] == sizes
  found = [r for s in shards for r in s]
  text = lambda c: c.decode() if isinstance(c, bytes) else c
  assert [(r.image, text(r.caption), r.problem) for r in found] == [(p, c, None) for _, p, c in rows]
  assert len({r.id for r in found}) == len(found)
  if ids:
    assert [r.id for r in found] == [i for i, _, _ in rows]
  return found


# WebDataset


def test_webdataset(tmp_path):
  folder = corpus_files.write_tars(tmp_path, [ROWS[:4], ROWS[4:]])
  (folder / "00000_stats.json").write_text("{}")  # img2dataset's
  (folder / "00000.parquet").write_bytes(b"")
  found = check(read(WebDataset(str(folder))), [4, 3], ids=False)
  assert found[0].id == "00000/000000" and found[4].id == "00001/000004"
  assert found[5].extra["url"] == "https://example.org/000005"
  check(read(WebDataset(str(folder / "*.tar"), id="key")), [4, 3])


def test_webdataset_caption_from_the_json(tmp_path):
  import io
  import tarfile

  with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
    for name, data in (("x/1.json", b'{"text": "a hat"}'), ("x/1.png", ROWS[0][1]), ("y/1.png", ROWS[2][1]), ("y/1.json", b"{oh")):
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  (found,) = read(WebDataset(str(tmp_path), caption="text"))
  assert [(r.id, r.caption, r.image) for r in found] == [("a/x/1", "a hat", ROWS[0][1]), ("a/y/1", None, ROWS[2][1])]
  assert found[0].problem is None and found[1].problem[0] == "broken_record"


@pytest.mark.parametrize("cut", [300, 1536, 1700, 5000, 5120])
def test_a_tar_that_breaks_off_is_told(tmp_path, cut):
  folder = corpus_files.write_tars(tmp_path, [ROWS])
  (folder / "00000.tar").write_bytes((folder / "00000.tar").read_bytes()[:cut])
  (found,) = read(WebDataset(str(folder)))
  assert [r.problem[0] for r in found if r.problem] == ["broken_shard"]
  assert found[-1].problem and len(found) - 1 == sum((r.id, r.image) == (f"00000/{i}", p) for r, (i, p, _) in zip(found, ROWS))


def test_no_tar(tmp_path):
  with pytest.raises(InputError, match="no such file; give tar files"):
    WebDataset(str(tmp_path / "*.tar")).shards()


# JSON lines


def write_lines(folder, rows, **more) -> Path:
  (folder / "pictures").mkdir(exist_ok=True)
  lines = []
  for name, picture, caption in rows:
    (folder / "pictures" / f"{name}.png").write_bytes(picture)
    lines.append(json.dumps({"id": name, "image": f"pictures/{name}.png", "caption": caption, "url": "u", **more}))
  (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
  return folder / "pairs.jsonl"


@pytest.mark.parametrize("size", [1, 7, 100, 101, 150, 1 << 20])
def test_json_lines_in_stretches_of_any_size(tmp_path, size):
  path = write_lines(tmp_path, ROWS)
  shards = read(JsonLines(str(path), shard_bytes=size))
  found = check([[r for s in shards for r in s]], [7])
  assert found[0].extra == {"id": "000000", "url": "u"}


def test_json_lines_in_base64_and_elsewhere(tmp_path):
  one, two = (base64.b64encode(p).decode() for _, p, _ in ROWS[:2])
  rows = [{"img": "data:image/png;base64," + one, "text": "a"}, {"img": "data:;base64," + two, "text": "b"},
          {"img": "data:x,@@", "text": "c"},
          {"img": "gone.png", "text": "d"}, {"text": "e"}]
  (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n\n" for r in rows) + "{broken\n[1]\n")
  (found,) = read(JsonLines(str(tmp_path), image="img", caption="text", images=str(tmp_path)))
  assert [r.image for r in found[:2]] == [ROWS[0][1], ROWS[1][1]]
  assert [r.problem and r.problem[0] for r in found] == [None, None, "broken_picture", "no_picture", None] + ["broken_record"] * 2
  assert len({r.id for r in found}) == 7


# Parquet


def test_parquet(tmp_path):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  ids, pictures, captions = (list(c) for c in zip(*ROWS))
  table = pa.table({"key": ids, "jpg": pictures, "caption": captions, "url": ["u"] * 7})
  pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
  found = check(read(Parquet(str(tmp_path))), [3, 3, 1])
  assert found[0].extra == {"key": "000000", "url": "u"}
  (tmp_path / "hub").mkdir()
  (tmp_path / "one.png").write_bytes(pictures[0])
  table = {"image": [{"bytes": None, "path": "../one.png"}, {"bytes": pictures[1], "path": None}], "text": captions[:2]}
  pq.write_table(pa.table(table), tmp_path / "hub" / "b.parquet")
  check(read(Parquet(str(tmp_path / "hub"))), [2], ROWS[:2], ids=False)
  with pytest.raises(InputError, match="no column title; it has image, text: set Parquet.caption"):
    read(Parquet(str(tmp_path / "hub"), caption="title"))
  (tmp_path / "hub" / "c.parquet").write_bytes(b"PAR1 no")
  with pytest.raises(InputError, match="c.parquet: not a Parquet file that can be read"):
    read(Parquet(str(tmp_path / "hub")))


def test_parquet_with_a_damaged_page(tmp_path):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  ids, pictures, captions = (list(c) for c in zip(*ROWS))
  path = tmp_path / "a.parquet"
  pq.write_table(pa.table({"key": ids, "jpg": pictures, "caption": captions}), path, compression="zstd", use_dictionary=False)
  torn = bytearray(path.read_bytes())
  torn[40:400] = bytes(360)
  path.write_bytes(torn)
  (found,) = read(Parquet(str(tmp_path)))
  assert found[-1].problem[0] == "broken_shard"


# A folder


def test_folder_with_sidecars(tmp_path):
  for name, picture, caption in ROWS:
    (tmp_path / "deep").mkdir(exist_ok=True)
    (tmp_path / "deep" / f"{name}.JPG").write_bytes(picture)
    (tmp_path / "deep" / f"{name}.txt").write_text(caption)
  (tmp_path / "notes.md").write_text("not a picture")
  found = check(read(ImageFolder(str(tmp_path), shard_files=3)), [3, 3, 1], ids=False)
  assert found[0].id == "deep/000000.JPG"
  (tmp_path / "deep" / "000000.txt").unlink()
  assert read(ImageFolder(str(tmp_path)))[0][0].caption is None


@pytest.mark.parametrize("name, of_name, of_both", [
    ("animals/red_panda_02.png", "red panda", "animals red panda"), ("a/b-c/IMG.png", "IMG", "a b c IMG"),
    ("1984.png", "1984", "1984"), ("x/café au_lait.png", "café au lait", "x café au lait"), ("y/hat__.png", "hat", "y hat")])
def test_folder_captions_from_names(tmp_path, name, of_name, of_both):
  (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
  (tmp_path / name).write_bytes(ROWS[0][1])
  for captions, wanted in (("name", of_name), ("folder_and_name", of_both)):
    assert read(ImageFolder(str(tmp_path), captions=captions))[0][0].caption == wanted


def test_folder_errors(tmp_path):
  with pytest.raises(InputError, match="no picture in it"):
    ImageFolder(str(tmp_path)).shards()
  with pytest.raises(InputError, match="known are sidecar, name"):
    ImageFolder(str(tmp_path), captions="title").shards()
  with pytest.raises(InputError, match="no such folder of pictures"):
    ImageFolder(str(tmp_path / "no")).shards()


# COCO


def test_coco(tmp_path):
  images, captions, boxes = [], [], []
  for n, (name, picture, caption) in enumerate(ROWS):
    (tmp_path / f"{name}.jpg").write_bytes(picture)
    images.append({"id": n, "file_name": f"{name}.jpg", "coco_url": f"u{n}", "license": 3})
    captions += [{"id": 100 - n, "image_id": n, "caption": caption}, {"id": 200 + n, "image_id": n, "caption": "other"}]
    boxes.append({"id": n, "image_id": n, "category_id": 5, "bbox": [1, 2, 3, 4]})
  (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
  instances = {"images": images, "annotations": boxes[1:], "categories": [{"id": 5, "name": "hat"}]}
  (tmp_path / "instances.json").write_text(json.dumps(instances))
  source = CocoFiles(str(tmp_path / "captions.json"), str(tmp_path), str(tmp_path / "instances.json"), shard_files=4)
  found = check(read(source), [4, 3], ids=False)
  assert [r.id for r in found] == [str(n) for n in range(7)]
  assert found[0].extra == {"url": "u0", "license": 3, "objects": []} and found[1].extra["objects"] == [["hat", 1, 2, 3, 4]]
  each = [r for s in read(CocoFiles(str(tmp_path / "captions.json"), str(tmp_path), each=True)) for r in s]
  assert [(r.id, r.caption) for r in each[:2]] == [("100", ROWS[0][2]), ("200", "other")] and len(each) == 14
  (tmp_path / "000003.jpg").unlink()
  assert read(source)[0][3].problem[0] == "no_picture"
  with pytest.raises(InputError, match="no annotation with a `caption`"):
    read(CocoFiles(str(tmp_path / "instances.json"), str(tmp_path)))


# TFDS


def test_tfds(tmp_path):
  import tensorflow_datasets as tfds

  captions = tfds.features.Sequence({"text": tfds.features.Text()})
  features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "captions": captions, "name": tfds.features.Text()})
  examples = [{"image": p, "captions": [{"text": c}, {"text": "other"}], "name": i} for i, p, c in ROWS]
  for n, example in enumerate(examples):
    (tmp_path / f"{n}.png").write_bytes(example["image"])
    example["image"] = str(tmp_path / f"{n}.png")  # so that the bytes are kept as they are

  class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    name = "boxes_for_a_test"

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
      return {"train": iter(enumerate(examples))}

    def _generate_examples(self):
      raise NotImplementedError

  tfds.disable_progress_bar()
  Builder(data_dir=tmp_path / "data").download_and_prepare()
  source = TfdsByName("boxes_for_a_test", data_dir=str(tmp_path / "data"), caption="captions/text", id="name", shard_rows=3)
  check(read(source), [3, 3, 1])
  assert read(TfdsByName("boxes_for_a_test", data_dir=str(tmp_path / "data"), caption="captions/text"))[0][2].id == "train/2"
  with pytest.raises(InputError, match="has train"):
    TfdsByName("boxes_for_a_test", split="test", data_dir=str(tmp_path / "data")).shards()
  with pytest.raises(InputError, match="TfdsByName.name='no_such_set'"):
    TfdsByName("no_such_set", data_dir=str(tmp_path / "data")).shards()
