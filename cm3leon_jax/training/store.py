"""Checkpoints of a run on disk, by Orbax: `checkpoints/<step>/{state,totals}`; saving, and finding one that is whole."""

import dataclasses
import os
import sys
from typing import Any, Callable

from etils import epath
import jax
from jax.experimental import multihost_utils
import orbax.checkpoint as ocp

from cm3leon_jax.errors import InputError
from cm3leon_jax.sharding import processes
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
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "totals": ocp.JsonCheckpointHandler()}
    self._manager = ocp.CheckpointManager(run_folder(workdir) / "checkpoints", options=options, item_handlers=handlers)

  def save(self, step: int, state: TrainState, totals: Totals) -> None:
    """Copies the state off the devices, and writes it in the background."""
    self._manager.save(step, args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(flatten(state)), totals=ocp.args.JsonSave(dataclasses.asdict(totals))))

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
                "totals": ocp.JsonCheckpointHandler(multiprocessing_options=alone)}
    self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

  def steps(self) -> list[int]:
    """Of the finished checkpoints, in order."""
    return sorted(self._manager.all_steps())

  def newest(self, read: Callable[[int], Any]) -> tuple[int | None, Any]:
    """(step, what `read` gives) of the latest checkpoint that can be read; (None, None) where there is none.

    An unreadable one is named on stderr; `set_aside` can move it out of the way. All processes go back
    together, also when the fault is in one's part only.

    Raises:
      InputError: there are checkpoints, and none can be read; or `read` says so itself.
    """
    self.unreadable = []
    for step in reversed(self.steps()):
      problem, result = None, None
      try:
        result = read(step)
      except _ELSEWHERE:
        raise
      except Exception as error:  # pylint: disable=broad-exception-caught
        problem = error
      if processes.agree(problem is None):
        return step, result
      self.unreadable.append(step)
      why = f"{type(problem).__name__}: {str(problem).splitlines()[0][:200]}" if problem else "in another process"
      print(f"warning: checkpoint {self.folder / str(step)} is incomplete or corrupt ({why}); "
            "going back to the one before", file=sys.stderr)
    if self.unreadable:
      raise InputError(f"{self.folder}: none of the checkpoints {sorted(self.unreadable)} can be read; restore one from "
                       "a backup, or start in another workdir")
    return None, None

  def set_aside(self) -> None:
    """Moves what `newest` could not read to `corrupt/<step>`, since its step will be saved again."""
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

  def restore(self, step: int, abstract: TrainState, shardings: TrainState) -> tuple[TrainState, Totals]:
    """The state of `step`, laid out as `shardings` says, whatever mesh saved it, and what it had cost.

    Raises:
      InputError: saved by another optimizer or model, or with or without an EMA.
      Exception: of many kinds, when files are missing or damaged; see `newest`.
    """
    want = flatten(abstract)
    found = self._saved(step)
    different = sorted(want.keys() ^ found.keys()) or sorted(
        name for name in want if tuple(want[name].shape) != tuple(found[name].shape))
    if different:
      raise InputError(f"{self.folder}/{step} was saved by another optimizer, model or ema_decay: "
                       f"{len(different)} entries differ, such as {different[0]}; use another workdir, or init_from")
    restored = self._restore(step, want, flatten(shardings))
    state = jax.tree.unflatten(jax.tree.structure(abstract), [restored[name] for name in want])
    if not (self.folder / str(step) / "totals").exists():  # a checkpoint from before they were kept
      return state, Totals()
    totals = self._manager.restore(step, args=ocp.args.Composite(totals=ocp.args.JsonRestore()))["totals"]
    return state, Totals(**totals)

  def restore_params(self, step: int, abstract: Any, ema: bool = True) -> Any:
    """The parameters alone, on the first device; the running mean where one was kept and `ema`.

    Args:
      abstract: their shapes and dtypes.
    """
    root = "ema" if ema and any(name.startswith("ema.") for name in self._saved(step)) else "params"
    want = flatten({root: abstract})
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    restored = self._restore(step, want, dict.fromkeys(want, sharding))
    return jax.tree.unflatten(jax.tree.structure(abstract), [restored[name] for name in want])

  def _saved(self, step: int) -> dict:
    """Name → shape and dtype of what the checkpoint says that it holds."""
    return self._manager.item_metadata(step)["state"].tree

  def _restore(self, step: int, want: dict, shardings: dict) -> dict:
    args = {name: ocp.ArrayRestoreArgs(sharding=shardings[name], dtype=want[name].dtype) for name in want}
    return self._manager.restore(step, args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(want, restore_args=args, partial_restore=True)))["state"]

  def close(self) -> None:
    self._manager.close()
