"""One training process of a TPU VM, kept apart from the ssh connection that started it. Python's standard library only.

    python3 launch/on_worker.py VERB

    start [--replace] -- CMD…   starts it, and returns
    follow                      shows its log until it ends; exits as it did
    verdict                     why it ended: exits with 99 if this host failed (shows its log), 98 after stop, else 0
    idle                        fails if a run is going on
    stop                        SIGTERM, and waits: a `cm3leon train` saves and exits with 75

Everything is in ~/cm3leon_run: `log`, `pid` (of the keeper, which waits for the command) and, at the end, `exit_code`.
"""

import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

FAILED, STOPPED = 99, 98  # exit codes of `verdict`
# Exit codes of a run that no input makes: done; preempted, or another host was lost; killed by a signal.
INNOCENT = (0, 75, *range(129, 256))
END_SECONDS = 90  # for this host to end too, once host 0 has: a heartbeat of jax.distributed and some
STOP_SECONDS = 600  # to save a checkpoint
LAST_BYTES = 4000  # of the log that `follow` shows first


def folder() -> Path:
  return Path.home() / "cm3leon_run"


def alive() -> int:
  """The keeper's process id, or 0. An id that another program has by now is not taken for it."""
  try:
    pid = int((folder() / "pid").read_text())
    return pid if b"on_worker.py\0_keep\0" in Path(f"/proc/{pid}/cmdline").read_bytes() else 0
  except (OSError, ValueError):
    return 0


def keep(command: list) -> int:
  """Runs the command, passes SIGTERM on, writes its exit code to a temporary name and renames it."""
  try:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
    code = child.wait()
    code = 128 - code if code < 0 else code
  except OSError as error:
    print(f"on_worker: {command[0]}: {error.strerror}", flush=True)
    code = 127
  done = folder() / "exit_code.tmp"
  done.write_text(str(code))
  done.replace(folder() / "exit_code")
  return code


def idle() -> int:
  if alive():
    sys.exit("on_worker: a run is going on here; stop it first")
  return 0


def start(words: list) -> int:
  replace = words[:1] == ["--replace"]
  words = words[replace:]
  if words[:1] != ["--"] or not words[1:]:
    sys.exit("on_worker: start [--replace] -- CMD…")
  if replace:
    stop()
  idle()
  folder().mkdir(exist_ok=True)
  for name in ("exit_code", "stopped"):
    (folder() / name).unlink(missing_ok=True)
  with open(folder() / "log", "ab") as log:
    log.write(f"on_worker: started {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
    log.flush()
    keeper = subprocess.Popen([sys.executable, __file__, "_keep", *words[1:]], start_new_session=True,
                              stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
  (folder() / "pid").write_text(str(keeper.pid))
  return 0


def ended() -> bool:
  return (folder() / "exit_code").exists() or not alive()


def exit_code() -> int:
  """What the command exited with; 137 when the keeper itself was killed, or the machine started anew."""
  try:
    return int((folder() / "exit_code").read_text())
  except OSError:
    return 137


def follow() -> int:
  if not (folder() / "log").exists():
    sys.exit("on_worker: nothing was started here")
  with open(folder() / "log", "rb") as log:
    log.seek(max(0, os.fstat(log.fileno()).st_size - LAST_BYTES))
    if log.tell():
      log.readline()  # the rest of a line
    while True:
      last = ended()
      for line in log:
        sys.stdout.buffer.write(line)
      sys.stdout.buffer.flush()
      if last:
        return exit_code()
      time.sleep(0.5)


def verdict() -> int:
  """Host 0 exits with 75 when another host is gone, and when the run was stopped: this tells which, where and why."""
  until = time.monotonic() + END_SECONDS
  while not ended() and time.monotonic() < until:
    time.sleep(0.5)
  if not ended() or exit_code() in INNOCENT:
    return STOPPED if (folder() / "stopped").exists() else 0
  print(f"on_worker: {socket.gethostname()} failed with exit code {exit_code()}; the end of its log:")
  print((folder() / "log").read_bytes()[-LAST_BYTES:].decode(errors="replace"))
  return FAILED


def stop() -> int:
  keeper = alive()
  if not keeper:
    return 0
  (folder() / "stopped").touch()
  os.kill(keeper, signal.SIGTERM)
  until = time.monotonic() + STOP_SECONDS
  while not ended():
    if time.monotonic() > until:
      os.killpg(keeper, signal.SIGKILL)
      break
    time.sleep(0.1)
  return 0


if __name__ == "__main__":
  verb, words = (sys.argv[1:2] or [""])[0], sys.argv[2:]
  if verb == "_keep":
    sys.exit(keep(words))
  verbs = {"start": lambda: start(words), "follow": follow, "idle": idle, "stop": stop,
           "verdict": verdict}
  if verb not in verbs:
    sys.exit(__doc__)
  sys.exit(verbs[verb]())
