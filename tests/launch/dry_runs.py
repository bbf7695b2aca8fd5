"""Every dry run that a golden file holds, and how to write them all again: python tests/launch/dry_runs.py"""

import os
from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
TRAIN = ["--", "cm3leon", "train", "--gin_file=configs/runs/pretrain_7b.gin", "--data=/gcs/data",
         "--workdir=gs://b/runs/7b"]
TPU = ["launch/tpu_queued_resource.py"]
PLACE = ["pretrain-7b", "--zone=us-west4-a", "--project=lab", "--dry_run"]
GKE = ["launch/gke_jobset.py", "pretrain-7b", "--image=us-docker.pkg.dev/lab/images/cm3leon:tpu", "--bucket=b",
       "--dry_run"]
CASES = {
    "local.txt": ["launch/local.py", "--processes=2", "--devices=4", "--port=12345", "--dry_run", *TRAIN],
    "tpu_up.txt": [*TPU, "up", *PLACE, "--accelerator_type=v5litepod-256", "--spot",
                   "--env=LIBTPU_INIT_ARGS=--a=1 --b=2", *TRAIN],
    "tpu_create.txt": [*TPU, "create", *PLACE, "--accelerator_type=v5p-128", "--reserved",
                       "--create_flag=--network=lab-net"],
    "tpu_run.txt": [*TPU, "run", *PLACE, *TRAIN],
    "tpu_logs.txt": [*TPU, "logs", *PLACE],
    "tpu_stop.txt": [*TPU, "stop", *PLACE],
    "tpu_delete.txt": [*TPU, "delete", *PLACE],
    "gke_v5e_16x16.yaml": [*GKE, "--accelerator=tpu-v5-lite-podslice", "--topology=16x16", *TRAIN],
    "gke_v5p_two_slices.yaml": [*GKE, "--accelerator=tpu-v5p-slice", "--topology=4x4x4", "--slices=2", "--spot",
                                "--namespace=lab", "--service_account=trainer",
                                "--env=LIBTPU_INIT_ARGS=--a=1 --b=2", *TRAIN],
    "slurm.txt": ["launch/slurm.sbatch", "--dry_run", *TRAIN[1:]],
}


def dry_run(words: list[str]) -> str:
  """What the launcher prints; it is run as a reader runs it, from the checkout."""
  program = [sys.executable] if words[0].endswith(".py") else ["bash"]
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  done = subprocess.run([*program, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
  assert done.returncode == 0, done.stderr
  return done.stdout


if __name__ == "__main__":
  GOLDEN.mkdir(exist_ok=True)
  for name, words in CASES.items():
    (GOLDEN / name).write_text(dry_run(words), encoding="utf-8")
