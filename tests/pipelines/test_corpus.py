"""The corpus pipeline on real tar files: what is kept and why the rest is not; workers, kills and runs change no byte."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import corpus_files
from cm3leon_jax import config, manifest
from cm3leon_jax.datasets import pairs, pictures, reader
from cm3leon_jax.datasets.corpora.corpus import REJECTS, Corpus
from cm3leon_jax.datasets.corpora.raw import Raw
from cm3leon_jax.datasets.corpora.webdataset import WebDataset
from cm3leon_jax.errors import InputError
from cm3leon_jax.pipelines import corpus as pipeline

PIXELS = 32


def source(tmp_path, *shards) -> WebDataset:
  return WebDataset(str(corpus_files.write_tars(tmp_path / "tars", list(shards))), id="key")


def rejects(folder: Path) -> list[dict]:
  return [json.loads(line) for p in sorted((folder / "rejects").iterdir()) for line in p.read_text().splitlines()]


def hashes(folder: Path) -> dict[str, str]:
  return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def everything(folder, split, **of):
  return list(reader.read(folder, split, PIXELS, **of))


def test_good_pairs_are_kept_and_bad_ones_told(tmp_path, capsys):
  rows = corpus_files.good(40)
  made = Corpus(source(tmp_path, rows[:25] + corpus_files.bad(), rows[25:]), held_out=0.25, most_rejects=0.3)
  folder = pipeline.make(tmp_path / "corpus", made, PIXELS)
  about = pairs.about(folder)
  assert about["read"] == 40 + len(corpus_files.BAD) and about["count"] == 40
  assert about["rejects"] == dict.fromkeys(sorted(corpus_files.BAD), 1)
  assert {r["id"]: r["kind"] for r in rejects(folder)} == {f"bad_{kind}": kind for kind in corpus_files.BAD}
  assert all(r["reason"] and r["shard"].endswith("00000.tar") for r in rejects(folder))
  assert "left out: blank 1, broken_picture 1" in capsys.readouterr().err and set(corpus_files.BAD) <= set(REJECTS)
  assert not (folder / "prepared").exists() and not list(folder.rglob("*.partial*"))

  train, held_out = everything(folder, "train"), everything(folder, "heldout")
  assert reader.splits_of(folder) == ["train", "heldout"] and reader.count(folder, "train", PIXELS) == len(train)
  assert sorted(p["id"] for p in train + held_out) == [i for i, _, _ in rows] and 3 <= len(held_out) <= 18
  of = {i: (picture, caption) for i, picture, caption in rows}
  for pair in train:
    np.testing.assert_array_equal(pair["image"], pictures.Preparation(PIXELS)(of[pair["id"]][0])[0])
    assert pair["caption"] == of[pair["id"]][1] and pair["extra"] == {"url": f"https://example.org/{pair['id']}"}
  for begin, end in ((0, 5), (len(train) - 3, len(train)), (10, 30), (7, 7)):
    assert [p["id"] for p in everything(folder, "train", begin=begin, end=end)] == [p["id"] for p in train[begin:end]]


@pytest.mark.parametrize("mode", ["multi_threading", pytest.param("multi_processing", marks=pytest.mark.slow)])
def test_workers_do_not_change_a_byte(tmp_path, mode):
  rows = corpus_files.good(30)
  made = Corpus(source(tmp_path, rows[:10], rows[5:20] + corpus_files.bad(), rows[20:], rows[3:9]), held_out=0.3, most_rejects=1.0)
  one = pipeline.make(tmp_path / "one", made, PIXELS)
  workers = ["--runner=FnApiRunner", "--direct_num_workers=4", f"--direct_running_mode={mode}"]
  four = pipeline.make(tmp_path / "four", made, PIXELS, workers)
  assert hashes(one) == hashes(four)
  assert pairs.about(one)["rejects"]["duplicate_id"] == 5 + 6


def test_the_first_of_equals_stays(tmp_path):
  same, other = corpus_files.encoded(corpus_files.pixels(1)), corpus_files.encoded(corpus_files.pixels(2))
  third = corpus_files.encoded(corpus_files.pixels(3))
  # `b` is `a`'s picture; the second `c` is a known id, so that its picture is not the one that `d` equals.
  shards = [[("c", other, "1"), ("x", third, "2")], [("a", same, "3"), ("c", third, "4")], [("b", same, "5"), ("d", other, "6")]]
  kept = lambda folder: [p["caption"] for s in reader.splits_of(folder) for p in everything(folder, s)]
  made = Corpus(source(tmp_path, *shards), held_out=0.0, most_rejects=0.5)
  folder = pipeline.make(tmp_path / "once", made, PIXELS)
  assert kept(folder) == ["1", "2", "3"]
  fell = [("c", "duplicate_id"), ("b", "duplicate_picture"), ("d", "duplicate_picture")]
  assert [(r["id"], r["kind"]) for r in rejects(folder)] == fell
  assert rejects(folder)[1]["reason"].endswith("00001.tar")
  folder = pipeline.make(tmp_path / "all", dataclasses.replace(made, drop_duplicates=False), PIXELS)
  assert kept(folder) == ["1", "2", "3", "5", "6"]


def test_equal_pictures_are_never_on_both_sides(tmp_path):
  rows = [(f"{i}_{copy}", corpus_files.encoded(corpus_files.pixels(i)), f"{i}") for copy in range(3) for i in range(20)]
  made = Corpus(source(tmp_path, rows[:30], rows[30:]), held_out=0.4, drop_duplicates=False)
  folder = pipeline.make(tmp_path / "corpus", made, PIXELS)
  sides = [{p["caption"] for p in everything(folder, s)} for s in ("train", "heldout")]
  assert all(sides) and not sides[0] & sides[1]


def test_too_many_bad_records_stop_it_and_a_higher_share_goes_on(tmp_path):
  made = Corpus(source(tmp_path, corpus_files.good(9), corpus_files.bad()), most_rejects=0.4)
  with pytest.raises(InputError, match=r"50.0% of the records are bad, Corpus.most_rejects allows 40.0%") as error:
    pipeline.make(tmp_path / "corpus", made, PIXELS)
  assert "broken_picture 1" in str(error.value) and not manifest.exists(tmp_path / "corpus")
  (tmp_path / "tars" / "00000.tar").write_bytes(b"")  # what is done is not read again
  folder = pipeline.make(tmp_path / "corpus", dataclasses.replace(made, most_rejects=0.6), PIXELS)
  assert pairs.about(folder)["count"] == 9


def test_duplicate_pictures_are_not_bad_records(tmp_path):
  picture = corpus_files.encoded(corpus_files.pixels(1))
  made = Corpus(source(tmp_path, [(f"{i}", picture, "box") for i in range(20)]), held_out=0.0, most_rejects=0.0)
  assert pairs.about(pipeline.make(tmp_path / "corpus", made, PIXELS))["count"] == 1


def test_a_finished_corpus_is_not_made_from_something_else(tmp_path):
  made = Corpus(source(tmp_path, corpus_files.good(5)), held_out=0.0)
  folder = pipeline.make(tmp_path / "corpus", made, PIXELS)
  before = hashes(folder)
  assert hashes(pipeline.make(folder, made, PIXELS)) == before
  with pytest.raises(InputError, match="made with another held_out, pixels"):
    pipeline.make(folder, dataclasses.replace(made, held_out=0.5), 64)
  with pytest.raises(InputError, match="pictures of 32 pixels, not 64"):
    list(reader.read(folder, "train", 64))
  with pytest.raises(InputError, match="no split 'heldout_things'; it has train, heldout"):
    list(reader.read(folder, "heldout_things", PIXELS))


def test_an_unfinished_one_begins_anew_with_other_settings(tmp_path):
  made = Corpus(source(tmp_path, corpus_files.good(5), corpus_files.bad()), held_out=0.0)
  with pytest.raises(InputError):
    pipeline.make(tmp_path / "corpus", made, PIXELS)
  small = dataclasses.replace(made, cleaning=("collapse_spaces", "lower"), most_rejects=1.0)
  assert everything(pipeline.make(tmp_path / "corpus", small, PIXELS), "train")[0]["caption"] == "a box, number 0"


def test_nothing_to_train_on(tmp_path):
  with pytest.raises(InputError, match="0 pairs .* nothing to train on"):
    pipeline.make(tmp_path / "corpus", Corpus(source(tmp_path, corpus_files.bad()), most_rejects=1.0), PIXELS)


@dataclasses.dataclass(frozen=True)
class Odd:
  """A source of records as JSON and readers can spell them, but no file should."""

  def shards(self):
    return ["only"]

  def read(self, shard):
    picture = corpus_files.encoded(corpus_files.pixels(7))
    yield Raw("half \ud83d id", picture, "fine", {"url": "u" * 9999, "license": None, "other": 1})
    yield Raw("n", picture, 7)
    yield Raw("l", picture, ["a", "b"])
    yield Raw("s", picture, "half \ud83d surrogate")


def test_odd_fields_can_be_stored(tmp_path):
  folder = pipeline.make(tmp_path / "corpus", Corpus(Odd(), held_out=0.0, most_rejects=1.0), PIXELS)
  (pair,) = everything(folder, "train")
  assert pair["id"] == "half \\ud83d id" and pair["extra"] == {"url": "u" * 400}
  assert [r["kind"] for r in rejects(folder)] == ["no_caption", "no_caption", "caption_not_utf8"]


@dataclasses.dataclass(frozen=True)
class Slowly:
  """Another reader with a pause before each shard."""

  of: WebDataset
  seconds: float = 0.0

  def __repr__(self):
    return repr(self.of)  # the same plan, so that a run goes on

  def shards(self):
    return self.of.shards()

  def read(self, shard):
    time.sleep(self.seconds)
    yield from self.of.read(shard)


def test_kill_9_and_only_missing_shards_are_made(tmp_path):
  rows = corpus_files.good(24)
  tars = source(tmp_path, *(rows[i:i + 8] for i in range(0, 24, 6)))
  whole = pipeline.make(tmp_path / "whole", Corpus(Slowly(tars), most_rejects=1.0), PIXELS)
  code = (f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}\n"
          "from test_corpus import *\n"
          f"made = Corpus(Slowly({tars!r}, 1.0), most_rejects=1.0)\n"
          f"pipeline.make({str(tmp_path / 'out')!r}, made, PIXELS)\n")
  process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
  first = tmp_path / "out" / "prepared" / "report-00000-of-00004.json"
  for _ in range(1200):
    if first.exists() or process.poll() is not None:
      break
    time.sleep(0.05)
  os.kill(process.pid, signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  reports = lambda: {p.name for p in first.parent.glob("report-*")}
  assert 1 <= len(reports()) < 4 and not manifest.exists(tmp_path / "out")
  Path(tars.shards()[0]).write_bytes(b"")  # a shard that is done is not read again
  assert hashes(pipeline.make(tmp_path / "out", Corpus(Slowly(tars), most_rejects=1.0), PIXELS)) == hashes(whole)


@pytest.mark.slow
def test_killed_at_any_rename_it_goes_on(tmp_path):
  """Every file appears by a rename: killed before each of them in turn, a second run ends with the same bytes."""
  same = corpus_files.good(3)
  tars = source(tmp_path, [*same, *corpus_files.bad()], [("a", *same[0][1:]), *same[1:]], corpus_files.good(3, 50))
  script = tmp_path / "script.py"
  script.write_text(f"""
import os, signal, sys
from pathlib import Path
from cm3leon_jax.datasets.corpora.corpus import Corpus
from cm3leon_jax.datasets.corpora.webdataset import WebDataset
from cm3leon_jax.pipelines import corpus as pipeline
assert "tensorflow" not in sys.modules  # so that a fork is safe
made, rename, seen = Corpus({tars!r}, most_rejects=1.0, held_out=0.4), Path.replace, []
def killing(at):
  def replace(self, to):
    seen.append(to)
    if len(seen) == at:
      os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, to)
  return replace
def child(folder, at):
  pid = os.fork()
  if not pid:
    Path.replace = killing(at)
    pipeline.make(folder, made, 32)
    os._exit(0)
  return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert child({str(tmp_path / 'whole')!r}, 0) == 0
for at in range(1, 99):
  folder = Path({str(tmp_path)!r}) / f"killed_{{at}}"
  if child(folder, at) == 0:
    break
  assert not (folder / "manifest.json").exists()
  assert child(folder, 0) == 0
print(at - 1)
""")
  done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
  renames = int(done.stdout)
  assert renames == 3 * 4 + 2 + 3 * 4 + 1  # prepare, fallen ids and pictures of a shard each, divide, the manifest
  for at in range(1, renames + 1):
    assert hashes(tmp_path / f"killed_{at}") == hashes(tmp_path / "whole")


def test_through_gin_and_the_pipelines(tmp_path):
  rows = corpus_files.good(12)
  corpus_files.write_tars(tmp_path / "tars", [rows])
  (tmp_path / "mine.gin").write_text(f"""
include 'mixtures/emoji.gin'
Pipelines.source = @Corpus()
Corpus.source = @WebDataset()
WebDataset.files = '{tmp_path}/tars/*.tar'
Corpus.cleaning = ('lower', 'collapse_spaces')
Corpus.held_out = 0.3
""")
  config.load([str(tmp_path / "mine.gin")])
  config.configured("Pipelines").run("corpus", tmp_path / "work")
  assert reader.count(tmp_path / "work" / "corpus", "train", 64) + reader.count(tmp_path / "work" / "corpus", "heldout", 64) == 12
  config.load([str(tmp_path / "mine.gin")], ["Corpus.cleaning=('lowr',)"])
  with pytest.raises(InputError, match="no step 'lowr'; the nearest are lower"):
    config.configured("Pipelines")
