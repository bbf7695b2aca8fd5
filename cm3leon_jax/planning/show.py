"""Plans for people: a line a figure, or a line a plan."""

from typing import Sequence

from cm3leon_jax.planning.plan import Plan

_GIB = 2**30


def si(value: float) -> str:
  """`1.23 G`."""
  for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
    if value >= size:
      return f"{value / size:.2f} {unit}"
  return f"{value:.0f} "


def table(result: Plan) -> str:
  """One plan."""
  peak = "unknown" if result.peak_bytes_per_device is None else f"{result.peak_bytes_per_device / _GIB:.2f} GiB"
  split = f"{result.rows_per_device} rows a device" + (f", {result.parts} times" if result.parts > 1 else "")
  lines = [
    ("machine", f"{result.topology}, {result.devices} devices, mesh {dict(result.mesh) or 'of one'}"),
    ("method", result.method),
    ("parameters", f"{result.parameters:,}"),
    ("tokens a step", f"{result.tokens_per_step:,}: {split}"),
    ("fits", f"{'yes' if result.fits else 'NO'}: peak {peak} of {result.hbm_bytes_available / _GIB:.2f} GiB a device"),
  ]
  lines += [("  " + kind, f"{size / _GIB:.2f} GiB") for kind, size in result.bytes_by_kind.items() if size]
  if result.step_seconds is not None:
    sent = [f"{si(size)}B by {kind}" for kind, size in sorted(result.collective_bytes.items())]
    lines += [
      ("FLOPs", f"{si(result.flops_per_device)}FLOP a device, of which the model needs {si(result.model_flops_per_device)}"),
      ("memory traffic", f"{si(result.hbm_bytes_per_device)}B a device"),
      ("network", f"a device sends {', '.join(sent) or 'nothing'}"),
      ("step", f"{result.step_seconds:.4g} s predicted, bound by {result.bound}; MFU {result.mfu:.1%}"),
      ("speed", f"{result.tokens_per_second:,.0f} tokens/s, {result.tokens_per_second * 86_400 / 1e9:,.3g} G tokens a day"),
      ("whole run", f"{result.days:.3g} days, {result.chip_hours:,.0f} chip-hours for {result.steps:,} steps, "
                    f"{si(result.steps * result.tokens_per_step)}tokens"),
    ]
  lines += [("warning", text) for text in result.warnings]
  return "\n".join(f"{name:<16}{text}" for name, text in lines)


def rows(results: Sequence[tuple[str, Plan]]) -> str:
  """Several plans, one line each, with what was varied."""
  width = max((len(label) for label, _ in results), default=0)
  lines = [f"{'':{width}}  fits  GiB    s/step    MFU    days  chip-hours"]
  for label, plan in results:
    peak = f"{plan.peak_bytes_per_device / _GIB:6.2f}" if plan.peak_bytes_per_device else "     ?"
    if plan.step_seconds is None:
      lines.append(f"{label:{width}}  NO  {peak}")
    else:
      lines.append(f"{label:{width}}  {'yes' if plan.fits else 'NO ':3}{peak}  {plan.step_seconds:8.3f}  {plan.mfu:5.1%}  "
                   f"{plan.days:6.1f}  {plan.chip_hours:10,.0f}")
  return "\n".join(lines)
