"""A trained model on disk: a run folder (`model.json`, `checkpoints/`), or released (`model.json`, `weights.npz`)."""

import dataclasses
import json
import os
import sys

from etils import epath
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from cm3leon_jax import manifest
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.init import abstract_parameters
from cm3leon_jax.training.store import Reader, flatten, run_folder
from cm3leon_jax.vocabulary import Vocabulary

MODEL_FILE = "model.json"
# Fields that change how a step is computed, or where it starts, but not what the weights mean.
_FREE_FIELDS = ("init_std", "position_init_std", "dropout", "dtype", "remat", "attention", "scan_unroll",
                "data")  # and where the data lay


def model_description(config: TransformerConfig, vocabulary: Vocabulary, layout: Layout, meta: dict) -> dict:
  """What model.json holds; `meta` has the fingerprints of tokenizers and encoder."""
  return {"transformer": dataclasses.asdict(config), "vocabulary": vocabulary.to_dict(),
          "layout": dataclasses.asdict(layout), "meta": meta}


def write_model_file(folder: str | os.PathLike, description: dict) -> None:
  folder = run_folder(folder)
  temporary = folder / (MODEL_FILE + ".partial")
  temporary.write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")
  temporary.replace(folder / MODEL_FILE)


def read_model_file(folder: str | os.PathLike) -> tuple[TransformerConfig, Vocabulary, Layout, dict]:
  """Raises InputError when it is missing or unreadable."""
  path = run_folder(folder) / MODEL_FILE
  if not path.exists():
    raise InputError(f"{folder}: no {MODEL_FILE}, so it is neither a run folder nor a released model")
  try:
    data = json.loads(path.read_text())
    return (TransformerConfig(**data["transformer"]), Vocabulary(**data["vocabulary"]), Layout(**data["layout"]),
            data["meta"])
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(f"{path}: not a model description of this version ({error})") from error


def check_same_model(folder: str | os.PathLike, description: dict) -> None:
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


def load_for_inference(path: str | os.PathLike, *, ema: bool = True):
  """Weights of a run folder (its latest checkpoint) or of a released folder.

  Args:
    path: a folder with model.json, and checkpoints/ or weights.npz; also in a bucket (`gs://…`).
    ema: prefer the running mean of the weights, where one was kept.

  Returns:
    (TransformerConfig, Vocabulary, Layout, params, meta): meta is model.json's, with `step` added.

  Raises:
    InputError: no such model, or no checkpoint yet.
  """
  folder = run_folder(path)
  if not folder.is_dir():
    raise InputError(f"{folder}: no such folder; expected a run folder or a released model")
  config, vocabulary, layout, meta = read_model_file(folder)
  if (folder / "weights.npz").exists():
    return config, vocabulary, layout, _read_weights(folder / "weights.npz", config), meta
  if not (folder / "checkpoints").is_dir():
    raise InputError(f"{folder}: neither weights.npz nor checkpoints/ in it")
  reader = Reader(folder)
  try:
    step, params = reader.newest_params(abstract_parameters(config), ema)
  finally:
    reader.close()
  if step is None:
    raise InputError(f"{folder}/checkpoints holds no finished checkpoint yet")
  return config, vocabulary, layout, params, meta | {"step": step}


def _read_weights(path: epath.Path, config: TransformerConfig) -> dict:
  abstract = abstract_parameters(config)
  want = flatten(abstract)
  with path.open("rb") as file, np.load(file) as stored:
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
