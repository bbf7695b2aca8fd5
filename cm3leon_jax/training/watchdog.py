"""Notices that a run hangs, and shows where: the stacks of all threads."""

import faulthandler
import os
import sys
import tempfile
import threading
import time
from typing import Iterable, Iterator

import jax


class Watchdog:
  """A thread that dumps all stacks, to stderr and to a file, once per hang. Call `beat` when something was done."""

  def __init__(self, folder: os.PathLike, minutes: float):
    """`folder` gets stacks_PROCESS.txt after `minutes` without a beat; 0 is off."""
    self._path = folder / f"stacks_{jax.process_index()}.txt"
    self._seconds = minutes * 60
    self._closed = threading.Event()
    self._beat, self._dumped = time.monotonic(), False
    self._step = None
    self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
    if minutes:
      self._thread.start()

  def beat(self, step: int | None = None) -> None:
    """The run is alive; `step` is what it has come to."""
    if self._dumped:
      print(f"watchdog: the run goes on after {time.monotonic() - self._beat:.0f} s", file=sys.stderr, flush=True)
    self._beat, self._dumped = time.monotonic(), False
    self._step = self._step if step is None else step

  def watching(self, items: Iterable) -> Iterator:
    """The same items; each one counts as a beat."""
    for item in items:
      yield item
      self.beat()

  def _watch(self) -> None:
    while not self._closed.wait(min(self._seconds / 4, 10.0)):
      silent = time.monotonic() - self._beat
      if silent > self._seconds and not self._dumped:
        self._dumped = True
        self._dump(silent)

  def _dump(self, silent: float) -> None:
    where = "before the first step" if self._step is None else f"after step {self._step}"
    title = (f"watchdog: process {jax.process_index()} of {jax.process_count()} did nothing for {silent:.0f} s {where}; "
             f"the stacks of its threads are in {self._path}, and here:\n")
    with tempfile.TemporaryFile() as file:  # faulthandler needs a real one, and the folder may be a bucket
      faulthandler.dump_traceback(file, all_threads=True)
      file.seek(0)
      text = title + file.read().decode(errors="replace")
    print(text, file=sys.stderr, flush=True)
    self._path.write_text(text)

  def close(self) -> None:
    self._closed.set()
