"""Captions of a drawing: its name and the artist's, in a few short templates."""

import hashlib

# How captions spell the sets. Short, so that few tokens carry the artist.
STYLE_NAMES = {
    "noto": "noto",
    "noto-v1": "noto v1",
    "twemoji": "twemoji",
    "openmoji": "openmoji",
    "emojione": "emojione",
    "fluent-emoji-flat": "fluent",
    "fxemoji": "fxemoji",
}
_TEMPLATES = ("{name}, {style}", "{style} {name}", "{name} by {style}", "{name}, {style} style", "{a_name}, {style}")
NUM_TEMPLATES = len(_TEMPLATES)
_LONG = 5  # words in a name from which on only the shortest template is used
_COUNTABLE = frozenset({"animals and nature", "food and drink", "objects", "travel and places", "smileys and emotion"})
_CONSONANT_SOUND = ("uni", "eu", "ewe", "one", "u-")  # begin with a vowel, take `a`


def _with_article(name: str) -> str:
  """`red heart` → `a red heart`; plurals and names that begin with a digit stay bare."""
  if name.endswith("s") or name[0].isdigit():
    return name
  vowel = name.startswith(("a", "e", "i", "o", "u", "hour")) and not name.startswith(_CONSONANT_SOUND)
  return ("an " if vowel else "a ") + name


def caption(name: str, style: str, skin_tone: str = "", index: int = 0, category: str = "") -> str:
  """A caption; pure.

  Args:
    name: the thing, such as "red heart".
    style: the set's name, a key of `STYLE_NAMES`.
    skin_tone: "", "dark" or, for two people, "light+dark".
    index: which template, 0 … `NUM_TEMPLATES` - 1; 0 is the plain "red heart, twemoji". Long names, and those with a
      skin tone, have that one only.
    category: the thing's; the template with an article falls back to the plain one where an article would be odd.
  """
  template = _TEMPLATES[index]
  if skin_tone or len(name.split()) >= _LONG or ("{a_name}" in template and category not in _COUNTABLE):
    template = _TEMPLATES[0]
  a_name = _with_article(name)
  if skin_tone:
    name += f", {skin_tone.replace('+', ' and ')} skin"
  return template.format(name=name, a_name=a_name, style=STYLE_NAMES[style])


def template_index(record_id: str) -> int:
  """The template of a record: a stable hash of its id. Half of all records have the plain one."""
  value = hashlib.sha256(record_id.encode()).digest()[0]
  return 0 if value < 128 else 1 + value % (NUM_TEMPLATES - 1)
