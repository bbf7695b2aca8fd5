"""The card of a corpus: what is in it, what was left out and why, as Markdown with a contact sheet."""

import collections
import json
import os
from pathlib import Path
import sys

import numpy as np

from cm3leon_jax import manifest
from cm3leon_jax.datasets import pairs, pictures, reader
from cm3leon_jax.datasets.corpora.corpus import REJECTS
from cm3leon_jax.pipelines.corpus import QUANTILES, quantiles
from cm3leon_jax.retrieval import sheet

SHOWN = 36  # pictures on the sheet
_ASKED = 1000  # rows whose captions are measured where the manifest does not tell


def write(workdir: str | os.PathLike, out: str | os.PathLike, count: int = SHOWN) -> Path:
  """Writes out/corpus.md and out/corpus.png, for the demo's corpus or any that the pipeline made.

  Args:
    workdir: D, with D/corpus.
    out: folder for both files.
    count: pictures on the sheet, evenly spaced over the training split.

  Returns:
    The path of the Markdown.

  Raises:
    InputError: no finished corpus is there.
  """
  folder = Path(workdir) / "corpus"
  about = manifest.read(folder, "corpus", rebuild="cm3leon data corpus")
  sizes = {split: reader.count(folder, split, about["pixels"]) for split in reader.splits_of(folder)}
  shown = _spread(folder, about["pixels"], sizes, count)
  out = Path(out)
  out.mkdir(parents=True, exist_ok=True)
  sheet.contact_sheet([p["image"] for p in shown], [p["caption"] for p in shown]).save(out / "corpus.png")
  parts = ["# Dataset card: corpus", _counts(sizes, about), _left_out(folder, about), _put_right(about),
           _captions(folder, about, sizes), _made(about),
           f"## What it looks like\n{len(shown)} pairs, evenly spaced over the training split:\n\n![pictures](corpus.png)"]
  path = out / "corpus.md"
  path.write_text("\n\n".join(p for p in parts if p) + "\n", encoding="utf-8")
  return path


def _spread(folder: Path, pixels: int, sizes: dict[str, int], count: int) -> list[dict]:
  total = sizes[pairs.TRAIN]
  rows = np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))
  return [next(reader.read(folder, pairs.TRAIN, pixels, int(r), int(r) + 1)) for r in rows]


def _table(heads: tuple[str, ...], rows: list[tuple]) -> str:
  lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
  cell = lambda v: f"{v:,}" if isinstance(v, int) else str(v).replace("|", "\\|").replace("\n", " ")
  return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows])


def _counts(sizes: dict[str, int], about: dict) -> str:
  read = f" of {about['read']:,} records read" if "read" in about else ""
  return (f"{sum(sizes.values()):,} pairs{read}: a caption and a picture of {about['pixels']} × {about['pixels']} pixels.\n\n"
          + _table(("split", "pairs"), list(sizes.items())))


def _left_out(folder: Path, about: dict) -> str:
  if "rejects" not in about:
    return ""
  if not about["rejects"]:
    return "## Left out\nNothing."
  example = _one_of_each(folder, set(about["rejects"]))
  rows = [(kind, n, f"{n / about['read']:.2%}", REJECTS.get(kind, ""), "{id}: {reason}".format(**example[kind])[:120])
          for kind, n in sorted(about["rejects"].items(), key=lambda item: -item[1])]
  heads = ("kind", "records", "share", "what it is", "one of them")
  return "## Left out\nEach with its reason in `corpus/rejects/`.\n\n" + _table(heads, rows)


def _one_of_each(folder: Path, kinds: set[str]) -> dict[str, dict]:
  found: dict[str, dict] = {}
  for path in sorted((folder / "rejects").glob("*.jsonl")):
    if found.keys() >= kinds:
      break
    with path.open(encoding="utf-8") as lines:
      for line in lines:
        row = json.loads(line)
        found.setdefault(row["kind"], row)
  return collections.defaultdict(lambda: {"id": "", "reason": ""}, found)


def _put_right(about: dict) -> str:
  if not about.get("notes"):
    return ""
  rows = [(kind, n, pictures.NOTES.get(kind, "")) for kind, n in sorted(about["notes"].items(), key=lambda item: -item[1])]
  heads = ("kind", "pictures", "what was done")
  return "## Put right\nPictures that could be used, and what was unusual about them.\n\n" + _table(heads, rows)


def _captions(folder: Path, about: dict, sizes: dict[str, int]) -> str:
  words, of = about.get("caption_words"), ""
  if words is None:
    measured = _spread(folder, about["pixels"], sizes, _ASKED)
    words, of = quantiles(collections.Counter(len(p["caption"].split()) for p in measured)), f", of {len(measured):,} captions"
  return f"## Captions\nWords{of}: " + ", ".join(f"{name} {words[name]}" for name in QUANTILES if name in words) + "."


def _made(about: dict) -> str:
  settings = about.get("settings") or {"source": about.get("source", "")}
  rows = [(name, ", ".join(map(str, v)) if isinstance(v, list) else f"`{v}`" if name == "source" else str(v))
          for name, v in sorted(settings.items())]
  return "## Made from\n" + _table(("setting", "value"), rows)


def show(workdir: str, out: str, count: int) -> None:
  """`cm3leon inspect corpus`: the card on standard output too."""
  path = write(workdir, out or Path(workdir) / "corpus_card", count)
  print(path.read_text(encoding="utf-8"))
  print(f"{path} and {path.with_suffix('.png')}", file=sys.stderr)
