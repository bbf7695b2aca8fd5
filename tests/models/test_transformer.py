"""The transformer: causal, segments apart, heads and caches consistent, parameters as the table says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.models import attention, init
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.transformer import block, init_parameters, normalise, relu, Transformer

SMALL = TransformerConfig(vocab_size=48, num_layers=2, model_dim=16, num_heads=4, max_positions=24, position_period=8,
                          dtype="float32", init_std=0.2, position_init_std=0.2)
# Chameleon's switches, with grouped heads.
CHAMELEON = dataclasses.replace(SMALL, num_kv_heads=2, position="rope", position_period=0, norm="rmsnorm",
                                norm_order="swin", qk_norm=True, activation="swiglu", tie_embeddings=False)


initial = jax.jit(init_parameters, static_argnums=0)


def run(model, variables, *args, **kwargs):
  """`model.apply`, compiled whole: op by op it takes many times longer."""
  return jax.jit(lambda v, *a: model.apply(v, *a, **kwargs))(variables, *args)


def make(config, seed=0):
  """Model and parameters; projections that start at zero are filled, or half of the network would not be tested."""
  params = initial(config, jax.random.key(seed))
  fill = lambda x: x if x.any() else 0.2 * jax.random.normal(jax.random.key(seed + 1), x.shape)
  return Transformer(config), jax.tree.map(fill, params)


def inputs(config, batch=2, length=12, seed=0):
  ids = jax.random.randint(jax.random.key(seed), (batch, length), 0, config.vocab_size)
  positions = jnp.tile(jnp.arange(length), (batch, 1))
  return ids, positions, jnp.ones((batch, length), jnp.int32)


@pytest.mark.parametrize("config", [SMALL, CHAMELEON], ids=["cm3leon", "chameleon"])
def test_a_token_depends_on_itself_and_earlier_ones_only(config):
  """By gradient, through the embeddings: exactly zero after the token, not zero at and before it."""
  model, params = make(config)
  ids = jnp.arange(12)[None]  # all different, so that row i of the table is token i
  _, positions, segments = inputs(config, batch=1)
  at = 7

  def weighted(tokens):  # a sum over a normalised vector would have no gradient
    h = run(model, {"params": params | {"tokens": tokens}}, ids, positions, segments)[0, at]
    return (h * jnp.arange(1.0, h.size + 1)).sum()

  gradient = np.abs(jax.grad(weighted)(params["tokens"])).max(-1)
  assert (gradient[at + 1:] == 0).all()
  assert (gradient[:at + 1] > 1e-6).all()


def test_segments_do_not_see_each_other():
  model, params = make(SMALL)
  ids, positions, _ = inputs(SMALL, batch=1)
  segments = jnp.asarray([[1] * 5 + [2] * 7])
  packed = run(model, {"params": params}, ids, positions, segments)
  alone = run(model, {"params": params}, ids[:, 5:], positions[:, 5:], segments[:, 5:])
  np.testing.assert_allclose(packed[:, 5:], alone, atol=1e-5)
  joined = run(model, {"params": params}, ids, positions, jnp.ones_like(segments))
  assert np.abs(joined[:, 5:] - alone).max() > 1e-2  # the ids do matter


@pytest.mark.parametrize("config", [SMALL, CHAMELEON], ids=["tied", "untied"])
def test_narrow_head_is_a_slice_of_the_whole(config):
  model, params = make(config)
  hidden = jax.random.normal(jax.random.key(3), (2, 5, 16))
  whole = run(model, {"params": params}, hidden, method="logits")
  part = run(model, {"params": params}, hidden, start=7, size=20, method="logits")
  assert whole.shape == (2, 5, 48) and whole.dtype == jnp.float32
  np.testing.assert_allclose(part, whole[..., 7:27], atol=1e-5)


def test_a_factored_position_is_the_sum_of_offset_and_slot():
  model, params = make(SMALL)
  rows = run(model, {"params": params}, jnp.zeros((1, 24), int), jnp.arange(24)[None], method="embed")[0]
  want = params["tokens"][0] + params["position_offsets"][13 % 8] + params["position_slots"][13 // 8]
  np.testing.assert_allclose(rows[13], want, atol=1e-6)


def test_rotary_positions_matter_only_by_distance():
  model, params = make(CHAMELEON)
  ids, positions, segments = inputs(CHAMELEON)
  here = run(model, {"params": params}, ids, positions, segments)
  moved = run(model, {"params": params}, ids, positions + 9, segments)
  np.testing.assert_allclose(here, moved, atol=1e-4)
  stretched = run(model, {"params": params}, ids, positions * 2, segments)
  assert np.abs(here - stretched).max() > 1e-2


@pytest.mark.parametrize("remat", ["full", "dots", "projections", "attention"])
@pytest.mark.parametrize("config", [SMALL, CHAMELEON], ids=["cm3leon", "chameleon"])
def test_remat_and_unrolling_change_nothing(config, remat):
  _, params = make(config)
  args = inputs(config)

  def loss_and_gradient(c):
    def loss(p):
      h = run(Transformer(c), {"params": p}, *args)
      return (run(Transformer(c), {"params": p}, h, method="logits") ** 2).sum()
    return jax.value_and_grad(loss)(params)

  plain = loss_and_gradient(config)
  other = loss_and_gradient(dataclasses.replace(config, remat=remat, scan_unroll=2))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), plain, other)


@pytest.mark.parametrize("config", [SMALL, CHAMELEON], ids=["cm3leon", "chameleon"])
def test_a_block_with_heads_first_is_the_same_block(config):
  """The form for the TPU kernel (three matmuls into [B, H, L, Dh]) against the fused one, gradients too."""
  _, params = make(config)
  w = {name: stack[0] for name, stack in params["layers"].items()}
  positions = inputs(config)[1]
  x, dout = (jax.random.normal(jax.random.key(i), (2, 12, config.model_dim)) for i in (3, 4))
  bias = attention.bias_from_mask(attention.causal_mask(jnp.ones((2, 12), jnp.int32)))
  attend = lambda q, k, v: attention.attend_reference(q, k, v, bias)
  turned = lambda *qkv: attend(*(a.swapaxes(1, 2) for a in qkv)).swapaxes(1, 2)

  def value_and_gradient(function, heads_first):
    out, pull = jax.vjp(lambda w, x: block(config, w, x, positions, function, None, heads_first), w, x)
    return out, pull(dout)

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), value_and_gradient(attend, False),
               value_and_gradient(turned, True))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu_and_its_gradient_are_exact(dtype):
  tiny = float(jnp.finfo(dtype).tiny)
  x = jnp.asarray([-3.0, -tiny, 0.0, tiny, 1e-20, 1.0, 1e30], dtype)
  np.testing.assert_array_equal(relu(x), jnp.maximum(x, 0))
  gradient = jax.grad(lambda x: (relu(x) * 5).sum())(x)
  np.testing.assert_array_equal(gradient, jnp.where(x > 0, 5, 0).astype(dtype))


def test_each_block_starts_as_the_identity():
  """Output projections are zero at first (PAPER §4.1): the hidden state is the normalised embedding."""
  params = initial(SMALL, jax.random.key(0))
  model, args = Transformer(SMALL), inputs(SMALL)
  embedded = run(model, {"params": params}, *args[:2], method="embed")
  np.testing.assert_allclose(run(model, {"params": params}, *args), normalise("layernorm_noaffine", embedded),
                             atol=1e-6)


def test_initial_values_are_cut_at_three_sigma():
  config = dataclasses.replace(SMALL, vocab_size=4096, init_std=0.006)
  tokens = initial(config, jax.random.key(0))["tokens"]
  assert np.abs(tokens).max() <= 3 * 0.006
  # A normal cut at 3σ has a standard deviation of 0.9866 σ.
  assert np.std(tokens) == pytest.approx(0.9866 * 0.006, rel=0.01)


@pytest.mark.parametrize("config", [SMALL, CHAMELEON], ids=["cm3leon", "chameleon"])
def test_parameters_are_those_of_the_table(config):
  params = initial(config, jax.random.key(0))
  abstract = init.abstract_parameters(config)
  jax.tree.map(lambda x, a: np.testing.assert_equal((x.shape, x.dtype), (a.shape, a.dtype)), params, abstract)
  axes = init.logical_axes(config)
  assert jax.tree.all(jax.tree.map(lambda a, names: len(names) == len(a.shape), abstract, axes))
  assert Transformer(config).init(jax.random.key(0), *inputs(config))["params"].keys() == params.keys()


# PAPER §4.2: 374M tied in all with 66k rows; here 65,536 rows and 4,096 positions.
@pytest.mark.parametrize("layers, width, count", [(24, 1024, 24 * 12 * 1024**2 + (65_536 + 4096) * 1024),
                                                  (32, 4096, 32 * 12 * 4096**2 + (65_536 + 4096) * 4096)])
def test_the_papers_sizes_have_the_papers_parameters(layers, width, count):
  config = TransformerConfig(vocab_size=65_536, num_layers=layers, model_dim=width, num_heads=width // 64)
  assert init.count_parameters(config) == count


def test_dropout_needs_its_key_and_is_off_by_default():
  config = dataclasses.replace(SMALL, dropout=0.5)
  model, params = make(config)
  args = inputs(config)
  off = run(model, {"params": params}, *args)
  on = [run(model, {"params": params}, *args, deterministic=False, rngs={"dropout": jax.random.key(i)}) for i in (0, 1)]
  np.testing.assert_array_equal(off, run(make(SMALL)[0], {"params": params}, *args))
  assert np.abs(on[0] - on[1]).max() > 0.1


@pytest.mark.parametrize("change, message", [({"norm": "batchnorm"}, "'batchnorm'.*layernorm_noaffine"),
                                             ({"num_heads": 5}, "model_dim=16.*num_heads=5"),
                                             ({"num_kv_heads": 3}, "num_heads=4.*num_kv_heads=3"),
                                             ({"position": "rope"}, "position_period=8")])
def test_impossible_configurations_are_named(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize("kind", ["layernorm_noaffine", "rmsnorm"])
def test_normalise_equals_numpy(kind):
  x = np.random.default_rng(0).normal(3.0, 2.0, (4, 64)).astype(np.float32)
  centre = x.mean(-1, keepdims=True) if kind != "rmsnorm" else 0.0
  want = (x - centre) / np.sqrt(((x - centre) ** 2).mean(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(normalise(kind, jnp.asarray(x)), want, atol=1e-5)
