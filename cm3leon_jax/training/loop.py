"""The training loop: mesh → state (new or restored) → input → { step; log; checkpoint; evaluate }."""

import functools
import os
from pathlib import Path
import signal
import threading
from typing import Callable, Iterable, Iterator, Mapping

import jax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
import numpy as np
import optax

from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.transformer import Transformer
from cm3leon_jax.sharding import rules as rules_lib
from cm3leon_jax.sharding.mesh import MeshConfig, make_mesh
from cm3leon_jax.training import checkpoints as checkpoints_lib
from cm3leon_jax.training import losses
from cm3leon_jax.training import metrics as metrics_lib
from cm3leon_jax.training.optimizer import OptimizerConfig, make_optimizer
from cm3leon_jax.training.state import TrainState, abstract_state, init_state, state_shardings
from cm3leon_jax.training.step import train_step
from cm3leon_jax.vocabulary import Vocabulary

Batch = Mapping[str, np.ndarray]
BATCH_FIELDS = ("inputs", "targets", "loss_weights", "segment_ids", "positions")
PREEMPTED = 75  # exit code: the state is saved, run again to go on


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
    seed: int = 0,
    log_every: int = 10,
    checkpoint_every: int = 1000,
    keep_checkpoints: int = 2,
    eval_every: int = 0,
    evaluations: Mapping[str, Callable[[], Iterable[Batch]]] | None = None,
    ema_decay: float = 0.0,
    max_skipped: int = 10,
    init_from: str = "",
    meta: Mapping[str, str] | None = None,
    operative_config: str = "",
    rules: Mapping[str, rules_lib.MeshAxes] = rules_lib.DEFAULT_RULES,
) -> TrainState:
  """Trains until `steps`, going on from the latest checkpoint in `workdir`.

  Killed at any moment and called again, the losses continue bit for bit: batch t is a function of t,
  and so is the dropout key.

  Args:
    input_fn: step → iterator that yields the batch of that step, then of the next, …; this process's
      rows of int32 `inputs`, `targets`, `segment_ids`, `positions` and float32 `loss_weights`, [batch, length].
    workdir: gets checkpoints/, model.json, metrics.jsonl, tensorboard/, operative_config.gin.
    steps: the total; the schedule of the rate spans them.
    seed: of the initial weights and of dropout.
    log_every: steps between rows of metrics.jsonl; a row holds that step's own losses.
    checkpoint_every: steps between checkpoints; the last step is always saved.
    eval_every: steps between evaluations; 0 evaluates at the end only.
    evaluations: name → function giving the batches to evaluate on (the same at each call).
    ema_decay: above 0 keeps a running mean of the weights, which evaluation and inference then use.
    max_skipped: so many non-finite steps in a row end the run.
    init_from: a run folder or released model whose weights a new run starts from (fine-tuning).
    meta: fingerprints of tokenizers and encoder, for model.json.
    operative_config: text saved as operative_config.gin.
    rules: logical axis → mesh axis.

  Returns:
    The last state.

  Raises:
    InputError: `workdir` holds another model, a batch does not fit, or the loss stays non-finite.
    SystemExit(75): SIGTERM or Ctrl-C came; the state is saved.
  """
  workdir = Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  description = checkpoints_lib.model_description(model, vocabulary, layout, dict(meta or {}))
  if (workdir / checkpoints_lib.MODEL_FILE).is_file():
    checkpoints_lib.check_same_model(workdir, description)
  if jax.process_index() == 0:
    checkpoints_lib.write_model_file(workdir, description)
    if operative_config:
      (workdir / "operative_config.gin").write_text(operative_config, encoding="utf-8")

  device_mesh = make_mesh(mesh)
  batch_sharding = NamedSharding(device_mesh, rules_lib.partition_spec(
      ("batch", "length"), (0, 0), rules, device_mesh, "batch"))
  checkpoints = checkpoints_lib.Checkpoints(workdir, keep_checkpoints)
  update = make_optimizer(optimizer, model, steps)
  abstract = abstract_state(model, update, ema_decay > 0)
  shardings = state_shardings(model, abstract, device_mesh, rules)
  state = _start(checkpoints, abstract, shardings, model, update, description, seed, ema_decay > 0, init_from)
  start = int(state.step)
  with rules_lib.use(device_mesh, rules):
    network = Transformer(model)
    loss_fn = make_loss_fn(network, loss, vocabulary, seed)
    step_fn = jax.jit(functools.partial(train_step, loss_fn=loss_fn, optimizer=update, ema_decay=ema_decay),
                      in_shardings=(shardings, batch_sharding), out_shardings=(shardings, None), donate_argnums=0)
    eval_fn = jax.jit(lambda params, batch: losses.loss_sums(network, params, batch, loss, vocabulary),
                      in_shardings=(shardings.params, batch_sharding))
    stop = StopRequest()
    batches = input_fn(start) if start < steps else iter(())
    reporter = None
    pending = None  # (step, metrics) of the step before; fetched while the next one runs

    def report():
      nonlocal pending
      if pending is not None:
        step, metrics = pending
        pending = None
        _report(reporter, step, jax.device_get(metrics), log_every, steps, max_skipped)

    try:
      for step in range(start + 1, steps + 1):
        host_batch = _next_batch(batches, step)
        if reporter is None:
          _check_batch(host_batch, model)
          flops = metrics_lib.train_flops_per_token(model, host_batch["inputs"].shape[1])
          reporter = metrics_lib.Reporter(workdir, start, steps, flops, device_mesh.devices.ravel())
        batch = place(host_batch, batch_sharding)
        state, metrics = step_fn(state, batch)
        report()
        pending = (step, metrics)
        reporter.count(batch["inputs"].size)
        evaluate_now = step == steps or (eval_every and step % eval_every == 0)
        stopping = stop.agreed(step)
        if evaluate_now or stopping or step % checkpoint_every == 0:
          report()  # so that metrics.jsonl is complete up to a checkpoint
          if evaluate_now:
            params = state.params if state.ema is None else state.ema
            for name, batches_fn in (evaluations or {}).items():
              reporter.evaluation(step, name, evaluate(eval_fn, params, batches_fn(), batch_sharding))
          if stopping or step == steps or step % checkpoint_every == 0:
            checkpoints.save(step, state)
          reporter.pause()
        if stopping and step < steps:
          checkpoints.wait()
          raise SystemExit(PREEMPTED)
    finally:
      stop.restore()
      if reporter is not None:
        reporter.close()
      checkpoints.wait()
      checkpoints.close()
  return state


def make_loss_fn(network: Transformer, config: losses.LossConfig, vocabulary: Vocabulary, seed: int):
  """(params, batch, step) → (loss, metrics); the dropout key depends on seed and step alone."""
  def loss_fn(params, batch, step):
    key = jax.random.fold_in(jax.random.key(seed), step) if network.config.dropout else None
    result = losses.metrics(losses.loss_sums(network, params, batch, config, vocabulary, key))
    return result["loss"], result
  return loss_fn


def evaluate(eval_fn, params, batches: Iterable[Batch], sharding: NamedSharding) -> dict[str, float]:
  """Losses over all batches together, in nats a token: `loss`, `loss_image`, …

  Args:
    eval_fn: jitted (params, batch) → sums as `losses.loss_sums` gives.
  """
  totals: dict[str, float] = {}
  for host_batch in batches:
    for name, value in jax.device_get(eval_fn(params, place(host_batch, sharding))).items():
      totals[name] = totals.get(name, 0.0) + float(value)
  if not totals:
    raise InputError("an evaluation set has no batches")
  return {name: float(value) for name, value in losses.metrics(totals).items()}


def place(batch: Batch, sharding: NamedSharding) -> dict[str, jax.Array]:
  """Host rows → global arrays on the mesh."""
  spread = {}
  for name in BATCH_FIELDS:
    spread[name] = jax.make_array_from_process_local_data(sharding, batch[name])
  return spread


class StopRequest:
  """Notes SIGTERM and Ctrl-C; the loop saves and leaves at a step that all processes agree on."""

  def __init__(self):
    self._asked = False
    self._old = {}
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._old[number] = signal.signal(number, self._note)

  def _note(self, number, frame):
    del frame
    self._asked = True
    signal.signal(number, self._old[number])  # a second one acts at once

  def agreed(self, step: int) -> bool:
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked

  def restore(self) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)


def _start(checkpoints, abstract, shardings, model, update: optax.GradientTransformation, description, seed, use_ema,
           init_from) -> TrainState:
  """The latest checkpoint's state, or a new one, already laid out on the mesh."""
  latest = checkpoints.latest()
  if latest is not None:
    return checkpoints.restore(latest, abstract, shardings)
  state = jax.jit(lambda: init_state(model, update, jax.random.key(seed), use_ema), out_shardings=shardings)()
  if init_from:
    checkpoints_lib.check_same_model(Path(init_from), description)
    params = checkpoints_lib.load_for_inference(init_from)[3]
    params = jax.tree.map(lambda x, old: jax.device_put(np.asarray(x, old.dtype), old.sharding), params, state.params)
    ema = None if state.ema is None else jax.tree.map(lambda x: x.copy(), params)
    state = state.replace(params=params, ema=ema)
  return state


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


def _report(reporter, step, metrics, log_every, steps, max_skipped) -> None:
  metrics = {name: float(value) for name, value in metrics.items()}
  in_row = int(metrics.pop("skipped_in_row"))
  if in_row:
    metrics["skipped_in_row"] = in_row
  if in_row >= max_skipped:
    raise InputError(f"the gradient was not finite in {in_row} steps in a row, up to step {step}; "
                     "lower the learning rate or raise the warm-up, and go on from the last checkpoint")
  if step % log_every == 0 or step == steps or in_row:
    reporter.train(step, metrics)
