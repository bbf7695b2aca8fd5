"""Several processes as one run: joining them, each one's share of a batch, and ending when one is lost."""

import contextlib
import faulthandler
import os
import sys
import traceback
from typing import Iterator, Mapping

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.sharding import rules as rules_lib

RUN_AGAIN = 75  # exit code: nothing is wrong here (preempted and saved, or another process is gone), run all of them again
HEARTBEAT_SECONDS = 60  # a process silent for so long is lost, and the others end
# A restarted process waits so long for the others; a replaced machine may take minutes to come up.
JOIN_SECONDS = 600
LEAVE_SECONDS = 60
# In the errors of collectives and of JAX's coordination service when the other side is gone.
_LOST_WORDS = ("gloo", "connection closed", "connection reset", "socket closed", "unavailable", "coordination service",
               "heartbeat", "deadline_exceeded", "deadline exceeded", "remote process exited", "preempted")
_OUTSIDE_JAX = ("gloo", "coordination service", "heartbeat")  # a bucket may be "unavailable" too


@contextlib.contextmanager
def joined(coordinator: str = "", num_processes: int | None = None, process_id: int | None = None,
           distributed: bool = False, heartbeat_seconds: int = HEARTBEAT_SECONDS) -> Iterator[None]:
  """Within it, this process is one of several. Enter it before anything asks JAX for its devices.

  Leaving normally, or by SystemExit, waits for the others. After any other exception they can no longer be
  waited for: it is printed, and the process ends at once, so that the others notice. When it was
  another process that went away, the exit code is `RUN_AGAIN`.

  A process that is killed or falls silent ends all others: some see the error of a collective and
  exit with `RUN_AGAIN` within seconds; where that only waits, JAX ends the process after `heartbeat_seconds`
  by SIGABRT, with a message of its own ("… another task died …") and the stacks of all threads.

  Args:
    coordinator: HOST:PORT of process 0, which listens there.
    num_processes: how many there are.
    process_id: which one this is, from 0.
    distributed: find the other processes by the environment (TPU pods, SLURM, GKE, Open MPI) instead.

  Raises:
    InputError: the arguments are incomplete or contradict each other, or the others could not be reached.
  """
  arguments = _arguments(coordinator, num_processes, process_id, distributed)
  if arguments is None:
    yield
    return
  try:
    jax.distributed.initialize(**arguments, initialization_timeout=JOIN_SECONDS,
                               heartbeat_timeout_seconds=heartbeat_seconds, shutdown_timeout_seconds=LEAVE_SECONDS)
  except (RuntimeError, ValueError) as error:  # JaxRuntimeError is a RuntimeError
    where = coordinator or "the cluster that the environment describes"
    raise InputError(f"could not join the processes of {where}: {str(error).splitlines()[0]}; start all of them "
                     "with the same coordinator and number, each with its own process_id") from error
  faulthandler.enable()  # so that an abort by JAX shows where each thread was
  try:
    yield
  except SystemExit:
    jax.distributed.shutdown()
    raise
  except BaseException as error:  # pylint: disable=broad-exception-caught
    _end(error)
  jax.distributed.shutdown()


def _arguments(coordinator, num_processes, process_id, distributed) -> dict | None:
  """What `jax.distributed.initialize` gets; None for a run of one process."""
  flags = {"coordinator": coordinator or None, "num_processes": num_processes, "process_id": process_id}
  given = [name for name, value in flags.items() if value is not None]
  if distributed:
    if given:
      raise InputError(f"--distributed finds the processes by itself: leave out --{given[0]}, or --distributed")
    return {}
  if not given:
    return None
  missing = [name for name, value in flags.items() if value is None]
  if missing:
    raise InputError(f"--{given[0]} needs --{' and --'.join(missing)} too (or --distributed alone, on a cluster)")
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdigit():
    raise InputError(f"--coordinator={coordinator}: write it as HOST:PORT, the address of process 0")
  if num_processes < 1 or not 0 <= process_id < num_processes:
    raise InputError(f"--process_id={process_id}: with --num_processes={num_processes} it is one of "
                     f"0..{num_processes - 1}")
  # Everything is stated, so JAX need not look for a cluster around it (on Google's machines it asks a server).
  return {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id,
          "cluster_detection_method": "deactivate"}


def lost(error: BaseException) -> bool:
  """Whether `error` says that another process of this run is gone."""
  words = _LOST_WORDS if isinstance(error, jax.errors.JaxRuntimeError) else _OUTSIDE_JAX
  return (isinstance(error, (RuntimeError, ValueError)) and jax.process_count() > 1
          and any(word in str(error).lower() for word in words))


def _end(error: BaseException) -> None:
  """Prints why, and ends this process without waiting for the others."""
  name = f"cm3leon: process {jax.process_index()} of {jax.process_count()}"
  if isinstance(error, InputError):
    code, text = 1, f"{name}: {error}"
  elif isinstance(error, KeyboardInterrupt):
    code, text = 130, f"{name}: stopped; run the same command to go on"
  elif lost(error):
    code = RUN_AGAIN
    text = (f"{name}: another process is gone ({str(error).splitlines()[0][:200]}); its own output says why. "
            "Run all processes again: they go on from the last checkpoint")
  else:
    code, text = 1, "".join(traceback.format_exception(error)) + f"{name}: ends; the others will notice"
  print(text, file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(code)  # JAX's own exit would wait for the others, which wait for this one


def agree(value: bool) -> bool:
  """Whether `value` holds in all processes. All of them must call it."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.process_allgather(np.asarray(value)).all())


def batch_share(mesh: Mesh, rules: Mapping[str, rules_lib.MeshAxes] = rules_lib.DEFAULT_RULES) -> tuple[int, int]:
  """(i, n): of the global batch, cut into n parts of equal size, this process must supply part i.

  Processes that hold the same rows (their devices differ only along `tensor` or `sequence`) supply
  the same part. Where a process's devices are not neighbours in the batch, its rows are spread
  over them in order.

  Raises:
    InputError: the rows of two processes overlap without being the same.
  """
  size = mesh.size  # divisible by whatever the batch and the length are split into
  sharding = NamedSharding(mesh, rules_lib.partition_spec(("batch", "length"), (size, size), rules, mesh, "batch"))
  rows: dict[int, set[int]] = {}
  for device, (index, _) in sharding.devices_indices_map((size, size)).items():
    rows.setdefault(device.process_index, set()).update(range(*index.indices(size)))
  parts = sorted({tuple(sorted(r)) for r in rows.values()})
  if sum(map(len, parts)) != size or len({len(p) for p in parts}) > 1:
    raise InputError(f"mesh {dict(mesh.shape)}: the {jax.process_count()} processes cannot share the batch evenly; "
                     "let `tensor` × `sequence` divide the devices of a process, or be a multiple of them")
  return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)
