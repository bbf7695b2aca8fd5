"""The page of an evaluation run: what stands on it, that it is one file, and what it says of files that are wrong."""

import html
from html.parser import HTMLParser
import json
import re

import eval_workdir
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation.run import page, page_data, page_numbers, paper_rows

VOID = {"img", "meta", "link", "br"}


class Page(HTMLParser):
  """Tags by name, text outside style; every tag must be closed in order."""

  def __init__(self, text: str):
    super().__init__()
    self.html, self.text, self.tags, self._open = text, "", [], []
    self.feed(text)
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
    if "style" not in self._open:
      self.text += data

  def all(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]


def written(workdir) -> Page:
  path = page.write(workdir)
  assert path == workdir / "report" / "index.html" and not list(path.parent.glob("*.partial"))
  return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """metric → (workdir, its page), each made once; tests only read them."""
  folder = tmp_path_factory.mktemp("runs")
  return {metric: (w := eval_workdir.make(folder / metric, metric), written(w)) for metric in eval_workdir.METRICS}


@pytest.mark.parametrize("metric", eval_workdir.METRICS)
def test_is_one_file_that_a_reader_can_walk(made, metric):
  _, found = made[metric]
  sources = [v for _, a in found.tags for k, v in a.items() if k in ("src", "srcset", "poster", "data")]
  assert sources and all(re.match(r"data:image/(png|jpeg);base64,", s) for s in sources)
  assert [a["href"] for a in found.all("link")] == ["data:,"]
  assert not found.all("script") and "@import" not in found.html and "url(http" not in found.html
  for tag in ("img", "svg"):
    assert all(a.get("alt") or a.get("aria-label") for a in found.all(tag)), f"a {tag} without a description"
  assert all(a.get("scope") in ("row", "col") for a in found.all("th"))
  levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h\d", tag)]
  assert levels[0] == 1 and levels.count(1) == 1
  assert all(after <= before + 1 for before, after in zip(levels, levels[1:])), "a level of headings is left out"
  ids = re.findall(r'\sid="([^"]+)"', found.html)
  assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', found.html)) <= set(ids)


def test_hostile_prompts_are_text(made):
  for metric in ("fid", "vqa"):
    _, found = made[metric]
    assert eval_workdir.HOSTILE in found.text and "<script>alert" not in found.html
    assert not [name for _, attrs in found.tags for name in attrs if name.startswith("on")]


def test_shows_the_numbers_beside_the_papers(made):
  workdir, found = made["fid"]
  result = json.loads((workdir / "result.json").read_text())
  assert f"{result['fd_efficientnet_lite0']:.2f}" in found.text
  assert f"{result['fd_efficientnet_lite0_low']:.2f} … {result['fd_efficientnet_lite0_high']:.2f}" in found.text
  for words in ("4.88", "CM3Leon paper, Table 1", "RE-IMAGEN", "Not comparable with the paper’s rows",
                "60 items, where the paper has 30,000", "is not measured over the InceptionV3 of FID", "only equal counts"):
    assert words in found.text, words
  _, found = made["captions"]
  assert "61.6" in found.text and "CM3Leon paper, Table 2" in found.text and "Not comparable" not in found.text
  assert "The CM3Leon paper prints no number for this protocol." in made["scienceqa"][1].text


def test_failures_come_first_and_are_the_worst(made):
  workdir, found = made["fid"]
  scores = {row["number"]: row["clip_score"] for row in map(json.loads, open(workdir / "per_item.jsonl"))}
  worst, best = min(scores, key=scores.get), max(scores, key=scores.get)
  headings = [html.unescape(h) for h in re.findall(r"<h[23]>(.*?)</h[23]>", found.html)]
  where = [i for i, h in enumerate(headings) if h in ("Where it fails", "Where it does best", "At random")]
  assert [headings[i] for i in where] == ["Where it fails", "Where it does best", "At random"]
  assert eval_workdir.prompt(worst) in headings[where[0] + 1] and f"{scores[worst]:.3f}" in headings[where[0] + 1]
  assert eval_workdir.prompt(best) in headings[where[1] + 1] and f"{scores[best]:.3f}" in headings[where[1] + 1]
  assert [where[1] - where[0] - 1, where[2] - where[1] - 1] == [24, 24]


def test_draws_ranks_documents_and_candidates(made):
  _, found = made["fid"]
  alts = [a["alt"] for a in found.all("img")]
  assert sum(alt.startswith("drawn by the model: ") for alt in alts) == 24 + 24 + 48
  assert sum(alt.startswith("the real picture: ") for alt in alts) == 24 + 24 + 48
  assert sum(alt.startswith("retrieved: ") for alt in alts) == 2 * (24 + 24 + 48)
  assert sum(alt.startswith("candidate of rank 3: ") for alt in alts) == 24 + 24 + 48
  assert any("by rank of the candidates" in a["aria-label"] for a in found.all("svg"))
  assert "0.820" in found.text  # the first document's score in eval_workdir


def test_counts_peoples_answers(made):
  _, found = made["vqa"]
  assert "yes × 7 · no × 2 · unclear" in found.text and "accuracy 0 %" in found.text and "accuracy 100 %" in found.text
  _, found = made["captions"]
  assert "(nothing)" in found.text  # an empty caption
  assert "There is a dog here." in found.text
  _, found = made["visdial"]
  assert "the true answer" in found.text


def test_categories_have_counts_and_intervals_most_first(made):
  workdir, found = made["vqa"]
  run = page_data.load(workdir)
  categories = page_data.categories(run)
  assert [(c.name, c.count) for c in categories] == [("other", 30), ("number", 15), ("yes/no", 15)]
  for category in categories:
    assert category.value.value == pytest.approx(run.numbers[f"category/{category.name}"])  # in percent, as the whole
    assert category.value.low <= category.value.value <= category.value.high
    assert f"{category.value.value:.1f}" in found.text
  assert page_data.categories(page_data.load(made["fid"][0])) == []


def test_says_how_to_make_it_again(made):
  workdir, found = made["fid"]
  assert f"cm3leon eval run --gin_file={workdir}/operative.gin --checkpoint=demo_7m --workdir=ANOTHER_FOLDER" in found.text
  assert "Protocol.seed = 0" in found.text and "network.weights_hash" in found.text
  assert json.loads((workdir / "protocol.json").read_text())["items"]["hash"] in found.text


def test_missing_pictures_are_marked_and_counted(tmp_path):
  workdir = eval_workdir.make(tmp_path / "W", count=6)
  (workdir / "pictures" / "000002_0.png").unlink()
  (workdir / "pictures" / "000003_real.png").write_text("not a picture")
  found = written(workdir)
  gone = [a["aria-label"] for a in found.all("div") if a.get("class") == "gone"]
  assert f"missing: drawn by the model: {eval_workdir.prompt(2)}" in gone
  assert f"missing: the real picture: {eval_workdir.HOSTILE}" in gone
  assert "2 pictures named in generations/ could not be read" in found.text


def test_an_item_that_failed_says_why(tmp_path):
  workdir = eval_workdir.make(tmp_path / "W", count=6)
  path = workdir / "generations" / "00000-of-00001.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  rows[0] = {"number": rows[0]["number"], "id": rows[0]["id"], "error": "the prompt is too long", "candidates": []}
  path.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))  # and one has no line at all
  found = written(workdir)
  assert "not generated: the prompt is too long" in found.text
  assert "its line is missing in generations/" in found.text


def test_small_runs_and_items_without_a_number(tmp_path):
  for count in (1, 2):
    assert "At random" in written(eval_workdir.make(tmp_path / str(count), count=count)).text
  workdir = eval_workdir.make(tmp_path / "none", "captions", count=3)
  rows = [json.loads(line) for line in (workdir / "per_item.jsonl").read_text().splitlines()]
  (workdir / "per_item.jsonl").write_text("".join(json.dumps({**row, "cider": None}) + "\n" for row in rows))
  found = written(workdir)
  assert "No item has a number of its own." in found.text and "3 items without a number of its own" in found.text


def test_choosing():
  scores = {"a": 0.3, "b": 0.1, "c": 0.2, "d": 0.1, "e": 0.9}
  worst, best, drawn = page_data.choose(scores, [*scores, "unscored"], ends=2, random=4)
  assert sorted(worst) == ["b", "d"] and best == ["e", "a"]
  assert len(set(drawn)) == 4
  assert page_data.choose(scores, list(scores)) == page_data.choose(scores, list(scores))
  firsts = {page_data.choose(dict.fromkeys("abcdefgh", 0.0), [], ends=1, seed=seed)[0][0] for seed in range(20)}
  assert len(firsts) > 3  # equal scores do not always show the same item
  worst, best, _ = page_data.choose({"a": 1.0, "b": 2.0, "c": 3.0}, [])
  assert (worst, best) == (["a", "b"], ["c"])  # each item on one side


@pytest.mark.parametrize("protocol, metric, count, last", [
    ("coco_30k", "FID-30k", 11, ("CM3Leon-7B", 4.88)),
    ("coco_30k_docs2_stretch", "FID-30k", 11, ("CM3Leon-7B", 4.88)),
    ("coco_captions", "CIDEr × 100", 3, ("SFT-CM3Leon-7B", 61.6)),
    ("vqa2", "VQA accuracy, %", 3, ("SFT-CM3Leon-7B", 47.6)),
    ("vizwiz", "VQA accuracy, %", 2, ("SFT-CM3Leon-7B", 37.6)),
    ("okvqa", "VQA accuracy, %", 2, ("SFT-CM3Leon-7B", 23.8)),
    ("image_paragraph", "CIDEr × 100", 1, ("SFT-CM3Leon-7B", 10.5)),
    ("visdial", "NDCG × 100", 2, ("SFT-CM3Leon-7B", 22.6)),
])
def test_rows_of_the_paper(protocol, metric, count, last):
  """Values: the paper's Tables 1 and 2."""
  rows = paper_rows.find(protocol)
  assert (rows.metric, len(rows.rows)) == (metric, count)
  assert (rows.rows[-1].model, rows.rows[-1].value) == last
  repeated = [row for row in rows.rows if row.model == rows.model and row.docs == rows.docs]
  assert len(repeated) == 1


def test_rows_belong_to_their_documents():
  assert [paper_rows.find(f"coco_30k{docs}").docs for docs in ("", "_docs1", "_docs2")] == [0, 1, 2]
  assert paper_rows.find("demo_pictures") is None and paper_rows.find("coco_30kish") is None
  assert paper_rows.find("vqa2").differs and not paper_rows.find("vqa2_test_dev").differs


def test_a_true_fid_of_the_whole_set_stands_on_one_axis_with_the_paper(tmp_path):
  network = {"name": "InceptionV3", "key": "fid", "weights_hash": "6726825d", "published": True, "preprocessing": "299 px"}
  workdir = eval_workdir.make(tmp_path / "W", count=4, network=network, items={"count": 30_000, "hash": "0"})
  result = json.loads((workdir / "result.json").read_text())
  result = {key.replace("fd_efficientnet_lite0", "fid"): value for key, value in result.items() if key != "note"}
  (workdir / "result.json").write_text(json.dumps(result))
  found = written(workdir)
  assert "Not comparable" not in found.text and "FID-30k: this run and the paper" in found.text
  (workdir / "result.json").write_text(json.dumps(result | {"share_scored": 0.5}))
  found = written(workdir)
  assert "only 50.0 % of the items have an answer" in found.text and "FID-30k: this run and the paper" not in found.text
  network["published"] = False
  workdir = eval_workdir.make(tmp_path / "V", count=4, network=network, items={"count": 30_000, "hash": "0"})
  (workdir / "result.json").write_text(json.dumps(result))
  assert "the weights of InceptionV3 are not the published file" in written(workdir).text


def test_a_part_of_a_set_is_not_the_set(tmp_path):
  items = {"count": 4, "hash": "0", "expected": 5000}
  found = written(eval_workdir.make(tmp_path / "W", "captions", count=4, items=items))
  assert "4 items, where the whole set has 5,000" in found.text and "Not comparable with the paper’s rows" in found.text


@pytest.mark.parametrize("scale, scores, value, found", [(1, [0.2, 0.4], 0.3, 1), (100, [0.2, 0.4], 30.0, 100),
                                                         (0, [0.2, 0.4], 0.55, None), (0, [], 0.0, None)])
def test_a_number_is_the_mean_of_items_or_it_is_not(scale, scores, value, found):
  assert page_data.mean_scale(value, scores) == found


@pytest.mark.parametrize("key, value, text", [("fid", 4.876, "4.88"), ("cider", 0.6163, "61.6"), ("vqa_accuracy", 47.58, "47.6"),
                                              ("kid", -0.00012, "−0.0001"), ("mean_rank", 12.0, "12.00"), ("other", 1.5, "1.50")])
def test_numbers_in_print(key, value, text):
  assert page_numbers.in_print(key, value) == text


def damaged(folder, name, text=None):
  workdir = eval_workdir.make(folder / "W", "captions", count=3)
  (workdir / name).unlink()
  if text is not None:
    (workdir / name).write_text(text)
  return workdir


@pytest.mark.parametrize("name, text, says", [
    ("protocol.json", None, "not the folder of an evaluation run"),
    ("protocol.json", "[]", "not a protocol"),
    ("protocol.json", '{"format": 7}', "format 7, and this version of cm3leon_jax reads format 1"),
    ("protocol.json", '{"format": 1, "metric": "psnr"}', "metric 'psnr' is not known"),
    ("protocol.json", '{"format": 1, "metric": "fid"}', '"items" is missing'),
    ("result.json", None, "3 of 3 items are done and no result.json is there; go on with: cm3leon eval run --gin_file="),
    ("result.json", "[]", "must be a JSON object"),
    ("result.json", "{", "not valid JSON"),
    ("per_item.jsonl", None, "per_item.jsonl: missing"),
    ("per_item.jsonl", '{"id": 3}\n', 'without "number" or "id"'),
    ("per_item.jsonl", '{"number": 0, "id": 3}\n{"number": 1, "id": 3}\n', "id more than once: '3'"),
    ("generations/00000-of-00001.jsonl", "{\n", "00000-of-00001.jsonl, line 1: not valid JSON"),
    ("generations/00000-of-00001.jsonl", "{}\n", 'line 1: no "number"'),
])
def test_wrong_folders_are_one_sentence(tmp_path, name, text, says):
  with pytest.raises(InputError, match=re.escape(says)):
    page.write(damaged(tmp_path, name, text))


def test_an_unfinished_run_counts_whole_lines_only(tmp_path):
  workdir = damaged(tmp_path, "result.json")
  path = workdir / "generations" / "00000-of-00001.jsonl"
  path.write_text(path.read_text()[:-20])  # a kill cut the last line
  with pytest.raises(InputError, match="2 of 3 items are done"):
    page.write(workdir)


def test_pictures_outside_the_folder_are_refused(tmp_path):
  workdir = eval_workdir.make(tmp_path / "W", "captions", count=1)
  path = workdir / "generations" / "00000-of-00001.jsonl"
  path.write_text(path.read_text().replace("000000_given.png", "../../secret.png"))
  with pytest.raises(InputError, match="lies outside"):
    page.write(workdir)


def test_no_folder_and_a_result_alone(tmp_path):
  with pytest.raises(InputError, match="no such folder"):
    page.write(tmp_path / "nowhere")
  workdir = eval_workdir.make(tmp_path / "W", "captions", count=1)
  alone = (workdir / "result.json").rename(tmp_path / "copy.json")
  with pytest.raises(InputError, match="needs the run's folder"):
    page.write(alone)


def test_sweep(tmp_path):
  runs = [eval_workdir.make(tmp_path / f"{g}", count=1, sampling={"guidance": g}) for g in (6.0, 1.0, 3.0)]
  svg = page.sweep(runs)
  assert svg.startswith("<svg") and "FD (EfficientNet-Lite0) over guidance" in svg
  without = eval_workdir.make(tmp_path / "none", count=1, sampling={"guidance": None})
  with pytest.raises(InputError, match="no sampling.guidance"):
    page.sweep([*runs, without])
