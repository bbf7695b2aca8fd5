"""Every command and every Python line of docs/evaluating.md runs as printed."""

import json
from pathlib import Path
import re
import shlex

from checkpoint_writer import tensor, write
import numpy as np
import official_files
from PIL import Image
import public_weights
import pytest
import tiny_workdir

from cm3leon_jax import cli
from cm3leon_jax.evaluation import java

TEXT = (Path(__file__).parents[2] / "docs" / "evaluating.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ cm3leon (eval (?!run).*)$", TEXT, re.M)  # those on files; eval run has tests of its own
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.fixture
def files(tmp_path, monkeypatch):
  """The files that the page speaks of, in the current folder."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("CM3LEON_CACHE", str(tmp_path / "cache"))
  images = public_weights.pictures(8, 64)
  for name, part in (("pictures", images[:4]), ("real", images[4:])):
    Path(name).mkdir()
    for i, image in enumerate(part):
      Image.fromarray(image).save(f"{name}/{i}.png")
  features = np.random.default_rng(0).normal(size=(8, 3))
  np.savez("features.npz", features=features)
  np.savez("statistics.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))
  write = lambda name, value: Path(name).write_text(json.dumps(value))
  write("results.json", [{"image_id": 1, "caption": "a red heart"}])
  write("captions.json", {"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "A red heart."}]})
  write("answers.json", [{"question_id": 1, "answer": "yes"}])
  write("annotations.json", {"annotations": [{"question_id": 1, "answers": [{"answer": "yes"}] * 10}]})
  write("paragraphs_v1.json", [{"image_id": i, "paragraph": "A red heart. It is big."} for i in (1, 2)])
  write("test_split.json", [1])
  write("paragraphs.json", [{"image_id": 1, "caption": "a red heart. it is big"}])
  write("ranks.json", [{"image_id": 1, "round_id": 1, "ranks": [2, 1]}])
  write("dense.json", [{"image_id": 1, "round_id": 1, "gt_relevance": [0, 0.4]}])
  write("dialogs.json", {"data": {"dialogs": [{"image_id": 1, "dialog": [{"answer_options": [5, 6], "gt_index": 0}]}]}})
  write("choices.json", {"1": 0, "2": "B", "3": "The answer is A."})
  write("problems.json", {str(i + 1): {"choices": ["x", "y"], "answer": a, "split": "test"} for i, a in enumerate((0, 1, 0))})
  return tmp_path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny_workdir.make(tmp_path_factory.mktemp("tiny"))


EXPECTED = {"scores.json": ("rouge_l", 1), "fid.json": ("fid", 0), "vqa.json": ("vqa_accuracy", 100),
            "meteor.json": ("meteor", 1), "paragraph.json": ("rouge_l", 1), "visdial.json": ("ndcg", 1),
            "scienceqa.json": ("accuracy", 100),
            "contamination.json": ("images", 3), "fd.json": ("fd_efficientnet_lite0", None),
            "clean.json": ("clean_fid", None), "infinity.json": ("fd_efficientnet_lite0_infinity", None)}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(files, command, request):
  if "=D/index" in command:
    official_files.karpathy_coco(Path("coco"))
    Path("D").symlink_to(request.getfixturevalue("workdir"))
  if "meteor" in command and not java.find():
    pytest.skip("METEOR needs Java")
  if "pt_inception" in command:
    state = {name: tensor(array) for name, array in public_weights.inception_state().items()}
    write(Path("pt_inception-2015-12-05-6726825d.pth"), state)
  arguments = shlex.split(command)
  assert not cli.main(arguments)
  out = next(a.split("=")[1] for a in arguments if a.startswith("--json="))
  key, value = EXPECTED[out]
  result = json.loads(Path(out).read_text())
  assert result[key] > 0 if value is None else result[key] == pytest.approx(value, abs=1e-6)
  assert all(isinstance(v, (int, float, str)) for v in result.values()), "a flat JSON"


def test_no_command_is_left_out():
  assert len(COMMANDS) == len(EXPECTED) and len(PYTHON) == 2


@pytest.mark.parametrize("command, says", [
    ("eval captions --predictions=none.json --references=captions.json", "none.json: no such file"),
    ("eval captions --predictions=answers.json --references=captions.json", "are not of the form"),
    ("eval fid --generated=pictures --reference=nowhere --weights=efficientnet-lite0", "nowhere: no such file"),
    ("eval vqa --predictions=results.json --references=annotations.json", "are not of the form"),
    ("eval vqa --predictions=answers.json --references=annotations.json --json=answers.json/x.json", "its folder cannot be made"),
    ("eval vqa --predictions=answers.json --references=annotations.json --json=pictures", "pictures: is a folder; name a file"),
])
def test_a_wrong_file_is_one_sentence_and_exit_code_1(files, capsys, command, says):
  assert cli.main(command.split()) == 1
  err = capsys.readouterr().err
  assert says in err and "Traceback" not in err


@pytest.mark.skipif(not java.find(), reason="the snippet asks for the Java tokenizer")
def test_python_on_captions(files):
  exec(PYTHON[0], {})  # noqa: S102


def test_python_on_pictures(files):

  class Constant:
    fingerprint = "none"

    def encode_text(self, texts):
      return np.eye(3, dtype=np.float32)[np.zeros(len(texts), int)]

    def encode_images(self, images):
      return np.eye(3, dtype=np.float32)[np.zeros(len(images), int)]

  images = public_weights.pictures(4, 64)
  space = dict(real=images, captions=list("abcd"), encoder=Constant(), pictures_k2=images, pictures_k0=images[::-1])
  exec(PYTHON[1], space)  # noqa: S102
  assert space["two"].intervals["fd_efficientnet_lite0"].value == pytest.approx(0, abs=1e-3)
  assert space["reference"].differences(space["two"], space["none"])["clip_score"].value == 0
