"""Consolidated checkpoints of metaseq and fairseq → ours: one .pt, or a part for each tensor-parallel rank.

Parts are put together as metaseq's own scripts do: what makes columns (queries, keys, values, fc1, the embedding) lies
one after the other in the first axis, what takes them (out_proj, fc2) in the second, the rest is in every part. A fused
`qkv_proj` holds keys, values, queries, in this order.
"""

import dataclasses
import os
from pathlib import Path
import re
import shutil
from typing import Sequence

import numpy as np

from cm3leon_jax import assets
from cm3leon_jax.errors import InputError
from cm3leon_jax.training import checkpoints
from cm3leon_jax.weights import importer, opt, torch_file
from cm3leon_jax.weights.mapping import Piece
from cm3leon_jax.weights.partial import check_free, no_space
from cm3leon_jax.weights.stored import Leaf

_PART = re.compile(r"model_part-(\d+)(.*)\.pt")
_FUSED = "qkv_proj.weight"
_HEAD, _TOKENS = "decoder.output_projection.weight", "decoder.embed_tokens.weight"
_FIRST_AXIS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "fc1", "embed_tokens", "output_projection")
_SECOND_AXIS = ("out_proj", "fc2")
_NO_WEIGHTS = ("version", "_float_tensor")


def import_metaseq(source: str | os.PathLike, out: str | os.PathLike, like: str) -> dict:
  """Writes a released folder.

  A part is unpacked to disk beside `out` before the next is read: in memory is one part, twice while it is read.

  Args:
    source: a .pt file, or a folder with `…model_part-0.pt`, `…model_part-1.pt`, …; `{"model": tensors}` or the tensors.
    out: folder to write; must not be there yet.
    like: a folder with model.json of a model of the same shape: the files do not say heads, vocabulary or layout.

  Returns:
    The manifest's fields.

  Raises:
    InputError: a part is missing or not consolidated, the file is refused, or tensors do not fit the model.
  """
  check_free(out)
  if not like:
    raise InputError(f"{source}: such a checkpoint does not say its heads, vocabulary and layout; give a folder with the "
                     "model.json of such a model (--like=M)")
  config, vocabulary, layout, meta = checkpoints.read_model_file(assets.find(like))
  opt.from_ours(config, str(like))  # the layout is OPT's, and so is what it can hold
  fields = dataclasses.asdict(config) | {"position_period": 0}
  meta = {name: value for name, value in meta.items() if name not in ("data", "step")}
  files = parts(Path(source))
  Path(out).parent.mkdir(parents=True, exist_ok=True)
  scratch = Path(out).with_name(Path(out).name + ".unpacked")
  shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
  scratch.mkdir()
  try:
    unpacked = [_unpack(path, scratch / str(i)) for i, path in enumerate(files)]
    found = _merged(unpacked, files)
    if config.tie_embeddings and _HEAD in found.tensors:
      if not np.array_equal(found.read(_HEAD), found.read(_TOKENS)):
        raise InputError(f"{source}: {_HEAD} differs from the embedding, but {like} ties them")
      del found.tensors[_HEAD]
    model = importer.Model(fields, vocabulary, layout, meta, lambda c: [_renamed(p) for p in opt.pieces(c)], [], {})
    return importer.write(found, model, Path(source), out, "metaseq")
  except OSError as error:
    no_space(error, out)
    raise
  finally:
    shutil.rmtree(scratch)


def parts(source: Path) -> list[Path]:
  """The files of a checkpoint, by the number of their part."""
  if source.is_file():
    return [source]
  if not source.is_dir():
    raise InputError(f"{source}: no such file or folder; expected a .pt file, or model_part-0.pt, model_part-1.pt, …")
  found = {}
  for path in sorted(source.glob("*.pt")):
    match = _PART.search(path.name)
    if match and match[2]:
      raise InputError(f"{path}: a shard of one part; join them first with metaseq's consolidate_fsdp_shards.py")
    if match and int(match[1]) in found:
      raise InputError(f"{source}: {found[int(match[1])].name} and {path.name} are both part {int(match[1])}; keep one checkpoint "
                       "in the folder")
    if match:
      found[int(match[1])] = path
  if not found:
    raise InputError(f"{source}: no …model_part-0.pt in it; for a checkpoint in one piece give the file")
  if sorted(found) != list(range(len(found))):
    raise InputError(f"{source}: parts {sorted(found)} are there; some before {max(found)} are missing")
  return [found[i] for i in range(len(found))]


def _unpack(path: Path, folder: Path) -> dict[str, Leaf]:
  """Writes the tensors of a file as plain files; they are all in memory meanwhile."""
  state = torch_file.load(path)
  state = state.get("model", state) if isinstance(state, dict) else state
  if not isinstance(state, dict) or not all(
      isinstance(n, str) and isinstance(x, np.ndarray) for n, x in state.items()):
    raise InputError(f"{path}: holds neither tensors by name nor {{'model': tensors by name}}")
  folder.mkdir()
  leaves = {}
  for i, (name, x) in enumerate(state.items()):
    if name.split(".")[-1] in _NO_WEIGHTS:
      continue
    leaves[name] = Leaf(folder / f"{i}.raw", x.dtype, x.shape)
    with open(leaves[name].path, "wb") as f:
      f.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
  return leaves


def _merged(unpacked: Sequence[dict[str, Leaf]], files: list[Path]) -> importer.Source:
  first = unpacked[0]
  for leaves, path in zip(unpacked, files):
    different = sorted(leaves.keys() ^ first.keys())
    if different:
      raise InputError(f"{path}: {different[0]} is in this part or in {files[0].name}, but not in both")
    different = [n for n, leaf in leaves.items() if (leaf.shape, leaf.dtype) != (first[n].shape, first[n].dtype)]
    if different:
      raise InputError(f"{path}: {different[0]} has another shape or dtype than in {files[0].name}")

  def read(name: str) -> np.ndarray:
    fused = re.sub(r"[qkv]_proj\.weight$", _FUSED, name)
    if name not in first and fused in first:
      which = "kvq".index(name[-len("q_proj.weight")])
      return np.concatenate([np.split(leaves[fused].read(), 3)[which] for leaves in unpacked])
    arrays = [leaves[name].read() for leaves in unpacked]
    axis = _axis(name)
    if axis is not None:
      return np.concatenate(arrays, axis)
    if any(not np.array_equal(x, arrays[0]) for x in arrays):
      raise InputError(f"{files[0].parent}: {name} should be the same in all parts, and is not")
    return arrays[0]

  tensors = {}
  for name, leaf in first.items():
    if name.endswith(_FUSED):
      size, rest = len(unpacked) * leaf.shape[0], leaf.shape[1:]
      if leaf.shape[0] % 3:
        raise InputError(f"{files[0]}: {name} has {leaf.shape[0]} rows, not three times as many as one projection")
      tensors |= {name.replace("qkv_proj", f"{x}_proj"): (leaf.dtype, (size // 3, *rest)) for x in "qkv"}
      continue
    axis = _axis(name)
    shape = [n * len(unpacked) if i == axis else n for i, n in enumerate(leaf.shape)]
    tensors[name] = leaf.dtype, tuple(shape)
  return importer.Source(tensors, read, files)


def _axis(name: str) -> int | None:
  """Along which axis the parts of a tensor follow each other; None where each part has it whole."""
  if not name.endswith(".weight") or "layer_norm" in name:
    return None
  module = name.split(".")[-2]
  return 0 if module in _FIRST_AXIS else 1 if module in _SECOND_AXIS else None


def _renamed(piece: Piece) -> Piece:
  """OPT's names at Hugging Face → metaseq's."""

  def rename(name):
    if name == opt.TIED_HEAD:
      return _HEAD
    return name.removeprefix("model.").replace("decoder.final_layer_norm", "decoder.layer_norm")

  return dataclasses.replace(piece, parts={rename(name): shape for name, shape in piece.parts.items()})
