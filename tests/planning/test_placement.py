"""Golden files of every large run on every kind of hardware: a change of where something lies is read by a person.

Made anew with: python tests/planning/test_placement.py
"""

from pathlib import Path

import pytest

from cm3leon_jax import assets, config, plan
from cm3leon_jax.planning import placement

GOLDEN = Path(__file__).parent / "golden"
RUNS = sorted(p.stem for p in (assets.root("configs") / "runs").glob("pretrain_*.gin"))
# The devices of a usual slice, or of eight nodes; a new hardware file needs a line here.
DEVICES = {"v5e": 256, "v5p": 64, "h100": 64}
HARDWARE = sorted(p.stem for p in (assets.root("configs") / "hardware").glob("*.gin") if p.stem != "local")


def text(run: str, hardware: str) -> str:
  config.load([f"configs/runs/{run}.gin", f"configs/hardware/{hardware}.gin"])
  return "\n".join(placement.lines(plan.configured_run(), DEVICES[hardware])) + "\n"


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("run", RUNS)
def test_everything_lies_where_it_did(run, hardware):
  assert text(run, hardware) == (GOLDEN / f"{run}_{hardware}.txt").read_text(encoding="utf-8")


def test_a_state_on_all_chips_is_a_share_of_the_whole():
  """7B: 12 bytes a parameter (float32 weights and two moments) over 256 chips; only counters are replicated."""
  state = next(line for line in text("pretrain_7b", "v5e").splitlines() if line.startswith("state"))
  parameters = 65536 * 4096 + 4096 * 4096 + 32 * 12 * 4096**2  # one table, positions, layers
  assert int(state.split(": ")[1].replace(",", "")) == pytest.approx(12 * parameters / 256, abs=64)


if __name__ == "__main__":
  GOLDEN.mkdir(exist_ok=True)
  for each_run in RUNS:
    for each_hardware in HARDWARE:
      (GOLDEN / f"{each_run}_{each_hardware}.txt").write_text(text(each_run, each_hardware), encoding="utf-8")
