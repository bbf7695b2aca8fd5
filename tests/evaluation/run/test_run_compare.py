"""Comparing two results: what makes them incomparable, paired differences, the items that changed, and the page."""

import json
from pathlib import Path
import re
import shlex

import eval_workdir
import numpy as np
import pytest

from cm3leon_jax import cli
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import bootstrap
from cm3leon_jax.evaluation.bootstrap import Interval
from cm3leon_jax.evaluation.run import compare, compare_page

DOC = (Path(__file__).parents[3] / "docs" / "evaluating.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
  """metric → (workdir of a weak model, of a better one)."""
  folder = tmp_path_factory.mktemp("pairs")
  return {metric: (eval_workdir.make(folder / metric / "a", metric, skill=0.3, checkpoint="small"),
                   eval_workdir.make(folder / metric / "b", metric, skill=0.7, checkpoint="large"))
          for metric in eval_workdir.METRICS}


def items(workdir, key):
  return np.array([json.loads(line)[key] for line in open(workdir / "per_item.jsonl")])


@pytest.mark.parametrize("metric, key, item_key, scale", [
    ("fid", "clip_score", "clip_score", 1), ("captions", "cider", "cider", 1), ("captions", "rouge_l", "rouge_l", 1),
    ("vqa", "vqa_accuracy", "accuracy", 100), ("scienceqa", "accuracy", "accuracy", 100), ("visdial", "ndcg", "ndcg", 1)])
def test_differences_are_paired_by_item(pairs, metric, key, item_key, scale):
  a, b = pairs[metric]
  result = compare.compare([a, b])
  expected = bootstrap.difference_interval(scale * items(b, item_key), scale * items(a, item_key))
  assert result["comparable"] is True and result["paired_items"] == 60
  got = [result[f"{key}/b_minus_a{end}"] for end in ("", "_low", "_high")]
  assert got == pytest.approx(list(expected))
  assert got[0] == pytest.approx(result[f"{key}/b"] - result[f"{key}/a"])
  unpaired = result[f"{key}/a"] - json.loads((a / "result.json").read_text())[f"{key}_low"]
  if metric in ("fid", "captions"):  # whose items differ in difficulty, the same for both models
    assert got[0] - got[1] < unpaired  # narrower than even one side's own interval


def test_a_number_that_is_no_mean_of_items_has_no_interval(pairs):
  result = compare.compare(pairs["captions"])
  assert result["bleu_4/b_minus_a"] == pytest.approx(result["bleu_4/b"] - result["bleu_4/a"])
  assert "bleu_4/b_minus_a_low" not in result
  result = compare.compare(pairs["fid"])
  assert result["fd_efficientnet_lite0/b_minus_a"] == pytest.approx(-24) and "kid/b_minus_a_low" not in result
  assert not [key for key in result if "rank" in key or key.startswith("count")]


def test_half_samples_in_the_results_give_a_distance_its_interval(tmp_path):
  runs = [eval_workdir.make(tmp_path / name, count=4, checkpoint=name) for name in "ab"]
  halves = np.random.default_rng(0).normal(100, 5, 50)
  for run, shift in zip(runs, (0.0, 2.0)):
    result = json.loads((run / "result.json").read_text())
    result["fd_efficientnet_lite0"] += shift
    result["fd_efficientnet_lite0_halves"] = list(halves + shift + 0.1 * np.arange(50) * bool(shift))
    (run / "result.json").write_text(json.dumps(result))
  found = compare.compare(runs)
  expected = bootstrap.half_sample_interval(2.0, 2.0 + 0.1 * np.arange(50))
  assert [found[f"fd_efficientnet_lite0/b_minus_a{end}"] for end in ("", "_low", "_high")] == pytest.approx(list(expected))


def test_a_part_of_the_items_is_not_compared_with_all(tmp_path, capsys):
  runs = [eval_workdir.make(tmp_path / name, "captions", count=9, checkpoint=name) for name in "ab"]
  result = json.loads((runs[1] / "result.json").read_text())
  (runs[1] / "result.json").write_text(json.dumps(result | {"share_scored": 0.5}))
  with pytest.raises(InputError, match="they differ in share_scored"):
    compare.compare(runs)
  assert "share_scored\t1.0\tB: 0.5" in capsys.readouterr().out
  assert compare.compare(runs, force=True)["differs/share_scored/b"] == 0.5


def test_only_items_of_both_are_paired(tmp_path):
  a, b = (eval_workdir.make(tmp_path / name, "captions", count=9, checkpoint=name) for name in "ab")
  lines = (b / "per_item.jsonl").read_text().splitlines(keepends=True)
  (b / "per_item.jsonl").write_text("".join(lines[:5]))
  result = json.loads((b / "result.json").read_text())
  result["cider"] = float(np.mean([json.loads(line)["cider"] for line in lines[:5]]))
  (b / "result.json").write_text(json.dumps(result))
  found = compare.compare([a, b])
  assert found["paired_items"] == 5
  assert found["cider/b_minus_a"] == pytest.approx((items(b, "cider") - items(a, "cider")[:5]).mean())


def test_categories_are_paired_too(pairs):
  a, b = pairs["vqa"]
  result = compare.compare([a, b])
  for name in ("yes/no", "number", "other"):
    rows = [row["category"] == name for row in map(json.loads, open(a / "per_item.jsonl"))]
    expected = bootstrap.difference_interval(100 * items(b, "accuracy")[rows], 100 * items(a, "accuracy")[rows])
    assert [result[f"category/{name}/b_minus_a{end}"] for end in ("", "_low", "_high")] == pytest.approx(list(expected))


def test_few_items_give_no_interval(tmp_path):
  """Two items that both rose are no proof: an interval by resampling would leave out 0."""
  runs = [eval_workdir.make(tmp_path / f"{skill}", "vqa", count=16, skill=skill, checkpoint=f"{skill}") for skill in (0.1, 0.9)]
  result = compare.compare(runs)
  assert "vqa_accuracy/b_minus_a_low" in result  # of 16 items
  assert "category/number/b_minus_a" in result and "category/number/b_minus_a_low" not in result  # of 4


def test_names_the_items_that_changed_most(pairs):
  a, b = pairs["captions"]
  result = compare.compare([a, b])
  change = items(b, "cider") - items(a, "cider")
  order = np.argsort(-change)
  assert [key for key in result if key.startswith("improved/")] == [f"improved/{1000 + i}" for i in order[:5]]
  assert result[f"improved/{1000 + order[0]}"] == pytest.approx(change[order[0]])
  assert compare.most_changed({"a": 0.0, "b": -1.0, "c": 2.0}, 5) == (["c"], ["b"])


@pytest.mark.parametrize("key, change, good", [
    ("fid", Interval(-2, -3, -1), True), ("fid", Interval(2, 1, 3), False), ("cider", Interval(2, 1, 3), True),
    ("cider", Interval(2, -1, 3), None), ("cider", Interval(2, np.nan, np.nan), None), ("unknown", Interval(2, 1, 3), None)])
def test_better(key, change, good):
  assert compare.better(key, change) is good


@pytest.mark.parametrize("field, changes", [
    ("sampling.guidance", {"sampling": {"guidance": 6.0}}),
    ("items.hash", {"items": {"count": 4, "hash": "another", "source": "annotations.json",
                              "caption": "the first of each picture"}}),
    ("network", {"network": None}),
    ("tokenizer", {"tokenizer": "ptb"}),
])
def test_other_protocols_are_not_compared(tmp_path, capsys, field, changes):
  a = eval_workdir.make(tmp_path / "a", count=4)
  b = eval_workdir.make(tmp_path / "b", count=4, **changes)
  out, html = tmp_path / "o.json", tmp_path / "c.html"
  arguments = ["eval", "compare", str(a), str(b), f"--json={out}", f"--html={html}"]
  assert cli.main(arguments) == 1
  printed = capsys.readouterr()
  assert re.search(rf"^{re.escape(field)}\t.*\tB: ", printed.out, re.M)
  assert f"they differ in {field};" in printed.err and printed.err.count("\n") == 1
  assert json.loads(out.read_text())["comparable"] is False and not html.exists()
  assert cli.main([*arguments, "--force"]) == 0
  printed = capsys.readouterr()
  assert f"not comparable: {field}" in printed.err and "comparable\tFalse" in printed.out
  assert "clip_score/b_minus_a\t" in printed.out and f"differs/{field}/a" in json.loads(out.read_text())
  assert "These results are not comparable" in html.read_text()


def test_model_index_and_name_may_differ(tmp_path):
  a = eval_workdir.make(tmp_path / "a", count=4)
  b = eval_workdir.make(tmp_path / "b", count=4, checkpoint="other", name="renamed", index={"hash": "other", "count": 1})
  assert compare.compare([a, b])["comparable"] is True


def test_three_runs_and_a_sweep(tmp_path):
  runs = [eval_workdir.make(tmp_path / f"g{g}", count=12, checkpoint="same", sampling={"guidance": g}) for g in (1.0, 3.0, 6.0)]
  html = tmp_path / "sweep.html"
  result = compare.compare(runs, html=str(html), force=True)
  assert result["differs/sampling.guidance/c"] == 6.0 and "clip_score/c_minus_a_low" in result
  text = html.read_text()
  assert "FD (EfficientNet-Lite0) over guidance" in text and "3 runs compared" in text
  assert "same (g6.0)" in text  # the folder tells models of one name and step apart
  same = [eval_workdir.make(tmp_path / name, count=4, checkpoint=name) for name in "xy"]
  compare.compare(same, html=str(html))
  assert "over guidance" not in html.read_text()


def test_result_files_alone_give_differences_without_intervals(pairs, tmp_path):
  copies = []
  for name, run in zip("ab", pairs["captions"]):
    copies.append(tmp_path / f"{name}.json")
    copies[-1].write_text((run / "result.json").read_text())
  html = tmp_path / "c.html"
  result = compare.compare(copies, html=str(html))
  assert "cider/b_minus_a" in result and "cider/b_minus_a_low" not in result and "paired_items" not in result
  assert "The runs share no items with numbers of their own." in html.read_text()
  inside = [run / "result.json" for run in pairs["captions"]]
  assert compare.compare(inside)["paired_items"] == 60  # the file in its workdir is the workdir


@pytest.mark.parametrize("metric", eval_workdir.METRICS)
def test_page_shows_both_answers_to_one_item(pairs, metric, tmp_path):
  found = compare.measure(pairs[metric])
  text = compare_page.render(found)
  assert text.startswith("<!doctype html>") and "small against large" in text
  assert not re.findall(r'(?:src|href)="(?!data:|#)', text) and "<script" not in text
  risen = compare.most_changed(found.changes, 24)[0]
  improved = text[text.index('<section id="improved">'):text.index('<section id="random">')]
  assert improved.count('<div class="item">') == len(risen)
  if metric == "fid":
    assert improved.count('alt="drawn by A: ') == improved.count('alt="drawn by B: ') == len(risen)
    assert improved.count('alt="the real picture: ') == len(risen)
  else:
    assert improved.count("<dt>A <span>") == improved.count("<dt>B <span>") == len(risen)


def test_missing_pictures_are_counted(tmp_path):
  a, b = (eval_workdir.make(tmp_path / name, count=4, checkpoint=name) for name in "ab")
  (b / "pictures" / "000002_0.png").unlink()
  text = compare_page.render(compare.measure([a, b]))
  assert 'aria-label="missing: drawn by B: ' in text and "1 picture named in generations/ could not be read" in text


@pytest.mark.parametrize("make, says", [
    (lambda a, folder: [a], "1 results to compare: give from 2"),
    (lambda a, folder: [a, a], "given twice"),
    (lambda a, folder: [a, a / "result.json"], "given twice"),
    (lambda a, folder: [a, folder / "nowhere"], "nowhere: no such folder"),
    (lambda a, folder: [a, folder], "not the folder of an evaluation run"),
    (lambda a, folder: [a, a / "protocol.json"], "holds no protocol"),
    (lambda a, folder: [a, a / "pictures" / "000000_given.png"], "not valid JSON"),
])
def test_bad_input(tmp_path, capsys, make, says):
  a = eval_workdir.make(tmp_path / "a", "captions", count=2)
  (tmp_path / "empty").mkdir()
  assert cli.main(["eval", "compare", *map(str, make(a, tmp_path / "empty"))]) == 1
  err = capsys.readouterr().err
  assert says in err and "Traceback" not in err and err.count("\n") == 1


def test_another_metric_is_another_protocol(pairs):
  with pytest.raises(InputError, match="they differ in task, metric"):
    compare.compare([pairs["captions"][0], pairs["vqa"][0]])
  result = compare.compare([pairs["captions"][0], pairs["vqa"][0]], force=True)
  assert not [key for key in result if key.endswith("b_minus_a")]


def test_commands_of_the_guide(tmp_path, monkeypatch):
  """Every `cm3leon eval compare` of docs/evaluating.md runs as printed, on folders of the names used there."""
  commands = re.findall(r"^cm3leon (eval compare .*)$", DOC, re.M)
  assert len(commands) >= 2
  monkeypatch.chdir(tmp_path)
  for command in commands:
    arguments = shlex.split(command)
    runs = [name for name in arguments[2:] if not name.startswith("-")]
    for n, run in enumerate(runs):
      if not Path(run).exists():
        eval_workdir.make(Path(run), count=4, checkpoint=run, sampling={"guidance": n + 1.0} if len(runs) > 2 else {})
    assert cli.main(arguments) == 0
    for flag in arguments:
      if flag.startswith(("--json=", "--html=")):
        assert Path(flag.split("=")[1]).is_file()
