"""Multi-process start-up."""

import jax


def start(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
  """Joins this process to the others; must run before any JAX call that touches devices.

  Args:
    coordinator: host:port of process 0. Empty: a TPU pod or a SLURM job, where JAX finds out itself.
    num_processes, process_id: needed with `coordinator`.
  """
  if coordinator:
    jax.distributed.initialize(coordinator, num_processes, process_id)
  else:
    jax.distributed.initialize()
