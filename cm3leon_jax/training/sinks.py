"""Where a run's rows go: metrics.jsonl, TensorBoard, Weights & Biases. Each has write(row), flush() and close()."""

import json
import os
import secrets
import time
from typing import Mapping

from etils import epath


def is_local(path: epath.Path) -> bool:
  """Whether a file there can be appended to; buckets (`gs://…`) only take whole files."""
  return "://" not in os.fspath(path)


class JsonLines:
  """metrics.jsonl: one row a log or evaluation. A resumed run cuts off what it will write again.

  In a bucket the file is rewritten whole at each `flush`, which the loop calls before every checkpoint.
  """

  def __init__(self, path: epath.Path, step: int):
    """Opens `path` for appending after dropping rows beyond `step`, and a torn last line."""
    self._path, self._rows = path, []
    if path.exists():
      for line in path.read_text().splitlines():
        try:
          if json.loads(line)["step"] <= step:
            self._rows.append(line + "\n")
        except ValueError:
          break  # torn by a kill: the last line
      temporary = path.with_name(path.name + ".partial")
      temporary.write_text("".join(self._rows))
      temporary.replace(path)
    self._file = None
    if is_local(path):
      self._file, self._rows = path.open("a"), []  # what is on disk need not be kept

  def write(self, row: Mapping) -> None:
    line = json.dumps(row) + "\n"
    if self._file is None:
      self._rows.append(line)
    else:
      self._file.write(line)
      self._file.flush()

  def flush(self) -> None:
    if self._file is None:
      self._path.write_text("".join(self._rows))

  def close(self) -> None:
    self.flush()
    if self._file is not None:
      self._file.close()


class TensorBoard:
  """Scalars in an event file, by TensorBoard's own protos and record format; its writer would import TensorFlow."""

  def __init__(self, folder: epath.Path, step: int):
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter
    self._event, self._summary = event_pb2, summary_pb2
    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{time.time_ns() // 1000}.{os.getpid()}"
    self._local = is_local(folder)
    self._records = RecordWriter((folder / name).open("wb"))
    self._add(file_version="brain.Event:2")
    # A START marker tells TensorBoard to forget later steps of an interrupted run.
    self._add(step=step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

  def _add(self, **fields) -> None:
    self._records.write(self._event.Event(wall_time=time.time(), **fields).SerializeToString())
    if self._local:
      self._records.flush()

  def write(self, row: Mapping) -> None:
    values = [self._summary.Summary.Value(tag=k, simple_value=v) for k, v in row.items()
              if k != "step" and isinstance(v, (int, float))]
    self._add(step=row["step"], summary=self._summary.Summary(value=values))

  def flush(self) -> None:
    self._records.flush()

  def close(self) -> None:
    self._records.close()


class WandB:
  """Weights & Biases; the run's id is kept in the run folder, so that a restart goes on with the same one."""

  def __init__(self, folder: epath.Path, project: str):
    import wandb
    marker = folder / "wandb_id.txt"
    if not marker.exists():
      marker.write_text(secrets.token_hex(4))
    local = {"dir": os.fspath(folder)} if is_local(folder) else {}
    self._run = wandb.init(project=project, id=marker.read_text(), resume="allow", **local)
    self._run.define_metric("*", step_metric="step")  # rows written again after a restart replace the older ones

  def write(self, row: Mapping) -> None:
    self._run.log(dict(row))

  def flush(self) -> None:
    pass  # it sends by itself

  def close(self) -> None:
    self._run.finish()
