"""Starts tiny_run.py as processes, and waits for what they write."""

import json
import os
from pathlib import Path
import socket
import subprocess
import sys
import time

ROOT = Path(__file__).parents[2]


def rows(workdir) -> list[dict]:
  return [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]


def losses(workdir) -> list[tuple]:
  """Every number of metrics.jsonl but the measured times, as bits."""
  return [tuple((k, float(v).hex()) for k, v in row.items() if k not in ("tokens_per_second", "device_hours"))
          for row in rows(workdir)]


def free_port() -> int:
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def start(workdir, steps: int, *flags: str, devices: int = 1) -> subprocess.Popen:
  """One process; its stderr goes to a file of its own, `process.log`."""
  # One compilation cache for all of a test's processes: compiling is most of their time.
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
                              "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                              "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                              "JAX_COMPILATION_CACHE_DIR": str(Path(workdir).parent / "compiled")}
  log = Path(workdir).parent / f"log_{time.time_ns()}"
  with log.open("wb") as file:
    process = subprocess.Popen([sys.executable, str(ROOT / "tests/training/tiny_run.py"), str(workdir), str(steps), *flags],
                               env=environment, stderr=file)
  process.log = log
  return process


def start_several(workdir, steps: int, *flags: str, count: int = 2, devices: int = 4) -> list[subprocess.Popen]:
  """`count` processes with so many devices each, as one run."""
  port = free_port()
  return [start(workdir, steps, *flags, f"--port={port}", f"--processes={count}", f"--process={i}", devices=devices)
          for i in range(count)]


def wait_for_step(process, workdir, step: int) -> None:
  """Until metrics.jsonl has a row of `step` or later."""
  path = Path(workdir) / "metrics.jsonl"
  deadline = time.monotonic() + 240
  while time.monotonic() < deadline:
    assert process.poll() is None, process.log.read_text()
    if path.is_file() and any(json.loads(line)["step"] >= step for line in path.read_text().splitlines(keepends=True)
                              if line.endswith("\n")):
      return
    time.sleep(0.02)
  raise AssertionError(f"{path} did not reach step {step}: {process.log.read_text()}")


def codes(processes, seconds: float = 240) -> list[int]:
  """Exit codes, all within `seconds`."""
  deadline = time.monotonic() + seconds
  return [process.wait(max(deadline - time.monotonic(), 0.1)) for process in processes]


def checkpoints(workdir) -> list[int]:
  return sorted(int(p.name) for p in (Path(workdir) / "checkpoints").iterdir() if p.name.isdigit())
