"""Real Beam pipelines: resume after kill -9, the same bytes for any number of workers."""

import hashlib
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cm3leon_jax import manifest, records
from cm3leon_jax.errors import InputError
from cm3leon_jax.pipelines import shards


class Squares:
  """`count` records with a little array each; `slow` seconds a shard; shard `bad` has bad input."""

  def __init__(self, count: int, slow: float = 0.0, bad: int = -1):
    self.count, self.slow, self.bad = count, slow, bad

  def setup(self):
    self.power = 2

  def records(self, shard, num_shards):
    time.sleep(self.slow)
    if shard == self.bad:
      raise InputError("cats/0003.png: not a picture; delete it or replace it")
    for i in range(*shards.bounds(self.count, shard, num_shards)):
      yield {"id": str(i), "square": np.full(3, i**self.power, np.int32)}


def hashes(folder: Path) -> dict[str, str]:
  return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_records_in_order_and_a_manifest_last(tmp_path):
  folder = shards.run(Squares(10), tmp_path / "out", "documents", 3, {"vocabulary": "v"})
  assert [r["id"] for r in records.Reader(folder, "documents")] == [str(i) for i in range(10)]
  assert manifest.read(folder, "documents", expect={"vocabulary": "v"})["count"] == 10
  assert sorted(p.suffix for p in folder.iterdir()) == [".arrayrecord"] * 3 + [".json"]


def test_workers_do_not_change_a_byte(tmp_path):
  one = shards.run(Squares(100), tmp_path / "one", "documents", 5, {})
  four = shards.run(Squares(100), tmp_path / "four", "documents", 5, {},
                    ["--runner=FnApiRunner", "--direct_num_workers=4", "--direct_running_mode=multi_threading"])
  assert hashes(one) == hashes(four)


def test_bad_input_is_one_sentence_and_finished_shards_stay(tmp_path):
  with pytest.raises(InputError) as error:
    shards.run(Squares(9, bad=2), tmp_path / "out", "documents", 3, {})
  assert str(error.value) == "cats/0003.png: not a picture; delete it or replace it"
  assert not manifest.exists(tmp_path / "out")
  done = hashes(tmp_path / "out")
  assert [n for n in done if n.startswith("documents")] == [records.shard_name("documents", s, 3) for s in (0, 1)]
  shards.run(Squares(9), tmp_path / "out", "documents", 3, {})
  assert done.items() - {("plan.json", done["plan.json"])} <= hashes(tmp_path / "out").items()


def test_other_fields_begin_anew(tmp_path):
  with pytest.raises(InputError):
    shards.run(Squares(9, bad=2), tmp_path / "out", "documents", 3, {"vocabulary": "old"})
  shards.run(Squares(30), tmp_path / "out", "documents", 3, {"vocabulary": "new"})
  assert len(records.Reader(tmp_path / "out", "documents")) == 30


def test_kill_9_and_again(tmp_path):
  whole = shards.run(Squares(40), tmp_path / "whole", "documents", 4, {})
  code = (f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
          "from test_shards import Squares\nfrom cm3leon_jax.pipelines import shards\n"
          f"shards.run(Squares(40, slow=1.0), {str(tmp_path / 'out')!r}, 'documents', 4, {{}})\n")
  process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
  first = tmp_path / "out" / records.shard_name("documents", 0, 4)
  for _ in range(1200):
    if first.exists() or process.poll() is not None:
      break
    time.sleep(0.05)
  os.kill(process.pid, signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  assert first.exists() and not manifest.exists(tmp_path / "out")
  before = first.stat().st_mtime_ns
  shards.run(Squares(40), tmp_path / "out", "documents", 4, {})
  assert first.stat().st_mtime_ns == before, "a finished shard was made again"
  assert hashes(tmp_path / "out") == hashes(whole)
