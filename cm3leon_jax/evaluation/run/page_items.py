"""Items of a run as a page shows them: pictures embedded, answers counted, numbers in words."""

from collections import Counter
import dataclasses
from typing import Any, Mapping, Sequence

from PIL import Image

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation.report_pictures import data_uri
from cm3leon_jax.evaluation.run import page_data, page_numbers
from cm3leon_jax.evaluation.run.page_data import Run

LARGE, SMALL = 256, 112  # pixels kept of the pictures that are compared, and of those beside them
_DRAWN_SMALL = 96  # pictures of at most so many pixels are enlarged without smoothing
_CHOICES = 5


@dataclasses.dataclass(frozen=True)
class Tile:
  """A picture and what stands under it. `uri` is empty where the file is missing or broken."""

  uri: str
  alt: str
  bold: str = ""
  caption: str = ""
  pixels: bool = False  # so small that it is enlarged


@dataclasses.dataclass(frozen=True)
class Shown:
  """An item.

  Attributes:
    id: of the item.
    title: prompt or question; empty for captioning.
    score: the item's own number with its name; empty where it has none.
    large: the pictures to look at: drawn and real, or the one that was asked about.
    small: (tag, tiles): retrieved documents, other candidates.
    said: the text that the model wrote.
    lines: (tag, text) below it: what people wrote.
    choices: (answer, log-probability or "", is the true one) best first, where answers were ranked.
    error: why there is nothing.
  """

  id: str
  title: str
  score: str = ""
  large: tuple[Tile, ...] = ()
  small: tuple[tuple[str, tuple[Tile, ...]], ...] = ()
  said: str | None = None
  lines: tuple[tuple[str, str], ...] = ()
  choices: tuple[tuple[str, str, bool], ...] = ()
  error: str = ""


class Album:
  """Embeds pictures of a run, and counts those that are not there."""

  def __init__(self, run: Run):
    self.run = run
    self.missing: set[str] = set()

  def tile(self, file: str, alt: str, side: int, bold: str = "", caption: str = "") -> Tile:
    if not file:
      return Tile("", alt, bold, caption)
    path = page_data.picture(self.run, file)
    try:
      uri = data_uri(path, side, jpeg=True)
      with Image.open(path) as opened:
        pixels = max(opened.size) <= _DRAWN_SMALL
    except (InputError, OSError):
      self.missing.add(file)
      return Tile("", alt, bold, caption)
    return Tile(uri, alt, bold, caption, pixels)


def show(album: Album, id: str, line: Mapping[str, Any] | None, score: float | None) -> Shown:
  """An item of the page of one run.

  Args:
    album: of the run.
    id: of the item.
    line: of generations/; None where it is missing.
    score: the item's own number.
  """
  run = album.run
  words = item_in_words(run, score)
  if line is None:
    return Shown(id, f"item {id}", words, error="its line is missing in generations/")
  title = heading(run, line)
  if line.get("error"):
    return Shown(id, title, words, error=f"not generated: {line['error']}")
  if run.metric == "fid":
    return Shown(id, title, words, _drawn(album, line), _beside(album, line))
  return Shown(id, title, words, _asked(album, line, title), said=said(line), lines=people(run, line),
               choices=ranked(line))


def heading(run: Run, line: Mapping[str, Any]) -> str:
  if run.metric == "captions":
    return ""
  asked = line.get("question") if run.metric != "fid" else ""
  return str(asked or line.get("prompt") or f"item {line.get('id')}")


def item_in_words(run: Run, score: float | None) -> str:
  if score is None:
    return ""
  return f"{page_numbers.ITEM_LABELS[run.item_key]} {page_numbers.item_in_print(run.metric, score)}"


def pick(line: Mapping[str, Any] | None) -> Mapping[str, Any]:
  """The best candidate; empty where there is none."""
  found = (line or {}).get("candidates") or [{}]
  return found[0]


def said(line: Mapping[str, Any] | None) -> str | None:
  """The text of the best candidate; None where choices were ranked instead."""
  if line is None or not line.get("candidates"):
    return None
  return str(pick(line).get("text") or "").strip()


def people(run: Run, line: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
  """What people wrote: captions one by one; answers counted."""
  written = [str(text) for text in line.get("references") or ()]
  if run.metric == "vqa":
    counted = [f"{answer} × {n}" if n > 1 else answer for answer, n in Counter(written).most_common()]
    return (("people", " · ".join(counted)),) if counted else ()
  if run.metric == "captions":
    return tuple(("people" if n == 0 else "", text) for n, text in enumerate(written))
  found = [("right answer", text) for text in written[:1]] if run.metric == "scienceqa" else []
  if found and line.get("choices"):
    found.append(("choices", " · ".join(map(str, line["choices"]))))
  return (*found, ("the model read", str(line.get("prompt") or "")))


def _drawn(album: Album, line: Mapping[str, Any]) -> tuple[Tile, ...]:
  best, prompt = pick(line), line.get("prompt", "")
  return (
    album.tile(best.get("file") or "", f"drawn by the model: {prompt}", LARGE, "drawn", _score(best.get("score"))),
    album.tile(line.get("real") or "", f"the real picture: {prompt}", LARGE, "real"),
  )


def _beside(album: Album, line: Mapping[str, Any]) -> tuple[tuple[str, tuple[Tile, ...]], ...]:
  retrieved = tuple(
    album.tile(d.get("file") or "", f"retrieved: {d.get('caption') or d.get('id')}", SMALL, _score(d.get("score")),
               str(d.get("caption") or "")) for d in line.get("retrieved") or ())
  rest = tuple(
    album.tile(c.get("file") or "", f"candidate of rank {rank}: {line.get('prompt', '')}", SMALL, f"{rank}",
               _score(c.get("score"))) for rank, c in enumerate(line.get("candidates", ())[1:], 2))
  return tuple((tag, tiles) for tag, tiles in (("retrieved and read first", retrieved),
                                               ("other candidates, by rank", rest)) if tiles)


def _asked(album: Album, line: Mapping[str, Any], title: str) -> tuple[Tile, ...]:
  file = line.get("given") or line.get("real")
  return (album.tile(file, f"the picture that was given{': ' + title if title else ''}", LARGE),) if file else ()


def ranked(line: Mapping[str, Any]) -> tuple[tuple[str, str, bool], ...]:
  """The first few of the ranked choices, and the true answer wherever it stands."""
  chances = line.get("choice_log_probs") or ()
  choices = [str(c) for c in line.get("choices") or ()]
  if not chances or len(chances) != len(choices):
    return ()
  true = set(map(str, (line.get("references") or ())[:1]))
  order = sorted(range(len(choices)), key=lambda i: -chances[i])
  kept = [(rank, i) for rank, i in enumerate(order, 1) if rank <= _CHOICES or choices[i] in true]
  return tuple((f"{rank}. {choices[i]}", f"{chances[i]:.2f}".replace("-", "−"), choices[i] in true) for rank, i in kept)


def _score(value: Any) -> str:
  found = page_data.number(value)
  return "" if found is None else f"{found:.3f}".replace("-", "−")


def sections(run: Run, album: Album, ends: int, random: int) -> list[tuple[str, Sequence[Shown]]]:
  """(`worst`, items), (`best`, items), (`random`, items)."""
  scores = run.scores()
  groups = page_data.choose(scores, [str(item["id"]) for item in run.items], ends, random)
  lines = page_data.generations(run, {id for group in groups for id in group})
  return [(name, [show(album, id, lines.get(id), scores.get(id)) for id in group])
          for name, group in zip(("worst", "best", "random"), groups)]
