import emoji
import pytest

from cm3leon_jax.datasets import emoji_aliases, emoji_names, npm
from cm3leon_jax.datasets.emoji_names import NameTable, Thing, identify, to_codes

TABLE = NameTable()


def named(name: str, style: str = "emojione") -> Thing:
  return identify(style, name, None, TABLE)


def coded(text: str, name: str = "x") -> Thing:
  return identify("noto", name, to_codes(text), TABLE)


@pytest.mark.parametrize("name, style, thing", [
    ("two-hearts", "emojione", "1f495"), ("2hearts", "fxemoji", "1f495"), ("blackspadesuit", "fxemoji", "2660"),
    ("flag-for-norway", "emojione", "1f1f3-1f1f4"), ("flag-for-flag-france", "noto-v1", "1f1eb-1f1f7"),
    ("koreaflag", "fxemoji", "1f1f0-1f1f7"), ("turkey", "noto-v1", "1f983"), ("egg", "emojione", "1f95a"),
    ("bow", "fxemoji", "1f380"), ("keycap-1", "emojione", "31-20e3"), ("clock2thirty", "fxemoji", "1f55d"),
])
def test_the_sets_agree_through_code_points(name, style, thing):
  table = NameTable([("egg", (0x1F95A,))])  # as noto states it
  assert identify(style, name, None, table).id == thing


@pytest.mark.parametrize("thing, expected", [
    (coded("2764-fe0f"), Thing("2764", "red heart", "2764")),
    (coded("1f1f3-1f1f4"), Thing("1f1f3-1f1f4", "flag of norway", "1f1f3-1f1f4")),
    (coded("1f1e8-1f1ee"), Thing("1f1e8-1f1ee", "flag of cote d'ivoire", "1f1e8-1f1ee")),
    (coded("1f3c3-1f3fd-200d-2640-fe0f-200d-27a1-fe0f"),
     Thing("1f3c3-200d-2640-200d-27a1", "woman running facing right", "1f3c3", "medium", "woman")),
    (coded("1f3c3"), Thing("1f3c3", "person running", "1f3c3", "", "person")),
    (coded("1f468-1f3ff-200d-2695-fe0f"),
     Thing("1f468-200d-2695", "man health worker", "1f9d1-200d-2695", "dark", "man")),
    # The same couple with two tones and without: spelled with other code points, one thing.
    (coded("1f469-1f3fb-200d-1f91d-200d-1f468-1f3ff"),
     Thing("1f46b", "woman and man holding hands", "1f46d", "light+dark", "")),
    (coded("1f9d1-1f3fb-200d-2764-fe0f-200d-1f48b-200d-1f9d1-1f3ff"),
     Thing("1f48f", "kiss", "1f48f", "light+dark", "")),
    (named("man-biking-medium-dark-skin-tone"), Thing("1f6b4-200d-2642", "man biking", "1f6b4", "medium-dark", "man")),
    (coded("1f3fd", "medium-skin-tone"), Thing("1f3fd", "medium skin tone", "1f3fd")),
    (coded("e0a1", "wikidata"), Thing("wikidata", "wikidata", "wikidata")),  # private use
    (named("foxcrying", "fxemoji"), Thing("crying-fox", "crying fox", "crying-fox")),
])
def test_things(thing, expected):
  assert thing == expected


@pytest.mark.parametrize("one, other", [
    ("1f448", "1f449"), ("1f91b", "1f91c"), ("1f50d", "1f50e"), ("1f313", "1f317"), ("1f312", "1f318"),
    ("2b05", "27a1"), ("21a9", "21aa"), ("1faf1", "1faf2"), ("1f466", "1f467"), ("1f934", "1f478"),
    ("1f385", "1f936"), ("1f57a", "1f483"), ("1f930", "1fac3"), ("1f468-200d-1f469-200d-1f466", "1f46a"),
    ("1f46c", "1f9d1-200d-1f91d-200d-1f9d1"), ("1f6b6", "1f6b6-200d-2640-200d-27a1"), ("25d0", "25d1"),
])
def test_variants_have_one_base(one, other):
  assert coded(one).base == coded(other).base


def test_variants_by_name_have_one_base():
  names = ["woman-sneezing-into-elbow", "sneezing-into-elbow", "man-sneezing-into-elbow", "person-sneezing-into-elbow"]
  assert {named(name, "openmoji").base for name in names} == {"sneezing-into-elbow"}
  assert coded("1f1fa", "letter-u").base == coded("1f1fa", "regional-indicator-symbol-letter-u").base


def test_unlike_things_have_other_bases():
  bases = [coded(x).base for x in ("2764", "1f499", "1f9d1-200d-2695", "1f9d1-200d-2696", "1f9d1", "1f6b9", "1f6ba",
                                   "2b06", "2b05", "1f44d", "1f44e", "1f46a", "1f46f", "2640", "2642")]
  assert len(set(bases)) == len(bases)


def test_all_of_unicodes_emoji():
  """Every emoji: the tones go, base and id do not depend on them, the name is plain ASCII."""
  seen = 0
  for text, data in emoji.EMOJI_DATA.items():
    if data["status"] == emoji.STATUS["component"]:
      continue
    codes = tuple(map(ord, text))
    tones = [c for c in codes if c in emoji_names.TONES]
    thing = coded("-".join(f"{c:x}" for c in codes))
    assert not set(to_codes(thing.id)) & set(emoji_names.TONES)
    assert "skin tone" not in thing.name and thing.name == emoji_names.clean(thing.name)
    assert [t for t in thing.skin_tone.split("+") if t] == list(dict.fromkeys(emoji_names.TONES[c] for c in tones))
    assert thing == Thing(**{**vars(coded(thing.id)), "skin_tone": thing.skin_tone})
    seen += 1
  assert seen > 5000  # emoji 2.16 has 5,235 besides the components


def test_aliases_name_pictures_that_exist():
  for style in ("fxemoji", "emojione"):
    package = next(p for p in npm.PACKAGES if p.style == style)
    icons = npm.read_json(npm.fetch(package), "icons.json")["icons"]
    names = {name for s, name in [*emoji_aliases.ALIASES, *emoji_aliases.BROKEN] if s == style}
    assert {n for n in names if not n.startswith("clock")} <= set(icons)
