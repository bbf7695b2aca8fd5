"""Several processes of one run on this machine: a pod's start, preemption and restart, rehearsed.

    python launch/local.py --processes=2 --devices=4 -- cm3leon train --gin_file=F --data=D --workdir=W

starts the command once for each process with `--coordinator=127.0.0.1:PORT --num_processes=N --process_id=I` behind
it, and shows their lines with the number of the process before them. Exit codes: 0 all are done; 75 they were
preempted (state saved) and may start no more; 124 --timeout; else that of the first process that failed, 128 + the
signal that killed it.
"""

import argparse
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Sequence

import commands
from commands import PREEMPTED, InputError, say

TIMED_OUT = 124  # as timeout(1)
DYING_SECONDS = 10.0  # between SIGTERM and SIGKILL for those whose peer is gone: there is nothing left to save together
PROGRESS_SECONDS = 10.0  # how often a progress bar becomes a line
FAKE_DEVICES = "--xla_force_host_platform_device_count"


def parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(prog="launch/local.py", usage="%(prog)s --processes=N [flags] -- cm3leon train …",
                                   description=__doc__.splitlines()[0])
  parser.add_argument("--processes", type=int, required=True, metavar="N")
  parser.add_argument("--devices", type=int, default=0, metavar="D",
                      help="fake CPU devices of each process; default: the devices that JAX finds")
  parser.add_argument("--retries", type=int, default=3, metavar="R", help="how often to start again on exit code 75")
  parser.add_argument("--timeout", type=float, default=0, metavar="S",
                      help="seconds of one start, then SIGTERM; 0: no limit")
  parser.add_argument("--grace", type=float, default=120, metavar="S",
                      help="seconds that the others have after one process fails, or all have after SIGTERM to save")
  parser.add_argument("--port", type=int, default=0, help="of the coordinator; 0: a free one")
  commands.add_common(parser)
  return parser.parse_args(argv)


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
  """The variables that give a process `devices` fake CPU devices; none for 0."""
  if not devices:
    return {}
  kept = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(f"{FAKE_DEVICES}=")]
  return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*kept, f"{FAKE_DEVICES}={devices}"])}


def process_argv(command: Sequence[str], port: int, processes: int, index: int) -> list[str]:
  return [*command, f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}", f"--process_id={index}"]


class Process:
  """One started process, its output copied to ours line by line with its number before it."""

  def __init__(self, index: int, argv: Sequence[str], environment_: dict[str, str]):
    self.index = index
    # Commands of the same environment as this Python are found whether or not it is activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
      # A session of its own: Ctrl-C in the terminal reaches it through us only, and SIGKILL reaches all it has started.
      self._popen = subprocess.Popen(argv, env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **environment_},
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                     start_new_session=True)
    except OSError as error:
      raise InputError(f"{argv[0]}: cannot be started ({error.strerror})") from error
    self._copier = threading.Thread(target=self._copy, daemon=True)
    self._copier.start()

  def _copy(self) -> None:
    rest, shown = b"", time.monotonic()
    while chunk := os.read(self._popen.stdout.fileno(), 1 << 16):
      *lines, rest = (rest + chunk).split(b"\n")
      for line in lines:
        self._show(line)
      if b"\r" in rest:  # a progress bar draws over itself
        rest = rest[rest.rindex(b"\r"):]
        if time.monotonic() > shown + PROGRESS_SECONDS:
          self._show(rest)
          shown = time.monotonic()
    if rest:
      self._show(rest)

  def _show(self, line: bytes) -> None:
    """What a terminal would be left with: what came last of what was drawn over itself."""
    drawn = [part for part in line.decode(errors="replace").split("\r") if part.strip()] or [""]
    sys.stdout.write(f"[{self.index}] {drawn[-1].rstrip()}\n")
    sys.stdout.flush()

  def ended(self) -> bool:
    # Not reaped yet: until then its id, which is that of its group, cannot become somebody else's.
    return os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

  def send(self, number: int) -> None:
    os.kill(self._popen.pid, number)

  def end(self) -> int:
    """Kills it and whatever it started that is left, shows its last lines.

    Returns:
      Its exit code as a shell gives it: 128 + the signal if one killed it.
    """
    if self._popen.returncode is None:
      os.killpg(self._popen.pid, signal.SIGKILL)
      self._popen.wait()
      self._copier.join(timeout=5)
    code = self._popen.returncode
    return 128 - code if code < 0 else code


class Launcher:
  """One run: starts, watches, passes signals on, starts again."""

  def __init__(self, args: argparse.Namespace):
    self.args = args
    self.signals: list[int] = []

  def run(self) -> int:
    for start in range(self.args.retries + 1):
      if start:
        say(f"preempted (exit code {PREEMPTED}); start {start + 1} of at most {self.args.retries + 1}")
      code = self._once()
      if code != PREEMPTED or self.signals:
        break
    return code

  def _once(self) -> int:
    """Starts all processes and returns once none is left; the exit code is that of the module's docstring."""
    args = self.args
    port = args.port or free_port()
    running: list[Process] = []
    codes: list[int] = []  # in the order in which the processes ended
    everyone: list[Process] = []
    try:
      for i in range(args.processes):
        everyone.append(Process(i, process_argv(args.command, port, args.processes, i), environment(args.devices)))
      running = list(everyone)
      started, passed_on, timed_out = time.monotonic(), 0, False
      terminate_at = kill_at = float("inf")
      while running:
        time.sleep(0.05)
        now = time.monotonic()
        for process in [p for p in running if p.ended()]:
          running.remove(process)
          codes.append(process.end())
          if codes[-1]:
            say(f"process {process.index} ended with exit code {codes[-1]}")
            terminate_at = min(terminate_at, now + args.grace)
        while passed_on < len(self.signals):
          for process in running:
            process.send(self.signals[passed_on])
          passed_on += 1
          kill_at = min(kill_at, now + args.grace)
        if args.timeout and not timed_out and running and now > started + args.timeout:
          say(f"--timeout={args.timeout:g} s is over: SIGTERM")
          timed_out = True
          for process in running:
            process.send(signal.SIGTERM)
          kill_at = min(kill_at, now + args.grace)
        if running and now > terminate_at:
          say(f"--grace={args.grace:g} s is over: SIGTERM to process {', '.join(str(p.index) for p in running)}")
          terminate_at = float("inf")
          for process in running:
            process.send(signal.SIGTERM)
          kill_at = min(kill_at, now + DYING_SECONDS)
        if running and now > kill_at:
          say(f"SIGKILL to process {', '.join(str(p.index) for p in running)}")
          kill_at = float("inf")
          for process in running:
            process.send(signal.SIGKILL)
    finally:
      for process in everyone:
        process.end()
    if timed_out:
      return TIMED_OUT
    failed = [code for code in codes if code not in (0, PREEMPTED)]
    return failed[0] if failed else max(codes)


def run(args: argparse.Namespace) -> int:
  if args.processes < 1 or args.devices < 0 or args.retries < 0:
    raise InputError("--processes must be at least 1, --devices and --retries at least 0")
  commands.need_command(args.command)
  if args.dry_run:
    shell = commands.Shell(dry_run=True)
    port = args.port or free_port()
    for i in range(args.processes):
      argv = process_argv(args.command, port, args.processes, i)
      shell.run(commands.with_environment(argv, environment(args.devices)))
    return 0
  launcher = Launcher(args)
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number_, frame: launcher.signals.append(number_))
  return launcher.run()


if __name__ == "__main__":
  sys.exit(commands.main(parse, run))
