"""The counts of `hlo_cost` against arithmetic, on HLO written here and on programs compiled for TPU without one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from cm3leon_jax.planning import hlo_cost, topology

LOOP = """HloModule loop, num_partitions=8

%body (p: (s32[], f32[128,128], f32[9,128,128])) -> (s32[], f32[128,128], f32[9,128,128]) {
  %p = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}, f32[9,128,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %step = s32[]{:T(128)} constant(3)
  %next = s32[]{:T(128)} add(%i, %step)
  %x = f32[128,128]{1,0:T(8,128)S(1)} get-tuple-element(%p), index=1
  %w = f32[9,128,128]{2,1,0:T(8,128)} get-tuple-element(%p), index=2
  %y = f32[128,128]{1,0:T(8,128)S(1)} fusion(%x, %w, %i), kind=kOutput, calls=%slice_and_dot
  %z = f32[128,128]{1,0:T(8,128)S(1)} all-reduce(%y), channel_id=1, replica_groups=%GROUPS%, to_apply=%add
  ROOT %t = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}, f32[9,128,128]{2,1,0:T(8,128)}) tuple(%next, %z, %w)
}

%slice_and_dot (a: f32[128,128], b: f32[9,128,128], c: s32[]) -> f32[128,128] {
  %a = f32[128,128]{1,0:T(8,128)} parameter(0)
  %b = f32[9,128,128]{2,1,0:T(8,128)} parameter(1)
  %c = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %s = f32[1,128,128]{2,1,0:T(8,128)} dynamic-slice(%b, %c, %zero, /*index=3*/%zero), dynamic_slice_sizes={1,128,128}
  %m = f32[128,128]{1,0:T(8,128)} bitcast(%s)
  ROOT %d = f32[128,128]{1,0:T(8,128)} dot(%a, %m), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%condition (q: (s32[], f32[128,128], f32[9,128,128])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}, f32[9,128,128]{2,1,0:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  %limit = s32[]{:T(128)} constant(21)
  ROOT %less = pred[]{:T(512)} compare(%j, %limit), direction=LT
}

ENTRY %main (x: f32[128,128], w: f32[9,128,128]) -> f32[128,128] {
  %x0 = f32[128,128]{1,0:T(8,128)} parameter(0)
  %w0 = f32[9,128,128]{2,1,0:T(8,128)} parameter(1)
  %start = s32[]{:T(128)} constant(2)
  %t0 = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}, f32[9,128,128]{2,1,0:T(8,128)}) tuple(%start, %x0, %w0)
  %loop = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}, f32[9,128,128]{2,1,0:T(8,128)}) while(%t0), condition=%condition, body=%body
  ROOT %out = f32[128,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


@pytest.mark.parametrize(
  "groups,size",
  [
    ("{{0,1},{2,3},{4,5},{6,7}}", 2),
    ("[2,4]<=[8]", 4),
    ("{}", 8),
    ("mesh['a'=2,'b'=4] {'b'}", 4),
    ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", 4),
    ("mesh['a'=8] {'a':(1)2}", 2),
  ],
)
def test_written_loop(groups, size):
  report = hlo_cost.analyze(LOOP.replace("%GROUPS%", groups), "v5e")
  trips = 7  # 2, 5, ..., 20
  square = 128 * 128 * 4
  assert report["loops"] == {"loop": trips}
  assert report["flops"] == trips * 2 * 128**3
  assert report["hbm_bytes"] == pytest.approx(trips * square, rel=1e-3)  # the slice; the rest is scalars or in VMEM
  (reduced,) = report["collectives"]
  assert (reduced["kind"], reduced["group"], reduced["count"]) == ("all-reduce", size, trips)
  assert reduced["wire_bytes"] == pytest.approx(trips * square * 2 * (size - 1) / size)


@pytest.mark.parametrize(
  "layout,padded,hbm",
  [
    ("1,0:T(8,128)(2,1)", 8 * 128 * 2, 8 * 128 * 2),
    ("0,1:T(8,128)(2,1)S(1)", 104 * 128 * 2, 0),
    ("1,0", 5 * 100 * 2, 1000),
  ],
)
def test_bytes_follow_the_layout(layout, padded, hbm):
  array = hlo_cost.Array("bf16", "5,100", layout)
  assert (array.size, array.padded, array.hbm) == pytest.approx((1000, padded, hbm))


def test_taps_count_only_what_meets_the_input():
  assert hlo_cost.taps(16, 1, 16, 1, 15, 1, 1) == 16  # a batch dimension written as a padded window
  assert hlo_cost.taps(8, 8, 3, 1, 1, 1, 1) == 8 * 3 - 2  # "same" padding
  assert hlo_cost.taps(4, 4, 4, 3, 0, 4, 1) == 4  # a batch dimension written as stride and dilation


# Programs compiled for a TPU v5e slice of 4 x 4 chips.
@functools.cache
def devices():
  pytest.importorskip("libtpu")
  return np.array(topology.load("v5e:4x4").devices)


def compiled(function, *shapes, mesh=None, specs=None, dtype=jnp.bfloat16):
  mesh = mesh or Mesh(devices()[:1], ("one",))
  specs = specs or [P()] * len(shapes)
  arguments = [jax.ShapeDtypeStruct(s, dtype, sharding=NamedSharding(mesh, p)) for s, p in zip(shapes, specs)]
  text = jax.jit(function).lower(*arguments).compile().as_text()
  return hlo_cost.analyze(text, "v5e", model_flops=1e9)


def collectives(report):
  return {(r["kind"], r["group"]): r["bytes"] for r in report["collectives"]}


def test_scan_of_matmuls():
  report = compiled(
    lambda x, ws: jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, ws)[0], (512, 1024), (7, 1024, 1024)
  )
  assert 7 in report["loops"].values()
  assert report["flops"] == 7 * 2 * 512 * 1024 * 1024
  assert report["mfu"]["scheduled"] == pytest.approx(1e9 / 197e12 / report["step_seconds"]["scheduled"])
  assert report["step_seconds"]["full_overlap"] <= report["step_seconds"]["scheduled"]


def test_scan_inside_a_scan():
  def outer(x, ws):
    inner = lambda c, w: (jnp.tanh(c @ w), None)
    return jax.lax.fori_loop(0, 3, lambda i, c: jax.lax.scan(inner, c, ws)[0], x)

  assert compiled(outer, (256, 512), (5, 512, 512))["flops"] == 3 * 5 * 2 * 256 * 512 * 512


def test_gradient_of_scan_reads_and_writes_slices_only():
  def loss(ws, x):
    return jnp.sum(jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, ws)[0].astype(jnp.float32))

  report = compiled(jax.grad(loss), (7, 1024, 1024), (512, 1024))
  assert report["flops"] == pytest.approx(7 * 3 * 2 * 512 * 1024 * 1024, rel=0.05)  # dx of the first layer may go
  assert report["hbm_bytes"] < 7 * 16 * 1024 * 1024 * 2  # a body that read the stack whole would move 7 times more


def test_batched_and_multi_dimensional_contractions():
  report = compiled(lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k), (4, 256, 8, 128), (4, 256, 8, 128))
  assert report["flops"] == 2 * 4 * 8 * 256 * 256 * 128
  report = compiled(lambda x, w: jnp.einsum("bshd,hdm->bsm", x, w), (2, 256, 8, 128), (8, 128, 512))
  assert report["flops"] == 2 * 2 * 256 * 8 * 128 * 512


def test_sharded_matmul_gathers_the_weights():
  mesh = Mesh(devices(), ("fsdp",))
  step = jax.shard_map(
    lambda x, w: x @ jax.lax.all_gather(w, "fsdp", tiled=True),
    mesh=mesh,
    in_specs=(P("fsdp"), P("fsdp")),
    out_specs=P("fsdp"),
  )
  report = compiled(step, (16 * 256, 1024), (1024, 2048), mesh=mesh, specs=[P("fsdp"), P("fsdp")])
  assert report["flops"] == 2 * 256 * 1024 * 2048
  assert collectives(report) == {("all-gather", 16): 1024 * 2048 * 2}
  (row,) = report["collectives"]
  assert row["wire_bytes"] == 1024 * 2048 * 2 * 15 / 16


def test_gspmd_matmul_gathers_or_permutes_the_weights():
  mesh = Mesh(devices().reshape(4, 4), ("data", "fsdp"))
  report = compiled(
    lambda x, w: x @ w, (16 * 256, 1024), (1024, 2048), mesh=mesh, specs=[P(("data", "fsdp")), P("fsdp")]
  )
  assert report["flops"] == 2 * 256 * 1024 * 2048
  assert sum(r["wire_bytes"] for r in report["collectives"]) == 1024 * 2048 * 2 * 3 / 4


@pytest.mark.parametrize("axis,group,kind", [("b", 4, "reduce-scatter"), (("a", "b"), 16, "all-reduce")])
def test_reduce_scatter_is_one_only_along_a_physical_axis(axis, group, kind):
  mesh = Mesh(devices().reshape(4, 4), ("a", "b"))
  scatter = lambda x: jax.lax.psum_scatter(x[0], axis, scatter_dimension=1, tiled=True)
  step = jax.shard_map(scatter, mesh=mesh, in_specs=P(axis), out_specs=P(None, axis), check_vma=False)
  report = compiled(step, (group, 1024, 4096), mesh=mesh, specs=[P(axis)])
  assert collectives(report)[kind, group] == 1024 * 4096 * 2


def test_kernel_with_and_without_an_estimate():
  def double(estimate):
    body = lambda x_ref, o_ref: o_ref.__setitem__(..., x_ref[...] * 2)
    return pallas.pallas_call(body, out_shape=jax.ShapeDtypeStruct((512, 512), jnp.bfloat16), cost_estimate=estimate)

  known = compiled(double(pallas.CostEstimate(flops=12345, transcendentals=0, bytes_accessed=0)), (512, 512))
  assert (known["flops"], known["kernel_flops"], known["warnings"]) == (12345, 12345, [])
  unknown = compiled(double(None), (512, 512))
  assert unknown["flops"] == 0 and "no cost estimate" in unknown["warnings"][0]
