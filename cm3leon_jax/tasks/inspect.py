"""Prints real examples of a task, readable: text decoded, images drawn, sentinels and their tails coloured."""

import json
import os
from pathlib import Path
import sys
from typing import Iterator, NamedTuple, TextIO

import numpy as np
from PIL import Image
import tensorflow as tf

from cm3leon_jax import assets
from cm3leon_jax import manifest as manifests
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.tasks import objective as objective_lib
from cm3leon_jax.tasks import pretrain
from cm3leon_jax.tasks import seqio_adapter
from cm3leon_jax.tasks import sft
from cm3leon_jax.tokenizers import image as image_lib
from cm3leon_jax.tokenizers import text as text_lib
from cm3leon_jax.vocabulary import UNK_ID, Vocabulary

COLOURS = (196, 208, 220, 46, 51, 39, 201, 213)  # of the 256-colour palette, one a sentinel
DIM, BOLD, RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"
STATISTICS = 256  # samples drawn for the shares


class Run(NamedTuple):
  """Consecutive tokens of one kind. kind: text, image, or the name of a special id."""

  kind: str
  ids: np.ndarray
  positions: np.ndarray


def runs(vocabulary: Vocabulary, tokens: np.ndarray, positions: np.ndarray) -> Iterator[Run]:
  """Groups text, and image codes of neighbouring cells; every special id stands alone."""
  def kind(token):
    return "text" if UNK_ID <= token < vocabulary.text_size else "image" if vocabulary.is_image(token) else ""

  start = 0
  for i in range(1, len(tokens) + 1):
    joins = i < len(tokens) and kind(tokens[i]) == kind(tokens[start]) != "" and positions[i] == positions[i - 1] + 1
    if not joins:
      yield Run(kind(tokens[start]) or vocabulary.name(tokens[start]), tokens[start:i], positions[start:i])
      start = i


def colour_of(sentinel: str) -> str:
  return f"\x1b[38;5;{COLOURS[int(sentinel[10:-1]) % len(COLOURS)]}m"


def describe(vocabulary: Vocabulary, text_tokenizer: text_lib.TextTokenizer, row: dict[str, np.ndarray],
             colour: bool) -> list[str]:
  """Lines for one segment: each run with its positions; a tail has the colour of its sentinel."""
  real = row["segment_ids"] > 0
  lines, paint, seen = [], "", set()
  for run in runs(vocabulary, row["tokens"][real], row["positions"][real]):
    if run.kind == "text":
      label = f'"{text_tokenizer.decode(run.ids)}"'
    elif run.kind == "image":
      label = f"[{len(run.ids)} image codes]"
    else:
      label = run.kind
    first, last = run.positions[0], run.positions[-1]
    tint = paint
    if run.kind.startswith("<sentinel"):
      tint = colour_of(run.kind)
      paint = tint if run.kind in seen else paint
      if run.kind in seen:
        lines.append("  tail:")
      seen.add(run.kind)
    elif run.kind == "<eoss>":
      paint = ""
    elif not paint and run.kind not in ("text", "image"):
      tint = DIM
    line = f"{first:>5}{'' if first == last else f'–{last}':<6} {label}"
    lines.append(f"    {tint}{line}{RESET}" if colour and tint else f"    {line}")
  return lines


def images_of(vocabulary: Vocabulary, layout: Layout, tokens: np.ndarray) -> np.ndarray:
  """Codes [pairs, I] of the images of an unmasked sample."""
  return vocabulary.image_codes(tokens[vocabulary.is_image(tokens)]).reshape(-1, layout.image_tokens)


def masked_cells(vocabulary: Vocabulary, layout: Layout, sample_tokens: np.ndarray,
                 masked: dict[str, np.ndarray]) -> np.ndarray:
  """bool [pairs, I]: the cells of a sample's images that stand in the tails."""
  length = int(np.count_nonzero(masked["segment_ids"]))
  tokens, sentinels = masked["tokens"][:length], np.flatnonzero(vocabulary.is_sentinel(masked["tokens"][:length]))
  source = tokens[:sentinels[len(sentinels) // 2]] if len(sentinels) else tokens  # half of the sentinels open tails
  spans = {}
  for i, start in enumerate(sentinels[len(sentinels) // 2:], len(sentinels) // 2):
    end = sentinels[i + 1] if i + 1 < len(sentinels) else length
    spans[int(tokens[start])] = tokens[start + 1:end - 1]
  flags = []
  for token in source:
    content = spans.get(int(token), ())
    flags += [True for t in content if vocabulary.is_image(t)]
    if vocabulary.is_image(token):
      flags.append(False)
  return np.asarray(flags, bool).reshape(images_of(vocabulary, layout, sample_tokens).shape)


def contact_sheet(rows: list[np.ndarray], scale: int = 2, gap: int = 8) -> Image.Image:
  """Rows of pictures uint8[N, H, W, 3] → one picture on grey."""
  height, width = rows[0].shape[1] * scale, rows[0].shape[2] * scale
  columns = max(len(r) for r in rows)
  sheet = Image.new("RGB", (columns * (width + gap) + gap, len(rows) * (height + gap) + gap), (235, 235, 235))
  for y, row in enumerate(rows):
    for x, picture in enumerate(row):
      tile = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
      sheet.paste(tile, (gap + x * (width + gap), gap + y * (height + gap)))
  return sheet


def half_blocks(pictures: np.ndarray, columns: int = 24) -> list[str]:
  """Pictures uint8[N, H, W, 3] side by side as terminal lines; each character is two pixels, one above the other."""
  small = [np.asarray(Image.fromarray(p).resize((columns, columns), Image.Resampling.BOX)) for p in pictures]
  wide = np.concatenate([np.pad(p, ((0, 0), (0, 2), (0, 0)), constant_values=255) for p in small], axis=1)
  lines = []
  for upper, lower in zip(wide[0::2], wide[1::2]):
    cells = (f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀" for a, b in zip(upper, lower))
    lines.append("    " + "".join(cells) + RESET)
  return lines


def grey_out(pictures: np.ndarray, cells: np.ndarray, grid: int) -> np.ndarray:
  """Pictures [N, H, W, 3] with the flagged cells [N, grid²] chequered."""
  size = pictures.shape[1] // grid
  flags = cells.reshape(-1, grid, grid).repeat(size, 1).repeat(size, 2)[..., None]
  board = np.indices(pictures.shape[1:3]).sum(0)[None, ..., None] // 4 % 2
  return np.where(flags, np.where(board, 170, 110), pictures).astype(np.uint8)


def shares(vocabulary: Vocabulary, masked: dict[str, np.ndarray], originals: list[np.ndarray]) -> dict[str, float]:
  """What the masks do to samples on average; arrays [N, W] of single-sample windows."""
  tokens = masked["tokens"]
  spans = vocabulary.is_sentinel(tokens).sum(1) // 2
  real = (masked["segment_ids"] > 0).sum(1)
  text_spans = []
  for row in tokens:
    at = np.flatnonzero(vocabulary.is_sentinel(row))
    tails = at[len(at) // 2:]
    text_spans.append(any(row[i + 1] < vocabulary.text_size for i in tails))
  source_length = np.array([
      np.flatnonzero(vocabulary.is_sentinel(row))[n] if n else length for row, n, length in zip(tokens, spans, real)])
  masked_tokens = np.array([len(o) for o in originals]) - (source_length - spans)
  return {"spans a sample": spans.mean(), "samples without a span": (spans == 0).mean(),
          "samples with masked text": np.mean(text_spans),
          "tokens masked": masked_tokens.sum() / sum(map(len, originals))}


def mask_samples(objective: objective_lib.CM3Objective, vocabulary: Vocabulary, layout: Layout,
                 samples: list[dict[str, np.ndarray]], seed: int) -> dict[str, np.ndarray]:
  """Masks samples, each as a window of its own; arrays [N, W]."""
  width = max(len(s["tokens"]) for s in samples)
  pad = lambda name: np.stack([np.pad(s[name], (0, width - len(s[name]))) for s in samples])
  windows = {name: pad(name) for name in ("tokens", "positions", "loss_weights", "answers")}
  windows["segment_ids"] = np.stack([np.arange(width) < len(s["tokens"]) for s in samples]).astype(np.int32)
  if objective.mode == "none":
    return windows
  index = tf.range(len(samples))
  draws = objective_lib.draw(objective, width, seed, tf.zeros_like(index), index)
  windows = {k: tf.constant(v) for k, v in windows.items()}
  masked = objective_lib.mask_windows(objective, vocabulary, layout, windows, draws)
  return {k: v.numpy() for k, v in masked.items()}


def show_task(
    name: str, workdir: str | os.PathLike, *, n: int = 3, seed: int = 0, split: str = "", out: str | os.PathLike = "",
    objective: objective_lib.CM3Objective | None = None, stream: TextIO | None = None) -> None:
  """`cm3leon inspect task NAME --workdir=D`: prints examples as drawn and as masked.

  Args:
    name: a task or mixture of the emoji corpus.
    workdir: D, with `documents/`, `neighbours/` and `windows/`.
    n: examples.
    seed: of the draws and masks.
    split: default `train` where the task has it.
    out: folder for `NAME.png`, a contact sheet: a row an example, each image as decoded and as masked.
    objective: how to mask; default: with the room that the windows leave, none in held-out splits.
    stream: where to print; a terminal gets colours and pictures.

  Raises:
    InputError: no such task (with the nearest names), or a missing folder.
  """
  workdir = Path(workdir)
  vocabulary, layout, spans = _geometry(workdir)
  documents = manifests.read(workdir / "documents" / "train", "documents", rebuild="cm3leon data tokenize")
  text = text_lib.TextTokenizer.load(_find(workdir, text_lib.KIND, documents["text_tokenizer"]))
  pretrain.register_emoji(workdir, vocabulary, layout, text_tokenizer=text)
  sft.register_emoji_sft(workdir, vocabulary, layout, text)
  split = split or seqio_adapter.splits(name)[0]
  if objective is None:
    objective = objective_lib.CM3Objective(max_spans=spans, mode="poisson" if split == "train" else "none")
  images = image_lib.ImageTokenizer.load(_find(workdir, image_lib.KIND, documents["image_tokenizer"]))

  show_samples(name, split, vocabulary, layout, text, images, objective, n=n, seed=seed, out=out, stream=stream)


def show_samples(
    name: str, split: str, vocabulary: Vocabulary, layout: Layout, text: text_lib.TextTokenizer,
    images: image_lib.ImageTokenizer, objective: objective_lib.CM3Objective, *, n: int = 3, seed: int = 0,
    out: str | os.PathLike = "", stream: TextIO | None = None) -> None:
  """Prints examples of a registered task as drawn and as masked, see `show_task`.

  Args:
    name, split: a registered task or mixture.
    vocabulary, layout: it was registered with.
    text, images: tokenizers that decode it.
    objective: how to mask.
    n, seed, out, stream: as `show_task`'s.
  """
  stream = stream or sys.stdout
  colour = stream.isatty()
  samples = []
  for sample in seqio_adapter.examples(name, split, seed=seed, epochs=1):
    samples.append(sample)
    if len(samples) >= max(n, STATISTICS):
      break
  masked = mask_samples(objective, vocabulary, layout, samples, seed)
  emit = lambda *lines: print(*lines, sep="\n", file=stream)
  rows = []
  for i, sample in enumerate(samples[:n]):
    counted = int(np.count_nonzero(sample["loss_weights"]))
    title = f"{name} · {split} · example {i + 1} of {n}"
    emit(f"{BOLD}{title}{RESET}" if colour else title, f"  {len(sample['tokens'])} tokens, {counted} with loss",
         "  as drawn (position, content):")
    emit(*describe(vocabulary, text, {**sample, "segment_ids": np.ones_like(sample["tokens"])}, colour))
    if sample["answers"].any():
      emit(f'  answer: "{text.decode(sample["tokens"][sample["answers"] > 0])}"')
    row = {k: v[i] for k, v in masked.items()}
    pictures = images.decode(images_of(vocabulary, layout, sample["tokens"]))
    cells = np.zeros([len(pictures), layout.image_tokens], bool)
    if vocabulary.is_sentinel(row["tokens"]).any():
      emit("  as masked:", *describe(vocabulary, text, row, colour))
      cells = masked_cells(vocabulary, layout, sample["tokens"], row)
    elif objective.mode != "none":
      emit("  as masked: no span was drawn, so it is plain next-token prediction")
    pictures = np.concatenate([pictures, grey_out(pictures, cells, layout.grid)])
    rows.append(pictures)
    if colour:
      emit(*half_blocks(pictures))
    emit("")
  about = shares(vocabulary, masked, [s["tokens"] for s in samples])
  emit(f"Over {len(samples)} samples: " + ", ".join(f"{k} {v:.2f}" for k, v in about.items()) + ".")
  counts = seqio_adapter.counts(name, split)
  emit(f"Texts longer than {layout.text_tokens} tokens, cut: {counts['truncated_texts']} of {counts['texts']}.")
  if out:
    Path(out).mkdir(parents=True, exist_ok=True)
    path = Path(out) / f"{name}.png"
    contact_sheet(rows).save(path)
    emit(f"Pictures (as decoded, then as masked): {path}")


def _geometry(workdir: Path) -> tuple[Vocabulary, Layout, int]:
  """Vocabulary, layout and room for spans, from the manifests of the workdir's training windows."""
  for folder in ("pretrain", "sft"):
    if manifests.exists(workdir / "windows" / folder):
      about = manifests.read(workdir / "windows" / folder, "windows")
      return (Vocabulary(**about["vocabulary_sizes"]), Layout(**about["layout"]),
              max(1, (about["length"] + 1 - about["window"]) // 3))
  raise InputError(f"{workdir}: no windows/pretrain or windows/sft, which say how samples are laid out; "
                   "make them with: cm3leon data build")


def _find(workdir: Path, kind: str, fingerprint: str) -> Path:
  """The tokenizer that made the documents: in the workdir, or shipped."""
  for folder in (*sorted(workdir.glob("*/*")), *sorted(assets.root("tokenizers").glob("*"))):
    if manifests.exists(folder):
      about = json.loads((folder / manifests.FILE_NAME).read_text(encoding="utf-8"))
      if about.get("kind") == kind and fingerprint in (about.get("fingerprint"), about.get("weights")):
        return folder
  raise InputError(f"no {kind} with fingerprint {fingerprint}, which made {workdir}/documents, lies in {workdir} or "
                   "ships: make the documents again with: cm3leon data tokenize")
