"""A tiny training run, importable by the tests and runnable as a process that can be killed.

    python tests/training/tiny_run.py WORKDIR STEPS [--pause SECONDS] [--fsdp N --data N --tensor N]
        [--port P --processes N --process I]
"""

import argparse
import sys
import time

import numpy as np

from cm3leon_jax.layout import Layout
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.sharding import processes
from cm3leon_jax.sharding.mesh import MeshConfig, make_mesh
from cm3leon_jax.training.loop import train
from cm3leon_jax.training.losses import LossConfig
from cm3leon_jax.training.optimizer import OptimizerConfig
from cm3leon_jax.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text_size=24, image_size=24, num_sentinels=4, total_size=64)
LAYOUT = Layout(image_tokens=4, text_tokens=2, max_documents=2, numbering="document")
BATCH, LENGTH = 8, 16


def model(**changes) -> TransformerConfig:
  fields = {"vocab_size": 64, "num_layers": 2, "model_dim": 16, "num_heads": 4, "mlp_dim": 48,
            "max_positions": LAYOUT.num_positions, "position_period": LAYOUT.stride, "dtype": "float32", "init_std": 0.1,
            "position_init_std": 0.1}
  return TransformerConfig(**(fields | changes))


def batch(t: int) -> dict[str, np.ndarray]:
  """A pure function of t: rows that repeat themselves, so that there is something to learn."""
  rng = np.random.default_rng(t)
  half = rng.integers(0, 54, (BATCH, LENGTH // 2 + 1))
  tokens = np.concatenate([half, half], axis=1)[:, :LENGTH + 1].astype(np.int32)
  return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:],
          "loss_weights": rng.choice([0.0, 0.5, 1.0], (BATCH, LENGTH)).astype(np.float32),
          "segment_ids": np.ones((BATCH, LENGTH), np.int32),
          "positions": np.tile(np.arange(LENGTH, dtype=np.int32), (BATCH, 1))}


def rows(t: int, share: tuple[int, int]) -> dict[str, np.ndarray]:
  """Of batch t, what process i of n supplies."""
  i, n = share
  return {name: x[i * BATCH // n:(i + 1) * BATCH // n] for name, x in batch(t).items()}


def batches(start: int, pause: float = 0.0, share: tuple[int, int] = (0, 1)):
  t = start
  while True:
    time.sleep(pause)
    yield rows(t, share)
    t += 1


def run(workdir, steps: int, *, pause: float = 0.0, optimizer: str = "adamw", mesh: MeshConfig = MeshConfig(fsdp=1),
        model_changes: dict | None = None, **changes):
  """`changes` override arguments of `train`."""
  share = processes.batch_share(make_mesh(mesh))
  arguments = dict(
      model=model(**(model_changes or {})), vocabulary=VOCABULARY, layout=LAYOUT,
      optimizer=OptimizerConfig(optimizer, learning_rate=1e-2, warmup_steps=3), loss=LossConfig(text_weight=0.3),
      mesh=mesh, input_fn=lambda start: batches(start, pause, share), workdir=workdir, steps=steps, log_every=1,
      checkpoint_every=4, eval_every=6, evaluations={"heldout": lambda: [rows(1000, share), rows(1001, share)]}, ema_decay=0.9)
  return train(**(arguments | changes))


if __name__ == "__main__":
  parser = argparse.ArgumentParser()
  parser.add_argument("workdir")
  parser.add_argument("steps", type=int)
  parser.add_argument("--pause", type=float, default=0.0)
  parser.add_argument("--heartbeat", type=int, default=10, help="seconds")
  for name in ("port", "processes", "process"):
    parser.add_argument(f"--{name}", type=int)
  for name in ("fsdp", "data", "tensor"):
    parser.add_argument(f"--{name}", type=int, default=1)
  flags = parser.parse_args()
  with processes.joined(f"127.0.0.1:{flags.port}" if flags.port else "", flags.processes, flags.process,
                        heartbeat_seconds=flags.heartbeat):
    run(flags.workdir, flags.steps, pause=flags.pause, optimizer="muon", model_changes={"dropout": 0.1},
        mesh=MeshConfig(data=flags.data, fsdp=flags.fsdp, tensor=flags.tensor))
  print("done", file=sys.stderr)
