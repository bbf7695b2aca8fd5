"""Requests in, tokens out: groups requests into batches of few shapes, and runs them.

A program is compiled once per bucket (places of a prompt, steps, requests, candidates, streams).
What a request draws depends on its own prompt and seed alone, not on what it is batched with
(up to float rounding, which differs between batch shapes).
"""

import dataclasses
from typing import Iterator, Sequence

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from cm3leon_jax.decoding import continuations, program
from cm3leon_jax.decoding.prompts import Prompt
from cm3leon_jax.decoding.rules import Sampling
from cm3leon_jax.errors import InputError
from cm3leon_jax.models.config import TransformerConfig

_STREAM_NAMES = {1: ("conditional",), 2: ("conditional", "unconditional"),
                 3: ("conditional", "image-only", "unconditional")}
_SMALL = (1, 2, 3, 4, 6, 8, 12, 16)  # then multiples of a quarter of the power of two below


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
  """One thing to generate.

  Attributes:
    streams: the prompt; with its unconditional twin for guidance; or (full, image only,
      unconditional) for two-way guidance. All plan the same tokens.
    sampling: settings.
    seed: of this request.
    candidates: independent samples.
  """

  streams: tuple[Prompt, ...]
  sampling: Sampling = Sampling()
  seed: int = 0
  candidates: int = 1

  def __post_init__(self):
    if self.candidates < 1:
      raise InputError(f"candidates={self.candidates} must be at least 1")
    if not 0 <= self.seed < 2**32:
      raise InputError(f"seed={self.seed} must lie in 0..{2**32 - 1}")
    for twin in self.streams[1:]:
      if not np.array_equal(_choices(twin), _choices(self.streams[0])):
        raise ValueError("the streams of a request must plan the same tokens")


@dataclasses.dataclass(frozen=True, eq=False)
class Output:
  """What a request drew.

  Attributes:
    tokens: int32[N, T] ids, <pad> after the end.
    log_probs: float32[N, T] of the tokens the model chose, under the conditional stream and the
      grammar at temperature 1; 0 for given tokens and after the end.
    passes: int32[N] forward passes that each candidate took.
  """

  tokens: np.ndarray
  log_probs: np.ndarray
  passes: np.ndarray


class Engine:
  """Runs requests on one model."""

  def __init__(self, config: TransformerConfig, params: dict, cache_bytes: int = 2**30,
               devices: Sequence[jax.Device] = (), jacobi_window: int = 0):
    """
    Args:
      config: of the model.
      params: of `Transformer(config)`.
      cache_bytes: bounds the key/value cache of one batch on one device, and so the memory of decoding.
      devices: that share the requests, each with a copy of the model; by default JAX's first.
      jacobi_window: image tokens that are guessed and checked in one pass (see `jacobi`), at least 2; 0 = one
        token a pass. Texts are always written one token a pass.
    """
    if jacobi_window < 0 or jacobi_window == 1:
      raise InputError(f"jacobi_window={jacobi_window}: give at least 2 tokens a pass, or 0 for none guessed")
    self.config = config
    self._window = jacobi_window
    self._params = program.unstacked(config, params)
    self.cache_bytes = cache_bytes
    self._mesh = None
    if len(devices) > 1:
      self._mesh = Mesh(np.array(devices), ("requests",))
      self._params = jax.device_put(self._params, NamedSharding(self._mesh, PartitionSpec()))

  def generate(self, requests: Sequence[Request]) -> list[Output]:
    """All outputs, in the order of the requests."""
    outputs = dict(self.run(requests))
    return [outputs[i] for i in range(len(requests))]

  def run(self, requests: Sequence[Request]) -> Iterator[tuple[int, Output]]:
    """Yields (index of the request, output) batch by batch.

    Raises:
      InputError: a prompt does not fit the model, or the model's logits are not finite.
    """
    groups: dict = {}
    for i, request in enumerate(requests):
      for prompt in request.streams:
        _check_fits(self.config, prompt)
      groups.setdefault(_bucket(request), []).append(i)
    for (streams, candidates, places, steps, _), members in groups.items():
      limit = max(1, self.cache_bytes // self._request_bytes(streams, candidates, places, steps))
      limit *= self._mesh.size if self._mesh else 1
      for start in range(0, len(members), limit):
        rows = members[start:start + limit]
        yield from zip(rows, self._run_batch([requests[i] for i in rows], places, steps))

  def log_probs(self, prompt: Prompt, given: Sequence[np.ndarray]) -> list[np.ndarray]:
    """float32[n] of each continuation int[n] in `given`: what `Output.log_probs` would hold had it been drawn."""
    _check_fits(self.config, prompt)
    return continuations.log_probs(self.config, self._params, prompt, list(given))

  def _request_bytes(self, streams, candidates, places, steps) -> int:
    c = self.config
    token = 2 * c.num_layers * c.num_kv_heads * c.head_dim * (2 if c.dtype == "bfloat16" else 4)
    return streams * (places + candidates * (steps + self._window)) * token

  def _run_batch(self, requests: list[Request], places: int, steps: int) -> list[Output]:
    if self._mesh:
      decoded = self._decode_on_each(requests, places, steps)
    else:
      static, batch = _assemble(requests, places, steps, self._static(requests))
      decoded = program.decode(self.config, static, self._params, batch)
    tokens, log_probs, broken, passes = (np.asarray(x) for x in decoded)
    for name, step in zip(_STREAM_NAMES[len(broken)], broken):
      if step < steps:
        raise InputError(f"the model's logits are not finite at step {step} of the {name} stream: "
                         "the checkpoint is damaged or its training diverged; use another one")
    n = requests[0].candidates
    return [Output(tokens[i * n:(i + 1) * n, :r.streams[0].steps], log_probs[i * n:(i + 1) * n, :r.streams[0].steps],
                   passes[i * n:(i + 1) * n]) for i, r in enumerate(requests)]

  def _static(self, requests: Sequence[Request]) -> program.Static:
    images = all(r.streams[0].stop < 0 for r in requests)
    return _static(requests, self._window if images else 0)

  def _decode_on_each(self, requests: list[Request], places: int, steps: int) -> program.Decoded:
    """The same, in equal shares on all devices; rows come back in the requests' order."""
    share = -(-len(requests) // self._mesh.size)
    shares = [requests[start:start + share] or requests[-1:] for start in range(0, self._mesh.size * share, share)]
    static = self._static(requests)
    sizes = [len(_distinct(s)[0]) for s in shares]
    batches = [_assemble(s, places, steps, static, share, max(sizes))[1] for s in shares]
    batches = jax.tree.map(lambda *arrays: np.stack(arrays), *batches)
    batches = jax.device_put(batches, NamedSharding(self._mesh, PartitionSpec("requests")))
    decoded = program.decode_on_each(self.config, static, self._mesh, self._params, batches)
    tokens, log_probs, broken, passes = (np.asarray(x) for x in decoded)
    own = _round_up(share) * static.candidates  # rows of a device; the last ones are padding
    keep = np.arange(own) < share * static.candidates
    return program.Decoded(tokens[:, keep].reshape(-1, steps), log_probs[:, keep].reshape(-1, steps), broken.min(axis=0),
                           passes[:, keep].reshape(-1))


def _choices(prompt: Prompt) -> np.ndarray:
  """int32[T, 2, 2] the ranges where the model chooses, zeros where the token is given."""
  return np.where(prompt.given[:, None, None] < 0, prompt.allowed, 0)


def _check_fits(config: TransformerConfig, prompt: Prompt) -> None:
  needed = int(max(prompt.positions.max(), prompt.planned_positions.max())) + 1
  if needed > config.max_positions:
    raise InputError(f"a prompt of {len(prompt.tokens):,} tokens and {prompt.steps:,} to generate need {needed:,} "
                     f"positions, the model has {config.max_positions:,}: use fewer documents or a shorter text")


def _round_up(n: int) -> int:
  """The next size of a bucket: at most a third of it is padding."""
  for size in _SMALL:
    if n <= size:
      return size
  quarter = 2 ** ((n - 1).bit_length() - 1) // 4
  return -(-n // quarter) * quarter


def _round_places(n: int) -> int:
  return 32 if n <= 32 else -(-n // 64) * 64


def _bucket(request: Request):
  """What must be equal within a batch."""
  places = _round_places(max(len(p.tokens) for p in request.streams) - 1)
  return (len(request.streams), request.candidates, places, -(-request.streams[0].steps // 16) * 16,
          _head([request]))


def _head(requests: Sequence[Request]) -> tuple[tuple[int, int], ...]:
  """The id ranges from which the model chooses anywhere in these requests: the head computes no others."""
  ranges = set()
  for request in requests:
    prompt = request.streams[0]
    free = prompt.allowed[prompt.given < 0].reshape(-1, 2)
    ranges |= {(int(a), int(b)) for a, b in np.unique(free, axis=0) if b > a}
  return tuple(sorted(ranges))


def _distinct(requests: Sequence[Request]) -> tuple[list[Prompt], np.ndarray]:
  """The different prompts of all streams, and int32[S, R]: which of them each stream of each request is."""
  rows: dict = {}  # a prompt's content → its row
  prompts: list[Prompt] = []
  prompt_of = np.zeros((len(requests[0].streams), len(requests)), np.int32)
  for r, request in enumerate(requests):
    for s, prompt in enumerate(request.streams):
      key = prompt.tokens.tobytes() + b"|" + prompt.positions.tobytes()
      if key not in rows:
        rows[key] = len(prompts)
        prompts.append(prompt)
      prompt_of[s, r] = rows[key]
  return prompts, prompt_of


def _static(requests: Sequence[Request], window: int) -> program.Static:
  candidates, samplings = requests[0].candidates, [r.sampling for r in requests]
  contrast = len(requests[0].streams) > 1 and any(
      s.contrasted(i, candidates) for s in samplings for i in range(candidates))
  return program.Static(candidates=candidates, head=_head(requests), contrast=contrast,
                        top_k=any(s.top_k for s in samplings), top_p=any(s.top_p < 1 for s in samplings), window=window)


def _assemble(requests: list[Request], places: int, steps: int, static: program.Static, count: int = 0,
              distinct: int = 0) -> tuple[program.Static, program.Batch]:
  """NumPy arrays of a batch; the number of requests and of distinct prompts is rounded up by repeating the last.

  Args:
    requests: of one bucket.
    places, steps: the bucket's.
    static: of this batch, or of a larger one that this one is a share of.
    count, distinct: of requests and distinct prompts in the largest share.
  """
  requests = requests + [requests[-1]] * (_round_up(max(len(requests), count)) - len(requests))
  candidates, streams = requests[0].candidates, len(requests[0].streams)
  prompts, prompt_of = _distinct(requests)
  prompts += [prompts[-1]] * (_round_up(max(len(prompts), distinct)) - len(prompts))

  def left_padded(vectors, dtype=np.int32):
    return np.stack([np.pad(v[:-1], (places - len(v) + 1, 0)) for v in vectors]).astype(dtype)

  def read_positions(prompt):
    return planned(np.append(prompt.positions[-1:], prompt.planned_positions[:-1]))

  def planned(vector):
    return np.pad(vector, [(0, steps - len(vector))] + [(0, 0)] * (vector.ndim - 1), mode="edge")

  samplings = [(r.sampling, i) for r in requests for i in range(candidates)]
  contrasted = np.array([streams > 1 and s.contrasted(i, candidates) for s, i in samplings])
  fields = {f.name: np.array([getattr(s, f.name) for s, _ in samplings])
            for f in dataclasses.fields(Sampling) if f.name != "contrast"}
  settings = {k: v.astype(np.int32 if v.dtype.kind == "i" else np.float32) for k, v in fields.items()}
  settings["top_k"], settings["contrast_k"] = fields["top_k"].astype(np.int32), fields["contrast_k"].astype(np.int32)
  settings["top_p"] = np.where(contrasted, 1.0, settings["top_p"]).astype(np.float32)
  settings["contrasted"] = contrasted

  batch = program.Batch(
      tokens=left_padded([p.tokens for p in prompts]),
      positions=left_padded([p.positions for p in prompts]),
      valid=left_padded([np.ones(len(p.tokens)) for p in prompts], bool),
      prompt_of=prompt_of,
      last=np.array([[r.streams[s].tokens[-1] for r in requests] for s in range(streams)], np.int32),
      read_positions=np.array([[read_positions(r.streams[s]) for r in requests] for s in range(streams)], np.int32),
      allowed=np.stack([planned(r.streams[0].allowed) for r in requests]),
      given=np.array([[planned(r.streams[s].given) for r in requests] for s in range(streams)], np.int32),
      steps=np.array([r.streams[0].steps for r in requests], np.int32),
      stop=np.array([r.streams[0].stop for r in requests], np.int32),
      seeds=np.array([r.seed for r in requests], np.uint32),
      settings=settings)
  return static, batch
