"""Every shipped gin file loads, and every run builds its abstract state on 8 fake devices."""

import gin
import jax
import pytest

from cm3leon_jax import assets, config
from cm3leon_jax.demo import stages
from cm3leon_jax.sharding import mesh as mesh_lib
from cm3leon_jax.sharding import rules as rules_lib
from cm3leon_jax.train import fit_model
from cm3leon_jax.training.optimizer import make_optimizer
from cm3leon_jax.training.state import abstract_state, state_shardings

FILES = sorted(p.relative_to(assets.root("configs")).as_posix() for p in assets.root("configs").rglob("*.gin"))
RUNS = [f for f in FILES if f.startswith("runs/")]


@pytest.mark.parametrize("name", FILES)
def test_file_loads(name):
  config.load([f"configs/{name}"])


@pytest.mark.parametrize("name", RUNS)
def test_run_builds(name):
  config.load([f"configs/{name}"])
  run = gin.get_bindings("train")
  model = fit_model(run["model"], run["vocabulary"], run["layout"])
  state = abstract_state(model, make_optimizer(run["optimizer"], model, run["steps"]), run.get("ema_decay", 0) > 0)
  assert sum(x.size for x in jax.tree.leaves(state.params)) > 1e6
  mesh = mesh_lib.make_mesh(run["mesh"])
  assert mesh.size == 8
  shardings = state_shardings(model, state, mesh, rules_lib.DEFAULT_RULES)
  spread = [s for s in jax.tree.leaves(shardings.params) if not s.is_fully_replicated]
  assert spread, "nothing is sharded over 8 devices"


@pytest.mark.parametrize("name", [f for f in FILES if f.startswith(("runs/", "evaluation/"))])
def test_run_opens_with_how_to_run_it(name):
  head = (assets.root("configs") / name).read_text().splitlines()[:3]
  assert head[1].startswith("# Run: ") and f"configs/{name}" in head[1] and head[2].startswith("# Expect: ")


@pytest.mark.parametrize("name", sorted(stages.QUICK))
def test_what_quick_changes_exists(name):
  config.load([name], stages.QUICK[name])


def test_few_names_can_be_bound():
  # STYLE: at most about 80 bindable names beside the model's own switches; a longer list must argue for itself here.
  of = lambda *groups: [n for n in config.bindable_names() if n.split(".")[0] in groups]
  evaluation = ["Protocol", "Sampling"]  # what an evaluation's result is fixed by
  rooms = (".datasets.official.", ".datasets.corpora.")  # evaluation sets: a folder and a split each; formats of corpora
  readers = [n for n, target in config.BINDABLE.items() if any(room in target for room in rooms)]
  fine_tuning = ["SFT", "SFTOptions"]  # where the official sets lie, and the paper's open choices
  training = [n for n in config.BINDABLE if n not in ("Transformer", *evaluation, *readers, *fine_tuning)]
  assert len(of(*training)) <= 90, sorted(of(*training))
  assert len(of(*evaluation)) <= 25, of(*evaluation)
  assert len(of(*fine_tuning)) <= 16, of(*fine_tuning)
  assert len(of(*readers)) <= 5 * len(readers), of(*readers)
