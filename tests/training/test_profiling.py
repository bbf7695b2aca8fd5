"""Traces appear for the steps asked for."""

import os
import signal

import pytest
import tiny_run

from cm3leon_jax.errors import InputError
from cm3leon_jax.training import profiling


def traces(workdir) -> list:
  return sorted((workdir / "profile").rglob("*.xplane.pb"))


def steps_in(trace) -> int:
  """How many steps are marked in it."""
  from jax.profiler import ProfileData
  data = ProfileData.from_file(str(trace))
  return sum(event.name == "train" for plane in data.planes for line in plane.lines for event in line.events)


def test_planned_steps_are_traced(tmp_path):
  tiny_run.run(tmp_path, 6, evaluations={}, profile_steps="3:4")
  trace, = traces(tmp_path)
  assert steps_in(trace) == 2


def test_a_signal_traces_the_next_steps(tmp_path):
  def asking(start):
    for t, batch in enumerate(tiny_run.batches(start)):
      if t == 2:
        os.kill(os.getpid(), signal.SIGUSR1)
      yield batch

  before = signal.getsignal(signal.SIGUSR1)
  tiny_run.run(tmp_path, 12, evaluations={}, input_fn=asking)
  trace, = traces(tmp_path)
  assert steps_in(trace) == profiling.ON_DEMAND
  assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize("text", ["5", "5:4", "a:b", "0:2", "-1:2"])
def test_other_spellings_are_refused(text):
  with pytest.raises(InputError, match="FIRST:LAST"):
    profiling.parse_steps(text)
