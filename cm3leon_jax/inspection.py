"""`cm3leon inspect`: shows any record between two boxes."""

import argparse
import dataclasses


def task(args: argparse.Namespace) -> None:
  """Real examples of a seqio task or mixture, decoded, coloured, with pictures."""
  from cm3leon_jax.tasks import inspect

  inspect.show_task(args.name, args.workdir, n=args.n, seed=args.seed, out=args.out)


def checkpoint(args: argparse.Namespace) -> None:
  """Sizes, step and fingerprints of a run folder or a released checkpoint."""
  import jax

  from cm3leon_jax.training import checkpoints

  config, vocabulary, layout, params, meta = checkpoints.load_for_inference(args.checkpoint)
  for title, value in (("model", config), ("vocabulary", vocabulary), ("layout", layout)):
    print(title)
    for key, field in dataclasses.asdict(value).items():
      print(f"  {key:22}{field}")
  print("parameters")
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    print(f"  {jax.tree_util.keystr(path):40}{str(leaf.dtype):10}{'×'.join(map(str, leaf.shape))}")
  print(f"  {'total':40}{sum(leaf.size for leaf in jax.tree.leaves(params)):,}")
  for key, value in meta.items():
    print(f"{key:24}{value}")


def config(args: argparse.Namespace) -> None:
  """A gin file with all that it includes, as it would run; misspelt names fail here too."""
  import gin

  from cm3leon_jax import config as configs

  configs.load(args.gin_file, args.gin_bindings)
  print(gin.config_str())


def shardings(args: argparse.Namespace) -> None:
  """Where every parameter, optimizer slot and major activation of a run lies on a mesh of so many devices."""
  from cm3leon_jax import config as configs
  from cm3leon_jax import plan
  from cm3leon_jax.planning import placement

  configs.load(args.gin_file, args.gin_bindings)
  for line in placement.lines(plan.configured_run(), args.devices):
    print(line)
