"""Finding files and pictures, and what every reader says of bad ones."""

import importlib
import inspect
from pathlib import Path
import re
import shlex
import shutil
import time

import official_files
import pytest

from cm3leon_jax import cli, config
from cm3leon_jax.datasets import items as items_lib
from cm3leon_jax.datasets.official import coco, paragraphs, pictures, source, vqa
from cm3leon_jax.errors import InputError

MAKERS = {"CocoCaptions": "coco", "CocoPrompts": "coco", "CocoKarpathy": "karpathy_coco",
          "CocoKarpathyPrompts": "karpathy_coco", "Flickr30k": "flickr30k", "Flickr30kPrompts": "flickr30k", "VQA2": "vqa2",
          "OKVQA": "okvqa", "VizWiz": "vizwiz", "ScienceQA": "scienceqa", "VisDial": "visdial",
          "ImageParagraph": "image_paragraph"}


def reader(name):
  module, attribute = config.BINDABLE[name].split(":")
  return getattr(importlib.import_module(module), attribute)


def settings(name):
  return {"count": 3} if name.endswith("Prompts") else {}


def test_every_reader_is_tried_here():
  readers = {n for n, target in config.BINDABLE.items() if target.startswith("cm3leon_jax.datasets.official.")}
  assert readers - set(MAKERS) == {"DemoHeldOut"}  # test_official_demo.py


@pytest.mark.parametrize("name", MAKERS)
def test_a_set_as_downloaded(name, tmp_path, capsys):
  getattr(official_files, MAKERS[name])(tmp_path)
  items = reader(name)(str(tmp_path), **settings(name))
  assert 3 <= len(items) <= 5
  items_lib.check_pictures(items)
  error = capsys.readouterr().err
  assert f"{items.name}: {len(items)} items from {tmp_path} (hash {items_lib.digest(items)})" in error
  assert (items.expected is None) == ("the official set has" not in error)
  assert all((tmp_path / file).is_file() for file in items.source)


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_there(name, tmp_path):
  with pytest.raises(InputError, match=rf"{tmp_path}: no [\w./-]+.* in it, which \S+ needs; docs/evaluation_sets.md"):
    reader(name)(str(tmp_path), **settings(name))
  with pytest.raises(InputError, match="no such folder"):
    reader(name)(str(tmp_path / "nowhere"), **settings(name))


@pytest.mark.parametrize("name", [n for n in MAKERS if n != "ScienceQA"])
def test_pictures_that_lie_apart(name, tmp_path):
  """All pictures of a set moved into one flat folder, as many people keep them."""
  root, apart = tmp_path / "set", tmp_path / "apart"
  getattr(official_files, MAKERS[name])(root)
  apart.mkdir()
  for path in [*root.rglob("*.jpg"), *root.rglob("*.png")]:
    shutil.move(path, apart / path.name)
  here = reader(name)(str(root), **settings(name))
  with pytest.raises(InputError, match=f"{len({i.image for i in here})} of .* pictures are not there"):
    items_lib.check_pictures(here)
  found = reader(name)(str(root), images=str(apart), **settings(name))
  items_lib.check_pictures(found)
  assert items_lib.digest(found) == items_lib.digest(here)


def test_a_picture_is_found_by_name_then_by_number(tmp_path):
  for name in ("val2017/000000000042.jpg", "val2014/COCO_val2014_000000000073.jpg", "other/000000000073.jpg"):
    official_files.picture(tmp_path / name, 1)
  folder = pictures.PictureFolder(tmp_path)
  assert folder.find("COCO_val2014_000000000042.jpg") == str(tmp_path / "val2017" / "000000000042.jpg")
  assert folder.find("COCO_val2014_000000000073.jpg") == str(tmp_path / "val2014" / "COCO_val2014_000000000073.jpg")
  assert folder.find("COCO_val2014_000000000099.jpg") == str(tmp_path / "COCO_val2014_000000000099.jpg")
  with pytest.raises(InputError, match="no 73.jpg in it, and several pictures of that number"):
    folder.find("73.jpg")


def test_a_folder_is_listed_once(tmp_path, monkeypatch):
  official_files.image_paragraph(tmp_path)
  walked = []
  walk = pictures.os.walk
  monkeypatch.setattr(pictures.os, "walk", lambda *a, **k: walked.append(a) or walk(*a, **k))
  paragraphs.image_paragraph(str(tmp_path), images=str(tmp_path))
  assert len(walked) == 1


@pytest.mark.parametrize("maker, file, kind", [
    ("coco", "annotations/captions_val2014.json", "COCO captions"),
    ("karpathy_coco", "dataset_coco.json", "Karpathy's split"),
    ("flickr30k", "dataset_flickr30k.json", "Karpathy's split"),
    ("vqa2", "v2_OpenEnded_mscoco_val2014_questions.json", "VQA questions"),
    ("vqa2", "v2_mscoco_val2014_annotations.json", "VQA annotations"),
    ("vizwiz", "Annotations/val.json", "VizWiz questions"),
    ("scienceqa", "problems.json", "ScienceQA problems"),
    ("scienceqa", "pid_splits.json", "ScienceQA splits"),
    ("visdial", "visdial_1.0_val.json", "VisDial dialogs"),
    ("visdial", "visdial_1.0_val_dense_annotations.json", "VisDial dense annotations"),
    ("image_paragraph", "paragraphs_v1.json", "image paragraphs"),
    ("image_paragraph", "test_split.json", "a list of ids"),
])
def test_official_files_are_told_apart(maker, file, kind, tmp_path):
  getattr(official_files, maker)(tmp_path)
  read = source.Source(tmp_path, "x")
  data = read.json(tmp_path / file, kind)
  assert source.looks_like(data) == kind
  for other in set(source.FORMS) - {kind}:
    # VQA annotations have the fields of nothing else, but COCO captions list images like COCO image info.
    if (kind, other) not in {("COCO captions", "COCO image info"), ("VisDial dense annotations", "a list of ids")}:
      with pytest.raises(InputError, match=f"should hold {other}, this looks like {kind}"):
        read.json(tmp_path / file, other)


@pytest.mark.parametrize("text, sentence", [
    ("{", "not valid JSON"),
    ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a pointer of Git LFS: fetch the file itself"),
    ("3", "this looks like a single value"),
    ("[]", "this looks like a JSON list of 0"),
    ('{"info": 1}', "this looks like an object with info"),
    ('[{"a": 1}]', "this looks like a list of objects with a"),
])
def test_json_of_nothing_known(text, sentence, tmp_path):
  (tmp_path / "captions_val2014.json").write_text(text)
  with pytest.raises(InputError, match=f"captions_val2014.json: .*{sentence}"):
    coco.coco_captions(str(tmp_path))


def test_a_large_set_loads_without_looking_at_pictures(tmp_path):
  """VQA v2's 214,354 questions load in seconds because no picture is looked at: here 20,000 have none."""
  answers = [{"answer": "red", "answer_confidence": "yes", "answer_id": n} for n in range(10)]
  official_files.write(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", {
      "questions": [{"question_id": n, "image_id": n // 5, "question": "What is it?"} for n in range(20_000)]})
  official_files.write(tmp_path / "v2_mscoco_val2014_annotations.json", {
      "annotations": [{"question_id": n, "image_id": n // 5, "answers": answers, "answer_type": "other"} for n in range(20_000)]})
  begin = time.process_time()
  items = vqa.vqa2(str(tmp_path))
  assert time.process_time() - begin < 5  # 0.3 s on 2 idle cores; a quadratic search would take minutes
  with pytest.raises(InputError, match="4,000 of 4,000 pictures are not there"):
    items_lib.check_pictures(items)


GUIDE = (Path(__file__).parents[3] / "docs" / "evaluation_sets.md").read_text(encoding="utf-8")


def test_the_guide_has_every_reader_and_count():
  table = GUIDE.split("Look at a set before a run")[0]
  for name in (*MAKERS, "DemoHeldOut"):
    assert f"`{name}`" in table, name
  for name, count in source.EXPECTED.items():
    assert f"{count:,}" in GUIDE, f"{name} has {count:,} items, which docs/evaluation_sets.md does not say"


def test_the_guides_commands_run(tmp_path, capsys):
  official_files.karpathy_coco(tmp_path / "coco")
  official_files.flickr30k(tmp_path / "flickr30k")
  path = tmp_path / "flickr30k" / "dataset_flickr30k.json"
  path.write_text(path.read_text().replace('"train"', '"val"'))
  commands = re.findall(r"^cm3leon (inspect items .*)$", GUIDE, re.M)
  assert len(commands) == 2
  for command in commands:
    here = command.replace("/data/", f"{tmp_path}/").replace("--out=look", f"--out={tmp_path}/look")
    assert cli.main(shlex.split(here)) == 0
  out = capsys.readouterr().out
  assert "coco_karpathy/test: 3 items" in out and "flickr30k/val: 1 items" in out
  assert (tmp_path / "look" / "items.png").is_file()


@pytest.mark.parametrize("name", MAKERS)
def test_docstrings_name_the_arguments(name):
  function = reader(name)
  text = inspect.getdoc(function)
  assert all(f"{parameter}" in text for parameter in inspect.signature(function).parameters)
