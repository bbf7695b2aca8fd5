"""COCO, Karpathy's splits, Flickr30k and Image Paragraph, from small files in the true form."""

import hashlib
import json

import official_files
from official_files import COCO_IDS, captions_of
import pytest

from cm3leon_jax.datasets.items import check_pictures
from cm3leon_jax.datasets.official import captioned, coco, karpathy, paragraphs
from cm3leon_jax.datasets.official.source import Source
from cm3leon_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
  return official_files.coco(official_files.karpathy_coco(tmp_path))


def stripped(image_id):
  return tuple(c.strip() for c in captions_of(image_id))


def edit(path, change):
  data = json.loads(path.read_text())
  change(data)
  path.write_text(json.dumps(data))


def test_coco_captions_are_gathered_by_picture(folder):
  items = coco.coco_captions(str(folder))
  check_pictures(items)
  assert [i.id for i in items] == list(COCO_IDS) == [i.image_id for i in items]
  for item in items:  # the trailing newlines of the file are gone
    assert item.references == stripped(item.id) and not item.text
    assert item.image == str(folder / "val2014" / f"COCO_val2014_{item.id:012d}.jpg")


def test_prompts_follow_the_stated_rule(folder):
  items = coco.coco_prompts(str(folder), count=4, seed=7)
  key = lambda i: hashlib.sha256(f"7:{i}".encode()).digest()  # the rule, as captioned.CHOICE says it
  images = sorted(COCO_IDS, key=key)[:4]
  assert [i.image_id for i in items] == images
  for item in items:
    number = min(range(5), key=lambda n: key(official_files.caption_id(item.image_id, n)))
    assert item.id == official_files.caption_id(item.image_id, number)
    assert item.text == stripped(item.image_id)[number] and item.references == (item.text,)
  check_pictures(items)
  assert items.caption == captioned.CHOICE.format(seed=7, count="4")


def test_a_smaller_count_is_the_beginning_and_a_seed_another_choice(folder):
  ids = lambda **kw: [i.id for i in coco.coco_prompts(str(folder), **kw)]
  assert ids(count=2) == ids(count=5)[:2]
  assert ids(count=5, seed=1) != ids(count=5)


def test_the_choice_does_not_drift(tmp_path):
  """A published number depends on this order. Values: `printf "0:$i" | sha256sum` in a shell, sorted."""
  pictures = [captioned.Captioned(i, "", tuple((10 * i + n, f"caption {n}") for n in range(5))) for i in range(1, 101)]
  items, _ = captioned.prompts(Source(tmp_path, "made/up"), pictures, 5, 0)
  assert [(i.image_id, i.id) for i in items] == [(87, 872), (46, 463), (15, 150), (44, 440), (99, 993)]


@pytest.mark.parametrize("file, content", [
    ("ids.json", "[743, 421]"),
    ("ids.csv", "annotation_id,prompt\n743,whatever\n421,x\n"),
    ("pairs.csv", 'image_id,caption\n74,"THERE is a  white box"\n42,"a blue square"\n'),  # spaces and case differ
    ("pairs.tsv", "coco_id\tprompt\n74\tThere is a white box\n42\ta blue square\n"),
    # As a list of 30,000 that many papers share: ids with leading zeros, captions with their newlines.
    ("coco_30k.csv", "image_id,source,prompt,evaluation_seed\n000000000074,coco-30k,There is a white box,41337\n"
                     '000000000042,coco-30k,"a blue square\n",63155\n'),
    ("uid.csv", "uid,caption\n74_mscoco_3,There is a white box\n42_mscoco_0,a blue square\n"),
])
def test_published_lists(folder, tmp_path_factory, file, content):
  (folder / file).write_text(content)
  items = coco.coco_prompts(str(folder), ids_file=str(folder / file))
  assert [(i.id, i.image_id, i.text) for i in items] == [(743, 74, "There is a white box"), (421, 42, "a blue square")]
  assert file in items.caption and file in items.source
  elsewhere = tmp_path_factory.mktemp("lists") / file  # where a list lies changes nothing of what is evaluated
  elsewhere.write_bytes((folder / file).read_bytes())
  assert coco.coco_prompts(str(folder), ids_file=str(elsewhere)).about() == items.about()


@pytest.mark.parametrize("file, content, sentence", [
    ("ids.json", "[743, 12345678]", "ids.json: 1 of 2 captions are not in coco_prompts/val2014: 12345678"),
    ("ids.json", "[743, 743]", "ids.json: 1 captions stand there more than once: 743"),
    ("ids.json", '[{"image_id": 1, "caption": "x"}]', "should hold a list of ids, this looks like predicted captions"),
    ("ids.json", '["7a"]', "1 ids are not numbers: '7a'"),
    ("pairs.csv", "image_id,caption\n74,no such words\n", "1 of 1 captions are not in .*74, 'no such words'"),
    ("ids.csv", "number,name\n1,x\n", "its heading has number, name; a list of captions has a column"),
])
def test_bad_lists(folder, file, content, sentence):
  (folder / file).write_text(content)
  with pytest.raises(InputError, match=sentence):
    coco.coco_prompts(str(folder), ids_file=str(folder / file))


def test_empty_captions_are_never_drawn_and_warned_of(folder, capsys):
  path = folder / "annotations" / "captions_val2014.json"

  def blank(data):  # all but one of picture 42
    for row in data["annotations"]:
      if row["image_id"] == 42 and row["id"] != 424:
        row["caption"] = " \n"

  edit(path, blank)
  items = coco.coco_prompts(str(folder), count=5)
  assert next(i for i in items if i.image_id == 42).id == 424
  assert items.warnings[0] == "4 captions are empty" and "4 captions are empty" in capsys.readouterr().err
  described = coco.coco_captions(str(folder))
  assert described[0].references == ("", "", "", "", "A box that is blue")  # as the official scorer has them
  edit(path, lambda data: [row.update(caption="") for row in data["annotations"] if row["id"] == 424])
  assert 42 not in [i.image_id for i in coco.coco_prompts(str(folder), count=4)]
  with pytest.raises(InputError, match="count=5: .* has 4 pictures with a caption"):
    coco.coco_prompts(str(folder), count=5)
  with pytest.raises(InputError, match="1 pictures without a caption: 42"):
    coco.coco_captions(str(folder))


def test_bytes_that_are_not_utf8(folder):
  path = folder / "annotations" / "captions_val2014.json"
  path.write_bytes(path.read_bytes().replace(b"A blue box on grey.", b"A caf\xe9 box on grey."))
  items = coco.coco_captions(str(folder))
  assert items[0].references[0] == "A café box on grey."
  assert "is not UTF-8 (byte 0xe9 at" in items.warnings[0] and "read as Latin-1" in items.warnings[0]


@pytest.mark.parametrize("change, sentence", [
    (lambda d: d["annotations"].append(d["annotations"][0]), r"1 annotation ids stand there more than once: 1360"),
    (lambda d: d["images"].append(d["images"][0]), "1 image ids stand there more than once: 42"),
    (lambda d: d["images"].pop(), r"5 captions of pictures that it does not list: 136"),
    (lambda d: d["annotations"][3].update(caption=None), r'1 of 25 rows are not of the form of COCO captions; .* row 3: '),
    (lambda d: d["images"][1].pop("file_name"), r"a row is not of the official form \(KeyError: 'file_name'\)"),
    (lambda d: d.pop("images"), "has no `images`"),
])
def test_damaged_captions(folder, change, sentence):
  edit(folder / "annotations" / "captions_val2014.json", change)
  with pytest.raises(InputError, match=sentence):
    coco.coco_captions(str(folder))


def test_karpathy_test_split(folder, capsys):
  items = karpathy.coco_karpathy(str(folder))
  check_pictures(items)
  assert [(i.id, i.references) for i in items] == [(i, stripped(i)) for i in (42, 74, 136)]
  assert items.expected == 5_000 and "3 items, but the official set has 5,000" in capsys.readouterr().err
  assert [i.id for i in karpathy.coco_karpathy(str(folder), split="val")] == [133]
  with pytest.raises(InputError, match="CocoKarpathy.split='tset': known are test, val, restval, train"):
    karpathy.coco_karpathy(str(folder), split="tset")


def test_karpathy_prompts_have_cocos_annotation_ids(folder):
  items = karpathy.coco_karpathy_prompts(str(folder), count=3)
  assert {i.image_id for i in items} == {42, 74, 136}
  assert all(stripped(i.image_id)[i.id % 10] == i.text for i in items)


def test_the_split_of_flickr_is_not_cocos(tmp_path):
  official_files.flickr30k(tmp_path)
  (tmp_path / "dataset_flickr30k.json").rename(tmp_path / "dataset_coco.json")
  with pytest.raises(InputError, match=r"dataset_coco.json: a row is not of the official form \(KeyError: 'cocoid'\)"):
    karpathy.coco_karpathy(str(tmp_path))


def test_flickr30k_of_karpathy_and_of_the_authors(tmp_path):
  official_files.flickr30k(tmp_path)
  items = karpathy.flickr30k(str(tmp_path))
  check_pictures(items)
  assert [i.id for i in items] == ["1000092795.jpg", "10002456.jpg", "1000344755.jpg"]
  everything = karpathy.flickr30k(str(tmp_path), split="all")
  check_pictures(everything)
  assert everything.source == ("results_20130124.token",) and len(everything) == 4
  assert [i.references for i in everything if i.id in {j.id for j in items}] == [i.references for i in items]
  drawn = karpathy.flickr30k_prompts(str(tmp_path), count=4, split="all")
  references = {i.id: i.references for i in everything}
  assert all(i.text == references[i.image_id][int(i.id.removeprefix(f"{i.image_id}#"))] for i in drawn)


def test_a_token_file_with_a_broken_line(tmp_path):
  official_files.flickr30k(tmp_path)
  with open(tmp_path / "results_20130124.token", "a") as f:
    f.write("no tab in here\n")
  with pytest.raises(InputError, match="line 21 is not `<file>#<n><tab><caption>`: 'no tab in here'"):
    karpathy.flickr30k(str(tmp_path), split="all")


def test_image_paragraphs(tmp_path):
  official_files.image_paragraph(tmp_path)
  items = paragraphs.image_paragraph(str(tmp_path))
  check_pictures(items)
  assert [i.id for i in items] == [2365091, 2317429, 2356347]  # the order of test_split.json
  assert [len(i.references) for i in items] == [1, 2, 1]  # one picture is listed twice
  assert items[2].image.endswith("/VG_100K/2356347.jpg") and items[1].image.endswith("/VG_100K_2/2317429.jpg")
  assert items[2].references == ("A large red box stands on grey ground. It is square.",)


def test_a_picture_without_a_paragraph(tmp_path):
  official_files.image_paragraph(tmp_path)
  (tmp_path / "test_split.json").write_text("[2365091, 5]")
  with pytest.raises(InputError, match="1 pictures of test_split.json without a paragraph: 5"):
    paragraphs.image_paragraph(str(tmp_path))
