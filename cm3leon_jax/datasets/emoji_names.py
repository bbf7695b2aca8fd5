"""What a picture shows: one id and one English name for the same thing in every set.

The sets name things differently (`two-hearts`, `2hearts`); code points agree. A thing is its
code points without skin tones and variation selectors; skin tone and gender are parsed from
them. A picture without code points (a brand, a mascot) keeps its normalised name.
"""

import dataclasses
import functools
import re
from typing import Sequence
import unicodedata

import emoji

from cm3leon_jax.datasets import emoji_aliases

TONES = {0x1F3FB: "light", 0x1F3FC: "medium-light", 0x1F3FD: "medium", 0x1F3FE: "medium-dark", 0x1F3FF: "dark"}
_SELECTORS = (0xFE0E, 0xFE0F)
_ZWJ, _WOMAN_SIGN, _MAN_SIGN, _RIGHT_ARROW = 0x200D, 0x2640, 0x2642, 0x27A1
_MAN, _WOMAN, _PERSON = 0x1F468, 0x1F469, 0x1F9D1
_CHILDREN = (0x1F466, 0x1F467, 0x1F9D2, 0x1F476)
_HEART, _KISS_MARK, _HANDSHAKE = 0x2764, 0x1F48B, 0x1F91D
# Code points of their own for men and women: → (the neutral thing, gender).
_GENDERED = {
    (_MAN,): ("1f9d1", "man"), (_WOMAN,): ("1f9d1", "woman"),
    (0x1F466,): ("1f9d2", ""), (0x1F467,): ("1f9d2", ""),  # boy and girl: neither man nor woman
    (0x1F474,): ("1f9d3", "man"), (0x1F475,): ("1f9d3", "woman"),
    (0x1F934,): ("1fac5", "man"), (0x1F478,): ("1fac5", "woman"),
    (0x1F385,): ("1f9d1-200d-1f384", "man"), (0x1F936,): ("1f9d1-200d-1f384", "woman"),
    (0x1F57A,): ("1f483", "man"), (0x1F483,): ("1f483", "woman"),
    (0x1FAC3,): ("1fac4", "man"), (0x1F930,): ("1fac4", "woman"),
    (0x1F46B,): ("1f46d", ""), (0x1F46C,): ("1f46d", ""), (0x1F46D,): ("1f46d", ""),
}
_NEUTRAL_COUPLES = {"kiss person person": "kiss", "couple with heart person person": "couple with heart"}
_TONE_WORDS = re.compile(r"[ -](medium[ -]light|medium[ -]dark|light|medium|dark)[ -]skin[ -]tone\b")
_ROLES = re.compile(r"\b((wo)?m[ae]n|person|people)\b(?!')")  # not those of `woman's hat`
_DIRECTIONS = (
    (re.compile(r"\b(left|right)(wards?)?\b"), "side"),
    (re.compile(r"\b(counter|anti)?clockwise\b"), "turning"),
    (re.compile(r"\b(waxing|waning)\b"), "phase"),
    (re.compile(r"\b(first|last) quarter\b"), "quarter"),
)
PRIVATE_USE = range(0xE000, 0xF900)
# Blocks whose official Unicode names old sets use, such as `black-spade-suit`.
_SYMBOLS = (range(0x203C, 0x3300), range(0x1F000, 0x1FB00))


@dataclasses.dataclass(frozen=True)
class Thing:
  """What one picture shows.

  Attributes:
    id: code points in hex ("2764", "1f3c3-200d-2642"), or the normalised name ("fox-crying").
    name: English, lower case ASCII ("red heart", "man running", "flag of norway").
    base: the same for all genders and directions of a thing; splits keep it together.
    skin_tone: "", "light", "medium-light", "medium", "medium-dark", "dark", or "light+dark" for two people.
    gender: "", "man", "woman", or "person" where the thing also exists as man and woman.
  """

  id: str
  name: str
  base: str
  skin_tone: str = ""
  gender: str = ""


def clean(text: str) -> str:
  """A name as captions spell it: lower case ASCII words, single spaces."""
  text = text.replace("’", "'").replace("&", " and ").replace("#", " hash").replace("*", " asterisk")
  text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
  return " ".join(re.sub(r"[^a-z0-9'.-]+", " ", text).split())


def squash(text: str) -> str:
  """A name's key for comparing sets: `Two hearts`, `two-hearts` → `twohearts`."""
  return re.sub(r"[^a-z0-9]", "", clean(text))


def direction_key(name: str) -> str:
  """`left-facing fist` and `right-facing fist` → the same key."""
  for pattern, word in _DIRECTIONS:
    name = pattern.sub(word, name)
  return name


def _variant_key(name: str) -> str:
  """A base id from words, for what CLDR does not list: the name without gender and direction."""
  return "-".join(direction_key(_ROLES.sub("", name)).split()) or name


def to_codes(text: str) -> tuple[int, ...]:
  """`"1f3c3-1f3fb-200d-2642-fe0f"` → code points without variation selectors."""
  return tuple(c for c in (int(x, 16) for x in text.split("-")) if c not in _SELECTORS)


def to_id(codes: Sequence[int]) -> str:
  return "-".join(f"{c:x}" for c in codes)


def _without_tones(codes: Sequence[int]) -> tuple[int, ...]:
  return tuple(c for c in codes if c not in TONES) or tuple(codes)  # a tone alone is a colour swatch


def _english(codes: tuple[int, ...], raw: str) -> str:
  name = clean(raw.strip(":").replace("_", " "))
  flag = codes[0] in range(0x1F1E6, 0x1F200) or 0xE007F in codes
  return f"flag of {name}" if flag else name


@functools.cache
def _names() -> dict[tuple[int, ...], str]:
  """Code points → cleaned CLDR name, of all emoji (components left out)."""
  names: dict[tuple[int, ...], str] = {}
  for text, data in emoji.EMOJI_DATA.items():
    codes = tuple(c for c in map(ord, text) if c not in _SELECTORS)
    names.setdefault(codes, _english(codes, data["en"]))
  return names


@functools.cache
def _by_name() -> dict[str, tuple[int, ...]]:
  """Cleaned CLDR name → code points."""
  table: dict[str, tuple[int, ...]] = {}
  for codes, name in _names().items():
    table.setdefault(name, codes)
  return table


@functools.cache
def _mirrored() -> dict[str, str]:
  """Base id → the smallest base id among things that differ in direction only."""
  groups: dict[str, set[str]] = {}
  for codes, name in _names().items():
    if not any(c in TONES for c in codes):
      groups.setdefault(direction_key(name), set()).add(_neutral(codes)[0])
  return {base: min(bases) for bases in groups.values() if len(bases) > 1 for base in bases}


def _neutral(codes: tuple[int, ...]) -> tuple[str, str]:
  """Toneless code points → (base id before mirroring, gender: "", man or woman)."""
  if codes in _GENDERED:
    return _GENDERED[codes]
  parts = [p for p in _split(codes) if p not in ((_WOMAN_SIGN,), (_MAN_SIGN,), (_RIGHT_ARROW,))]
  people = [p[0] for p in parts if p[0] in (_MAN, _WOMAN, _PERSON)]
  if people and (_KISS_MARK,) in parts:
    return "1f48f", ""
  if len(people) == 2 and (_HEART,) in parts:
    return "1f491", ""
  if len(people) == 2 and (_HANDSHAKE,) in parts:
    return "1f46d", ""
  if people and len(parts) > 1 and all(p[0] in (_MAN, _WOMAN, _PERSON, *_CHILDREN) for p in parts):
    return "1f46a", ""
  signs = {"man" for c in codes if c in (_MAN, _MAN_SIGN)} | {"woman" for c in codes if c in (_WOMAN, _WOMAN_SIGN)}
  alone = codes in ((_MAN_SIGN,), (_WOMAN_SIGN,))
  gender = signs.pop() if len(signs) == 1 and not alone else ""
  neutral = [(_PERSON,) if p[0] in (_MAN, _WOMAN) else p for p in parts] or [codes]
  return "-200d-".join(to_id(p) for p in neutral), gender


def _split(codes: Sequence[int]) -> list[tuple[int, ...]]:
  """The parts of a sequence between zero-width joiners."""
  parts: list[list[int]] = [[]]
  for c in codes:
    if c == _ZWJ:
      parts.append([])
    else:
      parts[-1].append(c)
  return [tuple(p) for p in parts if p]


@functools.cache
def _gendered_bases() -> frozenset[str]:
  """Base ids that exist as man or woman: without a sign, they are a person."""
  return frozenset(base for base, gender in map(_neutral, map(_without_tones, _names())) if gender)


class NameTable:
  """Squashed name → code points: CLDR names and aliases, the sets' own names, official Unicode names."""

  def __init__(self, known: Sequence[tuple[str, tuple[int, ...]]] = ()):
    """`known`: (name, code points) pairs of sets that state code points; earlier ones win."""
    self._table: dict[str, tuple[int, ...]] = {}
    aliases: list[tuple[str, tuple[int, ...]]] = []
    for text, data in emoji.EMOJI_DATA.items():
      codes = tuple(c for c in map(ord, text) if c not in _SELECTORS)
      names = [data["en"], *data.get("alias", [])]
      if _english(codes, data["en"]).startswith("flag of "):  # a bare `turkey` is the bird
        names = [f"{prefix} {names[0]}" for prefix in ("flag", "flag for", "flag of", "flag for flag")]
        self._table.update((squash(name), codes) for name in names)
      else:
        self._table.setdefault(squash(names[0]), codes)
        aliases += [(name, codes) for name in names[1:]]
    # Shortcode aliases last: some are loose (`:egg:` is the frying pan).
    for name, codes in [*known, *aliases]:
      self._table.setdefault(squash(name), codes)
    for block in _SYMBOLS:
      for c in block:
        name = unicodedata.name(chr(c), "")
        if name:
          self._table.setdefault(squash(name), (c,))

  def find(self, names: Sequence[str]) -> tuple[int, ...] | None:
    """Code points of the first name that is known."""
    for name in names:
      codes = self._table.get(squash(name))
      if codes:
        return codes
    return None


def identify(style: str, name: str, codes: tuple[int, ...] | None, table: NameTable,
             other_names: Sequence[str] = ()) -> Thing:
  """What the picture `name` of set `style` shows.

  Args:
    style: the set.
    name: the picture's name in the set, such as `man-biking-dark-skin-tone`.
    codes: its code points if the set states them.
    table: for sets that do not.
    other_names: the set's aliases for the picture.
  """
  own = emoji_aliases.ALIASES.get((style, name)) or name.replace("-", " ")
  toneless = _TONE_WORDS.sub("", own)
  tones = [tone.replace(" ", "-") for tone in _TONE_WORDS.findall(own)]
  if codes is None:
    codes = table.find([own, *other_names, toneless])
  elif codes[0] in PRIVATE_USE:
    codes = None  # a set's own numbering says nothing about another's
  if codes is None:
    spelled = clean(toneless)
    return Thing(spelled.replace(" ", "-"), spelled, _variant_key(spelled), "+".join(tones))
  if all(c in TONES for c in codes):
    tones = []  # the swatch of a tone
  else:
    tones = [TONES[c] for c in codes if c in TONES] or tones
  return _from_codes(codes, "+".join(dict.fromkeys(tones)), clean(toneless))


def _from_codes(codes: tuple[int, ...], skin_tone: str, own: str) -> Thing:
  """A thing with code points; `own` is its name if CLDR has none."""
  plain = _without_tones(codes)
  name = _names().get(plain) or _TONE_WORDS.sub("", _names().get(codes, own))
  name = _NEUTRAL_COUPLES.get(name, name)
  plain = _by_name().get(name, plain)  # a couple of two tones is spelled with other code points
  base, gender = _neutral(plain)
  if not gender and base in _gendered_bases() and base == to_id(plain):
    gender = "person"
  base = _mirrored().get(base, base)
  if len(plain) == 1 and plain not in _names():  # the sets' names differ, Unicode's is one
    base = _variant_key(clean(unicodedata.name(chr(plain[0]), name)))
  return Thing(to_id(plain), name, base, skin_tone, gender)
