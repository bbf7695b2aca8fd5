"""`cm3leon import`: a model in a public layout as a released checkpoint of ours, layer by layer.

In memory at once: the tensors of one layer that make up one of our arrays and that array's slice, or a table of the
vocabulary and its permuted copy.
"""

import dataclasses
import json
import os
from pathlib import Path
import sys
from typing import Callable, Mapping, NamedTuple

import numpy as np
from tqdm import tqdm

from cm3leon_jax import assets, manifest
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.init import abstract_parameters
from cm3leon_jax.training import checkpoints
from cm3leon_jax.training.store import flatten
from cm3leon_jax.vocabulary import Vocabulary
from cm3leon_jax.weights import blocks, chameleon, chameleon_vocabulary, names, npz_stream, opt, safetensors_file
from cm3leon_jax.weights.mapping import Piece, tensors
from cm3leon_jax.weights.partial import Partial, check_free
from cm3leon_jax.weights.stored import WEIGHTS

VOCABULARY_FILE = "vocabulary_map.json"  # beside model.json, where the public ids are others than ours
EXPORTED = "exported_model"  # the kind of manifest that `export` writes
_CHAMELEON_TEXT = 128  # tokens of a text in the layout of a Chameleon that comes without one; a picture has 1,024


class Source(NamedTuple):
  """Tensors of a public checkpoint: name → (dtype, shape), how to read one, and the files that hold them."""

  tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]]
  read: Callable[[str], np.ndarray]
  files: list[Path]


class Model(NamedTuple):
  """What an import writes: model.json's parts, the pieces, what is told, and files (name → JSON) beside them."""

  transformer: dict
  vocabulary: Vocabulary
  layout: Layout
  meta: dict
  pieces: Callable[[TransformerConfig], list[Piece]]
  notes: list[str]
  files: dict[str, dict]


def import_(source: str | os.PathLike, out: str | os.PathLike, format: str, *, like: str = "") -> dict:
  """Writes model.json, weights.npz and manifest.json to `out`.

  Args:
    source: the public model's folder: config.json and safetensors.
    out: folder to write; must not be there yet. Killed and called again, it keeps the arrays that are whole.
    format: `opt` or `chameleon`.
    like: a folder with model.json, whose vocabulary, layout and tokenizers the model has. Not needed for what `export`
      wrote, and for Chameleon, whose vocabulary is in its config.json.

  Returns:
    The manifest's fields.

  Raises:
    InputError: no such model, tensors missing, unknown or of another shape, or `out` is there.
  """
  check_free(out)
  source = Path(source)
  if not source.is_dir():
    raise InputError(f"{source}: no such folder; expected config.json and safetensors in it")
  public = read_config(source, format)
  entries = safetensors_file.read_folder(source)
  skipped = {name for name in entries if format == "chameleon" and name.startswith(chameleon.SKIPPED)}
  entries = {name: entry for name, entry in entries.items() if name not in skipped}
  try:
    model = _MODELS[format](public, source, like)
  except (TypeError, ValueError, AttributeError) as error:
    raise InputError(f"{source / 'config.json'}: not a configuration of {format} ({error})") from error
  notes = [*model.notes, *([f"{len(skipped)} tensors of the image tokenizer ({chameleon.SKIPPED}*) were left out; "
                             "cm3leon import --format=vqgan brings one in"] if skipped else [])]
  head = {"opt": opt.TIED_HEAD, "chameleon": chameleon.TIED_HEAD}[format]
  tokens = {"opt": "model.decoder.embed_tokens.weight", "chameleon": "model.embed_tokens.weight"}[format]
  if model.transformer["tie_embeddings"] and head in entries and tokens in entries:
    if not _equal(entries.pop(head), entries[tokens]):
      raise InputError(f"{source}: {head} differs from the embedding, but config.json says tie_word_embeddings=true")
  files = sorted({entry.path for entry in entries.values()})
  found = Source({n: (e.dtype, e.shape) for n, e in entries.items()}, lambda name: entries[name].read(), files)
  return write(found, model._replace(notes=notes), source, out, format)


def write(source: Source, model: Model, where: Path, out: str | os.PathLike, format: str) -> dict:
  """Writes the released folder of `model` from the tensors of `source`; for all formats of transformers."""
  config = _transformer(model.transformer, source, where)
  _check_fits(config, model.vocabulary, model.layout, where)
  pieces = model.pieces(config)
  names.check(tensors(pieces), source.tensors, str(where))
  shapes = {name: x.shape for name, x in flatten(abstract_parameters(config)).items()}
  dtypes = {leaf: _leaf_dtype(leaf, pieces, source, where) for leaf in shapes}
  total = sum(np.prod(shape, dtype=np.int64) * dtypes[leaf].itemsize for leaf, shape in shapes.items())
  description = checkpoints.model_description(config, model.vocabulary, model.layout, model.meta)
  size = sum(path.stat().st_size for path in source.files)
  with tqdm(total=int(size + total), unit="B", unit_scale=True, desc="import", file=sys.stderr) as bar:
    sources = {path.name: blocks.sha256(path, bar.update) for path in source.files}
    with Partial(out, {"format": format, "sources": sources, "model": description, "files": model.files}) as partial:
      _write_leaves(partial, shapes, dtypes, pieces, source, bar.update)
      checkpoints.write_model_file(partial.folder, description)
      for name, value in model.files.items():
        (partial.folder / name).write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
      fields = {"format": format, "source": sources, "notes": model.notes, "vocabulary": model.vocabulary.fingerprint(),
                "weights": manifest.hash_file(partial.folder / WEIGHTS),
                "dtype": ", ".join(sorted({str(dtype) for dtype in dtypes.values()}))}
      partial.commit("model", fields)
  for note in model.notes:
    print(f"note: {note}", file=sys.stderr)
  print(f"{out}: {sum(int(np.prod(s)) for s in shapes.values()):,} parameters, {total / 2**20:.1f} MiB", file=sys.stderr)
  return fields


def _write_leaves(partial: Partial, shapes, dtypes, pieces: list[Piece], source: Source, progress) -> None:
  path = partial.folder / WEIGHTS
  partial.keep(npz_stream.whole(path, partial.done))
  writer = npz_stream.Writer(path, partial.done)
  try:
    for leaf, shape in shapes.items():
      if leaf in partial.done:
        progress(partial.done[leaf]["nbytes"])
        continue
      slices = (piece.join([source.read(name) for name in piece.parts]) for piece in pieces if piece.leaf == leaf)
      partial.finish(leaf, writer.add(leaf, dtypes[leaf], shape, slices, progress))
  except BaseException:
    writer.abandon()
    raise
  writer.close()


def read_config(source: Path, format: str) -> dict:
  """config.json; raises InputError unless it describes a model of this format."""
  path = source / "config.json"
  try:
    config = json.loads(path.read_text(encoding="utf-8"))
    kind = config["model_type"]
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise InputError(f"{path}: no configuration of a public model ({type(error).__name__}: {error})") from error
  if kind != format:
    raise InputError(f"{path}: describes a model of type {kind!r}; --format={format} reads {format!r}")
  return config


def _opt(public: dict, source: Path, like: str) -> Model:
  fields = opt.to_ours(public, str(source / "config.json"))
  about = _description(source, like)
  if about is None:
    raise InputError(f"{source}: OPT's files do not say which ids are text, image codes and specials; give a folder "
                     "with the model.json of such a model (--like=M)")
  transformer, vocabulary, layout, meta = about
  return Model(transformer | fields, vocabulary, layout, meta, opt.pieces, [], {})


def _chameleon(public: dict, source: Path, like: str) -> Model:
  where = str(source / "config.json")
  fields = chameleon.to_ours(public, where)
  if not isinstance(public.get("vocabulary_map"), dict):
    raise InputError(f"{where}: no vocabulary_map, so it does not say which ids are image codes")
  table = chameleon_vocabulary.from_names(public["vocabulary_map"], fields["vocab_size"], where)
  about = _description(source, like)
  transformer, _, layout, meta = about or ({}, None, _chameleon_layout(fields["max_positions"]), {})
  notes, files, theirs = list(table.notes), {}, None
  if not np.array_equal(table.theirs, np.arange(len(table.theirs))):
    theirs = table.theirs
    kept = {name: value for name, value in public.items() if name != "vocabulary_map"}
    files[VOCABULARY_FILE] = {"theirs": theirs.tolist(), "names": public["vocabulary_map"], "config": kept}
    notes.append(f"ids were put in our order, text | codes | specials; {VOCABULARY_FILE} has the id there of each of ours")
  pieces = lambda c: chameleon.pieces(c, theirs)
  return Model(transformer | fields, table.vocabulary, layout, meta, pieces, notes, files)


_MODELS = {"opt": _opt, "chameleon": _chameleon}
FORMATS = tuple(_MODELS)


def _chameleon_layout(positions: int) -> Layout:
  """Pictures of 32×32 codes, as many documents as fit."""
  one = Layout(image_tokens=1024, text_tokens=_CHAMELEON_TEXT, max_documents=1)
  return dataclasses.replace(one, max_documents=max(1, (positions - 1) // one.stride))


def _description(source: Path, like: str) -> tuple[dict, Vocabulary, Layout, dict] | None:
  """(fields of the transformer, vocabulary, layout, meta) of `like`, or of what `export` left in the folder."""
  if like:
    _, vocabulary, layout, meta = checkpoints.read_model_file(assets.find(like))
    return {}, vocabulary, layout, {name: value for name, value in meta.items() if name not in ("data", "step")}
  try:
    about = manifest.read(source, EXPORTED)["model"]
    return about["transformer"], Vocabulary(**about["vocabulary"]), Layout(**about["layout"]), about["meta"]
  except (InputError, KeyError, TypeError, ValueError):
    return None


def _transformer(fields: dict, source: Source, where: Path) -> TransformerConfig:
  """Dtypes that nothing says follow the tensors': parameters are kept in bfloat16 where all are."""
  stored = {str(dtype) for dtype, _ in source.tensors.values()}
  guess = {"dtype": "float32" if "float32" in stored else "bfloat16",
           "param_dtype": "bfloat16" if stored == {"bfloat16"} else "float32"}
  try:
    return TransformerConfig(**(guess | fields))
  except (ValueError, TypeError) as error:
    raise InputError(f"{where}: {error}") from error


def _check_fits(config: TransformerConfig, vocabulary: Vocabulary, layout: Layout, where: Path) -> None:
  if vocabulary.total_size != config.vocab_size:
    raise InputError(f"{where}: has {config.vocab_size:,} ids, the vocabulary {vocabulary.total_size:,}; give a --like "
                     "that the model was trained with")
  if layout.numbering == "document" and layout.num_positions > config.max_positions:
    raise InputError(f"{where}: has {config.max_positions:,} positions, the layout needs {layout.num_positions:,}; give a "
                     "--like that the model was trained with")


def _leaf_dtype(leaf: str, pieces: list[Piece], source: Source, where: Path) -> np.dtype:
  found = {source.tensors[name][0]: name for piece in pieces if piece.leaf == leaf for name in piece.parts}
  if len(found) > 1:
    (a, first), (b, second), *_ = found.items()
    raise InputError(f"{where}: {first} is {a} and {second} is {b}; they are parts of one array of ours: store them alike")
  return next(iter(found))


def _equal(a: safetensors_file.Entry, b: safetensors_file.Entry) -> bool:
  return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a.read().view(np.uint8), b.read().view(np.uint8))
