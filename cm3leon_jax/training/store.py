"""Checkpoints of a run on disk, by Orbax: `checkpoints/<step>/{state,about}`; saving, and finding one that is whole.

`about` is JSON: `totals`, what the run has cost, and `checksums` of the arrays in `state`. Orbax notices files
that are missing or cut short, but not a changed byte.
"""

import dataclasses
import gc
import logging
import os
import sys
from typing import Any, Callable
import warnings

from etils import epath
import jax
from jax.experimental import multihost_utils
import orbax.checkpoint as ocp

from cm3leon_jax.errors import InputError
from cm3leon_jax.sharding import processes
from cm3leon_jax.training.checksums import checksums
from cm3leon_jax.training.sinks import is_local
from cm3leon_jax.training.state import TrainState
from cm3leon_jax.training.totals import Totals

# Not the checkpoint's fault.
_ELSEWHERE = (InputError, PermissionError, MemoryError, jax.errors.JaxRuntimeError)


def run_folder(path: str | os.PathLike) -> epath.Path:
  """A local path made absolute, or a bucket's (`gs://…`) as it is."""
  path = epath.Path(path)
  return epath.Path(os.path.abspath(path)) if is_local(path) else path


def flatten(tree: Any) -> dict[str, Any]:
  """{"params.layers.qkv": leaf}: names that do not depend on container classes."""
  return {jax.tree_util.keystr(path, simple=True, separator="."): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


class Writer:
  """Saves asynchronously; a kill leaves the last finished checkpoint whole."""

  def __init__(self, workdir: str | os.PathLike, keep: int, keep_every: int = 0):
    """`keep`: how many of the latest stay. `keep_every`: those at multiples of it stay for good; 0 keeps none."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, keep_period=keep_every or None,
                                           cleanup_tmp_directories=True)
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "about": ocp.JsonCheckpointHandler()}
    self._manager = ocp.CheckpointManager(run_folder(workdir) / "checkpoints", options=options, item_handlers=handlers)

  def save(self, step: int, state: TrainState, totals: Totals) -> None:
    """Copies the state off the devices, and writes it in the background."""
    arrays = flatten(state)
    about = {"totals": dataclasses.asdict(totals), "checksums": checksums(arrays)}
    self._manager.save(step, args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(arrays), about=ocp.args.JsonSave(about)))

  def close(self) -> None:
    """Waits until the last save is on disk."""
    self._manager.close()


class Reader:
  """Reads checkpoints, also those of a run that is still writing. Each process reads its parts for itself."""

  def __init__(self, workdir: str | os.PathLike):
    self.folder = run_folder(workdir) / "checkpoints"
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"r{me}")
    # Orbax's own `read_only` warns at each use; these options write nothing either.
    options = ocp.CheckpointManagerOptions(max_to_keep=None, create=False, cleanup_tmp_directories=False,
                                           enable_async_checkpointing=False, multiprocessing_options=alone)
    handlers = {"state": ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
                "about": ocp.JsonCheckpointHandler(multiprocessing_options=alone)}
    self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

  def newest_state(self, abstract: TrainState, shardings: TrainState) -> tuple[TrainState, Totals] | None:
    """What the latest readable checkpoint holds, laid out as `shardings` says, whatever mesh saved it.

    An unreadable one is named on stderr, and all processes go back to the one before; see `set_aside`.

    Returns:
      The state and what it had cost; None where there are no checkpoints.

    Raises:
      InputError: saved by another optimizer or model, or with or without an EMA; or none of them can be read.
    """
    want, shardings_ = flatten(abstract), flatten(shardings)

    def choose(step: int, found: dict) -> tuple[dict, dict]:
      different = sorted(want.keys() ^ found.keys()) or sorted(
          name for name in want if tuple(want[name].shape) != tuple(found[name].shape))
      if different:
        raise InputError(f"{self.folder}/{step} was saved by another optimizer, model or ema_decay: "
                         f"{len(different)} entries differ, such as {different[0]}; use another workdir, or init_from")
      return want, shardings_

    step, arrays, about = self._newest(choose)
    if step is None:
      return None
    return jax.tree.unflatten(jax.tree.structure(abstract), list(arrays.values())), Totals(**about.get("totals", {}))

  def newest_params(self, abstract: Any, ema: bool = True) -> tuple[int | None, Any]:
    """(step, parameters on the first device) of the latest readable checkpoint; (None, None) where there are none.

    Args:
      abstract: their shapes and dtypes.
      ema: take the running mean, where one was kept.

    Raises:
      InputError: none of the checkpoints can be read.
    """
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def choose(step: int, found: dict) -> tuple[dict, dict]:
      del step
      root = "ema" if ema and any(name.startswith("ema.") for name in found) else "params"
      want = flatten({root: abstract})
      return want, dict.fromkeys(want, sharding)

    step, arrays, _ = self._newest(choose)
    return step, None if step is None else jax.tree.unflatten(jax.tree.structure(abstract), list(arrays.values()))

  def _newest(self, choose: Callable[[int, dict], tuple[dict, dict]]) -> tuple[int | None, dict, dict]:
    """(step, arrays by name, about) of the latest that can be read.

    `choose` maps a step and what it holds to the abstract arrays to read and their shardings, by name.
    """
    self.unreadable = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      problem = None
      try:
        arrays, about = self._read(step, choose)
      except _ELSEWHERE:
        raise
      except Exception as error:  # pylint: disable=broad-exception-caught
        problem = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
      if problem is not None:
        _drop_other_reads()
      # All processes go back together, also when the fault is in one's part only.
      whole = processes.agree(problem is None)
      if whole and "checksums" in about:
        got = checksums(arrays)
        problem = next((f"{name} was changed" for name in got if got[name] != about["checksums"].get(name)), None)
        whole = processes.agree(problem is None)
      if whole:
        return step, arrays, about
      self.unreadable.append(step)
      print(f"warning: checkpoint {self.folder / str(step)} is incomplete or corrupt "
            f"({problem or 'as another process found'}); going back to the one before", file=sys.stderr)
    if self.unreadable:
      raise InputError(f"{self.folder}: none of the checkpoints {sorted(self.unreadable)} can be read; restore one from "
                       "a backup, or start in another workdir")
    return None, {}, {}

  def _read(self, step: int, choose) -> tuple[dict, dict]:
    want, shardings = choose(step, self._manager.item_metadata(step)["state"].tree)
    restore_args = {name: ocp.ArrayRestoreArgs(sharding=shardings[name], dtype=want[name].dtype) for name in want}
    args = {"state": ocp.args.PyTreeRestore(want, restore_args=restore_args, partial_restore=True)}
    if (self.folder / str(step) / "about").exists():  # older checkpoints have none
      args["about"] = ocp.args.JsonRestore()
    restored = self._manager.restore(step, args=ocp.args.Composite(**args))
    return {name: restored["state"][name] for name in want}, restored["about"] if "about" in args else {}

  def set_aside(self) -> None:
    """Moves what could not be read to `corrupt/<step>`, since its step will be saved again."""
    if self.unreadable and jax.process_index() == 0:
      aside = self.folder.parent / "corrupt"
      aside.mkdir(exist_ok=True)
      for step in self.unreadable:
        target = aside / str(step)
        target.rmtree(missing_ok=True)
        (self.folder / str(step)).rename(target)
        print(f"moved it to {target}", file=sys.stderr)
    if self.unreadable and jax.process_count() > 1:
      multihost_utils.sync_global_devices("corrupt checkpoints are moved")

  def close(self) -> None:
    self._manager.close()


def _drop_other_reads() -> None:
  """Orbax leaves the other reads of a failed restore unawaited: collected here, their errors are not told one by one."""
  logger, hook = logging.getLogger("asyncio"), sys.unraisablehook
  disabled, logger.disabled, sys.unraisablehook = logger.disabled, True, lambda _: None
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      gc.collect()
  finally:
    logger.disabled, sys.unraisablehook = disabled, hook
