"""A run folder on disk: `checkpoints/<step>/` (Orbax), `model.json`; and the released form, `weights.npz`."""

import dataclasses
import json
import os
from pathlib import Path
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp

from cm3leon_jax import manifest
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.init import abstract_parameters
from cm3leon_jax.training.state import TrainState
from cm3leon_jax.vocabulary import Vocabulary

MODEL_FILE = "model.json"
# Fields that change how a step is computed, or where it starts, but not what the weights mean.
_FREE_FIELDS = ("init_std", "position_init_std", "dropout", "dtype", "remat", "attention", "scan_unroll")


def flatten(tree: Any) -> dict[str, Any]:
  """{"params.layers.qkv": leaf}: names that do not depend on container classes."""
  return {jax.tree_util.keystr(path, simple=True, separator="."): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def model_description(config: TransformerConfig, vocabulary: Vocabulary, layout: Layout, meta: dict) -> dict:
  """What model.json holds; `meta` has the fingerprints of tokenizers and encoder."""
  return {"transformer": dataclasses.asdict(config), "vocabulary": vocabulary.to_dict(),
          "layout": dataclasses.asdict(layout), "meta": meta}


def write_model_file(folder: Path, description: dict) -> None:
  temporary = folder / (MODEL_FILE + ".partial")
  temporary.write_text(json.dumps(description, indent=2, sort_keys=True) + "\n", encoding="utf-8")
  os.replace(temporary, folder / MODEL_FILE)


def read_model_file(folder: Path) -> tuple[TransformerConfig, Vocabulary, Layout, dict]:
  """Raises InputError when it is missing or unreadable."""
  path = folder / MODEL_FILE
  if not path.is_file():
    raise InputError(f"{folder}: no {MODEL_FILE}, so it is neither a run folder nor a released model")
  try:
    data = json.loads(path.read_text(encoding="utf-8"))
    return (TransformerConfig(**data["transformer"]), Vocabulary(**data["vocabulary"]), Layout(**data["layout"]),
            data["meta"])
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(f"{path}: not a model description of this version ({error})") from error


def check_same_model(folder: Path, description: dict) -> None:
  """Stops with one sentence when `folder` holds weights of another model, vocabulary or layout."""
  found = model_description(*read_model_file(folder))
  differences = []
  for part, fields in description.items():
    for name, value in fields.items():
      there = found[part].get(name)
      if there != value and name not in _FREE_FIELDS:
        differences.append(f"{part}.{name} is {there!r} there and {value!r} here")
  if differences:
    raise InputError(f"{folder} belongs to another model: {'; '.join(differences)}; "
                     "use another folder, or the same values")


class Checkpoints:
  """The checkpoints of one run. Saving is asynchronous; a kill leaves the last finished one whole."""

  def __init__(self, workdir: str | os.PathLike, keep: int = 2, read_only: bool = False):
    """`keep`: how many of the latest stay. `read_only`: leaves alone what a running training writes."""
    # Orbax's own `read_only` warns at each use; these options write nothing either.
    options = ocp.CheckpointManagerOptions(max_to_keep=None if read_only else keep, create=not read_only,
                                           cleanup_tmp_directories=not read_only,
                                           enable_async_checkpointing=not read_only)
    self.folder = Path(workdir).absolute() / "checkpoints"
    handler = {"state": ocp.PyTreeCheckpointHandler()}
    self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handler)

  def latest(self) -> int | None:
    return self._manager.latest_step()

  def save(self, step: int, state: TrainState) -> None:
    """Copies the state off the devices, and writes it in the background."""
    self._manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(flatten(state))))

  def restore(self, step: int, abstract: TrainState, shardings: TrainState) -> TrainState:
    """The state of `step`, laid out as `shardings` says, whatever mesh saved it.

    Raises:
      InputError: saved by another optimizer or model, or with or without an EMA.
    """
    want = flatten(abstract)
    found = self._manager.item_metadata(step)["state"].tree
    different = sorted(want.keys() ^ found.keys()) or sorted(
        name for name in want if tuple(want[name].shape) != tuple(found[name].shape))
    if different:
      raise InputError(f"{self.folder}/{step} was saved by another optimizer, model or ema_decay: "
                       f"{len(different)} entries differ, such as {different[0]}; use another workdir, or init_from")
    restored = self._restore(step, want, flatten(shardings))
    return jax.tree.unflatten(jax.tree.structure(abstract), [restored[name] for name in want])

  def _restore(self, step: int, want: dict, shardings: dict) -> dict:
    args = {name: ocp.ArrayRestoreArgs(sharding=shardings[name], dtype=want[name].dtype) for name in want}
    return self._manager.restore(step, args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(want, restore_args=args, partial_restore=True)))["state"]

  def restore_params(self, step: int, config: TransformerConfig, ema: bool = True) -> dict:
    """The parameters alone, on the first device; the running mean where one was kept and `ema`."""
    found = self._manager.item_metadata(step)["state"].tree
    root = "ema" if ema and any(name.startswith("ema.") for name in found) else "params"
    abstract = abstract_parameters(config)
    want = flatten({root: abstract})
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    restored = self._restore(step, want, dict.fromkeys(want, sharding))
    return jax.tree.unflatten(jax.tree.structure(abstract), [restored[name] for name in want])

  def wait(self) -> None:
    """Until the last save is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()


def load_for_inference(path: str | os.PathLike, *, ema: bool = True):
  """Weights of a run folder (its latest checkpoint) or of a released folder.

  Args:
    path: a folder with model.json, and checkpoints/ or weights.npz.
    ema: prefer the running mean of the weights, where one was kept.

  Returns:
    (TransformerConfig, Vocabulary, Layout, params, meta): meta is model.json's, with `step` added.

  Raises:
    InputError: no such model, or no checkpoint yet.
  """
  folder = Path(path)
  if not folder.is_dir():
    raise InputError(f"{folder}: no such folder; expected a run folder or a released model")
  config, vocabulary, layout, meta = read_model_file(folder)
  if (folder / "weights.npz").is_file():
    return config, vocabulary, layout, _read_weights(folder / "weights.npz", config), meta
  if not (folder / "checkpoints").is_dir():
    raise InputError(f"{folder}: neither weights.npz nor checkpoints/ in it")
  checkpoints = Checkpoints(folder, read_only=True)
  try:
    step = checkpoints.latest()
    if step is None:
      raise InputError(f"{folder}/checkpoints holds no finished checkpoint yet")
    params = checkpoints.restore_params(step, config, ema)
  finally:
    checkpoints.close()
  return config, vocabulary, layout, params, meta | {"step": step}


def _read_weights(path: Path, config: TransformerConfig) -> dict:
  abstract = abstract_parameters(config)
  want = flatten(abstract)
  with np.load(path) as stored:
    missing = sorted(want.keys() ^ set(stored.files)) or [n for n in want if stored[n].shape != want[n].shape]
    if missing:
      raise InputError(f"{path}: does not hold the weights that {MODEL_FILE} describes: {missing[0]}")
    # NumPy files know no bfloat16: it is stored as its 16 bits.
    arrays = [stored[n].view(ml_dtypes.bfloat16) if stored[n].dtype == np.uint16 else stored[n] for n in want]
  leaves = [jnp.asarray(a.astype(want[n].dtype)) for n, a in zip(want, arrays)]
  return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def export_weights(run_folder: str | os.PathLike, out: str | os.PathLike, dtype: str = "float16") -> None:
  """Writes a released folder: manifest.json, model.json and weights.npz in `dtype` (float16, bfloat16 or float32).

  Raises:
    InputError: no model there, or a weight beyond the range of float16.
  """
  config, vocabulary, layout, params, meta = load_for_inference(run_folder)
  arrays = {}
  for name, value in flatten(params).items():
    array = np.asarray(value, np.float32)
    if dtype == "float16" and np.abs(array).max() > np.finfo(np.float16).max:
      raise InputError(f"{run_folder}: weight {name} exceeds float16; export as bfloat16 or float32")
    arrays[name] = array.astype(ml_dtypes.bfloat16).view(np.uint16) if dtype == "bfloat16" else array.astype(dtype)
  with manifest.writing(out, "model") as (folder, record):
    about = {name: value for name, value in meta.items() if name != "data"}  # a folder of the machine that trained it
    write_model_file(folder, model_description(config, vocabulary, layout, about))
    np.savez(folder / "weights.npz", **arrays)
    record |= {"vocabulary": vocabulary.fingerprint(), "dtype": dtype,
               "weights": manifest.hash_file(folder / "weights.npz")}
  print(f"{out}: {sum(a.nbytes for a in arrays.values()) / 2**20:.1f} MiB of weights", file=sys.stderr)
