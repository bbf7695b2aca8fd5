"""A stuck input shows in the dumped stacks, once a hang."""

import threading

from run_processes import rows
import tiny_run


def test_a_stuck_input_is_shown_once_and_the_run_goes_on(tmp_path, capfd):
  def stuck_at_step_3(start):
    for batch in tiny_run.batches(start):
      if start == 2:
        threading.Event().wait(9.0)
      yield batch
      start += 1

  # 3 s without a step, where a step takes milliseconds; the first, which is compiled, may count as a hang as well.
  tiny_run.run(tmp_path, 4, evaluations={}, input_fn=stuck_at_step_3, watchdog_minutes=0.05)
  message = capfd.readouterr().err
  assert message.count("after step 1; the stacks of its threads are in") + message.count("after step 2; the stacks") == 1
  assert "watchdog: the run goes on after" in message
  stacks = (tmp_path / "stacks_0.txt").read_text()
  assert "watchdog: process 0 of 1 did nothing for" in stacks and "stuck_at_step_3" in stacks
  assert rows(tmp_path)[-1]["step"] == 4


def test_no_thread_when_it_is_off(tmp_path):
  seen = []

  def looking(start):
    for batch in tiny_run.batches(start):
      seen.extend(thread.name for thread in threading.enumerate())
      yield batch

  tiny_run.run(tmp_path, 1, evaluations={}, input_fn=looking, watchdog_minutes=0)
  assert seen and "watchdog" not in seen
