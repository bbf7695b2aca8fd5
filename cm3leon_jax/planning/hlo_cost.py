"""What one step of a compiled XLA program costs a TPU chip, read from its optimised HLO text.

The input is `compiled.as_text()` of a program compiled for TPU (ahead of time: no TPU is needed). XLA's own
`cost_analysis()` counts a loop's body once; here every count is multiplied by the loop's trip count. All is for one
device. As a library: `analyze(hlo_text, chip, model_flops=None) -> dict`. Three predictions of a step, in seconds:
  full_overlap  max(compute, memory, collective): no schedule of this program is faster;
  scheduled     operations one after another, each for the compiler's own `estimated_cycles` (if none, max(FLOPs / peak,
                bytes / bandwidth)), plus the collectives that block; asynchronous collectives and copies hide
                behind them as far as they can. The one to compare programs by;
  no_overlap    compute + memory + collective, each at its peak rate.
What it cannot see: time inside a Pallas kernel (taken at peak, which flatters it; FLOPs from its `cost_estimate`,
else as causal flash attention if it looks so, else 0 and a warning); vector work and MXU padding, save through the
compiler's cycles; re-reads inside an operation; launch gaps; the network's latency, hops, contention and missing
wrap-around (a collective gets both links of as many torus axes as its group must span, a collective-permute one
link); other slices; the host; stragglers. Of a conditional the dearest branch counts. Compare programs of one libtpu
and one topology; never quote the seconds as a measurement.
"""

import collections
import functools
import math
import operator
import re

# Per chip: bf16 FLOP/s, HBM bytes/s, ICI bytes/s in one direction over all links, links, HBM GiB, and the clock of
# `estimated_cycles`. Public: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; ICI is their "Interchip Interconnect BW" of
# 2400, 1600, 4800 and 3200 Gbit/s (later pages print twice that: both directions). The clock is what the peak
# implies, peak / (2 * 128 * 128 * MXUs), MXUs 8, 4, 8 and 16 (v6e's are 256 wide: inferred). v4 and v5p: both cores.
Chip = collections.namedtuple("Chip", "flops hbm ici links hbm_gib clock")
CHIPS = {
  "v4": Chip(275e12, 1228e9, 300e9, 6, 32, 1.05e9),
  "v5e": Chip(197e12, 819e9, 200e9, 4, 16, 1.50e9),
  "v5p": Chip(459e12, 2765e9, 600e9, 6, 95, 1.75e9),
  "v6e": Chip(918e12, 1640e9, 400e9, 4, 32, 1.75e9),
}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
FREE = "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id opt-barrier".split()
SLICES, UPDATES = ("dynamic-slice", "slice", "gather"), {"dynamic-update-slice": 1, "scatter": -1}  # update's place
HANDED_ON = ("parameter", "tuple", "custom-call")  # in a fused computation: results that alias, no traffic


class Array:
  """`size`: bytes of the values; `padded`: with the layout's tiles filled; `hbm`: 0 if it lives elsewhere (VMEM)."""

  def __init__(self, dtype, dims, layout):
    self.dtype, self.dims = dtype, [int(d.lstrip("<=")) for d in dims.split(",") if d]
    bits = 8 if dtype == "pred" else int((re.search(r"\d+", dtype) or [0])[0])
    self.size = self.padded = bits / 8 * math.prod(self.dims)
    order, _, tile = layout.partition(":T(")
    if tile and self.size:
      tile = [int(t) for t in reversed(tile.split(")")[0].split(","))]
      minor = [self.dims[int(d)] for d in order.split(",") if d]
      self.padded *= math.prod(-(-d // t) * t / d for d, t in zip(minor, tile))
    self.hbm = 0.0 if re.search(r"S\([1-9]\)", layout) else self.padded


class Op:
  """One HLO operation: `arrays` is its result, tuples flattened; `operands` and `users` are operations."""

  def __init__(self, line):
    root, self.name, result, self.code, rest = re.match(
      r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)", re.sub(r"/\*.*?\*/", "", line), re.S
    ).groups()
    self.inside, self.attrs = re.split(r"\)(?=, |\s*$)", rest, maxsplit=1)
    self.piece = "async_collective_fusion_config" in self.attrs  # one of the fusions that a transfer runs beside
    self.arrays = [Array(*a) for a in re.findall(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?", result)]
    self.operands, self.users, self.root, self.collective = [], [], bool(root), self.code.startswith(COLLECTIVES)
    self.called = self.attr(r"(?:calls|to_apply|called_computation|body)=%?([\w.\-]+)")

  def attr(self, pattern, default=None):
    return (re.search(pattern, self.attrs) or [None, default])[1]


def parse(text):
  """The computations of an HLO module by name, each a list of operations that ends in its root; the entry's name."""
  computations, entry = {}, None
  for head, name, block in re.findall(r"^(ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}$", text, re.M | re.S):
    ops = {op.name: op for op in map(Op, re.split(r"\n(?=\s+(?:ROOT )?%?[\w.\-]+ = )", block))}
    for op in ops.values():
      op.operands = [ops[n] for n in re.findall(r"%([\w.\-]+)", op.inside) if n in ops]
      for operand in set(op.operands):
        operand.users.append(op)
    computations[name] = sorted(ops.values(), key=lambda op: op.root)
    entry = name if head else entry
  return computations, entry


@functools.cache
def taps(out, size, window, stride, low, base, dilation):
  """Pairs of an output position and a window tap that meet an input element, along one spatial dimension."""
  return sum(
    0 <= (at := o * stride + t * dilation - low) <= (size - 1) * base and at % base == 0
    for o in range(out)
    for t in range(window)
  )


def matmul_flops(op):
  out, left, right = op.arrays[0].dims, op.operands[0].arrays[0].dims, op.operands[1].arrays[0].dims
  if op.code == "dot":
    contracted = op.attr(r"lhs_contracting_dims=\{([\d,]*)\}", "")
    return 2.0 * math.prod(out) * math.prod(left[int(d)] for d in contracted.split(",") if d)
  lhs, rhs, result = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attrs).groups()
  window = {k: v.split("x") for k, v in re.findall(r"(\w+)=([\dx_\-]+)", op.attr(r"window=\{([^}]*)\}", ""))}
  flops = 2.0 * out[result.index("b")] * out[result.index("f")] * right[rhs.index("i")]
  for d in range(len(lhs) - 2):
    along = (
      int(window[key][d].split("_")[0]) if key in window else int(key != "pad")
      for key in ("size", "stride", "pad", "lhs_dilate", "rhs_dilate")
    )
    flops *= taps(out[result.index(str(d))], left[lhs.index(str(d))], *along)
  return flops


def kernel_flops(op):
  """FLOPs of a Pallas kernel: its cost_estimate, else those of causal flash attention if it looks so, else 0."""
  stated = op.attr(r'cost_estimate":\{"flops":"?(\d+)')
  role = re.search(r"(?:splash|flash|attention).*?(fwd|dkv|dq)", op.name)
  tensors = [a.dims for o in op.operands for a in o.arrays[:1] if a.dtype in ("bf16", "f32") and len(a.dims) > 2]
  if stated or not role or len(tensors) < 3:
    return float(stated or 0)
  query, key = tensors[:2]
  fused = sum(a.dims[-2:] == query[-2:] for a in op.arrays) >= 3  # dq, dk and dv of one kernel
  matmuls = {"fwd": 2, "dq": 3, "dkv": 5 if fused else 4}[role[1]]
  block = int(op.attr(r'block_q(?:_dq|_dkv)?\\*":\s*(\d+)', 512))
  return matmuls * math.prod(query) * (key[-2] + min(block, key[-2]))  # diagonal blocks are computed whole


class Analysis:
  def __init__(self, text, chip):
    self.chip, self.warnings, self.loops = chip, set(), {}
    self.computations, self.entry = parse(text)
    self.partitions = int((re.search(r"num_partitions=(\d+)", text.split("\n", 1)[0]) or [0, 1])[1])

  def value(self, op, env):
    """The integer that a scalar holds, or None; `env`: parameters by number, or elements of the one parameter."""
    if op.code == "constant":
      return int(op.inside) if re.fullmatch(r"-?\d+", op.inside) else None
    if op.code == "parameter" or op.code == "get-tuple-element" and op.operands[0].code == "parameter":
      return env.get(int(op.attr(r"index=(\d+)", op.inside)))
    name = op.attr(r"direction=(\w+)", op.code).lower()  # of a comparison, LT and the like
    function = getattr(operator, {"subtract": "sub", "multiply": "mul"}.get(name, name), None)
    known = function or name in ("copy", "bitcast", "convert", "fusion", "call")
    values = [self.value(o, env) for o in op.operands] if known else [None]
    if None not in values and name in ("fusion", "call"):
      return self.value(self.computations[op.called][-1], dict(enumerate(values)))
    return None if None in values else function(*values) if function else values[0]

  def trips(self, loop):
    """How often a loop runs: as the compiler says, else by running its induction variables."""
    count, more = int(loop.attr(r'known_trip_count":\{"n":"(\d+)"', 0)), 0
    if not count:
      condition, end = self.computations[loop.attr(r"condition=%?([\w.\-]+)")], self.computations[loop.called][-1]
      start = loop.operands[0].operands  # a tuple; a start that cannot be read is taken for 0
      carried = {int(op.attr(r"index=(\d+)")) for op in condition if op.code == "get-tuple-element"}
      env = {i: len(start) > i and self.value(start[i], {}) or 0 for i in carried}
      while count < 10**6 and (more := self.value(condition[-1], env)):
        count, env = count + 1, {i: self.value(end.operands[i], env) for i in env}
    if more is None or more:
      self.warnings.add(f"loop {loop.name}: trip count not found, counted once")
    return self.loops.setdefault(loop.name, 1 if more is None or more else count)

  def read(self, value, whole):
    """Bytes that a fused computation reads of a parameter: of a slice only the slice."""
    total = 0.0
    for op in value.users:
      if op.code in SLICES and op.operands[0] is value:
        total += op.arrays[0].padded
      elif op.code in ("bitcast", "reshape"):
        total += self.read(op, whole)
      elif op.code == "fusion":
        total += sum(
          self.read(p, whole)
          for p in self.computations[op.called]
          if p.code == "parameter" and op.operands[int(p.inside)] is value
        )
      elif not (op.code in UPDATES and op.operands[0] is value or op.piece or op.code in HANDED_ON):
        total += whole
    return min(total, whole)

  def written(self, op, array):
    """Bytes written of a fused computation's result: of an update in place only the update, of an alias none."""
    if op.code in ("bitcast", "reshape", "fusion"):
      return self.written(op.operands[0] if op.code != "fusion" else self.computations[op.called][-1], array)
    if op.code in UPDATES:
      return min(array.hbm, op.operands[UPDATES[op.code]].arrays[0].padded)
    return 0.0 if op.piece or op.code in HANDED_ON else array.hbm

  def traffic(self, op):
    """Bytes that an operation moves to and from HBM."""
    if op.code in FREE or op.code.endswith(("-done", "-update")) or op.attr("(AllocateBuffer|Bitcast)"):
      return 0.0
    inputs = [sum(a.hbm for a in o.arrays) for o in op.operands]
    if op.code == "fusion":
      inner = self.computations[op.called]
      ends = inner[-1].operands if inner[-1].code == "tuple" else inner[-1:]
      return sum(self.read(p, inputs[int(p.inside)]) for p in inner if p.code == "parameter") + sum(
        self.written(end, array) for end, array in zip(ends, op.arrays)
      )
    if op.code in SLICES or op.code == "slice-start":  # slice-start's result: source, destination, context
      to = op.arrays[op.code == "slice-start"]
      return to.hbm + to.padded * (inputs[0] > 0)
    if op.code in UPDATES:
      return 2 * inputs[UPDATES[op.code]]
    return sum(inputs) + sum(a.hbm for a in op.arrays[: 1 if op.code.endswith("-start") else None])

  def transfer(self, op, totals, background, fused):
    """Adds a collective: the bytes it carries, and those that one chip must send."""
    kind, listed = op.code.removesuffix("-start"), op.attr(r"replica_groups=\{\{([\d,]+)\}")
    group = len(listed.split(",")) if listed else int(op.attr(r"replica_groups=\[\d+,(\d+)\]", self.partitions))
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))?\s*\{([^}]*)\}", op.attrs)
    if mesh:  # mesh['a'=16,'b'=4], device_ids=([4,16]T(1,0)) {'a','b':(1)2}
      sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
      group = math.prod(int(part or sizes[a]) for a, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2]))
    if fused and kind == "all-reduce" and [u.code for u in op.users if u.root] == ["dynamic-slice"]:
      kind = "reduce-scatter"  # how XLA:TPU writes an all-reduce-scatter fusion
    size = sum(a.size for o in op.operands for a in o.arrays) * (group if kind == "all-gather" else 1)
    share = {"all-reduce": 2 * (group - 1) / group, "collective-permute": 1}.get(kind, (group - 1) / group)
    key = kind, group if kind != "collective-permute" else 2, background
    totals.update({(*key, "count"): 1, (*key, "bytes"): size, (*key, "wire_bytes"): size * share})

  def inner(self, ops):
    """The matmuls and collectives among operations and in what they call."""
    for op in ops:
      if op.code in ("dot", "convolution") or op.collective and not op.code.endswith("-done"):
        yield op
      elif op.code == "fusion":
        yield from self.inner(self.computations[op.called])

  @functools.cache
  def cost(self, name):
    """Counts of a computation; of its collectives by (kind, group, background, figure)."""
    totals, seen = collections.Counter(), set()
    for op in self.computations[name]:
      names = [op.called] if op.code in ("while", "call", "async-start") else []
      if op.code == "conditional":
        names = re.findall(r"%([\w.\-]+)", op.attrs.split("metadata=")[0])
      if names:
        times = self.trips(op) if op.code == "while" else 1
        dearest = max(map(self.cost, names), key=operator.itemgetter("scheduled"))
        totals.update({key: times * figure for key, figure in dearest.items()})
      else:
        self.operation(op, totals, seen)
    return totals

  def operation(self, op, totals, seen):
    """Adds an operation that is no loop or call; `seen`: transfers already counted."""
    flops, moved, cycles = 0.0, self.traffic(op), op.attr(r'estimated_cycles":"(\d+)"')
    for each in self.inner([op]):
      channel = each.attr(r"channel_id=(\d+)") if each.piece else None
      if not each.collective:
        flops += matmul_flops(each)
      elif channel not in seen:
        self.transfer(each, totals, each.piece or each.code.endswith("-start"), each is not op)
        totals["hbm_bytes"] += each.arrays[0].hbm if each.piece else 0.0
      seen |= {channel} - {None}
    if "tpu_custom_call" in op.attrs:
      flops = kernel_flops(op)
      self.warnings |= set() if flops else {f"kernel {op.name}: no cost estimate, FLOPs counted as 0"}
      totals["kernel_flops"] += flops
    idle = op.collective or op.code.endswith("-start")  # takes no time of the core
    roofline = 0.0 if idle else max(flops / self.chip.flops, moved / self.chip.hbm)
    totals.update(
      flops=flops, hbm_bytes=moved, roofline=roofline, scheduled=int(cycles) / self.chip.clock if cycles else roofline
    )


def analyze(hlo_text, chip, model_flops=None):
  """The cost of one run of the module's entry on one device of `chip`; the module's docstring has the terms."""
  spec, run, rows = CHIPS[chip], Analysis(hlo_text, CHIPS[chip]), []
  totals = run.cost(run.entry)
  for kind, group, background in sorted(key[:3] for key in totals if key[-1] == "count"):
    count, size, wire = (totals[kind, group, background, figure] for figure in ("count", "bytes", "wire_bytes"))
    axes = max(math.ceil(spec.links / 2 * math.log(group, max(run.partitions, 2)) - 1e-6), 1)
    seconds = wire / spec.ici * spec.links / (1 if kind == "collective-permute" else 2 * axes)
    rows.append(
      {
        "kind": kind,
        "group": group,
        "async": background,
        "count": count,
        "bytes": size,
        "wire_bytes": wire,
        "seconds": seconds,
      }
    )
  network, blocking = sum(r["seconds"] for r in rows), sum(r["seconds"] for r in rows if not r["async"])
  compute, memory = totals["flops"] / spec.flops, totals["hbm_bytes"] / spec.hbm
  seconds = {
    "compute": compute,
    "memory": memory,
    "collective": network,
    "collective_blocking": blocking,
    "operations_roofline": totals["roofline"],
    "operations_scheduled": totals["scheduled"],
  }
  step = {
    "full_overlap": max(compute, memory, network),
    "no_overlap": compute + memory + network,
    "scheduled": blocking + max(totals["scheduled"], memory, network - blocking),
  }
  return {
    "chip": chip,
    **{key: totals[key] for key in ("flops", "kernel_flops", "hbm_bytes")},
    "seconds": seconds,
    "step_seconds": step,
    "collectives": rows,
    "loops": run.loops,
    "warnings": sorted(run.warnings),
    "mfu": {k: model_flops / spec.flops / s if s else 0.0 for k, s in step.items()} if model_flops else {},
  }
