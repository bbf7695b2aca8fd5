"""The function behind `cm3leon train`: windows from disk into the training loop.

This is the one place where a training run touches the data side (TensorFlow masks the windows
on the host); the loop itself sees an iterator of NumPy batches.
"""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any, Mapping

from cm3leon_jax import config, manifest
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.sharding import processes
from cm3leon_jax.sharding.mesh import MeshConfig, make_mesh
from cm3leon_jax.tasks.objective import CM3Objective
from cm3leon_jax.tasks.windows import WindowSource
from cm3leon_jax.training import loop
from cm3leon_jax.training.losses import LossConfig
from cm3leon_jax.training.optimizer import OptimizerConfig
from cm3leon_jax.vocabulary import Vocabulary


def fit_model(model: TransformerConfig, vocabulary: Vocabulary, layout: Layout) -> TransformerConfig:
  """The model for this vocabulary and layout: table sizes are computed, never written twice.

  `vocab_size=0` takes the vocabulary's total size. Under the `document` numbering the position
  tables take their size from the layout, and learned positions factorise over its slots.
  """
  fields: dict[str, Any] = {}
  if model.vocab_size == 0:
    fields["vocab_size"] = vocabulary.total_size
  if layout.numbering == "document":
    fields["max_positions"] = layout.num_positions
    if model.position == "learned":
      fields["position_period"] = layout.stride
  model = dataclasses.replace(model, **fields)
  if model.vocab_size < vocabulary.total_size:
    raise InputError(f"Transformer.vocab_size={model.vocab_size} is below the vocabulary's {vocabulary.total_size} ids")
  return model


def train(
    workdir: str | os.PathLike,
    *,
    model: TransformerConfig,
    vocabulary: Vocabulary,
    layout: Layout,
    optimizer: OptimizerConfig,
    loss: LossConfig,
    mesh: MeshConfig,
    objective: CM3Objective,
    steps: int,
    batch_size: int,
    device_batch: int = 0,
    tpu_options: Mapping[str, object] | None = None,
    data: str = "",
    windows: str = "windows/pretrain",
    evaluations: Mapping[str, str] | None = None,
    init_from: str = "",
    seed: int = 0,
    log_every: int = 10,
    checkpoint_every: int = 1000,
    keep_checkpoints: int = 2,
    keep_every: int = 0,
    eval_every: int = 0,
    ema_decay: float = 0.0,
    watchdog_minutes: float = 30.0,
    profile_steps: str = "",
    wandb_project: str = "",
) -> int:
  """Trains a model on packed windows; see `training.loop.train`.

  Args:
    workdir: the run folder; also in a bucket (`gs://…`).
    batch_size: rows of the global batch.
    data: folder made by `cm3leon data build`; the next three are relative to it, or absolute.
    windows: what to train on.
    evaluations: name → windows folder, evaluated as they are (no masks).
    init_from: run folder or released model whose weights fine-tuning starts from.

  Returns:
    The exit code.
  """
  root = Path(data)
  share, shares = processes.batch_share(make_mesh(mesh))
  open_windows = functools.partial(WindowSource, vocabulary=vocabulary, host_index=share, host_count=shares)
  source = open_windows(root / windows, batch_size=batch_size, seed=seed, objective=objective)
  if source.layout != layout:
    raise InputError(f"{root / windows}: made with {source.layout}, the run has {layout}; make the windows again: "
                     "cm3leon data windows")
  held_out = {name: open_windows(root / folder, batch_size=batch_size, objective=CM3Objective(mode="none")).once
              for name, folder in (evaluations or {}).items()}
  if init_from and "://" not in init_from:
    init_from = str(root / init_from)
  loop.train(
      model=fit_model(model, vocabulary, layout), vocabulary=vocabulary, layout=layout, optimizer=optimizer, loss=loss,
      mesh=mesh, input_fn=source, workdir=workdir, steps=steps,
      device_batch=device_batch, tpu_options=tpu_options, seed=seed, log_every=log_every,
      checkpoint_every=checkpoint_every, keep_checkpoints=keep_checkpoints, keep_every=keep_every,
      eval_every=eval_every, evaluations=held_out, ema_decay=ema_decay, watchdog_minutes=watchdog_minutes,
      profile_steps=profile_steps, wandb_project=wandb_project, init_from=init_from, meta=fingerprints(root),
      operative_config=config.operative())
  return 0


def fingerprints(data: Path) -> dict[str, str]:
  """What made the documents and their neighbours, for model.json."""
  documents = manifest.read(data / "documents" / "train", "documents", rebuild="cm3leon data tokenize")
  index = manifest.read(data / "index", "index", rebuild="cm3leon data index")
  return {"text_tokenizer": documents["text_tokenizer"], "image_tokenizer": documents["image_tokenizer"],
          "encoder": index["encoder"], "data": str(data.resolve())}


def main(workdir: str | os.PathLike, data: str = "", profile_steps: str = "") -> int:
  """Runs `train` as the loaded gin configuration says; arguments that are not empty go before it."""
  given = {"data": data, "profile_steps": profile_steps}
  return config.configured("train", workdir, **{name: value for name, value in given.items() if value})
