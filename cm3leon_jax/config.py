"""gin at the edge: which names can be bound, and strict loading of run files.

The library itself knows no gin: its dataclasses and functions are registered here, so that
`models/ sharding/ training/ decoding/ planning/` run where gin is not installed.

gin already refuses unknown configurables and parameters. It is silent about a macro that is
defined (`BATHC = 16`) and never used; `load` is not.
"""

import difflib
import importlib
import os
from pathlib import Path
import re
from typing import Iterable, Sequence

import gin

from cm3leon_jax import assets
from cm3leon_jax.errors import InputError

# bindable name → module:attribute. Imported on load, so that `cm3leon --help` stays quick.
BINDABLE = {
    "Vocabulary": "cm3leon_jax.vocabulary:Vocabulary",
    "Layout": "cm3leon_jax.layout:Layout",
    "Transformer": "cm3leon_jax.models.config:TransformerConfig",
    "Optimizer": "cm3leon_jax.training.optimizer:OptimizerConfig",
    "Loss": "cm3leon_jax.training.losses:LossConfig",
    "Mesh": "cm3leon_jax.sharding.mesh:MeshConfig",
    "CM3Objective": "cm3leon_jax.tasks.objective:CM3Objective",
    "Rules": "cm3leon_jax.retrieval.selection:Rules",
    "Pipelines": "cm3leon_jax.pipelines.build:Pipelines",
    "Corpus": "cm3leon_jax.datasets.corpora.corpus:Corpus",
    # Corpora as the world keeps them (docs/corpora.md).
    "WebDataset": "cm3leon_jax.datasets.corpora.webdataset:WebDataset",
    "JsonLines": "cm3leon_jax.datasets.corpora.jsonl:JsonLines",
    "Parquet": "cm3leon_jax.datasets.corpora.parquet:Parquet",
    "ImageFolder": "cm3leon_jax.datasets.corpora.folder:ImageFolder",
    "CocoFiles": "cm3leon_jax.datasets.corpora.coco:CocoFiles",
    "TfdsByName": "cm3leon_jax.datasets.corpora.tfds:TfdsByName",
    # Fine-tuning over official files (docs/fine_tuning.md).
    "SFT": "cm3leon_jax.pipelines.fine_tuning:FineTuning",
    "SFTOptions": "cm3leon_jax.tasks.official.tasks:Options",
    "Sampling": "cm3leon_jax.decoding.rules:Sampling",
    "Protocol": "cm3leon_jax.evaluation.run.protocol:Protocol",
    "train": "cm3leon_jax.train:train",
    # Official evaluation sets (docs/evaluation_sets.md); each gives a list of items.
    "CocoCaptions": "cm3leon_jax.datasets.official.coco:coco_captions",
    "CocoPrompts": "cm3leon_jax.datasets.official.coco:coco_prompts",
    "CocoKarpathy": "cm3leon_jax.datasets.official.karpathy:coco_karpathy",
    "CocoKarpathyPrompts": "cm3leon_jax.datasets.official.karpathy:coco_karpathy_prompts",
    "Flickr30k": "cm3leon_jax.datasets.official.karpathy:flickr30k",
    "Flickr30kPrompts": "cm3leon_jax.datasets.official.karpathy:flickr30k_prompts",
    "VQA2": "cm3leon_jax.datasets.official.vqa:vqa2",
    "OKVQA": "cm3leon_jax.datasets.official.vqa:okvqa",
    "VizWiz": "cm3leon_jax.datasets.official.vizwiz:vizwiz",
    "ScienceQA": "cm3leon_jax.datasets.official.scienceqa:scienceqa",
    "VisDial": "cm3leon_jax.datasets.official.visdial:visdial",
    "ImageParagraph": "cm3leon_jax.datasets.official.paragraphs:image_paragraph",
    "DemoHeldOut": "cm3leon_jax.datasets.official.demo:demo_heldout",
}


def _register() -> None:
  for name, target in BINDABLE.items():
    module, attribute = target.split(":")
    if name not in gin.config._REGISTRY:  # pylint: disable=protected-access
      gin.external_configurable(getattr(importlib.import_module(module), attribute), name=name)


def resolve(gin_file: str) -> Path:
  """A path as typed, or the shipped file of that name (`configs/runs/…` works from anywhere)."""
  if Path(gin_file).is_file():
    return Path(gin_file).resolve()
  if gin_file.startswith("configs/"):
    return assets.path(gin_file)
  raise InputError(f"--gin_file={gin_file}: no such file")


def load(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> None:
  """Parses run files and overrides into gin's registry, strictly.

  Args:
    gin_files: paths, or names of shipped files (`configs/runs/demo_pretrain.gin`).
    bindings: overrides such as `train.steps=10`.

  Raises:
    InputError: unknown configurable, parameter or macro, with the nearest known names.
  """
  gin.clear_config()  # also unlocks, so that names can be registered
  _register()
  gin.add_config_file_search_path(str(assets.root("configs")))
  # Files only: gin's other reader looks for includes inside Python packages, and trips over any folder of that name.
  gin.config._FILE_READERS[:] = [(open, os.path.isfile)]  # pylint: disable=protected-access
  paths = [str(resolve(f)) for f in gin_files]
  try:
    gin.parse_config_files_and_bindings(paths, [_quoted(b) for b in bindings], finalize_config=False)
    _check_macros()
    gin.finalize()
  except InputError:
    raise
  except (ValueError, TypeError, SyntaxError, OSError, NameError) as error:
    raise InputError(f"{', '.join(gin_files)}: {_first_line(error)}{_nearest(str(error))}") from error


def configured(name: str, *args, **kwargs):
  """Calls a bindable by its name with the loaded bindings.

  Raises:
    InputError: the configuration leaves a required value open; or the bindable's own, without gin's lines below it.
  """
  try:
    return gin.get_configurable(name)(*args, **kwargs)
  except InputError as error:
    raise InputError(_first_line(error)) from error
  except TypeError as error:
    if "required" in str(error) and "argument" in str(error):
      raise InputError(f"the gin files leave a required value of {name} open: {_first_line(error)}") from error
    raise


def operative() -> str:
  """The configuration that was really used, to be saved beside a checkpoint."""
  return gin.operative_config_str()


def bindable_names() -> list[str]:
  """All `Configurable.parameter` names that a gin file may set."""
  import inspect

  names = []
  for name, target in BINDABLE.items():
    module, attribute = target.split(":")
    signature = inspect.signature(getattr(importlib.import_module(module), attribute))
    names += [f"{name}.{p}" for p in signature.parameters]
  return names


def _quoted(binding: str) -> str:
  """`train.workdir=/a/b` from a shell: a value that is not gin syntax is taken as a string."""
  name, equals, value = binding.partition("=")
  if not equals:
    raise InputError(f"--gin.{binding}: write it as --gin.NAME=VALUE")
  try:
    gin.config_parser.ConfigParser(f"{name} = {value}", _Delegate()).parse_statement()
    return f"{name} = {value}"
  except (SyntaxError, ValueError):
    return f"{name} = {value!r}"


class _Delegate(gin.config_parser.ParserDelegate):
  """Parses values without resolving them."""

  def configurable_reference(self, scoped_name, evaluate):
    return scoped_name

  def macro(self, scoped_name):
    return scoped_name


def _macro_uses(value) -> Iterable[str]:
  if isinstance(value, gin.config.ConfigurableReference):
    if value.selector == "gin.macro":
      yield "/".join(value.scopes)
  elif isinstance(value, dict):
    for k, v in value.items():
      yield from _macro_uses(k)
      yield from _macro_uses(v)
  elif isinstance(value, (list, tuple)):
    for v in value:
      yield from _macro_uses(v)


def _check_macros() -> None:
  defined, used = set(), set()
  for (scope, selector), parameters in gin.config._CONFIG.items():  # pylint: disable=protected-access
    if selector == "gin.macro":
      defined.add(scope)
    for value in parameters.values():
      used.update(_macro_uses(value))
  for name in sorted(defined - used):
    near = difflib.get_close_matches(name, sorted(used), 3, 0.5)
    raise InputError(f"macro {name} is set but nothing uses it"
                     f"{'; did you mean ' + ' or '.join(near) + '?' if near else ''}")
  for name in sorted(used - defined):
    near = difflib.get_close_matches(name, sorted(defined), 3, 0.5)
    raise InputError(f"macro %{name} is used but never set"
                     f"{'; did you mean ' + ' or '.join(near) + '?' if near else ''}")


def _first_line(error: Exception) -> str:
  return str(error).strip().splitlines()[0]


def _nearest(message: str) -> str:
  """For an error that names an unknown thing: the nearest names that exist."""
  names = bindable_names()
  candidates = {n for full in names for n in (full, full.split(".")[0], full.split(".")[1])}
  words = [w for quoted in re.findall(r"'([\w./]+)'", message) for w in (quoted, *quoted.split("."))]
  near = [n for w in words if w not in candidates for n in difflib.get_close_matches(w, candidates, 2, 0.75)]
  return f"; the nearest names are {', '.join(dict.fromkeys(near))}" if near else ""
