"""`cm3leon export`: a checkpoint of ours in a public layout, tensor by tensor.

In memory at once: a tensor of one layer and its transposed copy, or a table of the vocabulary and its permuted copy.
"""

import json
import math
import os
from pathlib import Path
import re
import sys
from typing import Any, Callable, NamedTuple

import ml_dtypes
import numpy as np
from tqdm import tqdm

from cm3leon_jax.errors import InputError
from cm3leon_jax.training import checkpoints
from cm3leon_jax.weights import blocks, chameleon, chameleon_vocabulary, mapping, opt, safetensors_file
from cm3leon_jax.weights.importer import EXPORTED, VOCABULARY_FILE
from cm3leon_jax.weights.mapping import Piece
from cm3leon_jax.weights.partial import Partial, check_free
from cm3leon_jax.weights.stored import Stored

DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_POSITIONS = ("positions are numbered by document: give position_ids to the model, as decoding/prompts.py makes them; "
              "0, 1, 2, … is not what it was trained with")


class _Plan(NamedTuple):
  config: dict  # config.json
  pieces: list[Piece]
  read: Callable[..., np.ndarray]
  notes: list[str]
  ids: list[int] | None = None  # the public id of each of ours, where they are others


def export(checkpoint: str | os.PathLike, out: str | os.PathLike, format: str, *, dtype: str = "",
           shard_size: str = "5GB") -> dict:
  """Writes config.json, safetensors and manifest.json to `out`.

  Args:
    checkpoint: a run folder (its newest checkpoint), or a released model.
    out: folder to write; must not be there yet. Killed and called again, it keeps the shards that are whole.
    format: `opt` or `chameleon`.
    dtype: float32, float16 or bfloat16 for all tensors; "" leaves each as it is stored.
    shard_size: the most bytes of tensors in a file, with KB, MB or GB (powers of 1000); a larger tensor has its own.

  Returns:
    The manifest's fields.

  Raises:
    InputError: the layout cannot express the model, a number does not fit into `dtype`, or `out` is there.
  """
  if dtype and dtype not in DTYPES:
    raise InputError(f"dtype={dtype}: known: {', '.join(DTYPES)}")
  check_free(out)
  stored = Stored(checkpoint)
  plan = _PLANS[format](stored)
  dtypes = {name: DTYPES[dtype] if dtype else _stored_dtype(stored, piece) for piece in plan.pieces for name in piece.parts}
  shards = _shards(mapping.tensors(plan.pieces), dtypes, parse_size(shard_size))
  total = sum(_nbytes(shape, dtypes[name]) for name, shape in mapping.tensors(plan.pieces).items())
  read = sum(path.stat().st_size for path in stored.files)
  with tqdm(total=read + stored.unpacked + total, unit="B", unit_scale=True, desc="export", file=sys.stderr) as bar:
    sources = {p.relative_to(stored.folder).as_posix(): blocks.sha256(p, bar.update) for p in stored.files}
    stored.check(sources)
    key = {"format": format, "dtype": dtype, "sources": sources, "config": plan.config, "shards": shards, "ids": plan.ids}
    with Partial(out, key) as partial:
      stored.unpack(partial.scratch, bar.update)
      for file, names in shards.items():
        if file in partial.done and _whole(partial.folder / file, partial.done[file]):
          bar.update(sum(_nbytes(shape, dtypes[n]) for n, shape in mapping.tensors(plan.pieces).items() if n in names))
          continue
        digest = _write_shard(partial.folder / file, names, plan, dtypes, bar.update)
        partial.finish(file, digest)
      _write_json(partial.folder / "config.json", plan.config | {"dtype": dtype or str(next(iter(dtypes.values())))})
      if len(shards) > 1:
        _write_json(partial.folder / safetensors_file.INDEX, {
            "metadata": {"total_size": total}, "weight_map": {n: file for file, names in shards.items() for n in names}})
      meta = {name: value for name, value in stored.meta.items() if name != "data"}  # a folder of this machine
      fields = {"format": format, "source": sources, "step": stored.step if stored.step is not None else meta.get("step"),
                "files": {file: partial.done[file] for file in shards}, "notes": plan.notes,
                "model": checkpoints.model_description(stored.config, stored.vocabulary, stored.layout, meta)}
      partial.commit(EXPORTED, fields)
  for note in plan.notes:
    print(f"note: {note}", file=sys.stderr)
  print(f"{out}: {len(dtypes)} tensors, {total / 2**20:.1f} MiB, {len(shards)} file(s)", file=sys.stderr)
  return fields


def parse_size(text: str) -> int:
  """'5GB' → bytes."""
  match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]B)?", text.strip(), re.IGNORECASE)
  size = int(float(match[1]) * _UNITS[(match[2] or "").upper()]) if match else 0
  if size < 1:
    raise InputError(f"shard_size={text}: write it as 5GB, 500MB or a number of bytes")
  return size


def _plan_opt(stored: Stored) -> _Plan:
  c, where, notes = stored.config, str(stored.folder), []
  config = opt.from_ours(c, where)
  if c.position_period:
    notes.append(f"the two tables of positions (position_period={c.position_period}) became one")
  if stored.layout.numbering != "sequence":
    notes.append(_POSITIONS)
  return _Plan(config, opt.pieces(c), opt.plain_positions(c, stored.read), notes)


def _plan_chameleon(stored: Stored) -> _Plan:
  c, where = stored.config, str(stored.folder)
  config, theirs = chameleon.from_ours(c, where), None
  notes = ["the image tokenizer (model.vqmodel.*) is not in it: encode and decode pictures here"]
  table = stored.folder / VOCABULARY_FILE
  if table.is_file():
    names, theirs, public = _public_ids(table, c.vocab_size)
    config = public | config
  else:
    names = chameleon_vocabulary.names_of(stored.vocabulary)
    config["vq_config"] = {"num_embeddings": stored.vocabulary.image_size}
    notes.append("ids are ours; vocabulary_map in config.json names them as Chameleon's tokens of the same kind")
    config |= {"pad_token_id": names["<pad>"], "bos_token_id": names["</s>"], "eos_token_id": names["</s>"]}
  if stored.layout.numbering != "sequence":
    notes.append(_POSITIONS)
  ids = None if theirs is None else theirs.tolist()
  return _Plan(config | {"vocabulary_map": names}, chameleon.pieces(c, theirs), stored.read, notes, ids)


def _public_ids(path: Path, size: int) -> tuple[dict[str, int], np.ndarray, dict]:
  """(names → ids, public id of each of our ids, config.json) as the import left them."""
  try:
    kept = json.loads(path.read_text(encoding="utf-8"))
    names, theirs, config = dict(kept["names"]), np.asarray(kept["theirs"], np.int32), dict(kept["config"])
    if not np.array_equal(np.sort(theirs), np.arange(size)):
      raise ValueError(f"not every id below {size:,} once; it is of another model")
  except (ValueError, KeyError, TypeError, OverflowError) as error:
    raise InputError(f"{path}: not what an import leaves beside this model ({error}); copy it again") from error
  return names, theirs, config


_PLANS = {"opt": _plan_opt, "chameleon": _plan_chameleon}
FORMATS = tuple(_PLANS)


def _stored_dtype(stored: Stored, piece: Piece) -> np.dtype:
  leaf = piece.leaf
  if leaf == "positions" and stored.config.position_period:
    leaf = "position_offsets"
  if stored.dtype(leaf) not in DTYPES.values():
    raise InputError(f"{stored.folder}: weight {leaf} is {stored.dtype(leaf)}; choose --dtype=float32")
  return stored.dtype(leaf)


def _nbytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
  return math.prod(shape) * dtype.itemsize


def _shards(shapes: dict[str, tuple[int, ...]], dtypes: dict[str, np.dtype], limit: int) -> dict[str, list[str]]:
  """File → names, filled in order, as public tools do."""
  groups, used = [[]], 0
  for name, shape in shapes.items():
    size = _nbytes(shape, dtypes[name])
    if groups[-1] and used + size > limit:
      groups.append([])
      used = 0
    groups[-1].append(name)
    used += size
  if len(groups) == 1:
    return {safetensors_file.SINGLE: groups[0]}
  return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups)}


def _write_shard(path: Path, names: list[str], plan: _Plan, dtypes: dict[str, np.dtype], progress) -> str:
  """Returns the file's SHA-256."""
  shapes = mapping.tensors(plan.pieces)
  place = {name: (piece, i) for piece in plan.pieces for i, name in enumerate(piece.parts)}
  kept: tuple[Piece | None, Any] = (None, None)  # the parts of one piece are consecutive

  def array(name):
    nonlocal kept
    piece, i = place[name]
    if kept[0] is not piece:
      kept = (None, None)  # let go before the next one is read
      kept = piece, piece.split(plan.read(piece.leaf, piece.layer))
    return kept[1][i]

  tensors = {name: (dtypes[name], shapes[name]) for name in names}
  return safetensors_file.write(path, tensors, (lambda name=name: array(name) for name in names), progress)


def _whole(path: Path, digest: str) -> bool:
  return path.is_file() and blocks.sha256(path) == digest


def _write_json(path: Path, value: dict) -> None:
  path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
