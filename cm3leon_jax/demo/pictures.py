"""The demo's pictures: each kind of generation on held-out drawings, for the report page."""

import itertools
from pathlib import Path
import sys
from typing import Sequence

import numpy as np

from cm3leon_jax import api, assets, manifest
from cm3leon_jax.datasets.showcase import showcase_ids
from cm3leon_jax.demo.heldout import SPLIT, Artist, HeldOut
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation.report_data import writing_generations
from cm3leon_jax.pipelines.build import Pipelines
from cm3leon_jax.tasks import seqio_adapter, sft, templates

SHIPPED = "tokenizers/demo_model"  # a larger model of the same recipe, trained longer, where one ships
SAMPLING, EDITING, GREEDY = (api.DEFAULTS[task] for task in ("text_to_image", "edit", "image_to_text"))
COUNT = {"infill": 8, "edit": 12, "caption": 24}
CANDIDATES = 8
INFILL_CANDIDATES = 4


def generate(workdir: Path, pipelines: Pipelines, quick: bool) -> None:
  """Writes D/generations/<set> for every set of the report; a set that is whole is kept."""
  held_out = HeldOut(workdir, pipelines)
  shown = [i for i in showcase_ids() if i in set(held_out.ids)]
  shown = shown or held_out.ids[:24]  # another corpus than the seven sets: the fallback of the builder
  if quick:
    shown = shown[:4]
  pretrained = Artist(workdir / "pretrain")
  for k in range(pretrained.layout.max_documents):
    _text_to_image(workdir, f"showcase_k{k}", held_out, pretrained, shown, k)
  if _shipped_fits(pretrained):
    _text_to_image(workdir, f"shipped_k{pretrained.layout.max_documents - 1}", held_out, Artist(assets.path(SHIPPED)), shown,
                   pretrained.layout.max_documents - 1)
  _infill(workdir, held_out, pretrained, shown[:COUNT["infill"]])
  tuned = Artist(workdir / "sft")
  sft.register_emoji_sft(workdir, tuned.vocabulary, tuned.layout, held_out.text)
  _edit(workdir, held_out, tuned, COUNT["edit"] if not quick else 2)
  _caption(workdir, held_out, tuned, shown[:COUNT["caption"]])


def _shipped_fits(artist: Artist) -> bool:
  """A shipped model draws with the shipped tokenizers: only then can it be set beside this one."""
  try:
    shipped = Artist(assets.path(SHIPPED))
  except InputError:
    return False
  return (shipped.vocabulary, shipped.layout) == (artist.vocabulary, artist.layout)


def _told(name: str, workdir: Path) -> bool:
  """True when the set is there already; says what comes otherwise."""
  if manifest.exists(workdir / "generations" / name):
    return True
  print(f"  generations/{name}", file=sys.stderr, flush=True)
  return False


def _text_to_image(workdir: Path, name: str, held_out: HeldOut, artist: Artist, ids: Sequence[str], k: int) -> None:
  if _told(name, workdir):
    return
  drawn = artist.draw(held_out, ids, k, CANDIDATES, SAMPLING)
  with writing_generations(workdir, name) as writer:
    for id_, codes in zip(ids, drawn):
      prompt = held_out.document(id_)["caption"]
      writer.add(prompt, id=id_, candidates=scored(held_out, artist, prompt, codes),
                 retrieved=_documents(held_out, artist, id_, k), truth=held_out.drawing(id_), guidance=SAMPLING.guidance)


def scored(held_out: HeldOut, artist: Artist, prompt: str, codes: np.ndarray) -> list[tuple[np.ndarray, float]]:
  """(picture, CLIP score with the prompt) of candidates int32[N, I]."""
  pictures = held_out.pictures(artist.vocabulary, codes)
  scores = held_out.encoder.encode_images(pictures) @ held_out.encoder.encode_text([prompt])[0]
  return [(p, float(s)) for p, s in zip(pictures, scores)]


def _documents(held_out: HeldOut, artist: Artist, id_: str, k: int):
  found = held_out.retrieved(id_, k)
  if not found:
    return []
  pictures = held_out.pictures(artist.vocabulary, [d["image"] for d, _ in found])
  return [(d["id"], d["caption"], score, picture) for (d, score), picture in zip(found, pictures)]


def _infill(workdir: Path, held_out: HeldOut, artist: Artist, ids: Sequence[str]) -> None:
  """The lower right quarter and what touches it is drawn anew, with one retrieved document."""
  if _told("infill", workdir):
    return
  grid = artist.layout.grid
  cells = np.zeros((grid, grid), bool)
  cells[grid // 2:, grid // 4:] = True
  k = min(1, artist.layout.max_documents - 1)
  filled = artist.fill(held_out, ids, cells.reshape(-1), k, INFILL_CANDIDATES, SAMPLING)
  side = held_out.image.image_size // grid
  hole = np.kron(cells, np.ones((side, side), bool))
  with writing_generations(workdir, "infill") as writer:
    for id_, codes in zip(ids, filled):
      given = held_out.drawing(id_).copy()
      given[hole] = 200
      prompt = held_out.document(id_)["caption"]
      writer.add(prompt, id=id_, candidates=scored(held_out, artist, prompt, codes), given=given,
                 retrieved=_documents(held_out, artist, id_, k), truth=held_out.drawing(id_))


def _edit(workdir: Path, held_out: HeldOut, artist: Artist, count: int) -> None:
  if _told("edit", workdir):
    return
  query = held_out.text.encode(templates.EDIT_QUERY)
  before, instructions, after = [], [], []
  for sample in itertools.islice(seqio_adapter.examples(sft.EDIT, SPLIT), count):
    tokens = sample["tokens"]
    images = tokens[artist.vocabulary.is_image(tokens)].reshape(2, -1)
    breaks = np.flatnonzero(tokens == artist.vocabulary.break_id)
    before.append(images[0])
    after.append(images[1])
    instructions.append(tokens[breaks[1] + 1:breaks[2]])
  edited = artist.edit(query, list(zip(before, instructions)), INFILL_CANDIDATES, EDITING)
  with writing_generations(workdir, "edit") as writer:
    for source, instruction, target, codes in zip(before, instructions, after, edited):
      source_picture, target_picture = held_out.pictures(artist.vocabulary, [source, target])
      pictures = held_out.pictures(artist.vocabulary, codes)
      writer.add(held_out.text.decode(instruction), candidates=[(p, None) for p in pictures], given=source_picture,
                 truth=target_picture)


def _caption(workdir: Path, held_out: HeldOut, artist: Artist, ids: Sequence[str]) -> None:
  if _told("caption", workdir):
    return
  captions = describe(held_out, artist, ids)
  with writing_generations(workdir, "caption") as writer:
    for id_, caption in zip(ids, captions):
      writer.add(templates.CAPTION_QUERY, id=id_, candidates=[(caption, None)], given=held_out.drawing(id_),
                 truth=held_out.document(id_)["caption"])


def describe(held_out: HeldOut, artist: Artist, ids: Sequence[str]) -> list[str]:
  """Greedy captions of held-out drawings."""
  query = held_out.text.encode(templates.CAPTION_QUERY)
  return [held_out.text.decode(c) for c in artist.describe(query, [held_out.document(i)["image"] for i in ids], GREEDY)]
