"""The parts of `cm3leon eval fid` against the public implementations: the Fréchet distance, and InceptionV3's features.

    python benchmarks/pictures.py distance
    python benchmarks/pictures.py features --threads=2 --batch=16

Both sides take turns in one run, A B A B, and the best turn of each counts, as the machine's other load only ever slows a
turn. Both clocks are printed: the wall's, and the CPU time of all threads, which other load disturbs less.

- distance: from the same means and covariances (2,048 dimensions) pytorch-fid 0.3.0's own function, which takes SciPy's
  matrix square root, against `frechet.frechet_distance`; and from the same features `frechet_from_features`, whose time
  has the covariances in it (and for theirs `np.cov`'s is added).
- features: random weights in pytorch-fid's layout, the same 256 px pictures, its InceptionV3 in torch against ours.

Needs `pip install torch scipy pytorch-fid==0.3.0` and `pip install --no-deps torchvision==0.28.0` besides the project.
"""

import argparse
import ast
import importlib.util
import inspect
import os
from pathlib import Path
import sys
import time
from typing import Callable, Iterator
import warnings

import numpy as np

DIM = 2048


def turns(functions: dict, rounds: int) -> dict[str, tuple[float, float]]:
  """Name → best seconds of wall and CPU clock; each function is called once before."""
  for function in functions.values():
    function()
  best = {name: (np.inf, np.inf) for name in functions}
  for _ in range(rounds):
    for name, function in functions.items():
      wall, cpu = time.perf_counter(), time.process_time()
      function()
      taken = time.perf_counter() - wall, time.process_time() - cpu
      best[name] = tuple(map(min, best[name], taken))
  return best


def features_like_a_networks(count: int, seed: int) -> np.ndarray:
  """float64[count, 2048]: not below zero, correlated, a spectrum that falls by powers of ten."""
  mix = np.random.default_rng(0).normal(size=(DIM, DIM)) * (np.arange(1, DIM + 1) ** -0.7)[:, None]
  rng = np.random.default_rng(seed)
  return np.maximum((1 + 0.05 * seed) * rng.normal(size=(count, DIM)) @ mix * 0.3 + 0.1 * seed, 0)


def distance(args) -> None:
  from scipy import linalg

  path = Path(importlib.util.find_spec("pytorch_fid").submodule_search_locations[0]) / "fid_score.py"
  space = {"np": np, "linalg": linalg}
  functions = [node for node in ast.parse(path.read_text()).body
               if isinstance(node, ast.FunctionDef) and node.name == "calculate_frechet_distance"]
  exec(compile(ast.Module(functions, []), str(path), "exec"), space)  # noqa: S102
  theirs = space["calculate_frechet_distance"]
  warnings.filterwarnings("ignore")
  print("| pictures a side | from | wall, ratio | CPU, ratio | ours, s | theirs, s | ours | theirs | relative difference |")
  print("|---|---|---|---|---|---|---|---|---|")
  for count in args.counts:
    for name, ours, reference in distance_cases(count, theirs):
      best = turns({"ours": ours, "theirs": reference}, args.rounds)
      (wall, cpu), (their_wall, their_cpu) = best["ours"], best["theirs"]
      x, y = ours(), reference()
      print(f"| {count:,} | {name} | {their_wall / wall:.1f} | {their_cpu / cpu:.1f} | {wall:.2f} | {their_wall:.2f} | "
            f"{x:.9g} | {y:.9g} | {abs(x - y) / y:.0e} |", flush=True)


def distance_cases(count: int, theirs: Callable) -> Iterator[tuple[str, Callable, Callable]]:
  """(what both start from, ours, theirs) of so many pictures a side."""
  from cm3leon_jax.evaluation import frechet

  a, b = features_like_a_networks(count, 0), features_like_a_networks(count, 1)
  first, second = frechet.moments_of(a), frechet.moments_of(b)
  flat = first.mean, first.covariance, second.mean, second.covariance
  yield "mean, covariance", lambda: frechet.frechet_distance(*flat), lambda: theirs(*flat)
  yield ("features", lambda: frechet.frechet_from_features(a, b),
         lambda: theirs(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False)))


def torch_network(state: dict):
  """pytorch-fid's InceptionV3 with given weights, built by its own code up to where it would download them.

  Beside torch's CPU build torchvision misses its compiled operators and cannot be imported; the network needs none, so the
  two that it asks for are declared first.
  """
  import torch

  library = torch.library.Library("torchvision", "DEF")
  for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
  from pytorch_fid import inception

  source = inspect.getsource(inception.fid_inception_v3).split("state_dict =")[0] + "return inception\n"
  space = dict(vars(inception))
  exec(source, space)  # noqa: S102
  network = space["fid_inception_v3"]()
  network.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
  inception.fid_inception_v3 = lambda: network
  return inception.InceptionV3([3]).eval()


def features(args) -> None:
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:args.threads])  # before JAX starts as many threads as cores
  os.environ["OMP_NUM_THREADS"] = str(args.threads)
  sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "evaluation"))
  import public_weights
  import torch

  from cm3leon_jax.evaluation.networks import features as network_features, inception_v3

  torch.set_num_threads(args.threads)
  network_features.BATCH = args.batch
  state = public_weights.inception_state()
  model = torch_network(state)
  network = network_features.FeatureNetwork(
      name="", key="fid", dim=DIM, weights_hash="", published=False, preprocessing="",
      params=inception_v3.to_params(state), function=inception_v3.features_of)
  pictures = public_weights.pictures(args.pictures, 256)

  @torch.inference_mode()
  def theirs() -> np.ndarray:
    batches = (pictures[i:i + args.batch] for i in range(0, len(pictures), args.batch))
    return np.concatenate([model(torch.from_numpy(batch.transpose(0, 3, 1, 2)).float() / 255)[0][:, :, 0, 0].numpy()
                           for batch in batches])

  ours = lambda: network.features(pictures)
  best = turns({"ours": ours, "theirs": theirs}, args.rounds)
  (wall, cpu), (their_wall, their_cpu) = (tuple(t / len(pictures) for t in best[name]) for name in ("ours", "theirs"))
  print("| threads | batch | wall, ratio | CPU, ratio | ours: pictures/s, CPU ms each | theirs | largest difference |")
  print("|---|---|---|---|---|---|---|")
  print(f"| {args.threads} | {args.batch} | {their_wall / wall:.2f} | {their_cpu / cpu:.2f} | {1 / wall:.1f}, {1e3 * cpu:.0f} "
        f"| {1 / their_wall:.1f}, {1e3 * their_cpu:.0f} | {np.abs(ours() - theirs()).max():.0e} |")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parts = parser.add_subparsers(dest="part", required=True)
  part = parts.add_parser("distance")
  part.add_argument("--counts", type=int, nargs="+", default=[5000, 1000], help="pictures a side")
  part.add_argument("--rounds", type=int, default=3)
  part = parts.add_parser("features")
  part.add_argument("--threads", type=int, default=2)
  part.add_argument("--batch", type=int, default=16)
  part.add_argument("--pictures", type=int, default=64)
  part.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  {"distance": distance, "features": features}[args.part](args)


if __name__ == "__main__":
  main()
