"""Captions as people and pages wrote them → captions to train on: small pure functions, chosen by name in gin.

    Corpus.cleaning = ('unescape', 'strip_tags', 'strip_urls', 'normalise', 'collapse_spaces')
"""

import difflib
import html
import re
from typing import Callable, Sequence
import unicodedata

from cm3leon_jax.errors import InputError

Step = Callable[[str], str]
_TAG = re.compile(r"<[A-Za-z/!][^<>]{0,300}>")
_URL = re.compile(r"\b(?:https?://|www\.)\S+", re.IGNORECASE)
_ADDRESS = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_HANDLE = re.compile(r"(?<!\w)@\w{2,}")
_FILE = re.compile(r"^\s*(?:(?:IMG|DSC|DSCN|DSCF|DCIM|PXL|MVIMG|P|scan|image|photo|picture)[\W_]*)?\d[\d\W_]*\s*$", re.IGNORECASE)
_SUFFIX = re.compile(r"\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg)\s*$", re.IGNORECASE)
_PERSON = re.compile(r"<PERSON>", re.IGNORECASE)


def unescape(caption: str) -> str:
  """`salt &amp; pepper` → `salt & pepper`; twice, as pages often escape what was escaped."""
  return html.unescape(html.unescape(caption))


def strip_tags(caption: str) -> str:
  """`a <b>red</b> hat` → `a red hat`."""
  return _TAG.sub(" ", caption)


def strip_urls(caption: str) -> str:
  """Leaves web addresses out."""
  return _URL.sub(" ", caption)


def strip_addresses(caption: str) -> str:
  """Leaves mail addresses and @handles out: they say who, not what."""
  return _HANDLE.sub(" ", _ADDRESS.sub(" ", caption))


def strip_file_names(caption: str) -> str:
  """`IMG_2041.JPG` → ``, `old_harbour.png` → `old harbour`; a sentence stays."""
  bare = _SUFFIX.sub("", caption)
  if bare != caption:
    bare = bare.replace("_", " ")
  return "" if _FILE.match(bare) else bare


def name_persons(caption: str) -> str:
  """`<PERSON> at a desk` → `person at a desk`: Conceptual 12M's mark for a name. Before `strip_tags`."""
  return _PERSON.sub("person", caption)


def normalise(caption: str) -> str:
  """Unicode NFC without control characters, zero-width characters and soft hyphens; one byte sequence for one text."""
  kept = (c if unicodedata.category(c) not in ("Cc", "Cf") or c in "\u200c\u200d" else " " if c.isspace() else "" for c in caption)
  return unicodedata.normalize("NFC", "".join(kept))


def lower(caption: str) -> str:
  """Lower case."""
  return caption.lower()


def collapse_spaces(caption: str) -> str:
  """Runs of white space become one space; none at the ends."""
  return " ".join(caption.split())


STEPS: dict[str, Step] = {f.__name__: f for f in (
    unescape, name_persons, strip_tags, strip_urls, strip_addresses, strip_file_names, normalise, lower, collapse_spaces)}
DEFAULT = ("unescape", "name_persons", "strip_tags", "strip_urls", "normalise", "collapse_spaces")


def steps(names: Sequence[str]) -> list[Step]:
  """The functions of those names.

  Raises:
    InputError: an unknown name, with the nearest known.
  """
  for name in names:
    if name not in STEPS:
      near = difflib.get_close_matches(name, STEPS, 2, 0.5) or list(STEPS)
      raise InputError(f"Corpus.cleaning: no step {name!r}; the nearest are {', '.join(near)}")
  return [STEPS[name] for name in names]


def clean(caption: str, names: Sequence[str]) -> str:
  """A caption through the steps of those names, in order; may come out empty."""
  for step in steps(names):
    caption = step(caption)
  return caption
