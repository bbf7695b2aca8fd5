"""What ships draws by itself: moved away from its workdir, with the index inside it."""

import json
import shutil

import tiny_workdir

from cm3leon_jax import assets, cli
from cm3leon_jax.demo import ship


def test_a_shipped_model_draws_after_documents_from_its_own_index(tmp_path):
  workdir = tiny_workdir.make(tmp_path / "work")
  out = tmp_path / "elsewhere" / "model"
  out.mkdir(parents=True)
  (out / "README.md").write_text("how it was made")
  ship.ship(workdir / "model", workdir, out)
  for name in ("clip", "tokenizers"):  # of the tiny workdir; the real ones are the shipped assets
    shutil.move(workdir / name, out / name)
  shutil.rmtree(workdir)
  assert (out / "README.md").read_text() == "how it was made"
  assert "data" not in json.loads((out / "model.json").read_text())["meta"], "no path of the machine that trained it"

  before = sorted(p.name for p in out.rglob("*"))
  assert cli.main(["generate", f"--checkpoint={out}", "--task=text_to_image", "--text=a red heart", "--docs=2",
                   f"--out={tmp_path / 'drawn'}"]) == 0
  [line] = (tmp_path / "drawn" / "generations.jsonl").read_text().splitlines()
  assert len(json.loads(line)["retrieved"]) == 2
  assert cli.main(["search", f"--index={out / 'index'}", "--text=a red heart"]) == 0
  assert sorted(p.name for p in out.rglob("*")) == before, "using it writes nothing into it"


def test_a_shipped_name_is_found_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert assets.find("tokenizers/demo_text") == assets.root("tokenizers") / "demo_text"
  (tmp_path / "tokenizers" / "demo_text").mkdir(parents=True)
  assert assets.find("tokenizers/demo_text").resolve() == tmp_path / "tokenizers" / "demo_text", "a folder that is there wins"
  assert assets.find(tmp_path / "tokenizers" / "nothing") == tmp_path / "tokenizers" / "nothing"
