"""The report page: its structure, what it says of stages that have not run, hostile text, and its size."""

import base64
from html.parser import HTMLParser
import io
import json
import re

import numpy as np
from PIL import Image
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import report
from cm3leon_jax.evaluation import report_data as rd
from cm3leon_jax.evaluation import report_figures
from cm3leon_jax.evaluation import report_metrics
from cm3leon_jax.evaluation import report_reader
from cm3leon_jax.evaluation.report_pictures import data_uri

import report_workdir

SECTIONS = [
  "drawings",
  "time",
  "curves",
  "samples",
  "retrieval",
  "longer",
  "infills",
  "edits",
  "captions",
  "metrics",
  "failures",
  "next",
  "credits",
]
VOID = {"img", "meta", "link", "br", "input"}


class Page(HTMLParser):
  """Tags by name, text outside style and script, and whether every tag is closed in order."""

  def __init__(self, html: str):
    super().__init__()
    self.tags: list[tuple[str, dict]] = []
    self.text, self._open = "", []
    self.feed(html)
    assert not self._open, f"not closed: {self._open}"

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open.pop() == tag, f"</{tag}> closes another tag"

  def handle_data(self, data):
    if not {"style", "script"} & set(self._open):
      self.text += data

  def all(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def html():
  folder = report_workdir.finished() / "report"
  assert not list(folder.glob("*.partial"))
  return (folder / "index.html").read_text(encoding="utf-8")


def test_every_section_in_order_and_nothing_missing(html):
  page = Page(html)
  assert [a["id"] for a in page.all("section")] == SECTIONS == [i for i, _ in report.CONTENTS]
  assert not [a for _, a in page.tags if a.get("class") == "empty"]
  assert len([a for a in page.all("details") if a.get("class") == "truth"]) == 24
  assert len(page.all("svg")) >= 10
  for words in (
    "red heart, noto",
    "17 min 10 s in all",
    "2.8 million parameters",
    "FD (EfficientNet-Lite0)",
    "CC BY-SA 4.0",
    "20.4 dB PSNR",
    "K\u00a0=\u00a02 minus K\u00a0=\u00a01",
    "first ten of 728 in 41 %",
    "K\u00a0=\u00a02",
  ):
    assert words in page.text, words
  assert "FID" not in page.text


def test_one_file_without_outside_resources(html):
  page = Page(html)
  assert len(html.encode()) <= 8e6  # the limit the page promises, at 24 prompts, 8 candidates and 3 values of K
  sources = [v for _, a in page.tags for k, v in a.items() if k in ("src", "srcset", "poster", "data")]
  assert sources and all(s.startswith("data:image/png;base64,") for s in sources)
  assert [a["href"] for a in page.all("link")] == ["data:,"]
  assert "@import" not in html and "url(http" not in html
  assert len(page.all("script")) == 1


def test_hostile_captions_are_text(html):
  page = Page(html)
  assert report_workdir.HOSTILE in page.text
  assert "<script>alert" not in html
  for tag in ("img", "svg"):
    for attrs in page.all(tag):
      assert attrs.get("alt") or attrs.get("aria-label"), f"{tag} without a description"
      assert not [name for name in attrs if name.startswith("on")]


def test_ids_are_unique_and_references_resolve(html):
  ids = re.findall(r'\sid="([^"]+)"', html)
  assert len(ids) == len(set(ids))
  used = set(re.findall(r'href="#([^"]+)"', html)) | set(re.findall(r"url\(#([^)]+)\)", html))
  assert used <= set(ids)


def test_an_empty_workdir_says_what_has_not_run(tmp_path):
  page = Page(report.write_report(tmp_path, tmp_path / "page.html").read_text(encoding="utf-8"))
  assert [a["id"] for a in page.all("section")] == SECTIONS
  empty = [a for a in page.all("p") if a.get("class") == "empty"]
  assert len(empty) == 11  # all but the commands and the credits
  assert "has not run" in page.text and not page.all("img") and not page.all("script")


def test_each_set_stands_alone(tmp_path):
  for name in rd.SETS:
    workdir = tmp_path / name
    with rd.writing_generations(workdir, name) as out:
      truth = "a caption" if name == "caption" else report_workdir.drawing(1)
      what = "words" if name == "caption" else report_workdir.drawing(2)
      out.add("prompt", candidates=[(what, None)], given=report_workdir.drawing(3), truth=truth)
    page = Page(report.write_report(workdir).read_text(encoding="utf-8"))
    assert bool(page.all("img")) == (name != "shipped_k2")  # which needs the same prompt of this run beside it


def test_pick_is_the_best_candidate_and_failures_the_worst(tmp_path):
  with rd.writing_generations(tmp_path, "showcase_k2") as out:
    for i, scores in enumerate([(0.1, 0.9, None), (0.2, 0.15), (float("nan"), 0.5)]):
      out.add(f"p{i}", candidates=[(report_workdir.drawing(10 * i + c), s) for c, s in enumerate(scores)])
  data = report_reader.load(tmp_path)
  rows = data.generations["showcase_k2"]
  assert [g.best_score for g in rows] == [0.9, 0.2, 0.5]
  assert [g.prompt for g in report._failures(rows)] == ["p1", "p2", "p0"]
  first = np.asarray(Image.open(data.picture("showcase_k2", rows[0].candidates[0].file)))
  np.testing.assert_array_equal(first, report_workdir.drawing(1))


def test_stages_keep_the_last_real_run(tmp_path):
  for stage in (("pretrain", 5, False), ("clip", 0.1, True), ("pretrain", 9, False), ("pretrain", 0.2, True)):
    rd.append_stage(tmp_path, *stage)
  assert report_reader.load(tmp_path).stages == (rd.Stage("pretrain", 9.0), rd.Stage("clip", 0.1, True))


def test_curves_take_the_last_of_a_repeated_step_and_leave_out_a_cut_line(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text(
    '{"step": 2, "loss": 3.0}\n{"step": 1, "loss": 4.0, "note": "x", "bad": NaN}\n{"step": 2, "loss": 2.5}\n'
    '{"step": 2, "drawings_k2/loss_image": 2.0, "drawings_k2/loss_text": 0.0, "drawings_k2/tokens_text": 0}\n'
    '{"step": 2, "drawings_k0/loss_image": 2.2, "drawings_k0/tokens_image": 64.0}\n{"step": 3, "lo'
  )
  curves = report_reader.load_curves(path)
  assert curves.train == {"loss": {1: 4.0, 2: 2.5}}
  assert list(curves.train["loss"]) == [1, 2]
  assert report._evals_by_k(curves, "loss_image") == {"drawings": {"K = 0": {2: 2.2}, "K = 2": {2: 2.0}}}
  assert report._evals_by_k(curves, "loss_text") == {}


@pytest.mark.parametrize(
  "name,text,message",
  [
    ("stages.jsonl", "[1]\n", "stages.jsonl, line 1"),
    ("stages.jsonl", '{"seconds": 3}\n', "stages.jsonl, line 1"),
    ("pretrain/metrics.jsonl", '{"step": 1}\nnot json\n', "metrics.jsonl, line 2"),
    ("pretrain/metrics.jsonl", '{"loss": 1}\n', "'step'"),
    ("generations/edit/generations.jsonl", '{"id": "x"}\n', "generations.jsonl, line 1"),
    ("evaluation/metrics.json", '{"rows": [{"k": 1}]}', "metrics.json"),
    ("evaluation/metrics.json", '{"rows"', "metrics.json"),
    ("evaluation/comparisons.json", "[]", "comparisons.json"),
    ("run.json", "[]", "run.json"),
  ],
)
def test_broken_files_are_named(tmp_path, name, text, message):
  path = tmp_path / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  with pytest.raises(InputError, match=re.escape(message)):
    report.write_report(tmp_path)


def test_no_workdir(tmp_path):
  with pytest.raises(InputError, match="no such folder"):
    report.write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
  "file,message", [("../../secret.png", "outside"), ("none.png", "missing"), ("text.png", "not a picture")]
)
def test_pictures_must_be_pictures_of_the_set(tmp_path, file, message):
  folder = tmp_path / "generations" / "showcase_k0"
  folder.mkdir(parents=True)
  (folder / "text.png").write_text("hello")
  Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
  (folder / "generations.jsonl").write_text(json.dumps({"prompt": "p", "candidates": [{"file": file}]}) + "\n")
  with pytest.raises(InputError, match=message):
    report.write_report(tmp_path)


def test_pictures_keep_their_colours_and_shrink(tmp_path):
  def load(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")

  flat = np.zeros((64, 64, 3), np.uint8) + np.arange(64, dtype=np.uint8)[:, None, None]  # 64 colours: kept exactly
  Image.fromarray(flat).save(tmp_path / "flat.png")
  np.testing.assert_array_equal(np.asarray(load(data_uri(tmp_path / "flat.png"))), flat)
  noisy = report_workdir.drawing(5, noise=0.5)
  Image.fromarray(noisy).save(tmp_path / "noisy.png")
  error = np.abs(np.asarray(load(data_uri(tmp_path / "noisy.png")), int) - noisy).mean()
  assert error < 4  # of 255; measured 2.4 on the noisiest made-up drawing
  Image.new("RGBA", (512, 256), (0, 0, 0, 0)).save(tmp_path / "clear.png")
  clear = load(data_uri(tmp_path / "clear.png"))
  assert clear.size == (128, 64) and clear.getpixel((0, 0)) == (255, 255, 255)


def test_table_orders_model_shipped_yardsticks_and_keeps_unknown_metrics():
  interval = {"fd": rd.Interval(3.0, 2.0, 4.0)}
  table = report_metrics.table(
    [
      rd.MetricRow("tokenizer", None, interval),
      rd.MetricRow("model", 2, {"my_score": rd.Interval(1.0)}),
      rd.MetricRow("other", None, {}),
      rd.MetricRow("model", 0, interval),
      rd.MetricRow("shipped", 2, interval),
    ]
  )
  assert [c.split(",")[0].split(" (")[0] for c in table.columns] == [
    "this model",
    "this model",
    "shipped model",
    "tokenizer reconstructions",
    "other",
  ]
  assert [row.label for row in table.rows] == ["FD (EfficientNet-Lite0)", "my score"]
  assert table.rows[0].cells == (interval["fd"], None, interval["fd"], interval["fd"], None)


@pytest.mark.parametrize(
  "value,text",
  [
    (12345, "12,345"),
    (123.4, "123"),
    (12.34, "12.3"),
    (1.234, "1.23"),
    (-0.1234, "−0.123"),
    (0, "0"),
    (None, "–"),
    (float("nan"), "–"),
  ],
)
def test_numbers_for_people(value, text):
  assert report_figures.nice(value) == text


@pytest.mark.parametrize(
  "value,text", [(0.26, "0.3 s"), (59.4, "59 s"), (200, "3 min 20 s"), (240, "4 min"), (7500, "2 h 5 min")]
)
def test_times_for_people(value, text):
  assert report.seconds(value) == text
