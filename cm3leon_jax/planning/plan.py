"""Will a run fit a TPU slice, how fast would it be, how long would it take: the real training step, compiled for it.

Nothing runs and no weight is made: shapes go through `training`'s own state, loss and step into libtpu's compiler. What
the seconds are worth is said in `hlo_cost`: a prediction to compare programs by, never a measurement.
"""

import dataclasses
import functools
import re
import time
from typing import Mapping

import jax
from jax.sharding import NamedSharding
import jax.numpy as jnp

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.init import count_parameters
from cm3leon_jax.models.transformer import Transformer
from cm3leon_jax.planning import hlo_cost
from cm3leon_jax.planning import topology as topology_lib
from cm3leon_jax.sharding import rules as rules_lib
from cm3leon_jax.sharding.mesh import make_mesh, MeshConfig
from cm3leon_jax.training import loop
from cm3leon_jax.training.losses import LossConfig
from cm3leon_jax.training.metrics import train_flops_per_token
from cm3leon_jax.training.optimizer import make_optimizer, OptimizerConfig
from cm3leon_jax.training.state import abstract_state, state_shardings
from cm3leon_jax.training.step import train_step
from cm3leon_jax.vocabulary import Vocabulary

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Plan:
  """What `cm3leon plan` writes. All but `parameters` and `tokens_per_step` is for one device (chip) and one step.

  Attributes:
    topology, devices, mesh: the slice, its chips, the size of each mesh axis.
    parameters: of the whole model.
    tokens_per_step: of the global batch.
    fits: whether the compiler found room for the step in `hbm_bytes_available`.
    peak_bytes_per_device: the most that is alive at once; where it does not fit, what the compiler asked for, if it
      said so.
    flops_per_device: matmuls and kernels of the program, recomputation included; loops multiplied out.
    model_flops_per_device: those that the model needs, recomputation not counted: the numerator of MFU.
    hbm_bytes_per_device: traffic to and from memory.
    collective_bytes: kind → bytes that one device sends.
    step_seconds: predicted, with the compiler's own cycle counts; `step_seconds_at_peak` is what it would be if all ran
      at peak rates: with compute, memory and network fully overlapped, and one after another.
    mfu: model_flops_per_device over peak FLOP/s times step_seconds.
    days: of the whole run of `steps` steps.
    warnings: what could not be counted.
  """

  topology: str
  devices: int
  mesh: Mapping[str, int]
  parameters: int
  tokens_per_step: int
  steps: int
  fits: bool
  hbm_bytes_available: int
  peak_bytes_per_device: int | None
  model_flops_per_device: float
  flops_per_device: float | None = None
  hbm_bytes_per_device: float | None = None
  collective_bytes: Mapping[str, float] = dataclasses.field(default_factory=dict)
  step_seconds: float | None = None
  step_seconds_at_peak: tuple[float, float] | None = None
  mfu: float | None = None
  tokens_per_second: float | None = None
  days: float | None = None
  compile_seconds: float = 0.0
  warnings: tuple[str, ...] = ()

  def to_dict(self) -> dict:
    return dataclasses.asdict(self)


def plan(
  *,
  topology: str,
  model: TransformerConfig,
  vocabulary: Vocabulary,
  optimizer: OptimizerConfig,
  loss: LossConfig,
  mesh: MeshConfig,
  batch_size: int,
  length: int,
  steps: int,
  ema_decay: float = 0.0,
  rules: Mapping[str, rules_lib.MeshAxes] = rules_lib.DEFAULT_RULES,
) -> Plan:
  """Compiles the training step of a run for a slice.

  Args:
    topology: e.g. `v5e:16x16`.
    batch_size: rows of the global batch.
    length: tokens a row.
    steps: of the whole run.
    the rest: as `training.loop.train` takes them.

  Raises:
    InputError: no such slice, or a mesh or batch that does not divide over it.
  """
  slice_ = topology_lib.load(topology)
  model = _as_on_tpu(model)
  device_mesh = make_mesh(mesh, slice_.devices)
  count = device_mesh.size
  flops = train_flops_per_token(model, length) * batch_size * length / count
  facts = dict(
    topology=topology,
    devices=count,
    mesh={axis: size for axis, size in device_mesh.shape.items() if size > 1},
    parameters=count_parameters(model),
    tokens_per_step=batch_size * length,
    steps=steps,
    hbm_bytes_available=slice_.spec.hbm_gib * 2**30,
    model_flops_per_device=flops,
  )
  started = time.monotonic()
  try:
    compiled = lower(
      model, vocabulary, optimizer, loss, device_mesh, batch_size, length, steps, ema_decay, rules
    ).compile()
  except rules_lib.ShardingError as error:
    raise InputError(f"--topology={topology}: {error}") from error
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return Plan(
      **facts,
      fits=False,
      peak_bytes_per_device=_asked_for(str(error)),
      compile_seconds=round(time.monotonic() - started, 1),
      warnings=(str(error).splitlines()[0],),
    )
  seconds = time.monotonic() - started
  cost = hlo_cost.analyze(compiled.as_text(), slice_.chip, flops)
  step = cost["step_seconds"]
  sent: dict[str, float] = {}
  for row in cost["collectives"]:
    sent[row["kind"]] = sent.get(row["kind"], 0.0) + row["wire_bytes"]
  return Plan(
    **facts,
    fits=True,
    peak_bytes_per_device=compiled.memory_analysis().peak_memory_in_bytes,
    flops_per_device=cost["flops"],
    hbm_bytes_per_device=cost["hbm_bytes"],
    collective_bytes=sent,
    step_seconds=step["scheduled"],
    step_seconds_at_peak=(step["full_overlap"], step["no_overlap"]),
    mfu=cost["mfu"]["scheduled"],
    tokens_per_second=batch_size * length / step["scheduled"],
    days=steps * step["scheduled"] / 86_400,
    compile_seconds=round(seconds, 1),
    warnings=tuple(cost["warnings"]),
  )


def lower(
  model, vocabulary, optimizer, loss, device_mesh, batch_size, length, steps, ema_decay, rules
) -> jax.stages.Lowered:
  """The step as `training.loop.train` jits it, on shapes alone."""
  update = make_optimizer(optimizer, model, steps)
  abstract = abstract_state(model, update, ema_decay > 0)
  shardings = state_shardings(model, abstract, device_mesh, rules)
  spec = rules_lib.partition_spec(("batch", "length"), (batch_size, length), rules, device_mesh, "batch")
  batch_sharding = NamedSharding(device_mesh, spec)
  batch = {
    name: jax.ShapeDtypeStruct((batch_size, length), jnp.float32 if name == "loss_weights" else jnp.int32)
    for name in loop.BATCH_FIELDS
  }
  with rules_lib.use(device_mesh, rules):
    loss_fn = loop.make_loss_fn(Transformer(model), loss, vocabulary, seed=0)
    step = jax.jit(
      functools.partial(train_step, loss_fn=loss_fn, optimizer=update, ema_decay=ema_decay),
      in_shardings=(shardings, batch_sharding),
      out_shardings=(shardings, None),
      donate_argnums=0,
    )
    return step.lower(abstract, batch)


def _as_on_tpu(model: TransformerConfig) -> TransformerConfig:
  """`auto` means this machine's backend; on the slice it would mean the TPU kernel."""
  return dataclasses.replace(model, attention="splash") if model.attention == "auto" else model


def _asked_for(message: str) -> int | None:
  """Bytes named by the compiler's out-of-memory message, e.g. `Used 18.50G of 15.75G hbm`."""
  found = re.search(r"Used ([\d.]+)([KMGT]?) of|\(([\d.]+)([KMGT]?)\) exceeds", message)
  if not found:
    return None
  value, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
  return int(float(value) * _UNITS[unit])


def _si(value: float) -> str:
  """`1.23 G`."""
  for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
    if value >= size:
      return f"{value / size:.2f} {unit}"
  return f"{value:.0f} "


def table(result: Plan) -> str:
  """For people: a line a figure."""
  gib = 2**30
  peak = "unknown" if result.peak_bytes_per_device is None else f"{result.peak_bytes_per_device / gib:.2f} GiB"
  lines = [
    ("slice", f"{result.topology}, {result.devices} devices, mesh {dict(result.mesh) or 'of one'}"),
    ("parameters", f"{result.parameters:,}"),
    ("tokens a step", f"{result.tokens_per_step:,}"),
    ("fits", f"{'yes' if result.fits else 'NO'}: peak {peak} of {result.hbm_bytes_available / gib:.0f} GiB a device"),
  ]
  if result.fits:
    sent = [f"{_si(size)}B by {kind}" for kind, size in sorted(result.collective_bytes.items())]
    overlapped, serial = result.step_seconds_at_peak
    lines += [
      (
        "FLOPs",
        f"{_si(result.flops_per_device)}FLOP a device, of which the model needs {_si(result.model_flops_per_device)}",
      ),
      ("memory traffic", f"{_si(result.hbm_bytes_per_device)}B a device"),
      ("network", f"a device sends {', '.join(sent) or 'nothing'}"),
      ("step", f"{result.step_seconds:.4g} s predicted, MFU {result.mfu:.1%}"),
      ("", f"at peak rates {overlapped:.4g} s fully overlapped, {serial:.4g} s one after another"),
      ("speed", f"{result.tokens_per_second:,.0f} tokens/s"),
      ("whole run", f"{result.days:.3g} days for {result.steps:,} steps"),
    ]
  lines += [("warning", text) for text in result.warnings]
  return "\n".join(f"{name:<16}{text}" for name, text in lines)
