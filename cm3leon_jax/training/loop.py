"""The training loop: mesh → state (new or restored) → input → { step; log; checkpoint; evaluate }."""

import functools
import os
from typing import Callable, Iterable, Iterator, Mapping

from etils import epath
import jax
from jax.sharding import NamedSharding
import numpy as np
import optax

from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.transformer import Transformer
from cm3leon_jax.sharding import processes
from cm3leon_jax.sharding import rules as rules_lib
from cm3leon_jax.sharding.mesh import MeshConfig, make_mesh
from cm3leon_jax.training import checkpoints as checkpoints_lib
from cm3leon_jax.training import losses
from cm3leon_jax.training import metrics as metrics_lib
from cm3leon_jax.training import profiling
from cm3leon_jax.training import store
from cm3leon_jax.training.optimizer import OptimizerConfig, make_optimizer
from cm3leon_jax.training.state import TrainState, abstract_state, init_state, state_shardings
from cm3leon_jax.training.step import jit_step, make_sums_fn, parts_of_batch
from cm3leon_jax.training.stopping import StopRequest
from cm3leon_jax.training.totals import Totals, seen_tokens
from cm3leon_jax.training.watchdog import Watchdog
from cm3leon_jax.vocabulary import Vocabulary

Batch = Mapping[str, np.ndarray]
BATCH_FIELDS = ("inputs", "targets", "loss_weights", "segment_ids", "positions")


def train(
    *,
    model: TransformerConfig,
    vocabulary: Vocabulary,
    layout: Layout,
    optimizer: OptimizerConfig,
    loss: losses.LossConfig,
    mesh: MeshConfig,
    input_fn: Callable[[int], Iterator[Batch]],
    workdir: str | os.PathLike,
    steps: int,
    device_batch: int = 0,
    tpu_options: Mapping[str, object] | None = None,
    seed: int = 0,
    log_every: int = 10,
    checkpoint_every: int = 1000,
    keep_checkpoints: int = 2,
    keep_every: int = 0,
    eval_every: int = 0,
    evaluations: Mapping[str, Callable[[], Iterable[Batch]]] | None = None,
    ema_decay: float = 0.0,
    max_skipped: int = 10,
    watchdog_minutes: float = 30.0,
    profile_steps: str = "",
    wandb_project: str = "",
    init_from: str = "",
    meta: Mapping[str, str] | None = None,
    operative_config: str = "",
    rules: Mapping[str, rules_lib.MeshAxes] = rules_lib.DEFAULT_RULES,
) -> TrainState:
  """Trains until `steps`, going on from the latest checkpoint in `workdir`.

  Killed at any moment and called again, the losses continue bit for bit: batch t is a function of t,
  and so is the dropout key.

  Args:
    input_fn: step → iterator that yields the batch of that step, then of the next, …; this process's rows
      (`sharding.processes.batch_share`) of int32 `inputs`, `targets`, `segment_ids`, `positions` and float32
      `loss_weights`, [batch, length].
    workdir: gets checkpoints/, model.json, metrics.jsonl, tensorboard/, operative_config.gin. A local path, the same
      folder for all processes, or a bucket's (`gs://…`).
    steps: the total; the schedule of the rate spans them.
    device_batch: rows that a device computes at once; its share of a batch is then computed in parts, one after another
      (gradient accumulation). 0: all of its share.
    tpu_options: for the TPU compiler, as hardware files state them; other platforms leave them aside.
    seed: of the initial weights and of dropout.
    log_every: steps between rows of metrics.jsonl; a row holds that step's own losses.
    checkpoint_every: steps between checkpoints; the last step is always saved.
    keep_checkpoints: how many of the latest stay.
    keep_every: checkpoints at multiples of so many steps stay for good; 0 keeps none of them.
    eval_every: steps between evaluations; 0 evaluates at the end only.
    evaluations: name → function giving the batches to evaluate on (the same at each call).
    ema_decay: above 0 keeps a running mean of the weights, which evaluation and inference then use.
    max_skipped: so many non-finite steps in a row end the run; the batch of the last one is kept in `workdir`.
    watchdog_minutes: after so long without a step, all stacks are dumped; 0 is off.
    profile_steps: 'A:B' traces steps A to B into `workdir`/profile; SIGUSR1 traces the next five at any time.
    wandb_project: also log to this project of Weights & Biases.
    init_from: a run folder or released model whose weights a new run starts from (fine-tuning).
    meta: fingerprints of tokenizers and encoder, for model.json.
    operative_config: text saved as operative_config.gin.
    rules: logical axis → mesh axis.

  Returns:
    The last state.

  Raises:
    InputError: `workdir` holds another model or no readable checkpoint, a batch does not fit, or the loss stays
      non-finite.
    SystemExit(75): SIGTERM or Ctrl-C came; the state is saved.
  """
  profile = profiling.parse_steps(profile_steps)
  workdir = store.run_folder(workdir)
  description = checkpoints_lib.model_description(model, vocabulary, layout, dict(meta or {}))
  _write_about(workdir, description, operative_config)

  device_mesh = make_mesh(mesh)
  batch_sharding = NamedSharding(device_mesh, rules_lib.partition_spec(
      ("batch", "length"), (0, 0), rules, device_mesh, "batch"))
  shares = processes.batch_share(device_mesh, rules)[1]
  update = make_optimizer(optimizer, model, steps)
  abstract = abstract_state(model, update, ema_decay > 0)
  shardings = state_shardings(model, abstract, device_mesh, rules)
  state, totals = _restored(workdir, abstract, shardings)
  if state is None:
    state = jax.jit(lambda: init_state(model, update, jax.random.key(seed), ema_decay > 0), out_shardings=shardings)()
    state = _with_weights(state, init_from, description) if init_from else state
  start = int(state.step)
  totals.start(device_mesh.size)
  with rules_lib.use(device_mesh, rules):
    network = Transformer(model)
    step_of = functools.partial(
        jit_step, sums_fn=make_sums_fn(network, loss, vocabulary, seed), optimizer=update, ema_decay=ema_decay,
        shardings=shardings, batch_sharding=batch_sharding,
        compiler_options=tpu_options if jax.default_backend() == "tpu" else None)
    eval_fn = jax.jit(lambda params, batch: losses.loss_sums(network, params, batch, loss, vocabulary),
                      in_shardings=(shardings.params, batch_sharding))
    norm_fn = jax.jit(optax.tree.norm)
    seen_fn = jax.jit(functools.partial(seen_tokens, vocabulary=vocabulary))
    checkpoints = store.Writer(workdir, keep_checkpoints, keep_every)
    watchdog = Watchdog(workdir, watchdog_minutes)
    profiler = profiling.Profiler(workdir / "profile", profile)
    stop = StopRequest()
    batches = input_fn(start) if start < steps else iter(())
    reporter = None
    pending = None  # (step, host batch, metrics) of the step before; fetched while the next one runs

    def report():
      nonlocal pending
      if pending is not None:
        step, host_batch, metrics = pending
        pending = None
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        totals.count(metrics, flops * shares * host_batch["inputs"].size)
        in_row = _check_finite(step, host_batch, metrics, max_skipped, workdir)
        if step % log_every == 0 or step == steps or in_row:
          reporter.train(step, metrics | totals.row())
        watchdog.beat(step)

    try:
      for step in range(start + 1, steps + 1):
        host_batch = _next_batch(batches, step)
        if reporter is None:
          _check_batch(host_batch, model)
          step_fn = step_of(parts=parts_of_batch(shares * len(host_batch["inputs"]), device_batch, device_mesh, rules))
          flops = metrics_lib.train_flops_per_token(model, host_batch["inputs"].shape[1])
          reporter = metrics_lib.Reporter(workdir, start, steps, flops, device_mesh.devices.ravel(), wandb_project)
        profiler.before(step)
        batch = place(host_batch, batch_sharding, shares)
        state, metrics = step_fn(state, batch)
        metrics |= seen_fn(batch)
        if step % log_every == 0:
          metrics["param_norm"] = norm_fn(state.params)
        profiler.after(step, metrics)
        report()
        pending = (step, host_batch, metrics)
        reporter.count(batch["inputs"].size)
        evaluate_now = step == steps or (eval_every and step % eval_every == 0)
        stopping = stop.agreed(step)
        save_now = stopping or step == steps or step % checkpoint_every == 0
        if evaluate_now or save_now:
          report()  # so that metrics.jsonl is complete up to a checkpoint
          if evaluate_now:
            params = state.params if state.ema is None else state.ema
            for name, batches_fn in (evaluations or {}).items():
              result = evaluate(eval_fn, params, watchdog.watching(batches_fn()), batch_sharding, shares)
              reporter.evaluation(step, name, result)
          if save_now:
            reporter.flush()
            checkpoints.save(step, state, totals)
          watchdog.beat(step)
          reporter.pause()
        if stopping and step < steps:
          raise SystemExit(processes.RUN_AGAIN)
    except BaseException as error:
      if not processes.lost(error):  # else a save under way would wait for the lost one
        checkpoints.close()
      raise
    finally:
      for part in (stop, profiler, watchdog, reporter):
        if part is not None:
          part.close()
    checkpoints.close()
  return state


def evaluate(eval_fn, params, batches: Iterable[Batch], sharding: NamedSharding, shares: int = 1) -> dict[str, float]:
  """Losses over all batches together, in nats a token: `loss`, `loss_image`, …

  Args:
    eval_fn: jitted (params, batch) → sums as `losses.loss_sums` gives.
    sharding, shares: see `place`.
  """
  totals: dict[str, float] = {}
  for host_batch in batches:
    for name, value in jax.device_get(eval_fn(params, place(host_batch, sharding, shares))).items():
      totals[name] = totals.get(name, 0.0) + float(value)
  if not totals:
    raise InputError("an evaluation set has no batches")
  return {name: float(value) for name, value in losses.metrics(totals).items()}


def place(batch: Batch, sharding: NamedSharding, shares: int = 1) -> dict[str, jax.Array]:
  """This process's rows → global arrays on the mesh; the global batch is `shares` times as large."""
  spread = {}
  for name in BATCH_FIELDS:
    rows, length = batch[name].shape
    spread[name] = jax.make_array_from_process_local_data(sharding, batch[name], (rows * shares, length))
  return spread


def _write_about(workdir: epath.Path, description: dict, operative_config: str) -> None:
  """model.json and operative_config.gin, after a look whether the folder belongs to another model."""
  workdir.mkdir(parents=True, exist_ok=True)
  if (workdir / checkpoints_lib.MODEL_FILE).exists():
    checkpoints_lib.check_same_model(workdir, description)
  if jax.process_index() == 0:
    checkpoints_lib.write_model_file(workdir, description)
    if operative_config:
      (workdir / "operative_config.gin").write_text(operative_config)


def _restored(workdir: epath.Path, abstract: TrainState, shardings: TrainState) -> tuple[TrainState | None, Totals]:
  """What the latest checkpoint that can be read holds, laid out on the mesh; None where there is none."""
  if not (workdir / "checkpoints").exists():
    return None, Totals()
  reader = store.Reader(workdir)
  try:
    restored = reader.newest_state(abstract, shardings)
    reader.set_aside()
  finally:
    reader.close()
  return restored or (None, Totals())


def _with_weights(state: TrainState, source: str, description: dict) -> TrainState:
  """`state` with the weights of another run or of a released model."""
  checkpoints_lib.check_same_model(source, description)
  params = checkpoints_lib.load_for_inference(source)[3]
  params = jax.tree.map(lambda x, old: jax.device_put(np.asarray(x, old.dtype), old.sharding), params, state.params)
  return state.replace(params=params, ema=None if state.ema is None else jax.tree.map(lambda x: x.copy(), params))


def _next_batch(batches: Iterator[Batch], step: int) -> Batch:
  try:
    return next(batches)
  except StopIteration:
    raise InputError(f"the input ended before step {step}; lower `steps`, or let the input repeat") from None


def _check_batch(batch: Batch, model: TransformerConfig) -> None:
  """Ids and positions outside their tables would be clipped without a word on the device."""
  missing = [name for name in BATCH_FIELDS if name not in batch]
  if missing:
    raise InputError(f"a batch lacks {missing[0]!r}; it needs {', '.join(BATCH_FIELDS)}")
  for name, limit in (("inputs", model.vocab_size), ("targets", model.vocab_size), ("positions", model.max_positions)):
    if batch[name].min() < 0 or batch[name].max() >= limit:
      raise InputError(f"batch field {name!r} has values {batch[name].min()}..{batch[name].max()}, "
                       f"the model knows 0..{limit - 1}; the data was made for another vocabulary or layout")


def _check_finite(step: int, batch: Batch, metrics: dict[str, float], max_skipped: int, workdir: epath.Path) -> int:
  """How many steps in a row, up to this one, were left out; too many end the run, and leave the batch behind."""
  in_row = int(metrics.pop("skipped_in_row"))
  if in_row:
    metrics["skipped_in_row"] = in_row
  if in_row >= max_skipped:
    path = workdir / f"not_finite_{step}_{jax.process_index()}.npz"
    with path.open("wb") as file:
      np.savez(file, **batch)
    raise InputError(f"the gradient was not finite in {in_row} steps in a row, up to step {step}, whose batch is in "
                     f"{path}; lower the learning rate or raise the warm-up, and go on from the last checkpoint")
  return in_row
