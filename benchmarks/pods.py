"""The training step on TPU pods beside MaxText's: both compiled for the slice, both through `planning.hlo_cost`.

    python benchmarks/pods.py                          # MaxText's figures as recorded in maxtext_recorded.json
    python benchmarks/pods.py --maxtext_python=PATH    # MaxText compiled in this run, by a Python that has it
    python benchmarks/pods.py --rows 350m_v5e16_b4     # some rows

Per-device batch b, 4,096 tokens, packing on, AdamW with float32 state, clipping, no accumulation. Two columns of ours:
without compiler options, and with those of `configs/hardware/`. The seconds compare programs of one compiler and slice;
they are no measurement of a chip. A row takes one to six minutes of one core.
"""

import argparse
import dataclasses
import json
from pathlib import Path
import subprocess
import sys
import tempfile

from cm3leon_jax import config, plan
from cm3leon_jax.planning import hlo_cost
from cm3leon_jax.planning.plan import plan as make_plan

HERE = Path(__file__).parent
COMMON = ("base_output_directory=unused",)  # the rest of a row is recorded with it
# row → run, topology, b, our remat policy, the recorded row of MaxText
ROWS = {
    "7b_v5e256_b4": ("7b", "v5e:16x16", 4, "attention", "7b_v5e256_b4_context"),
    "7b_v5e256_b4_full": ("7b", "v5e:16x16", 4, "full", "7b_v5e256_b4_full"),
    "7b_v5p64_b8": ("7b", "v5p:4x4x4", 8, "projections", "7b_v5p128_b8_full"),
    "7b_v5p128_b4": ("7b", "v5p:4x4x8", 4, "projections", "7b_v5p256_b4_minimalctx"),
    "350m_v5e16_b4": ("350m", "v5e:4x4", 4, "attention", "350m_v5e16_b4_fsdp16_nowindow"),
    "350m_v5e64_b4": ("350m", "v5e:8x8", 4, "attention", "350m_v5e64_b4_fsdp64"),
    "760m_v5e64_b4": ("760m", "v5e:8x8", 4, "attention", ""),
}


def ours(run: str, topology: str, rows: int, remat: str, options: bool):
  hardware = topology.split(":")[0]
  config.load([f"configs/runs/pretrain_{run}.gin", f"configs/hardware/{hardware}.gin"],
              [f"Transformer.remat='{remat}'", "train.device_batch=0", *(() if options else ("train.tpu_options={}",))])
  chips = 1
  for side in topology.split(":")[1].split("x"):
    chips *= int(side)
  return make_plan(dataclasses.replace(plan.configured_run(), batch_size=rows * chips), topology)


def maxtext(python: str, recorded: dict, chip: str, model_flops: float) -> dict:
  """The row compiled now: the recorded overrides in the other Python."""
  with tempfile.TemporaryDirectory() as folder:
    out = Path(folder) / "step.hlo.txt"
    done = subprocess.run([python, str(HERE / "maxtext_step.py"), str(out), *COMMON, *recorded["overrides"]], check=True,
                          capture_output=True, text=True)
    cost = hlo_cost.analyze(out.read_text(encoding="utf-8"), chip, model_flops)
  peak = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
  return {"gib": peak / 2**30, "seconds": cost["step_seconds"]["scheduled"], "mfu": cost["mfu"]["scheduled"]}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
  parser.add_argument("--maxtext_python", default="", metavar="PATH")
  args = parser.parse_args()
  recorded = json.loads((HERE / "maxtext_recorded.json").read_text(encoding="utf-8"))
  peer = "compiled in this run" if args.maxtext_python else "as recorded"
  print(f"| row | remat | MFU / MaxText's | ours, options: GiB, s, MFU | ours, no options | MaxText ({peer}) |")
  print("|---|---|---|---|---|---|", flush=True)
  for name in args.rows:
    run, topology, rows, remat, theirs = ROWS[name]
    best, plain = (ours(run, topology, rows, remat, options) for options in (True, False))
    other = recorded.get(theirs)
    if other and args.maxtext_python:
      other = maxtext(args.maxtext_python, other, topology.split(":")[0], best.model_flops_per_device)
    print(f"| {name} | {remat} | {best.mfu / other['mfu']:.2f}, without options {plain.mfu / other['mfu']:.2f} |"
          if other else f"| {name} | {remat} | - |", end="")
    print(f" {_figures(best)} | {_figures(plain)} |", end="")
    print(f" {other['gib']:.1f}, {other['seconds']:.3f}, {other['mfu']:.1%} |" if other else " not recorded |", flush=True)


def _figures(result) -> str:
  if not result.fits:
    return "does not fit"
  return f"{result.peak_bytes_per_device / 2**30:.1f}, {result.step_seconds:.3f}, {result.mfu:.1%}"


if __name__ == "__main__":
  sys.exit(main())
