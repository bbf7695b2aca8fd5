"""Writes docs/plans.md: every paper-size run on every kind of hardware, compiled for its slice, and from shapes alone.

    python benchmarks/plans.py              # what is in plans.json under the same description of the run is kept
    python benchmarks/plans.py --anew       # everything again, after a change of the step or the compiler: ten minutes

`tests/planning/test_runs_compile.py` compiles each again and fails where the page is out of date.
"""

import argparse
import hashlib
import json
from pathlib import Path
import sys

from cm3leon_jax import config, plan
from cm3leon_jax.planning.analytic import GPU_MATMUL_RATE
from cm3leon_jax.planning.plan import plan as make_plan, Run

ROOT = Path(__file__).parent.parent
PAGE, STORE = ROOT / "docs" / "plans.md", ROOT / "benchmarks" / "plans.json"
# run → topologies of each hardware file
ROWS = {
    "pretrain_350m": ("v5e:4x4", "v5e:8x8", "v5p:2x2x4", "h100:8", "h100:8x8"),
    "pretrain_760m": ("v5e:8x8", "v5p:4x4x4", "h100:8x8"),
    "pretrain_7b": ("v5e:16x16", "v5p:4x4x4", "v5p:4x4x8", "h100:64x8"),
}
HEAD = """# Plans of the paper's runs

Made by `python benchmarks/plans.py`. Each row is what this command says; GPUs are planned with `--analytic` alone:

```bash
cm3leon plan --gin_file=configs/runs/pretrain_7b.gin --gin_file=configs/hardware/v5e.gin --topology=v5e:16x16
```

A compiled row went through the real TPU compiler; its seconds are the compiler's own cycle counts plus the collectives
that block, and compare programs. They are no measurement of a chip: time inside attention's kernel counts at peak rate, and
contention, stragglers and the input are not seen. An analytic row beside it comes from shapes alone; over the compiled
rows here its step time errs by {time_error}, its peak memory by {memory_error}. GPU rows assume {gpu_rate:.0%} of the data
sheet's bf16 peak in matmuls and one 400 Gbit/s NIC a GPU between nodes; nothing of them was measured.

Global batch 2,048 rows of 4,096 tokens (8.4 M tokens); 1.4 T, 1.9 T and 2.4 T tokens in all (PAPER §4.2).

| run | machine | rows a device × parts | remat | method | GiB a device (of) | s a step | MFU | days | chip-hours |
|---|---|---|---|---|---|---|---|---|---|
"""


def key(run: str, topology: str, described: Run) -> str:
  """A plan's name in plans.json; another when the run's description changes."""
  return f"{run} {topology} {hashlib.sha256(repr(described).encode()).hexdigest()[:12]}"


def rows(anew: bool) -> list[tuple[str, str, dict]]:
  """(run, remat, plan) of every row; compiled ones are kept in plans.json as they are made."""
  kept = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() and not anew else {}
  result, used = [], []
  for run, topologies in ROWS.items():
    for topology in topologies:
      hardware = topology.split(":")[0]
      config.load([f"configs/runs/{run}.gin", f"configs/hardware/{hardware}.gin"])
      described = plan.configured_run()
      name = key(run, topology, described)
      if hardware != "h100":
        if name not in kept:
          print(f"{run} on {topology}", file=sys.stderr, flush=True)
          kept[name] = make_plan(described, topology).to_dict()
          STORE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        used.append(name)
        result.append((run, described.model.remat, kept[name]))
      result.append((run, described.model.remat, make_plan(described, topology, analytic=True).to_dict()))
  STORE.write_text(json.dumps({name: kept[name] for name in used}, indent=1) + "\n", encoding="utf-8")
  return result


def line(run: str, remat: str, p: dict) -> str:
  gib = 2**30
  head = f"| {run} | {p['topology']} | {p['rows_per_device']} × {p['parts']} | {remat} | {p['method']} | "
  peak = "?" if p["peak_bytes_per_device"] is None else f"{p['peak_bytes_per_device'] / gib:.2f}"
  memory = f"{peak} ({p['hbm_bytes_available'] / gib:.1f})"
  if not p["fits"]:
    return head + f"{memory}: does not fit | | | | |"
  return head + f"{memory} | {p['step_seconds']:.3f} | {p['mfu']:.1%} | {p['days']:.1f} | {p['chip_hours']:,.0f} |"


def error(pairs, name: str) -> str:
  """`-3 % to +5 %` of the analytic over the compiled."""
  ratios = [analytic[name] / compiled[name] - 1 for compiled, analytic in pairs if compiled["fits"]]
  return f"{min(ratios):+.0%} to {max(ratios):+.0%}"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--anew", action="store_true")
  made = rows(parser.parse_args().anew)
  pairs = [(a[2], b[2]) for a, b in zip(made, made[1:]) if a[2]["method"] == "compiled"]
  head = HEAD.format(time_error=error(pairs, "step_seconds"), memory_error=error(pairs, "peak_bytes_per_device"),
                     gpu_rate=GPU_MATMUL_RATE)
  PAGE.write_text(head + "\n".join(line(*row) for row in made) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
