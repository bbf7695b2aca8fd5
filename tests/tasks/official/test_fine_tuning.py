"""Official files → examples → mixture, on small files in the true form."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest

from cm3leon_jax import manifest, records
from cm3leon_jax.errors import InputError
from cm3leon_jax.pipelines import examples
from cm3leon_jax.pipelines.fine_tuning import FineTuning
from cm3leon_jax.tasks import inspect, seqio_adapter
from cm3leon_jax.tasks import windows as windows_lib
from cm3leon_jax.tasks.objective import CM3Objective
from cm3leon_jax.tasks.official import controls, sources, square, store, summary, tasks
from cm3leon_jax.tokenizers.image import ImageTokenizer
from cm3leon_jax.tokenizers.text import TextTokenizer
import fine_tuning_files
import fine_tuning_workdir

VOCABULARY, LAYOUT = fine_tuning_workdir.VOCABULARY, fine_tuning_workdir.LAYOUT


@pytest.fixture(scope="module")
def made():
  """(workdir, settings, image tokenizer, text tokenizer)."""
  workdir, settings = fine_tuning_workdir.made()
  return workdir, settings, ImageTokenizer.load(workdir / "image"), TextTokenizer.load(workdir / "text")


def read(made, sample):
  """(texts, codes [n, I], the answer) of a sample."""
  _, _, _, text = made
  tokens = sample["tokens"]
  codes = VOCABULARY.image_codes(tokens[VOCABULARY.is_image(tokens)]).reshape(-1, LAYOUT.image_tokens)
  runs = np.split(tokens, np.flatnonzero((tokens == VOCABULARY.break_id) | (tokens == 1)))
  texts = [text.decode(run) for run in runs if len(run) > 1 and not VOCABULARY.is_image(run[1])]
  return texts, codes, text.decode(tokens[sample["answers"] > 0])


def draw(made, name, split="train", options=tasks.Options(), epochs=1):
  workdir, _, _, text = made
  tasks.register(workdir, VOCABULARY, LAYOUT, text, [name], options)
  return [read(made, s) for s in seqio_adapter.examples(name, split, seed=1, epochs=epochs)]


def test_coco_captions_all_the_way(made):
  """Every caption of every picture of train and restval, in both wordings, before the codes of its own picture."""
  _, settings, image, _ = made
  root = settings.folders["coco"]
  expected = set()
  for split in ("train", "restval"):
    for id_ in fine_tuning_files.COCO[split]:
      path = f"{root}/{fine_tuning_files.coco_name(fine_tuning_files.FOLDER[split], id_)}"
      codes = tuple(image.encode(square.read(path, 32)[None])[0].tolist())
      expected |= {(c.strip(), codes) for n, c in enumerate(fine_tuning_files.captions_of(id_))
                   if (id_, n) != fine_tuning_files.SECOND}
  drawn = draw(made, "coco_captions", epochs=8)
  assert len(drawn) == 8 * 19  # 4 pictures with 5 captions, one of them empty
  found, asked = set(), 0
  for (text,), codes, answer in drawn:
    caption = text.removeprefix("Describe the given picture. ")
    assert answer == (caption if caption != text else "")
    asked += caption != text
    found.add((caption, tuple(codes[0].tolist())))
  assert found == expected
  assert abs(asked / len(drawn) - 0.5) < 4 * 0.5 / len(drawn)**0.5


def test_pairs_and_their_reverse(made):
  _, settings, image, _ = made
  id_ = fine_tuning_files.COCO["val"][0]
  path = f"{settings.folders['coco']}/{fine_tuning_files.coco_name('val2014', id_)}"
  picture = square.read(path, 32)
  edges, codes = image.encode(np.stack([controls.canny(picture), picture]))
  forward = [d for d in draw(made, "canny", "validation") if (d[1][1] == codes).all()]
  backward = [d for d in draw(made, "image_to_canny", "validation") if (d[1][0] == codes).all()]
  assert len(forward) == len(backward) >= 5
  for _, found, _ in forward:
    np.testing.assert_array_equal(found, [edges, codes])
  for texts, found, _ in backward:
    np.testing.assert_array_equal(found, [codes, edges])
    assert texts == ["Make canny edge features from high quality image", "canny edge features"]
  assert {t[0] for t, *_ in forward} == {"Make high quality image from canny edge features"}


def test_edits_and_hed_read_the_pictures_that_their_files_name(made):
  _, settings, image, _ = made
  root = settings.folders["instruct_pix2pix"]
  (texts, codes, _), = draw(made, "instruct_pix2pix", "validation")
  assert texts[1] == "make it number 18"  # of 20 folders the 19th
  pair = image.encode(np.stack([square.read(f"{root}/0000018/333_{side}.jpg", 32) for side in (0, 1)]))
  np.testing.assert_array_equal(codes, pair)
  hed = square.read(f"{settings.folders['controls']}/hed/COCO_val2014_000000000073.png", 32)
  assert any((c[0] == image.encode(hed[None])[0]).all() for _, c, _ in draw(made, "hed", "validation"))


def test_answers_by_both_rules(made):
  """Of ten people three said no, six yes, and one nothing."""
  for rule, share in (("common", 1.0), ("agreement", 2 / 3)):
    drawn = draw(made, "vqa2", options=tasks.Options(answers=rule), epochs=60)
    said = [answer.rstrip(".") for (text,), _, answer in drawn if "Is it big?" in text]
    assert set(said) <= {"yes", "no"} and len(said) > 150
    assert abs(said.count("yes") / len(said) - share) < 4 * (share * (1 - share) / len(said))**0.5 + 1e-9


def test_as_many_boxes_as_fit_are_said(made):
  workdir, _, _, text = made
  whole = draw(made, "detection")
  assert all("sink at location (0, 0) -> (255, 255) and with bottle at" in t for (t,), *_ in whole)
  room = max(len(text.encode(t)) for (t,), *_ in whole) - 5
  tasks.register(workdir, VOCABULARY, dataclasses.replace(LAYOUT, text_tokens=room), text, ["detection"])
  drawn = [read(made, s)[0][0] for s in seqio_adapter.examples("detection", "train")]
  assert any("bottle" not in t and "sink at location" in t for t in drawn)


def test_a_text_that_does_not_fit_is_replaced_and_counted(made):
  workdir, _, _, text = made
  lengths = sorted(len(text.encode(f"Describe the given picture. {t}")) for (t,), *_ in draw(made, "flickr30k", epochs=9))
  layout = dataclasses.replace(LAYOUT, text_tokens=lengths[len(lengths) // 2])
  counts = tasks.register(workdir, VOCABULARY, layout, text, ["flickr30k"])["flickr30k"]
  samples = list(seqio_adapter.examples("flickr30k", "train", epochs=9))
  assert len(samples) == 90 and counts["texts_that_did_not_fit"] > 0 and counts["truncated_texts"] == 0
  tasks.register(workdir, VOCABULARY, dataclasses.replace(LAYOUT, text_tokens=2), text, ["vqa2"])
  with pytest.raises(InputError, match="100 texts drawn one after the other do not fit Layout.text_tokens=2"):
    next(seqio_adapter.examples("vqa2", "train"))


@pytest.mark.parametrize("name,counted", [("coco_captions", "answer"), ("textocr", "picture"), ("canny", "picture")])
def test_loss_on_answers_only(made, name, counted):
  workdir, _, _, text = made
  tasks.register(workdir, VOCABULARY, LAYOUT, text, [name], tasks.Options(loss="answer"))
  for sample in seqio_adapter.examples(name, "train"):
    weighed = sample["tokens"][sample["loss_weights"] > 0]
    if sample["answers"].any():
      np.testing.assert_array_equal(weighed, sample["tokens"][sample["answers"] > 0])
    else:
      np.testing.assert_array_equal(weighed, sample["tokens"][-1 - LAYOUT.image_tokens:-1])
    assert counted == "answer" or VOCABULARY.is_image(weighed).all()


def test_a_run_goes_on_where_it_was(made, tmp_path):
  """Without one shard, only that one is made, and byte for byte as before; another tokenizer begins again."""
  workdir, settings, *_ = made
  folder = tmp_path / "train"
  shutil.copytree(workdir / "examples/coco_captions/train", folder)
  paths = sorted(folder.glob("*.arrayrecord"))
  before = [(p.read_bytes(), p.stat().st_mtime_ns) for p in paths]
  about = manifest.read(folder, store.KIND)
  assert about["left_out"] == {"empty captions": 1} and (about["count"], about["texts"], about["aside"]) == (4, 19, 0)
  paths[1].unlink()
  (folder / manifest.FILE_NAME).unlink()
  fields = ("set", "split", "image_tokenizer", "image_tokens", "image_size", "codebook_size", "left_out")
  (folder / "plan.json").write_text(json.dumps(
      {"kind": store.KIND, "num_shards": 2, **{f: about[f] for f in fields}}, sort_keys=True))
  examples.examples("coco_captions", "train", folder, folders=settings.folders, image_tokenizer=workdir / "image", num_shards=2)
  after = [(p.read_bytes(), p.stat().st_mtime_ns) for p in paths]
  assert [b for b, _ in after] == [b for b, _ in before]
  assert after[0][1] == before[0][1] and after[1][1] != before[1][1]


def test_broken_pictures_are_kept_aside_and_a_wrong_folder_is_told(made, tmp_path):
  workdir, settings, *_ = made
  about = manifest.read(workdir / "examples/instruct_pix2pix/train", store.KIND)
  assert about["aside"] == 1 and about["count"] == 18  # the folder with an empty instruction
  root = tmp_path / "official"
  fine_tuning_files.coco(root)
  make = lambda: examples.examples("coco_captions", "train", tmp_path / "out", folders={"coco": str(root)},
                                   image_tokenizer=workdir / "image", num_shards=1)
  (root / "train2014/COCO_train2014_000000000009.jpg").write_bytes(b"\xff\xd8 broken")
  make()
  aside = [json.loads(line) for line in (tmp_path / "out/examples-00000-of-00001.aside.jsonl").read_text().splitlines()]
  assert [a["id"] for a in aside] == ["9"] and "not a picture that can be read" in aside[0]["why"]
  assert len(records.Reader(tmp_path / "out", store.KIND)) == 3
  shutil.rmtree(tmp_path / "out")
  shutil.rmtree(root / "train2014")
  shutil.rmtree(root / "val2014")
  with pytest.raises(InputError, match="4 of 4 examples cannot be used, the first because of: .*no such picture"):
    make()
  assert not manifest.exists(tmp_path / "out")


def test_a_missing_set_is_named_or_skipped(made, tmp_path, capsys):
  workdir, settings, *_ = made
  alone = FineTuning(settings.base, {"vizwiz": settings.folders["vizwiz"]}, tasks=("vizwiz", "textocr"))
  for name in ("image", "text"):
    shutil.copytree(workdir / name, tmp_path / name)
  with pytest.raises(InputError, match=r"textocr needs SFT.folders\['textocr'\] \(TextOCR with its pictures\): docs/fine"):
    alone.run("examples", tmp_path)
  alone = dataclasses.replace(alone, skip_missing=True, name="few")
  alone.run("examples", tmp_path)
  alone.run("mixture", tmp_path)
  assert manifest.read(tmp_path / "windows/few", "windows")["skipped"] == ["textocr"]
  assert "without textocr" in capsys.readouterr().err
  with pytest.raises(InputError, match="no task or folder 'coco2'"):
    dataclasses.replace(settings, folders={"coco2": "x"})


def test_the_mixture_is_trained_on_as_written(made):
  """Explicit rates, windows, and the measured share of masked answers."""
  workdir, settings, *_ = made
  few = dataclasses.replace(settings, tasks=("vqa2", "canny"), rates={"vqa2": 3.0, "canny": 1.0}, name="two")
  assert few.register(workdir) == {"vqa2": 0.75, "canny": 0.25}
  few.run("mixture", workdir)
  about = manifest.read(workdir / "windows/two", "windows")
  assert about["shares"] == {"vqa2": 0.75, "canny": 0.25} and about["samples"] == 6 + 19 and about["answers"]
  few.run("mixture", workdir)  # all there
  with pytest.raises(InputError, match=r"windows/two: made of another mixture \(its shares differ\)"):
    dataclasses.replace(few, rates={"vqa2": 1.0, "canny": 1.0}).run("mixture", workdir)
  source = windows_lib.WindowSource(workdir / "windows/two", batch_size=2, objective=CM3Objective(max_spans=4))
  assert source.batch(0)["inputs"].shape == (2, 512)
  assert manifest.exists(workdir / "windows/two_vqa2") and manifest.exists(workdir / "windows/two_canny")


@pytest.mark.parametrize("probability", (0.0, 0.5, 1.0))
def test_masked_answers_are_counted(made, probability):
  """The answer rule masks with its probability; other spans mask an answer as a whole now and then."""
  workdir, _, _, text = made
  tasks.register(workdir, VOCABULARY, LAYOUT, text, ["vqa2"])
  samples = list(seqio_adapter.examples("vqa2", "train", epochs=60))
  objective = CM3Objective(max_spans=4, rate=0.0, answer_mask_probability=probability)  # no other span
  whole, having = summary.masked_answers(VOCABULARY, inspect.mask_samples(objective, VOCABULARY, LAYOUT, samples, 0), samples)
  assert having == len(samples) == 360
  assert abs(whole / having - probability) <= 4 * (probability * (1 - probability) / having)**0.5


def test_inspection(made, capsys):
  workdir, settings, *_ = made
  two = dataclasses.replace(settings, tasks=("vqa2", "canny"), exponent=0.0, name="look")
  two.describe(workdir)
  head, vqa, canny, total, padding = capsys.readouterr().out.splitlines()
  assert head.split() == ["task", "rows", "share", "repeated", "tokens", "a", "sample", "answer", "masked"]
  assert vqa.split()[:4] == ["vqa2", "6", "50.0%", "2.08"] and canny.split()[:4] == ["canny", "19", "50.0%", "0.66"]
  assert total.split()[:3] == ["look", "25", "100.0%"] and padding.startswith("padding ")
  out = io.StringIO()
  two.show("canny", workdir, n=1, stream=out)
  assert "Make high quality image from canny edge features" in out.getvalue()


def test_narratives_of_held_out_pictures_are_not_trained_on(made):
  _, settings, *_ = made
  found = sources.read("localized_narratives", "train", settings.folders)
  assert {e.id for e in found.examples} == {"coco_train/9", "coco_train/42", "flickr30k_train/1000092795"}
  assert found.left_out["pictures of another split"] >= 1  # 133 is one of Karpathy's test
