"""`cm3leon inspect`: shows any record between two boxes."""

import argparse
from collections import Counter
import dataclasses
from pathlib import Path


def task(args: argparse.Namespace) -> None:
  """Real examples of a seqio task or mixture, decoded, coloured, with pictures."""
  from cm3leon_jax.tasks import inspect

  if not args.gin_file:
    inspect.show_task(args.name, args.workdir, n=args.n, seed=args.seed, out=args.out)
    return
  from cm3leon_jax import config as configs

  configs.load(args.gin_file, args.gin_bindings)
  configs.configured("SFT").show(args.name, args.workdir, n=args.n, seed=args.seed, out=args.out)


def mixture(args: argparse.Namespace) -> None:
  """Each task of a fine-tuning mixture: its rows, share, repetitions, tokens, and how often its answer is masked."""
  from cm3leon_jax import config as configs

  configs.load(args.gin_file, args.gin_bindings)
  configs.configured("SFT").describe(args.workdir)


def corpus(args: argparse.Namespace) -> None:
  """A corpus' card: counts, what was left out and why, captions, a contact sheet."""
  from cm3leon_jax.pipelines import corpus_card

  corpus_card.show(args.workdir, args.out, args.n)


def checkpoint(args: argparse.Namespace) -> None:
  """Sizes, step and fingerprints of a run folder or a released checkpoint."""
  import jax

  from cm3leon_jax.training import checkpoints

  config, vocabulary, layout, params, meta = checkpoints.load_for_inference(args.checkpoint)
  for title, value in (("model", config), ("vocabulary", vocabulary), ("layout", layout)):
    print(title)
    for key, field in dataclasses.asdict(value).items():
      print(f"  {key:22}{field}")
  print("parameters")
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    print(f"  {jax.tree_util.keystr(path):40}{str(leaf.dtype):10}{'×'.join(map(str, leaf.shape))}")
  print(f"  {'total':40}{sum(leaf.size for leaf in jax.tree.leaves(params)):,}")
  for key, value in meta.items():
    print(f"{key:24}{value}")


def config(args: argparse.Namespace) -> None:
  """A gin file with all that it includes, as it would run; misspelt names fail here too."""
  import gin

  from cm3leon_jax import config as configs

  configs.load(args.gin_file, args.gin_bindings)
  print(gin.config_str())


def shardings(args: argparse.Namespace) -> None:
  """Where every parameter, optimizer slot and major activation of a run lies on a mesh of so many devices."""
  from cm3leon_jax import config as configs
  from cm3leon_jax import plan
  from cm3leon_jax.planning import placement

  configs.load(args.gin_file, args.gin_bindings)
  for line in placement.lines(plan.configured_run(), args.devices):
    print(line)


def items(args: argparse.Namespace) -> None:
  """What a protocol asks: the items of its reader, counted and hashed, the first of them with their pictures."""
  from cm3leon_jax.datasets import items as items_lib

  found = _items(args)
  hidden = {"image", "relevance"}
  about = found.about()
  print(f"{found.name}: {about['count']:,} items, hash {about['hash']}")
  print(f"  source      {about['source']}")
  if found.expected is not None:
    print(f"  expected    {found.expected:,}")
  if found.caption:
    print(f"  caption     {found.caption}")
  categories = Counter(item.category for item in found if item.category).most_common(8)
  if categories:
    print(f"  categories  {', '.join(f'{name} {count:,}' for name, count in categories)}")
  shown = found[:args.n]
  for number, item in enumerate(shown):
    print(f"item {number}")
    for field in dataclasses.fields(item):
      value = getattr(item, field.name)
      if field.name not in hidden and value not in ("", (), None):
        print(f"  {field.name:11} {_shortened(value)}")
    if item.image is not None:
      print(f"  {'image':11} {item.image if isinstance(item.image, str) else '×'.join(map(str, item.image.shape)) + ' uint8'}")
    if item.relevance:
      print(f"  {'relevance':11} {sum(r > 0 for r in item.relevance)} of {len(item.relevance)} choices above 0")
  if args.out:
    items_lib.check_pictures(shown)
    path = Path(args.out) / "items.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    _sheet(shown).save(path)
    print(f"Pictures of the first {len(shown)}: {path}")


def _items(args: argparse.Namespace):
  """`Items` of --reader, or of the gin files' Protocol."""
  import gin

  from cm3leon_jax import config as configs
  from cm3leon_jax.datasets.items import Items
  from cm3leon_jax.errors import InputError

  configs.load(args.gin_file, args.gin_bindings)
  name = args.reader
  readers = [n for n, target in configs.BINDABLE.items() if target.startswith("cm3leon_jax.datasets.official.")]
  if not name:
    try:
      name = gin.query_parameter("Protocol.items").scoped_selector
    except (ValueError, AttributeError) as error:
      raise InputError("no gin file binds Protocol.items to a reader: give --gin_file=configs/evaluation/…, or "
                       f"--reader={{{','.join(readers)}}}") from error
  elif name not in readers:
    raise InputError(f"--reader={name}: known are {', '.join(readers)}")
  found = configs.configured(name)
  return found if isinstance(found, Items) else Items(found, name, ())


def _shortened(value, most: int = 5) -> str:
  if not isinstance(value, tuple):
    return repr(value) if isinstance(value, str) else str(value)
  return f"({len(value)}) " + " | ".join(map(repr, value[:most])) + (" | …" if len(value) > most else "")


def _sheet(shown):
  """A contact sheet: each picture whole, on a square, with its id and what is asked or answered."""
  import numpy as np
  from PIL import Image, ImageOps

  from cm3leon_jax.errors import InputError
  from cm3leon_jax.retrieval import sheet

  pictures, texts = [], []
  for item in shown:
    try:
      picture = Image.fromarray(item.image) if isinstance(item.image, np.ndarray) else item.image and Image.open(item.image)
      square = picture and ImageOps.pad(ImageOps.exif_transpose(picture).convert("RGB"), (256, 256), color="white")
    except OSError as error:
      raise InputError(f"{item.image}: not a picture that can be read ({error})") from error
    pictures.append(None if square is None else np.asarray(square))
    texts.append(f"{item.id}\n{item.text or next(iter(item.references), '')}")
  return sheet.contact_sheet(pictures, texts)
