"""A fine-tuning mixture over official files: examples, then windows; bound as `SFT` in `configs/mixtures/sft.gin`.

    D/examples/<set>/<split>    every set that a task of the mixture reads, each encoded once
    D/windows/<name>            drawn, packed, shuffled: what `train.windows` names
    D/windows/<name>_<task>     held-out samples of each task, for `train.evaluations`

A folder that is whole is not made again.
"""

import dataclasses
import itertools
import os
from pathlib import Path
import sys
from typing import Mapping, Sequence

from absl import logging
from tqdm import tqdm

from cm3leon_jax import manifest
from cm3leon_jax.errors import InputError
from cm3leon_jax.pipelines.build import Pipelines
from cm3leon_jax.tasks.objective import CM3Objective
from cm3leon_jax.tasks.official import balance, sources
from cm3leon_jax.tasks.official import tasks as tasks_lib
from cm3leon_jax.tasks.official.store import KIND

STAGES = ("examples", "mixture")


@dataclasses.dataclass(frozen=True)
class FineTuning:
  """What a mixture is made of.

  Attributes:
    base: vocabulary, layout, tokenizers, window_length, packing, mask_reserve, num_shards, epochs, held_out_samples and
      seed are taken from it.
    folders: where the official files lie: a name of `sources.FOLDERS` → folder.
    tasks: of `tasks.known()`; empty for all.
    options: where the paper leaves a choice.
    exponent: of a task's rows in its share, see `balance.rates`.
    rates: explicit shares of tasks, relative, instead.
    objective: the masks that training will draw, for the two `inspect`s.
    skip_missing: leaves tasks out whose folder is not given; the manifest of the windows names them.
    name: of the windows.
  """

  base: Pipelines
  folders: Mapping[str, str] = dataclasses.field(default_factory=dict)
  tasks: Sequence[str] = ()
  options: tasks_lib.Options = tasks_lib.Options()
  objective: CM3Objective = CM3Objective()
  exponent: float = 1.0
  rates: Mapping[str, float] | None = None
  skip_missing: bool = False
  name: str = "sft"

  def __post_init__(self):
    unknown = [n for n in (*self.tasks, *(self.rates or ())) if n not in tasks_lib.known()]
    unknown += [n for n in self.folders if n not in sources.FOLDERS]
    if unknown:
      raise InputError(f"SFT: no task or folder {unknown[0]!r}; tasks: {', '.join(tasks_lib.known())}; "
                       f"folders: {', '.join(sources.FOLDERS)}")
    if self.rates is not None and (stray := set(self.rates) - set(self.wanted)):
      raise InputError(f"SFT.rates has {', '.join(sorted(stray))}, which SFT.tasks has not")

  @property
  def wanted(self) -> list[str]:
    """Names of the mixture's tasks, in the order of `tasks.known()`."""
    return [name for name in tasks_lib.known() if not self.tasks or name in self.tasks]

  def run(self, stage: str, workdir: str | os.PathLike, beam_options: Sequence[str] = ()) -> None:
    """Runs one of `STAGES`."""
    getattr(self, stage)(Path(workdir), beam_options)

  def examples(self, workdir: Path, beam_options: Sequence[str] = ()) -> None:
    """Encodes every set that is not there yet.

    Raises:
      InputError: a folder is not given (unless `skip_missing`), or a set's files are missing or broken.
    """
    from cm3leon_jax.pipelines import examples

    for set_ in dict.fromkeys(tasks_lib.known()[name].set for name in self.wanted):
      for split in sources.SPLITS:
        folder = workdir / KIND / set_ / split
        if manifest.exists(folder):
          continue
        try:
          examples.examples(set_, split, folder, folders=self.folders, num_shards=self.base.num_shards,
                            image_tokenizer=self.base.folder(self.base.image_tokenizer, workdir), beam_options=beam_options)
        except sources.MissingFolder as error:
          if not self.skip_missing:
            raise
          print(f"  {set_}: left out; {error}", file=sys.stderr)
          break

  def register(self, workdir: str | os.PathLike) -> dict[str, float]:
    """Registers the tasks and the mixture `name`; returns the tasks' shares, which add up to 1.

    Raises:
      InputError: examples are missing (unless `skip_missing`), or were made by another image tokenizer.
    """
    from cm3leon_jax.tasks import seqio_adapter
    from cm3leon_jax.tokenizers.text import TextTokenizer

    workdir, all_tasks = Path(workdir), tasks_lib.known(self.options)
    there = [n for n in self.wanted if manifest.exists(workdir / KIND / all_tasks[n].set / sources.TRAIN)]
    names = there if self.skip_missing else self.wanted
    if not names:
      raise InputError(f"{workdir}/examples: no examples of any task of the mixture; make them with: cm3leon data examples")
    text = TextTokenizer.load(self.base.folder(self.base.text_tokenizer, workdir))
    tasks_lib.register(workdir, self.base.vocabulary, self.base.layout, text, names, self.options)
    self._one_tokenizer(workdir, [all_tasks[name].set for name in names])
    if self.rates is None:
      shares = balance.rates({name: seqio_adapter.size(name, sources.TRAIN) for name in names}, self.exponent)
    else:
      given = {name: rate for name, rate in self.rates.items() if name in names}
      if not given or min(given.values()) < 0 or not sum(given.values()):
        raise InputError(f"SFT.rates={dict(self.rates)}: at least one must be positive, none negative")
      shares = {name: rate / sum(given.values()) for name, rate in given.items() if rate}
    seqio_adapter.register_mixture(self.name, shares)
    return shares

  def _one_tokenizer(self, workdir: Path, sets: Sequence[str]) -> None:
    made = {set_: manifest.read(workdir / KIND / set_ / sources.TRAIN, KIND)["image_tokenizer"] for set_ in sets}
    if len(set(made.values())) > 1:
      raise InputError(f"{workdir}/examples: made by different image tokenizers ({made}); remove those of the old one and "
                       "make them again with: cm3leon data examples")

  def show(self, name: str, workdir: str | os.PathLike, **options) -> None:
    """Prints samples of a task or of the mixture; `options` as `tasks.inspect.show_samples` takes them."""
    from cm3leon_jax.tasks import inspect
    from cm3leon_jax.tokenizers.image import ImageTokenizer
    from cm3leon_jax.tokenizers.text import TextTokenizer

    workdir, base = Path(workdir), self.base
    self.register(workdir)
    inspect.show_samples(
        name, sources.TRAIN, base.vocabulary, base.layout, TextTokenizer.load(base.folder(base.text_tokenizer, workdir)),
        ImageTokenizer.load(base.folder(base.image_tokenizer, workdir)), self.objective, **options)

  def describe(self, workdir: str | os.PathLike) -> None:
    """Prints what an epoch of the mixture has of each task; see `tasks.official.summary`."""
    from cm3leon_jax.tasks.official import summary

    base, shares = self.base, self.register(workdir)
    for line in summary.lines(self.name, shares, base.vocabulary, base.layout, self.objective, seed=base.seed,
                              window=base.window_length + 1 - base.mask_reserve, packing_mode=base.packing):
      print(line)
    if skipped := [n for n in self.wanted if n not in shares]:
      print(f"without {', '.join(skipped)}")

  def mixture(self, workdir: Path, beam_options: Sequence[str] = ()) -> None:
    """Writes the windows of the mixture, and of each task's held-out samples."""
    from cm3leon_jax.tasks import seqio_adapter
    from cm3leon_jax.tasks import windows

    logging.set_verbosity(logging.ERROR)  # seqio warns that an uncached task is shuffled little: ours are drawn shuffled
    shares = self.register(workdir)
    base, skipped = self.base, [n for n in self.wanted if n not in shares]
    common = {"vocabulary": base.vocabulary, "layout": base.layout, "length": base.window_length, "seed": base.seed}
    folder = workdir / "windows" / self.name
    drawn_by = {"task": self.name, "epochs": base.epochs, "shares": shares, "skipped": skipped,
                "options": dataclasses.asdict(self.options)}
    if manifest.exists(folder):
      found = manifest.read(folder, "windows")
      if other := [key for key, value in drawn_by.items() if found.get(key) != value]:
        raise InputError(f"{folder}: made of another mixture (its {', '.join(other)} differ): remove it and the folders "
                         f"{self.name}_… beside it, or give this mixture another SFT.name")
    else:
      count = base.epochs * seqio_adapter.size(self.name, sources.TRAIN)
      drawn = seqio_adapter.examples(self.name, sources.TRAIN, seed=base.seed, epochs=base.epochs)
      bar = tqdm(drawn, total=count, desc=f"windows/{self.name}", unit=" samples", file=sys.stderr, mininterval=1)
      made = windows.write_samples(bar, folder, reserve=base.mask_reserve, packing_mode=base.packing, about=drawn_by,
                                   shards=base.num_shards, **common)
      print(f"  windows/{self.name}: {made['count']:,} windows, {made['tokens']:,} tokens, {made['wasted']:.1%} padding"
            + (f"; without {', '.join(skipped)}" if skipped else ""), file=sys.stderr)
    for name in shares:
      held_out = workdir / "windows" / f"{self.name}_{name}"
      if sources.VALIDATION in seqio_adapter.splits(name) and not manifest.exists(held_out):
        drawn = itertools.islice(seqio_adapter.examples(name, sources.VALIDATION, seed=base.seed), base.held_out_samples)
        windows.write_samples(drawn, held_out, shards=1, about={"task": name}, **common)
