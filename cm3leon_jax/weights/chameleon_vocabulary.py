"""Chameleon's ids and ours: the same tokens, in other places. Its names, of `vocabulary_map` in config.json, decide.

Chameleon's names are CM3Leon's: `<racm3:break>`, `<eoss>`, `<sentinel:0>` …; image code n is IMGIMG…Z, where
letters A … J stand for the digits of n.
"""

import re
from typing import NamedTuple

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.vocabulary import EOS_ID, PAD_ID, UNK_ID, Vocabulary

# The tokens that our ranges begin with, or need; `</s>` is what ends a text there.
_TEXT_ROLES = {"<pad>": PAD_ID, "</s>": EOS_ID, "<unk>": UNK_ID}
_BREAK, _EOSS = "<racm3:break>", "<eoss>"
_DIGITS = "ABCDEFGHIJ"
_CODE = re.compile(r"IMGIMG([A-J]+)Z")
_SENTINEL = re.compile(r"<sentinel:(\d+)>")
_OTHER = re.compile(r"<reserved\d+>|<s>|<image>")  # neither text nor a role of ours


class Table(NamedTuple):
  """Attributes: our ranges; `theirs` int32[V], the public id of each of our ids; what stands in for what."""

  vocabulary: Vocabulary
  theirs: np.ndarray
  notes: list[str]


def code_name(code: int) -> str:
  return f"IMGIMG{''.join(_DIGITS[int(digit)] for digit in str(code))}Z"


def from_names(names: dict[str, int], size: int, where: str) -> Table:
  """Sorts Chameleon's tokens into text | codes | specials.

  Text pieces keep their order behind <pad>, <eos>, <unk>. A role that no name has is given to a reserved id. What has
  no role (`<s>`, `<image>`, reserved and unnamed ids) comes last, as our reserved ids.

  Args:
    names: name → id.
    size: rows of the table, V.
    where: the file, for messages.

  Raises:
    InputError: two names share an id, an id is outside the table, codes are missing, or no id is left for a role.
  """
  if not all(isinstance(id_, int) for id_ in names.values()):
    raise InputError(f"{where}: vocabulary_map must map names to ids")
  outside = [name for name, id_ in names.items() if not 0 <= id_ < size]
  if outside or len(set(names.values())) != len(names):
    raise InputError(f"{where}: vocabulary_map gives {'an id outside the table to ' + outside[0] if outside else 'one id twice'}")
  codes = {int("".join(str(_DIGITS.index(d)) for d in m[1])): id_
           for name, id_ in names.items() if (m := _CODE.fullmatch(name))}
  sentinels = {int(m[1]): id_ for name, id_ in names.items() if (m := _SENTINEL.fullmatch(name))}
  for what, found in (("image codes (IMGIMG…Z)", codes), ("sentinels", sentinels)):
    if sorted(found) != list(range(len(found))):
      raise InputError(f"{where}: vocabulary_map lacks some {what}: {len(found)} names, the highest number is {max(found)}")
  if not codes:
    raise InputError(f"{where}: vocabulary_map names no image codes (IMGIMG…Z)")
  role_names = {*_TEXT_ROLES, _BREAK, _EOSS}
  special = {*codes.values(), *sentinels.values(), *(names[n] for n in role_names if n in names),
             *(id_ for name, id_ in names.items() if _OTHER.fullmatch(name))}
  text = sorted(id_ for id_ in names.values() if id_ not in special)
  taken = {*special, *text}
  free = sorted([id_ for id_ in range(size) if id_ not in taken]
                + [id_ for name, id_ in names.items() if re.fullmatch(r"<reserved\d+>", name)])
  notes = []

  def role(name):
    if name in names:
      return names[name]
    if not free:
      raise InputError(f"{where}: vocabulary_map has no {name}, and no reserved id to take its place")
    notes.append(f"{name} is not in the vocabulary; id {free[0]} takes its place")
    return free.pop(0)

  ids = [*(role(name) for name in _TEXT_ROLES), *text]
  text_size = len(ids)
  ids += [codes[n] for n in range(len(codes))] + [role(_BREAK), role(_EOSS)]
  ids += [sentinels[n] for n in range(len(sentinels))] or [role("<sentinel:0>")]
  num_sentinels = max(1, len(sentinels))
  ids += sorted(set(range(size)) - set(ids))
  vocabulary = Vocabulary(text_size=text_size, image_size=len(codes), num_sentinels=num_sentinels, total_size=size)
  return Table(vocabulary, np.asarray(ids, np.int32), notes)


def names_of(vocabulary: Vocabulary) -> dict[str, int]:
  """Names for a model that never was Chameleon's: its own ids stay, with the names that Chameleon's tokens of that kind have.

  `<image>`, where a picture is put into a prompt, is the first reserved id, if there is one.
  """
  v = vocabulary
  names = dict(_TEXT_ROLES) | {f"<text:{i}>": i for i in range(UNK_ID + 1, v.text_size)}
  names |= {code_name(n): v.image_start + n for n in range(v.image_size)}
  names |= {_BREAK: v.break_id, _EOSS: v.eoss_id} | {f"<sentinel:{n}>": v.sentinel(n) for n in range(v.num_sentinels)}
  rest = range(v.sentinel_end, v.total_size)
  return names | {f"<reserved{i:05d}>" if n else "<image>": i for n, i in enumerate(rest)}
