"""Tokens per second of decoding image tokens, against Hugging Face transformers' OPT with its KV cache.

Same shape (OPT without biases and without gains in its norms is the paper's block), same threads,
float32, random weights, the same run: the two take turns, and the best turn of each counts, as the
machine's other load only ever slows a turn. Both sample at temperature 1; the
prompt is read before the clock starts to count tokens (a run of one token is subtracted).

    python benchmarks/decoding.py --shape=demo --threads=2
    python benchmarks/decoding.py --shape=350m --threads 1 2 --candidates 1 8 --tokens=32

With --options, instead, windows of Jacobi decoding take turns with plain decoding: time and CPU time of one forward pass.
Random weights say nothing about how many tokens a pass settles; --passes draws pictures with the shipped demo model for that.

    python benchmarks/decoding.py --shape=350m --threads 1 2 --candidates=1 --tokens=63 --rounds=4 --options
    python benchmarks/decoding.py --passes

Needs `pip install torch transformers` besides the project (not for --options and --passes).
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time

PROMPT = 64
# (layers, width, heads, text ids, image codes): the demo's model, and the paper's 350M (§2.3)
SHAPES = {"demo": (5, 192, 3, 2048, 1024), "350m": (24, 1024, 16, 56_320, 8192)}


def ours(shape, candidates: int, guidance: bool, temperature: float = 1.0, **options):
  """A function that decodes so many tokens of each candidate, and gives the engine's output."""
  import jax
  import numpy as np

  from cm3leon_jax.decoding import prompts
  from cm3leon_jax.decoding.engine import Engine, Request
  from cm3leon_jax.decoding.rules import Sampling
  from cm3leon_jax.layout import Layout
  from cm3leon_jax.models.config import TransformerConfig
  from cm3leon_jax.models.transformer import init_parameters
  from cm3leon_jax.vocabulary import Vocabulary

  layers, width, heads, text, image = shape
  vocabulary = Vocabulary(text, image, 512 if image > 1024 else 16, 0)
  config = TransformerConfig(vocabulary.total_size, layers, width, heads, max_positions=4096, dtype="float32")
  key = jax.random.key(0)
  params = jax.tree.map(lambda x: 0.02 * jax.random.normal(key, x.shape), init_parameters(config, key))
  engine = Engine(config, params, **options)
  layout = Layout(image_tokens=1024, text_tokens=128, max_documents=1, numbering="sequence")
  words = np.arange(3, PROMPT + 1)

  def decode(tokens: int):
    streams = [prompts.text_to_image(vocabulary, layout, words)]
    streams += [prompts.unconditional(vocabulary, layout)] * guidance
    streams = tuple(shortened(p, tokens) for p in streams)
    sampling = Sampling(guidance=3.0 if guidance else 1.0, temperature=temperature, top_p=1.0)
    return engine.generate([Request(streams, sampling, 0, candidates)])[0]

  return decode


def shortened(prompt, tokens: int):
  """The same prompt, of whose plan only the first tokens are generated."""
  return dataclasses.replace(prompt, planned_positions=prompt.planned_positions[:tokens],
                             allowed=prompt.allowed[:tokens], cells=prompt.cells[:tokens])


def theirs(shape, candidates: int, threads: int, guidance: bool):
  import torch
  import transformers

  torch.set_num_threads(threads)
  layers, width, heads, text, image = shape
  total = -(-(text + image + 2 + (512 if image > 1024 else 16)) // 128) * 128
  config = transformers.OPTConfig(
      vocab_size=total, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, ffn_dim=4 * width,
      max_position_embeddings=4096, word_embed_proj_dim=width, enable_bias=False, layer_norm_elementwise_affine=False,
      dropout=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=None)
  torch.manual_seed(0)
  model = transformers.OPTForCausalLM(config).eval()
  ids = torch.arange(3, 3 + PROMPT)[None]

  @torch.inference_mode()
  def decode(tokens: int) -> None:
    extra = {"guidance_scale": 3.0} if guidance else {}
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                   do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=candidates, use_cache=True,
                   **extra)

  return decode


def measure(shape_name: str, threads: int, candidates: int, tokens: int, rounds: int, guidance: bool) -> dict:
  """Tokens/s a side, in this process, which may use `threads` cores only."""
  sides = {"cm3leon_jax": ours(SHAPES[shape_name], candidates, guidance),
           "transformers": theirs(SHAPES[shape_name], candidates, threads, guidance)}
  best = {name: [float("inf")] * 2 for name in sides}
  lengths = (1, 1 + tokens)
  for decode in sides.values():
    for n in lengths:
      decode(n)  # compiles, warms up
  for _ in range(rounds):
    for name, decode in sides.items():
      for i, n in enumerate(lengths):
        begin = time.perf_counter()
        decode(n)
        best[name][i] = min(best[name][i], time.perf_counter() - begin)
  return {name: candidates * tokens / (whole - first) for name, (first, whole) in best.items()}


OPTIONS = {"plain": {}, "jacobi 8": {"jacobi_window": 8}, "jacobi 16": {"jacobi_window": 16}}


def measure_options(shape_name: str, candidates: int, tokens: int, rounds: int, guidance: bool) -> dict:
  """An option → [seconds, CPU seconds of one forward pass, best turns; passes timed]."""
  # A temperature of 0.1 makes random weights choosy, so that guesses are mostly wrong and there are passes to time.
  sides = {name: ours(SHAPES[shape_name], candidates, guidance, 0.1, **options) for name, options in OPTIONS.items()}
  lengths = (1, 1 + tokens)
  passes = {name: [int(decode(n).passes.max()) for n in lengths] for name, decode in sides.items()}  # and compiles
  best = {name: [[float("inf")] * 2 for _ in lengths] for name in sides}
  for _ in range(rounds):
    for name, decode in sides.items():
      for i, n in enumerate(lengths):
        begin = time.perf_counter(), time.process_time()
        decode(n)
        took = time.perf_counter() - begin[0], time.process_time() - begin[1]
        best[name][i] = [min(*pair) for pair in zip(best[name][i], took)]
  result = {}
  for name, (first, whole) in best.items():
    count = passes[name][1] - passes[name][0]
    result[name] = [(b - a) / count for a, b in zip(first, whole)] + [count]
  return result


def print_passes(windows=(4, 8, 16, 32), candidates: int = 4) -> None:
  """Forward passes a picture of the demo model, and how many pictures equal those of plain decoding."""
  import numpy as np

  from cm3leon_jax import api
  from cm3leon_jax.decoding.engine import Engine
  from cm3leon_jax.training import checkpoints

  model = api.load("tokenizers/demo_model")
  config, _, _, params, _ = checkpoints.load_for_inference("tokenizers/demo_model")
  texts = ("a red heart", "a yellow smiling face", "a dog", "a blue car", "an apple", "the flag of france", "a cat", "a tree")
  usual = api.DEFAULTS["text_to_image"]
  settings = {"the task's defaults": usual,
              "temperature 1": dataclasses.replace(usual, guidance=1.0, temperature=1.0, top_p=1.0),
              "most likely token": dataclasses.replace(usual, guidance=1.0, temperature=0.0, top_p=1.0)}
  print("| dtype | settings | window | tokens a pass | passes a picture: mean, least, most | same pictures |\n"
        "|---|---|---|---|---|---|")
  for dtype in ("float32", "bfloat16"):
    engines = {w: Engine(dataclasses.replace(config, dtype=dtype), params, jacobi_window=w) for w in (0, *windows)}
    for name, sampling in settings.items():
      requests = [model.job("text_to_image", text=t, docs=1, candidates=candidates, seed=n, sampling=sampling).request
                  for n, t in enumerate(texts)]
      outputs = {w: engine.generate(requests) for w, engine in engines.items()}
      for w in windows:
        passes = np.concatenate([o.passes for o in outputs[w]])
        same = np.concatenate([(a.tokens == b.tokens).all(axis=1) for a, b in zip(outputs[0], outputs[w])])
        steps = outputs[0][0].tokens.shape[1]
        print(f"| {dtype} | {name} | {w} | {steps / passes.mean():.2f} | {passes.mean():.1f}, {passes.min()}, "
              f"{passes.max()} of {steps} | {same.mean():.0%} of {len(same)} |", flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--shape", default="demo", choices=SHAPES)
  parser.add_argument("--threads", type=int, nargs="+", default=[2])
  parser.add_argument("--candidates", type=int, nargs="+", default=[1, 8])
  parser.add_argument("--tokens", type=int, default=64)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--guidance", action="store_true", help="two streams a candidate")
  parser.add_argument("--options", action="store_true", help="time the engine's options against plain decoding")
  parser.add_argument("--passes", action="store_true", help="count the passes of Jacobi decoding with the demo model")
  parser.add_argument("--one", default="", help=argparse.SUPPRESS)  # threads,candidates: measure here and print JSON
  args = parser.parse_args()
  if args.one:
    threads, candidates = map(int, args.one.split(","))
    measured = (measure_options(args.shape, candidates, args.tokens, args.rounds, args.guidance) if args.options else
                measure(args.shape, threads, candidates, args.tokens, args.rounds, args.guidance))
    print(json.dumps(measured))
    return
  if args.passes:
    print_passes()
    return
  print(f"shape {args.shape}, float32, prompt of {PROMPT}, {args.tokens} tokens"
        f"{', guidance' if args.guidance else ''}; load average {os.getloadavg()[0]:.1f}")
  print("| threads | candidates | option | ms a pass | × plain | CPU ms a pass | × plain | passes timed |"
        "\n|---|---|---|---|---|---|---|---|" if args.options else
        "| threads | candidates | transformers, tokens/s | cm3leon_jax, tokens/s | ratio |\n|---|---|---|---|---|")
  for threads in args.threads:
    for candidates in args.candidates:
      # A process a row: XLA sizes its thread pool by the cores that it may use when it starts.
      cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
      argv = [sys.executable, *sys.argv, f"--one={threads},{candidates}"]
      out = subprocess.run(["taskset", "-c", cores, *argv], capture_output=True, text=True, check=False,
                           env={**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(threads)})
      if out.returncode:
        sys.exit(out.stderr)
      rate = json.loads(out.stdout.splitlines()[-1])
      if args.options:
        for name, (clock, cpu, count) in rate.items():
          print(f"| {threads} | {candidates} | {name} | {clock * 1e3:.1f} | {clock / rate['plain'][0]:.2f} | {cpu * 1e3:.1f} | "
                f"{cpu / rate['plain'][1]:.2f} | {count} |", flush=True)
        continue
      print(f"| {threads} | {candidates} | {rate['transformers']:,.0f} | {rate['cm3leon_jax']:,.0f} | "
            f"{rate['cm3leon_jax'] / rate['transformers']:.2f} |", flush=True)


if __name__ == "__main__":
  main()
