"""Tokens/s of a training step: ours against Hugging Face's OPT of the same shape on torch, on this machine's CPU.

    python benchmarks/training.py [--threads 2] [--rounds 3] [--json out.json]

Both train the same network (CM3Leon's block is OPT without biases and affine LayerNorm) with AdamW and
clipping, on the same random batch, in float32 and with matmuls in bfloat16 (ours by `dtype`, torch by its
autocast; parameters and optimizer stay float32). Each side runs in its own process, in alternating rounds
on the same cores; the best round counts. CPU seconds are printed beside the clock, because they hardly
depend on what else the machine does. Needs `pip install torch transformers` (the extra `eval`).
"""

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import time

SHAPE = {"vocab_size": 3200, "num_layers": 6, "model_dim": 256, "num_heads": 4, "length": 240, "batch": 8}


def _measure(step, steps: int) -> dict:
  """Best seconds and CPU seconds of a step; `step()` returns when its work is done."""
  step()
  wall, cpu = [], []
  for _ in range(steps):
    usage, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    step()
    wall.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu.append(after.ru_utime - usage.ru_utime + after.ru_stime - usage.ru_stime)
  return {"seconds": min(wall), "cpu_seconds": min(cpu)}


def run_ours(steps: int, optimizer: str, dtype: str) -> dict:
  import jax
  import jax.numpy as jnp
  import numpy as np

  from cm3leon_jax.models.config import TransformerConfig
  from cm3leon_jax.models.transformer import Transformer
  from cm3leon_jax.training import loop, losses, state, step
  from cm3leon_jax.training.metrics import train_flops_per_token
  from cm3leon_jax.training.optimizer import OptimizerConfig, make_optimizer
  from cm3leon_jax.vocabulary import Vocabulary

  s = SHAPE
  config = TransformerConfig(s["vocab_size"], s["num_layers"], s["model_dim"], s["num_heads"], dtype=dtype,
                             max_positions=s["length"], scan_unroll=s["num_layers"])
  update = make_optimizer(OptimizerConfig(optimizer), config, 1000)
  loss_fn = loop.make_loss_fn(Transformer(config), losses.LossConfig(), Vocabulary(2048, 1024, 16, s["vocab_size"]), 0)
  step_fn = jax.jit(functools.partial(step.train_step, loss_fn=loss_fn, optimizer=update, ema_decay=0.0),
                    donate_argnums=0)
  tokens = np.random.default_rng(0).integers(0, 3000, (s["batch"], s["length"] + 1)).astype(np.int32)
  ones = np.ones((s["batch"], s["length"]))
  batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "loss_weights": ones.astype(np.float32),
           "segment_ids": ones.astype(np.int32), "positions": np.tile(np.arange(s["length"]), (s["batch"], 1))}
  batch = jax.tree.map(jnp.asarray, batch)
  current = state.init_state(config, update, jax.random.key(0), False)

  def one():
    nonlocal current
    current, _ = step_fn(current, batch)
    jax.block_until_ready(current)

  flops = train_flops_per_token(config, s["length"]) * s["batch"] * s["length"]
  return _measure(one, steps) | {"flops": flops}


def run_torch(steps: int, threads: int, dtype: str) -> dict:
  import torch
  from transformers import OPTConfig, OPTForCausalLM

  torch.set_num_threads(threads)
  s = SHAPE
  model = OPTForCausalLM(OPTConfig(
      vocab_size=s["vocab_size"], hidden_size=s["model_dim"], word_embed_proj_dim=s["model_dim"],
      num_hidden_layers=s["num_layers"], num_attention_heads=s["num_heads"], ffn_dim=4 * s["model_dim"],
      max_position_embeddings=s["length"], dropout=0.0, attention_dropout=0.0, enable_bias=False,
      layer_norm_elementwise_affine=False, activation_function="relu", use_cache=False))
  model.train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
  tokens = torch.randint(0, 3000, (s["batch"], s["length"] + 1))

  def one():
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
      logits = model(input_ids=tokens[:, :-1]).logits.float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

  return _measure(one, steps)


OPT = "OPT, AdamW"
SIDES = {}
for _dtype in ("float32", "bfloat16"):
  SIDES[f"ours, AdamW, {_dtype}"] = lambda flags, d=_dtype: run_ours(flags.steps, "adamw", d)
  SIDES[f"ours, Muon, {_dtype}"] = lambda flags, d=_dtype: run_ours(flags.steps, "muon", d)
  SIDES[f"{OPT}, {_dtype}"] = lambda flags, d=_dtype: run_torch(flags.steps, flags.threads, d)


def run_matmul(steps: int) -> dict:
  """The yardstick: float32 matmuls of the feed-forward's shape."""
  import jax
  import jax.numpy as jnp
  x, w = jnp.ones((1920, 256)), jnp.ones((256, 1024))
  many = jax.jit(lambda x, w: jax.lax.fori_loop(0, 50, lambda _, y: (y @ w) @ w.T * 1e-5, x))
  return _measure(lambda: many(x, w).block_until_ready(), steps) | {"flops": 50 * 4 * 1920 * 256 * 1024}


SIDES["float32 matmul"] = lambda flags: run_matmul(flags.steps)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=5)
  parser.add_argument("--json", default="")
  parser.add_argument("--side", default="", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.side:
    print(json.dumps(SIDES[flags.side](flags)))
    return

  # XLA takes as many threads as there are cores in the affinity mask, which the processes inherit.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:flags.threads])
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(flags.threads), "XLA_FLAGS": ""}
  results: dict[str, dict] = {}
  for _ in range(flags.rounds):
    for side in SIDES:
      command = [sys.executable, __file__, "--side", side, "--threads", str(flags.threads), "--steps", str(flags.steps)]
      out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
      new = json.loads(out.splitlines()[-1])
      old = results.setdefault(side, new)
      results[side] = {key: min(value, old[key]) for key, value in new.items()}

  tokens = SHAPE["batch"] * SHAPE["length"]
  peak = results["float32 matmul"]
  peak_rate = peak["flops"] / peak["cpu_seconds"]
  flops = results["ours, AdamW, float32"]["flops"]
  print(f"{SHAPE}, {flags.threads} threads, best of {flags.rounds} rounds of {flags.steps} steps")
  print(f"float32 matmul: {peak['flops'] / peak['seconds'] / 1e9:.0f} GFLOP/s, {peak_rate / 1e9:.0f} a CPU second")
  print(f"{'':26}{'tokens/s':>10}{'× OPT':>8}{'CPU s/step':>12}{'× OPT':>8}{'of f32 matmul':>15}   (OPT of the same dtype)")
  for side, r in results.items():
    if side != "float32 matmul":
      base = results[f"{OPT}, {side.rpartition(', ')[2]}"]
      print(f"{side:26}{tokens / r['seconds']:10.0f}{base['seconds'] / r['seconds']:8.2f}{r['cpu_seconds']:12.3f}"
            f"{base['cpu_seconds'] / r['cpu_seconds']:8.2f}{flops / r['cpu_seconds'] / peak_rate:15.0%}")
  if flags.json:
    with open(flags.json, "w", encoding="utf-8") as f:
      json.dump({"shape": SHAPE, "threads": flags.threads, "results": results}, f, indent=2)


if __name__ == "__main__":
  main()
