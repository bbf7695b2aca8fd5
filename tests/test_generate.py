"""`cm3leon generate` end to end on a workdir of random weights: files, provenance, sentences."""

import json

import numpy as np
from PIL import Image
import pytest
import tiny_workdir

from cm3leon_jax import cli, generate
from cm3leon_jax.evaluation import report_reader


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  root = tiny_workdir.make(tmp_path_factory.mktemp("tiny"))
  Image.fromarray(tiny_workdir.pictures(1, seed=5)[0]).save(root / "box.png")
  return root


def run(workdir, task, out, *flags):
  assert cli.main(["generate", f"--checkpoint={workdir}/model", f"--task={task}", f"--out={out}", *flags]) == 0
  return [json.loads(line) for line in (out / "generations.jsonl").read_text().splitlines()]


def test_pictures_of_several_prompts(workdir, tmp_path):
  (tmp_path / "prompts.txt").write_text("a red heart\n\nthe sun\n")
  flags = [f"--prompts={tmp_path}/prompts.txt", "--docs=2", f"--index={workdir}/index", "--candidates=3", "--seed=7"]
  lines = run(workdir, "text_to_image", tmp_path / "out", *flags)
  assert [(line["prompt"], line["seed"]) for line in lines] == [("a red heart", 7), ("the sun", 8)]
  for line in lines:
    scores = [c["score"] for c in line["candidates"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3
    assert len(line["retrieved"]) == 2 and line["settings"]["guidance"] == 2.0
    for rank, candidate in enumerate(line["candidates"]):
      with Image.open(tmp_path / "out" / candidate["file"]) as picture:
        about = json.loads(picture.text[generate.CHUNK])
        assert picture.size == (32, 32)
      assert (about["prompt"], about["seed"], about["rank"]) == (line["prompt"], line["seed"], rank)
      assert about["retrieved"] == [d["id"] for d in line["retrieved"]] and about["model"] == line["model"]
      assert about["rules"] == ["guidance 2", "grammar", "temperature 0.8", "top_p 0.9", "sample"]
    assert all((tmp_path / "out" / d["file"]).is_file() for d in line["retrieved"])
  with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
    assert np.asarray(sheet).std() > 10
  # The report page reads the same lines.
  assert [g.prompt for g in report_reader.load_generations(tmp_path / "out")] == ["a red heart", "the sun"]
  # Same seed, same pictures; and a prompt alone draws what it drew among others.
  alone = run(workdir, "text_to_image", tmp_path / "alone", "--text=the sun", *flags[1:-1], "--seed=8")
  for a, b in zip(alone[0]["candidates"], lines[1]["candidates"]):
    first, second = (np.asarray(Image.open(tmp_path / folder / c["file"])) for folder, c in (("alone", a), ("out", b)))
    np.testing.assert_array_equal(first, second)


def test_jacobi_draws_the_same_pictures_and_says_what_it_saved(workdir, tmp_path, capsys):
  flags = ["--text=the sun", "--candidates=2", "--seed=3"]
  plain = run(workdir, "text_to_image", tmp_path / "plain", *flags)
  assert "forward pass" not in capsys.readouterr().err
  jacobi = run(workdir, "text_to_image", tmp_path / "jacobi", *flags, "--jacobi=4")
  assert " tokens a forward pass" in capsys.readouterr().err
  for a, b in zip(plain[0]["candidates"], jacobi[0]["candidates"], strict=True):
    first, second = (np.asarray(Image.open(tmp_path / folder / c["file"])) for folder, c in (("plain", a), ("jacobi", b)))
    np.testing.assert_array_equal(first, second)
  assert jacobi[0]["jacobi"] == 4 and "jacobi" not in plain[0]


def test_texts_go_to_stdout_and_to_the_lines(workdir, tmp_path, capsys):
  lines = run(workdir, "vqa", tmp_path / "out", "--text=what is it?", f"--image={workdir}/box.png", "--candidates=2")
  texts = [c["text"] for c in lines[0]["candidates"]]
  assert capsys.readouterr().out == texts[0] + "\n"
  assert len(texts) == 2 and lines[0]["given"] == "0000_given.png"
  assert not (tmp_path / "out" / "contact_sheet.png").exists()
  caption = run(workdir, "image_to_text", tmp_path / "caption", f"--image={workdir}/box.png")[0]
  assert [c["file"] for c in caption["candidates"]] == [""]


def test_infill_and_edit(workdir, tmp_path):
  image = f"--image={workdir}/box.png"
  infill = run(workdir, "infill", tmp_path / "infill", image, "--region=8,8,24,24", "--text=a box", "--candidates=2")
  edit = run(workdir, "edit", tmp_path / "edit", image, "--text=make it blue", "--candidates=2", "--guidance=2.5")
  for folder, line in (("infill", infill[0]), ("edit", edit[0])):
    assert all((tmp_path / folder / c["file"]).is_file() for c in line["candidates"]) and line["given"]
  assert edit[0]["rules"][0] == "two-way guidance (text 2.5, image 1.2)"


@pytest.mark.parametrize("flags, sentence", [
    (["--task=text_to_image"], "text_to_image needs a text that is not empty"),
    (["--task=text_to_image", "--text=a", "--docs=1"], "--docs=1 needs an index"),
    (["--task=text_to_image", "--text=a", "--prompts=p"], "--text and --prompts: give one"),
    (["--task=text_to_image", "--prompts=nowhere.txt"], "--prompts=nowhere.txt: cannot be read"),
    (["--task=image_to_text"], "image_to_text needs a picture"),
    (["--task=image_to_text", "--image=nowhere.png"], "--image=nowhere.png: no such picture"),
    (["--task=image_to_text", "--image={root}/model/model.json"], "not a picture that can be read"),
    (["--task=infill", "--image={root}/box.png"], "--region=: write it as x0,y0,x1,y1"),
    (["--task=infill", "--image={root}/box.png", "--region=0,0,64,8"], "outside the picture of 32 x 32"),
    (["--task=text_to_image", "--text=a", "--top_p=0"], "top_p=0 keeps nothing"),
    (["--task=text_to_image", "--text=a", "--candidates=0"], "candidates=0 must be at least 1"),
    (["--task=text_to_image", "--text=a", "--jacobi=1"], "jacobi_window=1: give at least 2"),
])
def test_a_mistake_is_one_sentence_and_exit_1(workdir, tmp_path, capsys, flags, sentence):
  flags = [flag.format(root=workdir) for flag in flags]
  argv = ["generate", f"--checkpoint={workdir}/model", f"--out={tmp_path}/out", *flags]
  assert cli.main(argv) == 1
  error = capsys.readouterr().err.strip().splitlines()[-1]
  assert error.startswith("cm3leon: ") and sentence in error, error
