import dataclasses
import itertools

import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.tasks import windows as windows_lib
from cm3leon_jax.tasks.objective import CM3Objective
from cm3leon_jax.vocabulary import Vocabulary
from task_samples import LAYOUT, VOCABULARY, sample

LENGTH = 128
OBJECTIVE = CM3Objective(max_spans=4)
NONE = CM3Objective(mode="none")


def make_samples(count):
  rng = np.random.default_rng(0)
  return [sample(rng, rng.integers(0, 7, rng.integers(1, 4))) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("windows") / "train"
  manifest = windows_lib.write_samples(make_samples(60), folder, vocabulary=VOCABULARY, layout=LAYOUT, length=LENGTH,
                                       reserve=OBJECTIVE.reserve, shards=3, seed=5)
  assert manifest["window"] == LENGTH + 1 - 12 and manifest["samples"] == 60 and 0 < manifest["wasted"] < 0.4
  assert len(list(folder.iterdir())) == 4  # three shards and the manifest: nothing temporary is left
  return folder


def source(folder, **options):
  return windows_lib.WindowSource(folder, **{"batch_size": 8, "seed": 3, "objective": OBJECTIVE, **options})


def equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_windows_hold_every_sample_and_are_shuffled(folder):
  rows = list(windows_lib.records.Reader(folder, "windows"))
  assert [r["index"] for r in rows] == list(range(len(rows)))
  found = sorted(
      r["tokens"][r["segment_ids"] == s].tolist() for r in rows for s in range(1, r["segment_ids"].max() + 1))
  samples = make_samples(60)
  assert found == sorted(s["tokens"].tolist() for s in samples)
  # Against the order of packing: within each shard, too, that order is gone.
  packed = [w["tokens"].tolist() for w in windows_lib.packing.pack(samples, LENGTH - 11, layout=LAYOUT)]
  order = [packed.index(r["tokens"].tolist()) for r in rows]
  assert sorted(order) == list(range(len(packed))) != order
  for shard in folder.glob("windows-*"):
    tokens = [r["tokens"].tolist() for r in windows_lib.records.Reader(folder, shard.name[:13])]
    numbers = [packed.index(t) for t in tokens]
    assert len(numbers) > 3 and numbers != sorted(numbers)


def test_batches(folder):
  batch = source(folder).batch(0)
  assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
      "inputs": ((8, LENGTH), "int32"), "targets": ((8, LENGTH), "int32"), "loss_weights": ((8, LENGTH), "float32"),
      "segment_ids": ((8, LENGTH), "int32"), "positions": ((8, LENGTH), "int32")}
  assert VOCABULARY.is_sentinel(batch["inputs"]).any()
  assert not VOCABULARY.is_sentinel(source(folder, objective=NONE).batch(0)["inputs"]).any()


def test_resume_is_a_seek(folder):
  steps = list(itertools.islice(source(folder).iterate(), 9))
  for start in (4, 8):
    for step, batch in zip(range(start, 9), source(folder).iterate(start)):
      equal(batch, steps[step])
  with pytest.raises(AssertionError):
    equal(steps[0], steps[1])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_see_the_same_global_batches(folder, hosts):
  whole = source(folder)
  shares = [source(folder, host_index=h, host_count=hosts) for h in range(hosts)]
  for step in (0, 5):
    parts = [s.batch(step) for s in shares]
    equal({k: np.concatenate([p[k] for p in parts]) for k in parts[0]}, whole.batch(step))


def test_an_epoch_is_every_window_once_with_new_order_and_masks(folder):
  s = source(folder)
  pairs = [pair for step in range(2 * s.count) for pair in zip(*map(np.ndarray.tolist, s.indices(step)))]
  epochs = [[i for e, i in pairs if e == epoch] for epoch in (0, 1)]
  assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(s.count))
  assert epochs[0] != epochs[1] != list(range(s.count))
  first = s._make(np.zeros(8, int), np.arange(8))["inputs"]
  assert not np.array_equal(first, s._make(np.ones(8, int), np.arange(8))["inputs"])
  assert np.array_equal(first, s._make(np.zeros(8, int), np.arange(8))["inputs"])


def test_once(folder):
  s = source(folder, objective=NONE)
  batches = list(s.once())
  assert all(len(b["inputs"]) == 8 for b in batches)
  rows = np.concatenate([b["inputs"] for b in batches])
  stored = [r["tokens"] for r in windows_lib.records.Reader(folder, "windows")]
  np.testing.assert_array_equal(rows[:s.count, :len(stored[0])], stored)
  assert not rows[s.count:].any() and not np.concatenate([b["loss_weights"] for b in batches])[s.count:].any()


def test_the_papers_packed_stream(tmp_path):
  """Samples one after the other, cut anywhere; masks drawn once a window, in one segment."""
  sequence = dataclasses.replace(LAYOUT, numbering="sequence")
  objective = CM3Objective(max_spans=4, min_spans=4)
  samples = make_samples(30)
  manifest = windows_lib.write_samples(samples, tmp_path / "w", vocabulary=VOCABULARY, layout=sequence, length=64,
                                       reserve=objective.reserve, packing_mode="straddle")
  assert manifest["count"] == -(-sum(len(s["tokens"]) for s in samples) // (65 - 12))
  batch = source(tmp_path / "w", objective=objective, batch_size=4).batch(0)
  for row in range(4):
    size = np.count_nonzero(batch["segment_ids"][row])
    assert batch["segment_ids"][row].max() == 1 and batch["positions"][row, :size].tolist() == list(range(size))
    found = batch["inputs"][row][VOCABULARY.is_sentinel(batch["inputs"][row])] - VOCABULARY.sentinel_start
    assert found.tolist() == 2 * list(range(len(found) // 2)) and len(found) >= 2  # numbered through the window


def test_answers_survive_packing(tmp_path):
  samples = make_samples(20)
  for i, row in enumerate(samples):
    row["answers"] = np.zeros_like(row["tokens"])
    if i == 7:
      row["answers"][-4:-2] = 1
  manifest = windows_lib.write_samples(samples, tmp_path / "w", vocabulary=VOCABULARY, layout=LAYOUT, length=LENGTH,
                                       reserve=12)
  assert manifest["answers"]
  always = CM3Objective(max_spans=4, rate=0, answer_mask_probability=1)
  batch = np.concatenate([b["inputs"] for b in source(tmp_path / "w", objective=always).once()])
  # One answer in all: its sentinel stands in the source and in the tail.
  assert VOCABULARY.is_sentinel(batch).sum() == 2
  i = int(np.argwhere(VOCABULARY.is_sentinel(batch).any(1))[0, 0])
  tail = batch[i][np.flatnonzero(VOCABULARY.is_sentinel(batch[i]))[1]:][:4]
  assert tail.tolist() == [VOCABULARY.sentinel(0), *samples[7]["tokens"][-4:-2], VOCABULARY.eoss_id]


def test_errors(folder, tmp_path):
  with pytest.raises(InputError, match="room for 4 masked spans, but CM3Objective.max_spans=5"):
    source(folder, objective=CM3Objective(max_spans=5))
  with pytest.raises(InputError, match="batch_size=8 does not divide over 3 hosts"):
    source(folder, host_count=3)
  with pytest.raises(InputError, match="another vocabulary"):
    source(folder, vocabulary=Vocabulary(text_size=65, image_size=32, num_sentinels=16, total_size=0))
  with pytest.raises(InputError, match="no such folder"):
    source(tmp_path / "none")
  with pytest.raises(InputError, match="no samples"):
    windows_lib.write_samples([], tmp_path / "w", vocabulary=VOCABULARY, layout=LAYOUT, length=LENGTH)
  assert not (tmp_path / "w").exists()
  with pytest.raises(InputError, match="leaves no room"):
    windows_lib.write_samples([], tmp_path / "w", vocabulary=VOCABULARY, layout=LAYOUT, length=10, reserve=48)
