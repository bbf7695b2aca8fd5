"""Tokens of a caption as COCO's evaluation sees them: Penn Treebank tokens, lower case, punctuation dropped.

The reference is Stanford's PTBTokenizer 3.4.1 (Java), which pycocoevalcap calls with
`-preserveLines -lowerCase`, and whose quirks are part of every published CIDEr: brackets
become `-lrb-` and stay, abbreviations keep their full stop, "can't" is "ca n't".

`tokenize` needs no Java: of the 25,014 captions of COCO val2017, which played no part in writing
these rules, 99.98 % come out identical (nltk's TreebankWordTokenizer with the same punctuation
rule: 99.76 %, slower, and five packages more, hence rules of our own). `tokenize_java` runs the
reference. What differs most: it reads all captions as one text, so that "… reads K." loses its
full stop to a caption that begins with "A" on the next line.
"""

import re
from typing import Sequence

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import java

# pycocoevalcap's list. It is in upper case and the tokens in lower, so brackets stay: kept, to be equal.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

_RENAMED = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "£": "#",
            '"': "''", "…": "..."}

_PLAIN_QUOTES = str.maketrans({"‘": "`", "“": '"', "”": '"', "\u00a0": " ", "\ufe0f": None})

# Words that the Treebank splits in two.
_CONTRACTIONS = re.compile(
    r"\b(?:(can)(not)|(gon|wan)(na)|(got)(ta)|(gim|lem)(me)|(more)('n))\b|(?<!\w)('t)(is|was)\b|\b(y')(all)\b", re.I)

# Abbreviations whose full stop stays with them, in any case (from the reference, asked word by word).
_ABBREVIATIONS = """jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu thurs fri ala ariz calif colo conn
  ct dak fla ga ind kans? ky md mich minn mo mont neb nev okla penn tenn va vt wisc? wyo mr mrs ms drs? profs? sens?
  reps? attys? lt col gen messrs govs? adm rev maj sgt cpl pvt capt ste? ave pres lieut hon brig cmdr pfc spc supts?
  det jr sr bros ph blvd rd esq inc cos? corp pty ltd plc dept assn univ intl sys etc vs al seq bldg ft mt cf sq
  tel""".split()
# These only when capitalised, for they are words too; and these only before a number.
_CAPITALISED = "Az Ark Del Ill La Mass Miss Ore Pa Tex Wash".split()
_BEFORE_NUMBER = "nos? figs? vols? pp? op prop ca arts? secs?".split()

_CURLY_CLITIC = re.compile(r"’(?=(?:s|m|d|re|ve|ll|t)\b)", re.I)  # "isn’t"; "d’ivoire" keeps its sign
_JOINT = r"(?:[-_/.@]|(?<=[A-Z])&(?=[A-Z])|(?<=\d)[,:](?=\d))"
# After a single letter and a full stop these begin a sentence, so that the stop is not the letter's.
_OPENS_SENTENCE = """A An The This That These He She It We You They There Here Her Our Their In At But So If As When
  While What One Some Many After Now Then""".split()
_CLITIC = r"'(?:s|m|d|re|ve|ll)\b"
_TOKEN = re.compile(
    r"https?://\S+|www\.\S+|[\w.+-]+@\w[\w-]*(?:\.\w+)+"
    r"|</?[A-Za-z]\w*/?>|[:;=]-?[()]"
    rf"|\b(?:(?i:{'|'.join(_ABBREVIATIONS)})|{'|'.join(_CAPITALISED)})\.(?!\w)"
    rf"|\b(?i:{'|'.join(_BEFORE_NUMBER)})\.(?=\s*\d)"
    rf"|\b[A-Za-z](?:\.[A-Za-z])+\b\.?|\b[A-Za-z]\.(?!\w|\s+(?:{'|'.join(_OPENS_SENTENCE)})\b)"
    r"|\d+(?:[:,/.-]\d+)+(?=[A-Za-z])"  # "5:30" of "5:30pm"
    r"|\.\d+\b"
    r"|[A-Za-z]+(?=(?i:n't)\b)|(?i:n't)\b"  # "do" and "n't" of "don't"
    rf"|(?i:{_CLITIC})"
    r"|'n'|'(?i:n|em|til|cause|t)\b|(?<!\w)'\d\ds?\b|y'(?=\s)"
    r"|\b(?i:o'clock|ma'am|[odl]['’][a-z]{2,})\b"
    # A word: runs of letters and digits joined by one of - _ / . @, by & between capitals, by , : between digits.
    rf"|[^\W_]+(?:{_JOINT}[^\W_]+?(?=(?i:n't)\b)|{_JOINT}[^\W_]+)*"
    r"|\.{2,}|-{2,}|[?!]+|\*+|_+|''|``"
    r"|[^\s\U00010000-\U0010ffff]")  # the reference cannot read signs beyond 16 bits and drops them

_DROPPED_TOO = re.compile(r"\.{2,}|-{2,}|…|’")
_PLAIN = re.compile(r"[A-Za-z ,]*\.?\s*")  # nine captions of ten: words, commas, a closing full stop
_TWO_WORDS = frozenset("cannot gonna wanna gotta gimme lemme".split())


def tokenize(caption: str) -> list[str]:
  """Lower-case tokens without COCO's punctuation."""
  if _PLAIN.fullmatch(caption):  # the same result, 10 times faster
    words = caption.lower().replace(",", " ").replace(".", " ").split()
    if words and _TWO_WORDS.isdisjoint(words) and ("." not in caption or not _keeps_stop(caption.split(",")[-1])):
      return words
  text = _CURLY_CLITIC.sub("'", caption.translate(_PLAIN_QUOTES))
  text = _CONTRACTIONS.sub(lambda m: " ".join(g for g in m.groups() if g), text)
  tokens = ("".join(map(_RENAMED.get, token, token)).lower() for token in _TOKEN.findall(text))
  return [token for token in tokens if token not in PUNCTUATION and not _DROPPED_TOO.fullmatch(token)]


def _keeps_stop(text: str) -> bool:
  """Whether the last word of a text that ends in a full stop is an abbreviation."""
  last = text.split()[-1]
  return len(last) <= 7 and _TOKEN.match(last).group().endswith(".") and last != "."


def tokenize_java(captions: Sequence[str]) -> list[list[str]]:
  """The reference itself, through pycocoevalcap and Java.

  Raises:
    InputError: Java or pycocoevalcap is missing.
  """
  # One line a caption: every kind of line break that Java knows becomes a space, or the rows would shift.
  lines = [re.sub(r"[\n\r\f\v\x85\u2028\u2029]", " ", caption) for caption in captions]
  # The last caption's tokens are lost when it is empty, so a word ends the list.
  with java.on_path("--tokenizer=ptb") as folder:
    java.check_files("--tokenizer=ptb", [folder / "tokenizer" / "stanford-corenlp-3.4.1.jar"],
                     "install pycocoevalcap 1.2 anew, it holds it")
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    rows = PTBTokenizer().tokenize({i: [{"caption": line}] for i, line in enumerate(lines + ["end"])})
  if len(rows) <= len(lines):
    raise InputError(f"--tokenizer=ptb: Java gave {len(rows)} lines for {len(lines)} captions; what it said stands above")
  return [rows[i][0].split() for i in range(len(lines))]
