"""Tokens of a caption as COCO's evaluation sees them: Penn Treebank tokens, lower case, punctuation dropped.

The reference is Stanford's PTBTokenizer 3.4.1 (Java), which pycocoevalcap calls with
`-preserveLines -lowerCase`, and whose quirks are part of every published CIDEr: brackets
become `-lrb-` and stay, abbreviations keep their full stop, "can't" is "ca n't".

`tokenize` needs no Java. Identical to the reference came out: 99.98 % of the 25,014 captions of COCO val2017, which
played no part in writing these rules (measured before the rules for odd signs were added; nltk's TreebankWordTokenizer
with the same punctuation rule: 99.76 %, slower, and five packages more, hence rules of our own); 99.7 % of 10,000
captions made to be odd (prices, smileys, fractions, dashes: tests/evaluation/odd_captions.py), on which rules were
corrected; 94 % of 2,000 unseen lines of software documentation (names with dots and underscores). `tokenize_java`
runs the reference. What differs most: it reads all captions as one text, so that "… reads K." loses its full stop to a
caption that begins with "A" on the next line.
"""

import functools
import re
from typing import Sequence

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import java

# pycocoevalcap's list. It is in upper case and the tokens in lower, so brackets stay: kept, to be equal.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

_RENAMED = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "£": "#",
            '"': "''", "…": "..."}

# Signs that the reference cannot read and drops (asked one by one): controls, joiners, dashes (which it makes "--" and
# COCO drops), most currencies, marks of emoji, brackets of East Asia.
_UNREADABLE = """81-84 86-9f 1fbf-1fc1 200b-2012 201b 2024-2025 2027 202a-202e 203c-203d 2043 2045-205e 2060-206f 20a1-20a3
  20a5-20ab 20ad-20c0 20d0-20f0 2150-2152 215f-2182 2185-218b 2e80-2e99 2e9b-2ef3 2f00-2fd5 2ff0-2ffb 3003-3004 3007-3011
  3013-3030 3036-303a 303d-303f fe00-fe19 fe20-fe52 fe54-fe66 fe68-fe6b feff ffe2-ffe4 ffe8-ffee fff9-fffd""".split()
_SIGNS = {"‘": "`", "“": '"', "”": '"', "\u00a0": " ", "\u00ad": None, **dict.fromkeys("«»‹›", ' " '),
          **dict.fromkeys("€¤\x80₠", " $ "), "¢": " cents ",
          "–": "--", "—": "--", "―": "--",
          "¼": " 1/4 ", "½": " 1/2 ", "¾": " 3/4 ", "⅓": " 1/3 ", "⅔": " 2/3 ",
          **{chr(c): " " for part in _UNREADABLE
             for c in range(int(part.split("-")[0], 16), int(part.split("-")[-1], 16) + 1)}}
_PLAIN_SIGNS = str.maketrans(_SIGNS)
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": " "}
_ENTITY = re.compile(f"&({'|'.join(_ENTITIES)});", re.I)

# Words that the Treebank splits in two.
_MAY_CONTRACT = re.compile("[nN][nN]|[tT][tT][aA]|[mM][mM][eE]")
_CONTRACTIONS = re.compile(
    r"\b(?:(can)(not)|(gon|wan)(na)|(got)(ta)|(gim|lem)(me)|(more)('n)(?=\s|$))\b|(?<!\w)('t)(is|was)\b|\b(y')(all)\b", re.I)

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
_LETTER = r"(?:[^\W_\u00b2\u00b3\u00b9\u2070-\u2089\u2155-\u215e\u2460-\u249b\u24ea-\u24ff\u2776-\u2793]|[\u0300-\u036f])"
_OUTSIDE = r"""\s"<>|()"""  # what ends an address
_TOKEN = re.compile(
    r"\s*("  # taken in one go: at a space every alternative would be tried
    r"[A-Za-z]+(?=\s|\Z)|"  # a plain word, the most frequent, first
    rf"(?i:https?)://[^{_OUTSIDE}{{}}]+[^{_OUTSIDE}.!?{{}},-]"
    rf"|www\.(?:[^{_OUTSIDE}.!?{{}},]+\.)+[A-Za-z]{{2,4}}(?:/[^{_OUTSIDE}]+[^{_OUTSIDE}.!?{{}},-])?"
    rf"|[A-Za-z0-9][^{_OUTSIDE}]*@(?:[^{_OUTSIDE}.]+\.)*[^{_OUTSIDE}.]+"
    r"|@[A-Za-z_][A-Za-z0-9_]*|#[A-Za-z]+"
    r"|</?[A-Za-z]\w*/?>|[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]](?![A-Za-z])|[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)"
    r"|\(\d{2,3}\)(?:\d{3,4}[- ]?\d{3,5}|(?= \d{3,4}[- ]?\d{3,5}))"  # the area of a telephone number
    rf"|\b(?:(?i:{'|'.join(_ABBREVIATIONS)})|{'|'.join(_CAPITALISED)})\.(?!\w)"
    rf"|\b(?i:{'|'.join(_BEFORE_NUMBER)})\.(?=\s*\d)"
    r"|\b(?i:ph\.d)\b\.?|\b[A-Za-z](?:\.[A-Za-z])+\b\.?"
    rf"|\b[A-Za-z]\.(?!\w|\s+(?:{'|'.join(_OPENS_SENTENCE)})\b)"
    r"|-{2,}"
    r"|\d+(?:[:,/.-]\d+)+(?=[A-Za-z])"  # "5:30" of "5:30pm"
    r"|\.\d+\b|[-+](?:\d+(?:[.,:]\d+)*|\.\d+)"
    r"|[A-Z]+\$|[Cc]\+\+|[CcFf]#"
    r"|[A-Za-z]+(?=(?i:n't)\b)|(?i:n't)\b"  # "do" and "n't" of "don't"
    rf"|(?i:{_CLITIC})"
    r"|'[nN]'|'(?i:n|em|till?|cause|t)\b|(?<!\w)'\d[1-9]\b|'[2-9]0[sS]?\b|(?i:[yj]')(?=\s|[a-z])"
    r"|\b(?i:o'clock|ma'am|[odl]['’][a-z]{2,}|e'er|nor'easter|c'mon|s'mores|ev'ry|li'l|nat'l)\b"
    r"|\b(?:[A-HJ-XZn]['’](?!(?i:ll|[rv]e)\b)[A-Za-z]{2,}|(?i:dunkin|somethin|ol)'(?!\w))"
    r"|\b[A-Za-z]+[aeiouyAEIOUY]['’](?!(?i:ll|[rv]e|[smdt])\b)[aeiouA-Z][A-Za-z]*"
    # A word: runs of letters and digits joined by one of - _ / . @, by & between capitals, by , : between digits; it
    # keeps a full stop that no sentence ends with.
    rf"|{_LETTER}+(?:{_JOINT}{_LETTER}+?(?=(?i:n't)\b)|{_JOINT}{_LETTER}+)*(?:\.(?=[,;:]))?"
    r"|\.{2,}|[?!]+|\*+|_+|''|``"
    r"|[^\s\U00010000-\U0010ffff])")  # the reference cannot read signs beyond 16 bits and drops them

_DROPPED_TOO = re.compile(r"\.{2,}|-{2,}|…|’")
_PLAIN = re.compile(r"[A-Za-z ,]*\.?\s*")  # nine captions of ten: words, commas, a closing full stop
_TWO_WORDS = frozenset("cannot gonna wanna gotta gimme lemme".split())


def tokenize(caption: str) -> list[str]:
  """Lower-case tokens without COCO's punctuation."""
  if _PLAIN.fullmatch(caption):  # the same result, 10 times faster
    words = caption.lower().replace(",", " ").replace(".", " ").split()
    if words and _TWO_WORDS.isdisjoint(words) and ("." not in caption or not _keeps_stop(caption.rstrip().rpartition(" ")[2])):
      return words
  text = _CURLY_CLITIC.sub("'", caption.translate(_PLAIN_SIGNS))
  if "&" in text:
    text = _ENTITY.sub(lambda m: _ENTITIES[m[1].lower()], text)
  if "'" in text or _MAY_CONTRACT.search(text):
    text = _CONTRACTIONS.sub(lambda m: " ".join(g for g in m.groups() if g), text)
  tokens = (_RENAMED.get(token) or token.replace("(", "-lrb-").replace(")", "-rrb-").lower()
            for token in _TOKEN.findall(text))
  return [token for token in tokens if token not in PUNCTUATION and not _DROPPED_TOO.fullmatch(token)]


@functools.lru_cache(maxsize=1 << 16)
def _keeps_stop(last: str) -> bool:
  """Whether the last word of a text that ends in a full stop is an abbreviation."""
  last = last.rpartition(",")[2]
  return len(last) <= 7 and _TOKEN.match(last)[1].endswith(".") and last != "."


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
