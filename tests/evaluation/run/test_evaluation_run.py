"""`cm3leon eval run` with every shipped protocol, on small sets in the official form and a model with random weights."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np
import official_files
from PIL import Image
import pytest
import tiny_workdir

from cm3leon_jax import cli
from cm3leon_jax.evaluation.run import generate

ROOT = Path(__file__).parents[3]
# protocol → (maker of its files, macro, more flags, the number that it is about)
PROTOCOLS = {
    "coco_30k": ("coco", "coco", ["--gin.CocoPrompts.count=4", "--gin.network=efficientnet-lite0"], "fd_efficientnet_lite0"),
    "coco_30k_docs2": ("coco", "coco", ["--gin.CocoPrompts.count=4", "--gin.network=efficientnet-lite0",
                                        "--gin.Protocol.candidates=2"], "fd_efficientnet_lite0"),
    "coco_captions": ("karpathy_coco", "coco", [], "cider"),
    "flickr30k_captions": ("flickr30k", "flickr30k", [], "cider"),
    "image_paragraph": ("image_paragraph", "paragraphs", [], "cider"),
    "vqa2": ("vqa2", "coco", [], "vqa_accuracy"),
    "okvqa": ("okvqa", "coco", [], "vqa_accuracy"),
    "vizwiz": ("vizwiz", "vizwiz", [], "vqa_accuracy"),
    "scienceqa": ("scienceqa", "scienceqa", [], "accuracy"),
    "visdial": ("visdial", "visdial", [], "ndcg"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return tiny_workdir.make(tmp_path_factory.mktemp("tiny"))


def arguments(tiny, name, workdir, data, *more):
  maker, macro, flags, _ = PROTOCOLS[name]
  return ["eval", "run", f"--gin_file=configs/evaluation/{name}.gin", f"--checkpoint={tiny}/model", f"--index={tiny}/index",
          f"--workdir={workdir}", f"--gin.{macro}={data}", *flags, *more]


def lines(path):
  return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_shipped_protocol(tiny, tmp_path, name, capsys):
  data = getattr(official_files, PROTOCOLS[name][0])(tmp_path / "data")
  work = tmp_path / "work"
  assert cli.main(arguments(tiny, name, work, data, f"--json={tmp_path}/out.json")) == 0, capsys.readouterr().err
  result = json.loads((work / "result.json").read_text())
  flat = json.loads((tmp_path / "out.json").read_text())
  assert flat == {key: value for key, value in result.items() if key != "protocol" and not key.endswith("_halves")}
  number = PROTOCOLS[name][3]
  assert np.isfinite(flat[number]) and flat["share_scored"] == 1
  rows = lines(work / "generations" / "00000-of-00001.jsonl")
  assert sorted(row["number"] for row in rows) == list(range(flat["count"]))
  assert [row["number"] for row in lines(work / "per_item.jsonl")] == list(range(flat["count"]))
  protocol = result["protocol"]
  assert protocol["items"]["count"] == flat["count"] and protocol["name"] == name
  first = (work / "operative.gin").read_text().splitlines()[0]
  assert first.startswith(f"# Run: cm3leon eval run --gin_file={work}/operative.gin --checkpoint={tiny}/model")
  if name == "coco_30k_docs2":
    assert f"--index={tiny}/index" in first and protocol["exclude"] is True
    assert {len(row["retrieved"]) for row in rows} == {2} and {len(row["candidates"]) for row in rows} == {2}
    assert flat[f"{number}_rank0"] != flat[f"{number}_rank1"]
    assert "fid" not in flat, "numbers from another network must not be called FID"
  page = (work / "report" / "index.html").read_text()
  assert "<html" in page and "http://" not in page.replace("http://www.w3.org/", "")
  assert (work / "predictions.json").is_file() == (PROTOCOLS[name][0] != "coco")


def test_perplexity_of_real_pairs(tiny, tmp_path):
  data = official_files.coco(tmp_path / "data")
  flat = {}
  for docs in (0, 2):
    work = tmp_path / f"docs{docs}"
    assert cli.main(["eval", "run", "--gin_file=configs/evaluation/coco_30k.gin", f"--checkpoint={tiny}/model",
                     f"--index={tiny}/index", f"--workdir={work}", f"--gin.coco={data}", "--gin.CocoPrompts.count=4",
                     "--gin.Protocol.metric=perplexity", f"--gin.Protocol.docs={docs}"]) == 0
    flat[docs] = result = json.loads((work / "result.json").read_text())
    rows = lines(work / "generations" / "00000-of-00001.jsonl")
    nats = sum(row["image_nats"] for row in rows) / sum(row["image_tokens"] for row in rows)
    assert result["image_nats_per_token"] == pytest.approx(nats) and result["image_perplexity"] == pytest.approx(np.exp(nats))
    assert {row["image_tokens"] for row in rows} == {tiny_workdir.LAYOUT.image_tokens}
    assert {len(row["retrieved"]) for row in rows} == {docs}
    assert (work / "report" / "index.html").is_file() and not (work / "predictions.json").exists()
  assert flat[0]["image_perplexity"] != flat[2]["image_perplexity"]  # documents are read


def test_written_predictions_score_the_same_by_the_file_commands(tiny, tmp_path):
  """What is handed in to others is what was scored here."""
  for name, maker, kind, references in (
      ("vqa2", "vqa2", "vqa", "v2_mscoco_val2014_annotations.json"), ("vizwiz", "vizwiz", "vqa", "val.json")):
    data = getattr(official_files, maker)(tmp_path / maker)
    work = tmp_path / f"{name}_work"
    assert cli.main(arguments(tiny, name, work, data)) == 0
    found, = data.rglob(references)
    out = tmp_path / f"{name}.json"
    assert cli.main(["eval", kind, f"--predictions={work}/predictions.json", f"--references={found}", f"--json={out}"]) == 0
    assert json.loads(out.read_text())["vqa_accuracy"] == pytest.approx(
        json.loads((work / "result.json").read_text())["vqa_accuracy"], abs=1e-9)


def content(work):
  """Everything but file names of other processes: lines by number, pictures, numbers."""
  rows = [row for _, row in sorted(generate.read(work).items())]
  pictures = {p.name: np.asarray(Image.open(p)).tobytes() for p in sorted((work / "pictures").iterdir())}
  return rows, pictures, json.loads((work / "result.json").read_text())


def almost(a, b) -> bool:
  """Equal, numbers up to the rounding of batches of another size."""
  if isinstance(a, dict):
    return a.keys() == b.keys() and all(almost(a[key], b[key]) for key in a)
  if isinstance(a, list):
    return len(a) == len(b) and all(map(almost, a, b))
  return a == (pytest.approx(b, rel=1e-4, abs=1e-5) if isinstance(a, float) else b)


def started(*args):
  environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
  return subprocess.Popen([sys.executable, "-m", "cm3leon_jax.cli", *args], env=environment, stderr=subprocess.PIPE, text=True)


def done(work) -> int:
  return sum(text.count("\n") for path in (work / "generations").glob("*.jsonl") for text in [path.read_text()])


@pytest.mark.slow
def test_killed_and_resumed_by_another_number_of_processes(tiny, tmp_path):
  """kill -9 in the middle, half a line left behind, then two processes: lines, pictures and numbers as in one go."""
  data = official_files.coco(tmp_path / "data")
  more = ("--gin.CocoPrompts.count=5", "--gin.Protocol.docs=1")
  alone, work = tmp_path / "alone", tmp_path / "work"
  process = started(*arguments(tiny, "coco_30k_docs2", alone, data, *more))
  assert process.wait(300) == 0, process.stderr.read()

  broken = started(*arguments(tiny, "coco_30k_docs2", work, data, *more))
  deadline = time.monotonic() + 240
  while done(work) < 1 and time.monotonic() < deadline:
    assert broken.poll() is None, broken.stderr.read()
    time.sleep(0.005)
  broken.send_signal(signal.SIGKILL)
  broken.wait()
  part, = (work / "generations").iterdir()
  text = part.read_text().splitlines(keepends=True)
  kept = len(text) - 1
  part.write_text("".join(text[:kept]) + text[kept][:40])  # as if killed within a line
  pair = [started(*arguments(tiny, "coco_30k_docs2", work, data, *more, "--num_processes=2", f"--process_id={i}"))
          for i in range(2)]
  for each in pair:
    assert each.wait(300) == 0, each.stderr.read()
  names = sorted(p.name for p in (work / "generations").iterdir())
  assert names == ["00000-of-00001.jsonl", "00000-of-00002.jsonl", "00001-of-00002.jsonl"]
  (rows, pictures, result), (want_rows, want_pictures, want) = content(work), content(alone)
  assert len(rows) == 5 and almost(rows, want_rows)
  assert pictures == want_pictures
  assert almost(result, want)


def test_a_workdir_belongs_to_one_protocol_and_model(tiny, tmp_path, capsys):
  data = official_files.vqa2(tmp_path / "data")
  work = tmp_path / "work"
  assert cli.main(arguments(tiny, "vqa2", work, data)) == 0
  again = (work / "generations" / "00000-of-00001.jsonl").stat().st_mtime_ns
  assert cli.main(arguments(tiny, "vqa2", work, data)) == 0  # nothing left to generate
  assert (work / "generations" / "00000-of-00001.jsonl").stat().st_mtime_ns == again
  capsys.readouterr()
  assert cli.main(arguments(tiny, "vqa2", work, data, "--gin.Protocol.seed=7")) == 1
  assert "sampling.seed is 0 there and 7 now" in capsys.readouterr().err


def test_missing_pictures_and_bad_items_are_told(tiny, tmp_path, capsys):
  data = official_files.vqa2(tmp_path / "data")
  questions = json.loads(next(data.rglob("v2_OpenEnded_*val2014*.json")).read_text())["questions"]
  picture, = data.rglob(f"*_{questions[0]['image_id']:012d}.jpg")
  whole = picture.read_bytes()
  assert cli.main(arguments(tiny, "vqa2", picture, data)) == 1
  assert "result.json: its folder cannot be made (File exists)" in capsys.readouterr().err
  picture.unlink()
  assert cli.main(arguments(tiny, "vqa2", tmp_path / "work", data)) == 1
  assert "pictures are not there" in capsys.readouterr().err and not (tmp_path / "work" / "generations").exists()
  picture.write_bytes(whole[:100])  # cut short: its items alone fail
  assert cli.main(arguments(tiny, "vqa2", tmp_path / "work", data)) == 1
  assert "items failed and 0 are missing" in (told := capsys.readouterr().err) and picture.name in told
  assert cli.main(arguments(tiny, "vqa2", tmp_path / "work", data, "--allow_missing")) == 0
  assert 0 < json.loads((tmp_path / "work" / "result.json").read_text())["share_scored"] < 1
  picture.write_bytes(whole)  # mended: what failed is made by the next run, and nothing else
  assert cli.main(arguments(tiny, "vqa2", tmp_path / "work", data)) == 0
  assert json.loads((tmp_path / "work" / "result.json").read_text())["share_scored"] == 1
  written = [row["number"] for row in lines(tmp_path / "work" / "generations" / "00000-of-00001.jsonl")
             if not {"error", "again"} & row.keys()]
  assert sorted(written) == list(range(len(questions)))


def test_a_broken_real_picture_or_a_long_caption_stops_no_run(tiny, tmp_path, capsys):
  data = official_files.coco(tmp_path / "data")
  annotations = data / "annotations" / "captions_val2014.json"
  file = json.loads(annotations.read_text())
  for row in file["annotations"]:
    if row["image_id"] == 73:
      row["caption"] = "a red box " * 40  # the tiny model reads 16 text tokens
  annotations.write_text(json.dumps(file))
  picture = data / official_files.coco_name("val2014", 42)
  whole = picture.read_bytes()
  picture.write_bytes(whole[:100])
  flags = ("coco_30k", tmp_path / "work", data, "--gin.CocoPrompts.count=5", "--gin.Protocol.candidates=1")
  assert cli.main(arguments(tiny, *flags)) == 1
  assert "1 of 5 items failed and 0 are missing" in (told := capsys.readouterr().err) and picture.name in told
  picture.write_bytes(whole)
  assert cli.main(arguments(tiny, *flags)) == 0
  result = json.loads((tmp_path / "work" / "result.json").read_text())
  assert result["count"] == 5 and "1 text cut to the model's 16 text tokens" in result["note"]
  long, = (row for row in generate.read(tmp_path / "work").values() if row["image_id"] == 73)
  assert long["prompt"].startswith("a red box a red box") and len(long["prompt"]) < 80
  assert long["question"] == ("a red box " * 40).strip(), "the CLIP score is of the whole caption"


def test_process_0_does_not_wait_for_one_that_failed(tiny, tmp_path, capsys):
  data = official_files.vqa2(tmp_path / "data")
  first, second = ([*arguments(tiny, "vqa2", tmp_path / "work", data), "--num_processes=2", f"--process_id={i}"] for i in range(2))
  assert cli.main([*second, "--gin.Protocol.docs=9"]) == 1
  assert cli.main(first) == 1
  assert "process 1 of 2 failed: Protocol.docs=9: this model reads at most 2 documents" in capsys.readouterr().err
  assert cli.main(second) == 0 and cli.main(first) == 0
  assert json.loads((tmp_path / "work" / "result.json").read_text())["share_scored"] == 1


def test_what_is_left_out_of_retrieval_is_looked_for_once(tiny, tmp_path, capsys):
  data = official_files.coco(tmp_path / "data")
  flags = ("coco_30k_docs2", tmp_path / "work", data, "--gin.Protocol.candidates=1")
  assert cli.main(arguments(tiny, *flags)) == 0
  kept, = (tmp_path / "work").glob("excluded_*.json")
  found = json.loads(kept.read_text())
  assert json.loads((tmp_path / "work" / "protocol.json").read_text())["excluded"] == {
      key: found[key] for key in ("by_id", "by_hash")}
  kept.write_text(json.dumps(found | {"by_hash": 77}))  # as another machine would have counted
  assert cli.main(arguments(tiny, *flags)) == 1
  assert f"excluded.by_hash is {found['by_hash']} there and 77 now" in capsys.readouterr().err


def test_without_answers_predictions_are_what_comes_out(tiny, tmp_path):
  data = official_files.vqa2(tmp_path / "data")
  work = tmp_path / "work"
  assert cli.main(["eval", "run", "--gin_file=configs/evaluation/vqa2_test_dev.gin", f"--checkpoint={tiny}/model",
                   f"--workdir={work}", f"--gin.coco={data}"]) == 0
  result = json.loads((work / "result.json").read_text())
  assert "vqa_accuracy" not in result and "predictions.json" in result["note"]
  assert all(set(row) == {"question_id", "answer"} for row in json.loads((work / "predictions.json").read_text()))
