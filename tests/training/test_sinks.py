"""Rows reach a bucket as they reach a disk."""

import json

from etils import epath
import pytest

from cm3leon_jax.training import checkpoints, sinks, store
import tiny_run


@pytest.fixture
def bucket(monkeypatch):
  """gs://bucket in memory, by fsspec, which is what is used where TensorFlow is not installed."""
  import fsspec
  from fsspec.implementations.memory import MemoryFileSystem
  monkeypatch.setattr(epath.gpath, "_is_tf_installed", lambda: False)
  monkeypatch.setattr(fsspec, "filesystem", lambda name, **_: MemoryFileSystem())
  epath.backend.fsspec_backend._get_filesystem.cache_clear()
  yield epath.Path("gs://bucket/run")
  MemoryFileSystem.store.clear()
  epath.backend.fsspec_backend._get_filesystem.cache_clear()


def test_paths_of_buckets_stay_as_they_are(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert str(store.run_folder("gs://bucket/run")) == "gs://bucket/run"
  assert str(store.run_folder("run")) == str(tmp_path / "run")


def test_the_model_file_in_a_bucket(bucket):
  bucket.mkdir(parents=True, exist_ok=True)
  description = checkpoints.model_description(tiny_run.model(), tiny_run.VOCABULARY, tiny_run.LAYOUT, {"a": "b"})
  checkpoints.write_model_file("gs://bucket/run", description)
  assert checkpoints.read_model_file("gs://bucket/run") == (
      tiny_run.model(), tiny_run.VOCABULARY, tiny_run.LAYOUT, {"a": "b"})


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_a_resumed_run_cuts_off_what_it_writes_again(tmp_path, bucket, where):
  path = (epath.Path(tmp_path) if where == "disk" else bucket) / "metrics.jsonl"
  first = sinks.JsonLines(path, 0)
  for step in range(1, 5):
    first.write({"step": step, "loss": 1.0})
  first.close()
  again = sinks.JsonLines(path, 2)
  again.write({"step": 3, "loss": 2.0})
  again.flush()
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert rows == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 2.0}]
  again.close()


def test_event_files_in_a_bucket(bucket):
  board = sinks.TensorBoard(bucket / "tensorboard", 0)
  board.write({"step": 1, "loss": 1.5})
  board.close()
  file, = (bucket / "tensorboard").iterdir()
  assert b"loss" in file.read_bytes()


def test_weights_and_biases_gets_the_rows_and_one_id_a_run(tmp_path, monkeypatch):
  wandb = pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  for step in (1, 2):
    sink = sinks.WandB(epath.Path(tmp_path), "project")
    sink.write({"step": step, "loss": 1.0})
    sink.close()
  name = (tmp_path / "wandb_id.txt").read_text()
  assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{name}*"))) == 2 and wandb.run is None
