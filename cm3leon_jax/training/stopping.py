"""SIGTERM (preemption) and Ctrl-C: leave at a step that all processes agree on."""

import os
import signal
import threading

import jax
from jax.experimental import multihost_utils



class StopRequest:
  """Notes SIGTERM and Ctrl-C; the loop asks after each step whether to save and leave.

  With several processes SIGTERM belongs to JAX, which tells the others and picks the step; Ctrl-C becomes one.
  """

  def __init__(self):
    self._asked = False
    self._old = {}
    self._several = jax.process_count() > 1
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT):
        self._old[number] = signal.signal(number, self._note)

  def _note(self, number, frame):
    del frame
    self._asked = True
    signal.signal(number, self._old[number])  # a second one acts at once
    if self._several:
      os.kill(os.getpid(), signal.SIGTERM)

  def agreed(self, step: int) -> bool:
    """Whether to stop after `step`; the same in all processes, which must all ask after every step."""
    return multihost_utils.reached_preemption_sync_point(step) if self._several else self._asked

  def close(self) -> None:
    """Gives the signals back."""
    for number, handler in self._old.items():
      signal.signal(number, handler)
