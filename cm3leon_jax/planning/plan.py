"""Will a run fit a TPU slice, how fast would it be, how long would it take: the real training step, compiled for it.

Nothing runs and no weight is made: shapes go through `training`'s own state, loss and step into libtpu's compiler. What
the seconds are worth is said in `hlo_cost`: a prediction to compare programs by, never a measurement.
"""

import dataclasses
import os
from pathlib import Path
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
from cm3leon_jax.planning import analytic as analysis
from cm3leon_jax.planning import hlo_cost
from cm3leon_jax.planning import machines
from cm3leon_jax.sharding import rules as rules_lib
from cm3leon_jax.sharding.mesh import abstract_mesh, make_mesh, MeshConfig
from cm3leon_jax.training import loop
from cm3leon_jax.training import step as step_lib
from cm3leon_jax.training.losses import LossConfig
from cm3leon_jax.training.metrics import train_flops_per_token
from cm3leon_jax.training.optimizer import make_optimizer, OptimizerConfig
from cm3leon_jax.training.state import abstract_state, state_shardings
from cm3leon_jax.vocabulary import Vocabulary

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Run:
  """What a plan is made of: the arguments of `training.loop.train` that a step's cost depends on.

  Attributes:
    batch_size: rows of the global batch.
    length: tokens a row.
    device_batch: rows that a device computes at once; 0: all of its share.
    steps: of the whole run.
    tpu_options: for the TPU compiler.
  """

  model: TransformerConfig
  vocabulary: Vocabulary
  optimizer: OptimizerConfig
  loss: LossConfig
  mesh: MeshConfig
  batch_size: int
  length: int
  steps: int
  device_batch: int = 0
  ema_decay: float = 0.0
  tpu_options: Mapping[str, object] = dataclasses.field(default_factory=dict)
  rules: Mapping[str, rules_lib.MeshAxes] = dataclasses.field(default_factory=lambda: rules_lib.DEFAULT_RULES)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What `cm3leon plan` writes. All but `parameters` and `tokens_per_step` is for one device (chip) and one step.

  Attributes:
    topology, devices, mesh: the machine, its chips, the size of each mesh axis.
    method: `compiled` by libtpu, or `analytic`.
    parameters: of the whole model.
    tokens_per_step: of the global batch; a device computes `rows_per_device` rows at once, `parts` times a step.
    fits: whether the step has room in `hbm_bytes_available`, what the compiler may use.
    peak_bytes_per_device: the most that is alive at once; where it does not fit, what the compiler asked for, if it
      said so.
    bytes_by_kind: parameters, optimizer, gradients, activations (kept for the backward pass), temporaries. The state's
      parts are exact; of a compiled plan activations follow from the remat policy, and temporaries are the rest.
    flops_per_device: matmuls and kernels of the program, recomputation included; loops multiplied out.
    model_flops_per_device: those that the model needs, recomputation not counted: the numerator of MFU.
    hbm_bytes_per_device: traffic to and from memory.
    collective_bytes: kind → bytes that one device sends.
    step_seconds: predicted; compiled: with the compiler's own cycle counts.
    bound: what most of the step goes into: matmuls, memory or network.
    mfu: model_flops_per_device over peak FLOP/s times step_seconds.
    days, chip_hours: of the whole run of `steps` steps.
    warnings: what could not be counted.
  """

  topology: str
  devices: int
  mesh: Mapping[str, int]
  method: str
  parameters: int
  tokens_per_step: int
  rows_per_device: int
  parts: int
  steps: int
  fits: bool
  hbm_bytes_available: int
  peak_bytes_per_device: int | None
  model_flops_per_device: float
  bytes_by_kind: Mapping[str, int] = dataclasses.field(default_factory=dict)
  flops_per_device: float | None = None
  hbm_bytes_per_device: float | None = None
  collective_bytes: Mapping[str, float] = dataclasses.field(default_factory=dict)
  step_seconds: float | None = None
  bound: str = ""
  mfu: float | None = None
  tokens_per_second: float | None = None
  days: float | None = None
  chip_hours: float | None = None
  compile_seconds: float = 0.0
  warnings: tuple[str, ...] = ()

  def to_dict(self) -> dict:
    return dataclasses.asdict(self)


def plan(run: Run, topology: str, *, analytic: bool = False, hlo: str | os.PathLike = "") -> Plan:
  """Plans a run on a machine.

  Args:
    topology: a TPU slice, e.g. `v5e:16x16`, several, e.g. `2*v5e:16x16`, or with `analytic` GPU nodes, e.g. `h100:32x8`.
    analytic: from shapes alone, in a second; GPUs have no other way.
    hlo: path for the compiled program's text.

  Raises:
    InputError: no such machine, or a mesh or batch that does not divide over it.
  """
  machine = machines.load(topology, compiler=not analytic)
  run = dataclasses.replace(run, model=_for_machine(run.model, machine))
  try:
    return _plan(run, machine, analytic, hlo)
  except (rules_lib.ShardingError, InputError) as error:
    raise InputError(f"--topology={topology}: {error}") from error


def _plan(run: Run, machine: machines.Machine, analytic: bool, hlo) -> Plan:
  mesh = make_mesh(run.mesh, machine.devices) if machine.devices else abstract_mesh(run.mesh, machine.count)
  if mesh.shape["data"] % machine.slices:
    raise InputError(f"mesh {run.mesh}: on {machine.slices} slices `data` must be a multiple of {machine.slices}")
  parts = step_lib.parts_of_batch(run.batch_size, run.device_batch, mesh, run.rules)
  rows = run.batch_size // parts // rules_lib.shards("batch", run.rules, mesh)
  update = make_optimizer(run.optimizer, run.model, run.steps)
  state = abstract_state(run.model, update, run.ema_decay > 0)
  shardings = state_shardings(run.model, state, mesh, run.rules)
  sizes = dict(mesh.shape)
  memory = analysis.memory(run.model, state, shardings, rows=rows, length=run.length, parts=parts, chunk=run.loss.chunk,
                           mesh=sizes, pad=not machine.gpu)
  flops = train_flops_per_token(run.model, run.length) * run.batch_size * run.length / mesh.size
  facts = dict(
    topology=machine.name, devices=mesh.size, mesh={axis: size for axis, size in sizes.items() if size > 1},
    parameters=count_parameters(run.model), tokens_per_step=run.batch_size * run.length, rows_per_device=rows, parts=parts,
    steps=run.steps, hbm_bytes_available=machine.bytes_available, model_flops_per_device=flops)
  if analytic:
    return _analytic(run, machine, facts, memory, rows, sizes)
  return _compiled(run, machine, facts, memory, lower(run, mesh, update, state, shardings, parts), hlo)


def _analytic(run: Run, machine, facts: dict, memory: analysis.Memory, rows: int, mesh: Mapping[str, int]) -> Plan:
  costs = analysis.costs(run.model, machine.spec, mesh, rows=rows, length=run.length, parts=facts["parts"],
                         state_bytes=memory.parameters + memory.optimizer + memory.ema, gpu=machine.gpu)
  return _finish(facts, machine, method="analytic", fits=memory.total <= facts["hbm_bytes_available"],
                 peak_bytes_per_device=memory.total, bytes_by_kind=dataclasses.asdict(memory), flops_per_device=costs.flops,
                 hbm_bytes_per_device=costs.hbm_bytes, collective_bytes=dict(costs.collective_bytes),
                 step_seconds=costs.step_seconds, bound=costs.bound)


def _compiled(run: Run, machine, facts: dict, memory: analysis.Memory, lowered: jax.stages.Lowered, hlo) -> Plan:
  started = time.monotonic()
  try:
    compiled = lowered.compile(compiler_options=dict(run.tpu_options) or None)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return Plan(**facts, method="compiled", fits=False, peak_bytes_per_device=_asked_for(str(error)),
                compile_seconds=round(time.monotonic() - started, 1), warnings=(str(error).splitlines()[0],))
  seconds = round(time.monotonic() - started, 1)
  text = compiled.as_text()
  if hlo:
    Path(hlo).write_text(text, encoding="utf-8")
  cost = hlo_cost.analyze(text, machine.chip, facts["model_flops_per_device"])
  sent: dict[str, float] = {}
  for row in cost["collectives"]:
    sent[row["kind"]] = sent.get(row["kind"], 0.0) + row["wire_bytes"]
  peak = compiled.memory_analysis().peak_memory_in_bytes
  known = dataclasses.asdict(memory)
  known["temporaries"] = max(0, peak - sum(size for kind, size in known.items() if kind != "temporaries"))
  times = cost["seconds"]
  bound = max((times["compute"], "matmuls"), (times["memory"], "memory"), (times["collective"], "network"))[1]
  return _finish(facts, machine, method="compiled", fits=True, peak_bytes_per_device=peak, bytes_by_kind=known,
                 flops_per_device=cost["flops"], hbm_bytes_per_device=cost["hbm_bytes"], collective_bytes=sent,
                 step_seconds=cost["step_seconds"]["scheduled"], bound=bound, compile_seconds=seconds,
                 warnings=tuple(cost["warnings"]))


def _finish(facts: dict, machine, step_seconds: float, warnings: tuple[str, ...] = (), **fields) -> Plan:
  if machine.slices > 1:
    warnings += (f"the data-centre network between {machine.slices} slices is costed as if it were a slice's own",)
  days = facts["steps"] * step_seconds / 86_400
  return Plan(**facts, **fields, warnings=warnings, step_seconds=step_seconds,
              mfu=facts["model_flops_per_device"] / machine.spec.flops / step_seconds,
              tokens_per_second=facts["tokens_per_step"] / step_seconds, days=days, chip_hours=days * 24 * facts["devices"])


def lower(run: Run, mesh, update, state, shardings, parts: int) -> jax.stages.Lowered:
  """The step as `training.loop.train` jits it, on shapes alone."""
  spec = rules_lib.partition_spec(("batch", "length"), (run.batch_size, run.length), run.rules, mesh, "batch")
  batch = {name: jax.ShapeDtypeStruct((run.batch_size, run.length), jnp.float32 if name == "loss_weights" else jnp.int32)
           for name in loop.BATCH_FIELDS}
  with rules_lib.use(mesh, run.rules):
    sums_fn = step_lib.make_sums_fn(Transformer(run.model), run.loss, run.vocabulary, seed=0)
    step = step_lib.jit_step(sums_fn=sums_fn, optimizer=update, ema_decay=run.ema_decay, parts=parts, shardings=shardings,
                             batch_sharding=NamedSharding(mesh, spec))
    return step.lower(state, batch)


def _for_machine(model: TransformerConfig, machine: machines.Machine) -> TransformerConfig:
  """`auto` means this machine's backend; there it would mean another."""
  backend = "cudnn" if machine.gpu else "splash"
  return dataclasses.replace(model, attention=backend) if model.attention == "auto" else model


def _asked_for(message: str) -> int | None:
  """Bytes named by the compiler's out-of-memory message, e.g. `Used 18.50G of 15.75G hbm`."""
  found = re.search(r"Used ([\d.]+)([KMGT]?) of|\(([\d.]+)([KMGT]?)\) exceeds", message)
  if not found:
    return None
  value, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
  return int(float(value) * _UNITS[unit])
