"""Lines of generations as several runs leave them, and protocol.json of processes that start together."""

import json
import os
import threading

import pytest

from cm3leon_jax import generate as one
from cm3leon_jax.datasets.items import Item
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import files
from cm3leon_jax.evaluation.run import generate, page_data, protocol, wording


def write(work, name, *rows, end=""):
  path = work / generate.GENERATIONS / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)


def test_progress_reads_on_and_counts_no_half_line(tmp_path):
  write(tmp_path, "00000-of-00002.jsonl", {"number": 0}, {"number": 2, "error": "é"})
  write(tmp_path, "00001-of-00002.jsonl", {"number": 1}, end='{"number": 3')
  progress = generate.Progress(tmp_path)
  progress.look()
  assert (progress.good, progress.failed) == ({0, 1}, {2})
  write(tmp_path, "00001-of-00002.jsonl", {"number": 1}, {"number": 3})  # the process went on
  write(tmp_path, "00000-of-00002.jsonl", {"number": 0}, {"number": 2, "error": "é"}, {"number": 2, "again": True})
  progress.look()
  assert (progress.good, progress.failed) == ({0, 1, 3}, set()), "2 is open again"
  write(tmp_path, "00000-of-00002.jsonl", {"number": 0}, {"number": 2, "error": "é"}, {"number": 2, "again": True}, {"number": 2})
  progress.look()
  assert (progress.good, progress.failed) == ({0, 1, 2, 3}, set())


def test_begin_opens_failed_items_of_this_process_alone(tmp_path):
  write(tmp_path, "00000-of-00001.jsonl", *({"number": n, "error": "x"} for n in range(4)), {"number": 1})
  generate.begin(tmp_path, 1, 2, 4)
  assert (tmp_path / "generations" / "00001-of-00002.jsonl").read_text() == '{"number": 3, "again": true}\n'
  progress = generate.Progress(tmp_path)
  progress.look()
  assert (progress.good, progress.failed) == ({1}, {0, 2})


def test_a_good_line_counts_before_an_error_in_whatever_file(tmp_path):
  write(tmp_path, "00000-of-00001.jsonl", {"number": 0, "id": 7, "text": "drawn"})
  write(tmp_path, "00000-of-00002.jsonl", {"number": 0, "id": 7, "error": "disk"}, {"number": 0, "again": True})
  assert generate.read(tmp_path)[0]["text"] == "drawn"
  run = page_data.Run(tmp_path, {"metric": "vqa"}, {}, [{"number": 0, "id": 7}])
  assert page_data.generations(run, ["7"])["7"]["text"] == "drawn"


def test_a_broken_line_is_told_by_file(tmp_path):
  write(tmp_path, "00000-of-00001.jsonl", {"number": 0}, end="\0\0\n")
  with pytest.raises(InputError, match="00000-of-00001.jsonl: the line that ends at byte 17 is not JSON"):
    generate.read(tmp_path)


def test_of_processes_that_start_together_one_protocol_holds(tmp_path):
  for attempt in range(100):
    said, barrier = [], threading.Barrier(4)

    def start(seed, folder=tmp_path / str(attempt), said=said, barrier=barrier):
      barrier.wait()
      try:
        protocol.fix(folder, {"format": 1, "seed": seed, "filling": "x" * 10_000})
        said.append(seed)
      except InputError as error:
        assert "holds another evaluation: seed is" in str(error)

    threads = [threading.Thread(target=start, args=(n % 2,)) for n in range(4)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    there = files.read_json(tmp_path / str(attempt) / "protocol.json")
    assert said == [there["seed"]] * 2, "two of four had the same values"
    assert [p.name for p in (tmp_path / str(attempt)).iterdir()] == ["protocol.json"]


def test_without_hard_links_the_first_file_stays_too(tmp_path, monkeypatch):

  def refused(*_):
    raise PermissionError(1, "Operation not permitted")

  monkeypatch.setattr(os, "link", refused)
  for value in (1, 2):
    files.write_json_once(tmp_path / "a.json", {"value": value})
  assert files.read_json(tmp_path / "a.json") == {"value": 1}
  assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("field, value, says", [
    ("limit", -1, "at least 0"), ("docs", -1, "at least 0"), ("candidates", 0, "at least 1"), ("seed", -5, "at least 0"),
    ("limit", 1, "a distance needs at least 2")])
def test_wrong_values_are_told_before_a_run(field, value, says):
  items = [Item(n, text="a box", image="box.png") for n in range(3)]
  with pytest.raises(InputError, match=says):
    protocol.Protocol("p", "fid", items, network="efficientnet-lite0", **{field: value})


def test_answers_of_a_part_of_the_items_are_told():
  items = [Item(n, text="is it?", references=("yes",) * (n % 2)) for n in range(4)]
  with pytest.raises(InputError, match="2 items without people's answers, while others have them: 0, 2"):
    protocol.Protocol("p", "vqa", items)
  assert protocol.Protocol("p", "vqa", items[::2]).task == "vqa", "a set without answers gives predictions"


def test_checkpoints_of_one_step_and_form_are_told_apart(tmp_path):
  hashes = []
  for name, checksum in (("a", 1), ("b", 2)):
    about = tmp_path / name / "checkpoints" / "10" / "about"
    about.mkdir(parents=True)
    (tmp_path / name / "model.json").write_text("{}")
    (about / "metadata").write_text(json.dumps({"checksums": {"params.embed": checksum}}))
    hashes.append(one.model_hash(tmp_path / name, {"step": 10}))
  assert hashes[0] != hashes[1]


@pytest.mark.parametrize("text, room, kept", [
    ("a red box", 3, "a red box"), ("a red box", 2, "a red"), ("a  red\nbox", 1, "a"), ("a red box", 0, "")])
def test_a_caption_keeps_its_beginning(text, room, kept):
  words = lambda t: len(t.split())
  assert wording.beginning(text, room, words) == (kept, kept != text)
