"""Traces of a few steps for the profiler's viewers (TensorBoard, Perfetto), planned or on demand."""

import os
import signal
import sys
import threading

import jax

from cm3leon_jax.errors import InputError

ON_DEMAND = 5  # steps traced after SIGUSR1


def parse_steps(text: str) -> tuple[int, int] | None:
  """'A:B' → (A, B): steps A..B, both traced; '' → None."""
  if not text:
    return None
  first, _, last = text.partition(":")
  if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
    raise InputError(f"profile_steps={text}: write it as FIRST:LAST, two steps from 1 on, e.g. 10:14")
  return int(first), int(last)


class Profiler:
  """Traces the planned steps, and the next `ON_DEMAND` ones after SIGUSR1, into `folder`."""

  def __init__(self, folder: os.PathLike, planned: tuple[int, int] | None):
    self._folder, self._planned = os.fspath(folder), planned
    self._asked, self._old = False, None
    self._last = self._mark = None  # the last step to trace, while tracing; the mark of the step under way
    if threading.current_thread() is threading.main_thread():
      self._old = signal.signal(signal.SIGUSR1, self._ask)

  def _ask(self, number, frame):
    del number, frame
    self._asked = True

  def before(self, step: int) -> None:
    """Call it before `step` is dispatched."""
    if self._last is None:
      if self._planned and self._planned[0] <= step <= self._planned[1]:
        self._last = self._planned[1]
      elif self._asked:
        self._last = step + ON_DEMAND - 1
      else:
        return
      self._asked = False
      jax.profiler.start_trace(self._folder)
    self._mark = jax.profiler.StepTraceAnnotation("train", step_num=step)
    self._mark.__enter__()

  def after(self, step: int, results) -> None:
    """Call it after `step` was dispatched; waits for `results` when it is the last one traced."""
    if self._last is None:
      return
    self._mark.__exit__(None, None, None)
    if step >= self._last:
      jax.block_until_ready(results)
      self._stop()
      print(f"profile: steps up to {step} are in {self._folder}", file=sys.stderr)

  def _stop(self) -> None:
    if self._last is not None:
      self._last = None
      jax.profiler.stop_trace()

  def close(self) -> None:
    self._stop()
    if self._old is not None:
      signal.signal(signal.SIGUSR1, self._old)
