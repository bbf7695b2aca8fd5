"""`cm3leon demo`: every stage once, resumable, from drawings to a page of pictures.

Each stage calls what the verb printed beside it calls, and leaves a folder that is whole; a
stage whose result is there is skipped.
"""

import dataclasses
import json
import os
from pathlib import Path
import sys
import time
from typing import Callable

from cm3leon_jax import config
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import report_data

DATA_CONFIG = "configs/mixtures/emoji.gin"
PRETRAIN_CONFIG = "configs/runs/demo_pretrain.gin"
SFT_CONFIG = "configs/runs/demo_sft.gin"
# What --quick changes: everything runs, nothing is good.
QUICK = {
    DATA_CONFIG: ["Pipelines.epochs=1", "Pipelines.framings=1", "Pipelines.held_out_samples=32"],
    PRETRAIN_CONFIG: ["train.steps=60", "train.checkpoint_every=30", "train.eval_every=30"],
    SFT_CONFIG: ["train.steps=30", "train.checkpoint_every=30", "train.eval_every=30"],
}


@dataclasses.dataclass
class Demo:
  """One demo run: its folder and its size."""

  workdir: Path
  quick: bool
  fresh: bool

  def configure(self, gin_file: str) -> None:
    bindings = list(QUICK.get(gin_file, ())) if self.quick else []
    if self.fresh and gin_file == DATA_CONFIG:
      bindings += ["Pipelines.text_tokenizer=assets/text", "Pipelines.image_tokenizer=assets/image",
                   "Pipelines.encoder=assets/clip"]
    config.load([gin_file], bindings)

  def pipelines(self):
    self.configure(DATA_CONFIG)
    return config.configured("Pipelines")


@dataclasses.dataclass(frozen=True)
class Stage:
  """name, the verb that does the same, what tells that it is done, and the work."""

  name: str
  verb: str
  done: Callable[[Demo], bool]
  work: Callable[[Demo], None]


def run(workdir: str | os.PathLike, *, quick: bool = False, fresh: bool = False, until: str = "") -> None:
  """Runs all stages that are not done yet.

  Args:
    workdir: everything is written here.
    quick: small numbers everywhere, for tests.
    fresh: trains the tokenizers and CLIP instead of taking the shipped ones.
    until: name of the last stage to run.

  Raises:
    InputError: an unknown stage, a workdir begun with other options, or no space.
  """
  stages = STAGES
  names = [s.name for s in stages]
  if until and until not in names:
    raise InputError(f"--until={until}: no such stage; known: {', '.join(names)}")
  demo = Demo(Path(workdir).absolute(), quick, fresh)
  _claim(demo)
  for number, stage in enumerate(stages, 1):
    title = f"[{number}/{len(stages)}] {stage.name}"
    if stage.done(demo):
      _say(f"{title}: done before")
    else:
      _say(f"{title}   (cm3leon {stage.verb})")
      begin = time.time()
      stage.work(demo)
      seconds = time.time() - begin
      report_data.append_stage(demo.workdir, stage.name, seconds)
      _say(f"{title}: {seconds:.0f} s")
    if stage.name == until:
      return
  _say(f"\nOpen {demo.workdir / 'report' / 'index.html'}")


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def _claim(demo: Demo) -> None:
  """A workdir keeps the options that it was begun with: stages of two sizes must not mix."""
  demo.workdir.mkdir(parents=True, exist_ok=True)
  path = demo.workdir / "options.json"
  options = {"quick": demo.quick, "fresh": demo.fresh}
  if path.is_file() and json.loads(path.read_text()) != options:
    raise InputError(f"{demo.workdir} was begun with other options ({path.read_text().strip()}); "
                     "use the same ones, or another --workdir")
  path.write_text(json.dumps(options))


def _data(stage: str) -> Callable[[Demo], None]:
  return lambda demo: demo.pipelines().run(stage, demo.workdir)


def _has(*names: str) -> Callable[[Demo], bool]:
  """Done when each folder has its manifest."""
  return lambda demo: all((demo.workdir / name / "manifest.json").is_file() for name in names)


def _train(folder: str, gin_file: str) -> Callable[[Demo], None]:
  def work(demo: Demo) -> None:
    from cm3leon_jax import train

    demo.configure(gin_file)
    train.main(demo.workdir / folder, data=str(demo.workdir))
    (demo.workdir / folder / "finished").touch()
  return work


def _assets(demo: Demo) -> None:
  """--fresh: the two tokenizers and CLIP, trained on the training split."""
  from cm3leon_jax.demo import fresh

  fresh.train_assets(demo.workdir, demo.pipelines(), demo.quick)


def _pictures(demo: Demo) -> None:
  from cm3leon_jax.demo import pictures

  pictures.generate(demo.workdir, demo.pipelines(), demo.quick)


def _metrics(demo: Demo) -> None:
  from cm3leon_jax.demo import metrics

  metrics.evaluate(demo.workdir, demo.pipelines(), demo.quick)


def _report(demo: Demo) -> None:
  from cm3leon_jax.demo import facts
  from cm3leon_jax.evaluation import report

  report_data.write_run(demo.workdir, facts.collect(demo.workdir, demo.quick))
  report.write_report(demo.workdir, demo.workdir / "report" / "index.html")


def _made(*names: str) -> Callable[[Demo], bool]:
  """Done when each of these files or folders is there."""
  return lambda demo: all((demo.workdir / name).exists() for name in names)


def _assets_done(demo: Demo) -> bool:
  return not demo.fresh or _has("assets/text", "assets/image", "assets/clip")(demo)


_DATA = f"--gin_file={DATA_CONFIG}"
_SPLITS = ("train", "heldout_drawings", "heldout_things")
_PICTURES = ("showcase_k0", "showcase_k1", "showcase_k2", "infill", "edit", "caption")

STAGES = (
    Stage("corpus", f"data corpus {_DATA}", _has("corpus"), _data("corpus")),
    Stage("tokenizers and CLIP", "demo --fresh", _assets_done, _assets),
    Stage("documents", f"data tokenize {_DATA}", _has(*(f"documents/{s}" for s in _SPLITS)), _data("tokenize")),
    Stage("embeddings", f"data embed {_DATA}", _has(*(f"embeddings/{s}" for s in _SPLITS)), _data("embed")),
    Stage("index", f"data index {_DATA}", _has("index"), _data("index")),
    Stage("neighbours", f"data neighbours {_DATA}", _has(*(f"neighbours/{s}" for s in _SPLITS)), _data("neighbours")),
    Stage("windows", f"data windows {_DATA}", _has("windows"), _data("windows")),
    Stage("pretraining", f"train --gin_file={PRETRAIN_CONFIG}", _made("pretrain/finished"),
          _train("pretrain", PRETRAIN_CONFIG)),
    Stage("fine-tuning", f"train --gin_file={SFT_CONFIG}", _made("sft/finished"), _train("sft", SFT_CONFIG)),
    Stage("pictures", "generate", _has(*(f"generations/{s}" for s in _PICTURES)), _pictures),
    Stage("metrics", "eval", _made("evaluation/metrics.json"), _metrics),
    Stage("report", "demo", lambda demo: False, _report),
)
