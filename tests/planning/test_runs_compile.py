"""Every paper-size run on each TPU kind, compiled whole: it fits, and is what docs/plans.md says."""

import json

import pytest

from cm3leon_jax import config, plan
from cm3leon_jax.planning.plan import plan as make_plan
from benchmarks import plans

pytestmark = pytest.mark.slow
ROWS = [(run, topology) for run, topologies in plans.ROWS.items() for topology in topologies if topology.startswith("v")]


@pytest.mark.parametrize("run, topology", ROWS)
def test_it_fits_as_the_page_says(run, topology):
  config.load([f"configs/runs/{run}.gin", f"configs/hardware/{topology.split(':')[0]}.gin"])
  described = plan.configured_run()
  written = json.loads(plans.STORE.read_text(encoding="utf-8"))[plans.key(run, topology, described)]
  assert f"| {run} | {topology} |" in plans.PAGE.read_text(encoding="utf-8")
  made = make_plan(described, topology)
  assert made.fits and made.peak_bytes_per_device <= made.hbm_bytes_available
  # 1 %: the same compiler gives the same program; another libtpu may not, then the page is made anew.
  assert made.step_seconds == pytest.approx(written["step_seconds"], rel=0.01)
  assert made.peak_bytes_per_device == pytest.approx(written["peak_bytes_per_device"], rel=0.01)
  # Shapes alone come near enough to choose by: time within 20 %, memory within 5 % (docs/plans.md states both).
  shapes = make_plan(described, topology, analytic=True)
  assert shapes.step_seconds == pytest.approx(made.step_seconds, rel=0.2)
  assert shapes.peak_bytes_per_device == pytest.approx(made.peak_bytes_per_device, rel=0.05)
  # FLOPs, the kernel's among them, are arithmetic: no tolerance for a missing part.
  assert shapes.flops_per_device == pytest.approx(made.flops_per_device, rel=0.01)
