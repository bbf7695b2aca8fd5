"""`cm3leon inspect items`: what a protocol asks, in the terminal and as a picture."""

import numpy as np
import official_files
from PIL import Image
import pytest

from cm3leon_jax import cli


def test_items_of_a_protocol(tmp_path, capsys):
  official_files.karpathy_coco(tmp_path / "coco")
  assert cli.main(["inspect", "items", "--gin_file=configs/evaluation/coco_captions.gin", f"--gin.coco={tmp_path / 'coco'}",
                   "-n", "2", f"--out={tmp_path / 'out'}"]) == 0
  out = capsys.readouterr().out
  assert "coco_karpathy/test: 3 items, hash " in out and "expected    5,000" in out
  assert "item 1\n  id          74" in out and "item 2" not in out
  assert "references  (5) 'A blue box on grey.'" in out
  with Image.open(tmp_path / "out" / "items.png") as sheet:
    pixels = np.asarray(sheet.convert("RGB"))
  # The sheet's two tiles of 160 pixels show the pictures whole: 48 x 40 on a square of white.
  for left in (8, 176):
    assert pixels[88, left + 2].max() < 255 and pixels[88, left + 157].max() < 255  # grey or the box, from edge to edge
    assert pixels[12, left + 80].min() == pixels[164, left + 80].min() == 255


def test_items_of_a_reader(tmp_path, capsys):
  official_files.scienceqa(tmp_path)
  argv = ["inspect", "items", "--reader=ScienceQA", f"--gin.ScienceQA.root={tmp_path}", f"--out={tmp_path}"]
  assert cli.main(argv) == 0
  out = capsys.readouterr().out
  assert "natural science 2, language science 1, social science 1" in out and "choices     (2) 'simile' | 'pun'" in out
  (tmp_path / "images" / "test" / "5" / "image.png").write_bytes(b"not a picture")
  assert cli.main(argv) == 1
  assert "images/test/5/image.png: not a picture that can be read" in capsys.readouterr().err


@pytest.mark.parametrize("argv, sentence", [
    (["--reader=CocoKarpathi"], "--reader=CocoKarpathi: known are CocoCaptions, CocoPrompts, CocoKarpathy"),
    (["--reader=VQA2"], "leave a required value of VQA2 open"),
    ([], "no gin file binds Protocol.items to a reader"),
    (["--gin_file=configs/evaluation/vizwiz.gin", "--gin.vizwiz={tmp}/none"], "none: no such folder"),
])
def test_mistakes(argv, sentence, tmp_path, capsys):
  assert cli.main(["inspect", "items", *(a.format(tmp=tmp_path) for a in argv)]) == 1
  error = capsys.readouterr().err
  assert sentence in error and "In call to configurable" not in error  # gin's own lines
