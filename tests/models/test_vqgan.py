"""The image tokenizer's network: shapes of the paper's model, codes, ties, running means, gradients."""

import dataclasses
import subprocess
import sys

from hypothesis import given, settings, strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.cluster.vq

from cm3leon_jax.models import vq
from cm3leon_jax.models.vqgan import Encoder, VQGAN, VQGANConfig, fold, unfold

TINY = VQGANConfig(image_size=16, channels=8, ch_mult=(1, 2), res_blocks=1, z_channels=8, embed_dim=4, codebook_size=16,
                   patch=2, patch_path=True, grid_positions=True, encoder_attention=False, decoder_channels=16,
                   decoder_mid_blocks=2)


def _shapes(config):
  image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
  return jax.eval_shape(lambda x: VQGAN(config).init(jax.random.key(0), x)["params"], image)


@pytest.fixture(scope="module")
def tiny():
  model = VQGAN(TINY)
  x = jax.random.uniform(jax.random.key(1), (3, 16, 16, 3), minval=-1, maxval=1)
  params = jax.jit(model.init)(jax.random.key(0), x)["params"]
  params["codebook"] = jax.random.normal(jax.random.key(2), params["codebook"].shape)
  return model, params, x


def test_defaults_are_the_papers_model():
  config = VQGANConfig()
  assert (config.cell, config.grid, config.codebook_size) == (8, 32, 8192)  # 256 px → 1024 tokens, PAPER §1.1
  shapes = _shapes(config)
  # Kernel shapes of the public f = 8 family (ch 128, mult 1,1,2,4; HWIO here).
  assert shapes["encoder"]["conv_in"]["kernel"].shape == (3, 3, 3, 128)
  assert shapes["encoder"]["down_3_block_0"]["nin_shortcut"]["kernel"].shape == (1, 1, 256, 512)
  assert shapes["encoder"]["conv_out"]["kernel"].shape == (3, 3, 512, 256)
  assert shapes["decoder"]["mid_attn_1"]["q"]["kernel"].shape == (512, 512)
  assert shapes["decoder"]["up_2_block_0"]["nin_shortcut"]["kernel"].shape == (1, 1, 512, 256)
  assert "up_2_block_2" in shapes["decoder"] and "up_2_block_3" not in shapes["decoder"]  # the encoder has two
  assert shapes["quant_conv"]["kernel"].shape == (1, 1, 256, 256)
  assert "patch_in" not in shapes and "positions" not in shapes


def test_down_sampling_pads_right_and_below_only():
  # The public family pads (0, 1, 0, 1) before the strided convolution: the last row sees zeros, the first does not.
  config = VQGANConfig(image_size=8, channels=8, ch_mult=(1, 1), res_blocks=0, z_channels=8, encoder_attention=False)
  encoder = Encoder(config)
  x = jnp.ones((1, 8, 8, 3))
  params = jax.jit(encoder.init)(jax.random.key(0), x)["params"]
  params["conv_in"] = {"kernel": jnp.zeros((3, 3, 3, 8)), "bias": jnp.ones(8)}
  params["down_0_downsample"]["kernel"] = jnp.full((3, 3, 8, 8), 1 / 72)
  look = {"capture_intermediates": True, "mutable": "intermediates"}
  seen = jax.jit(lambda p: encoder.apply({"params": p}, x, **look)[1])(params)
  h = seen["intermediates"]["down_0_downsample"]["__call__"][0][0, :, :, 0]
  np.testing.assert_allclose(h[0, 0], 1.0, rtol=1e-5)
  np.testing.assert_allclose(h[3, 3], 4 / 9, rtol=1e-5)  # five of nine taps fall on the padding
  np.testing.assert_allclose(h[3, 0], 6 / 9, rtol=1e-5)


def test_shapes_and_ranges(tiny):
  model, params, x = tiny
  y, latents, codes = jax.jit(model.apply)({"params": params}, x)
  assert y.shape == x.shape and latents.shape == (3, 4, 4, 4) and codes.shape == (3, 4, 4)
  flat = jax.jit(lambda p: model.apply({"params": p}, x, method="encode"))(params)
  np.testing.assert_array_equal(flat, codes.reshape(3, 16))  # raster order
  again = jax.jit(lambda p: model.apply({"params": p}, flat, method="decode"))(params)
  np.testing.assert_allclose(again, np.clip(y, -1, 1), atol=1e-5)


def test_encoder_attention_is_a_choice(tiny):
  _, params, _ = tiny
  assert not any("attn" in name for name in params["encoder"])
  with_attention = _shapes(dataclasses.replace(TINY, encoder_attention=True))
  assert "mid_attn_1" in with_attention["encoder"] and "mid_attn_2" not in with_attention["encoder"]
  assert {"mid_attn_1", "mid_attn_2"} <= set(params["decoder"])


def test_gradient_reaches_encoder_through_the_codes(tiny):
  model, params, x = tiny

  def loss(params):
    y, _, _ = model.apply({"params": params}, x)
    return jnp.mean((y - x) ** 2)

  grads = jax.jit(jax.grad(loss))(params)
  assert float(jnp.abs(grads["patch_in"]["kernel"]).max()) > 0
  assert float(jnp.abs(grads["quant_conv"]["kernel"]).max()) > 0


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_unfold_inverts_fold(size, cells, channels, seed):
  x = np.random.default_rng(seed).normal(size=(2, size * cells, size * (cells + 1), channels)).astype(np.float32)
  folded = fold(x, size)
  np.testing.assert_array_equal(unfold(folded, size), x)
  np.testing.assert_array_equal(folded[0, 0, 1], x[0, :size, size:2 * size].reshape(-1))


def test_nearest_takes_the_lowest_of_equals():
  codebook = jnp.array([[5.0, 5.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
  vectors = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [9.0, 9.0]])
  np.testing.assert_array_equal(vq.nearest(vectors, codebook), [1, 2, 1, 0])


@given(st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_nearest_agrees_with_float64(seed):
  rng = np.random.default_rng(seed)
  vectors, codebook = rng.normal(size=(50, 6)).astype(np.float32), rng.normal(size=(20, 6)).astype(np.float32)
  distances = ((vectors[:, None].astype(np.float64) - codebook[None]) ** 2).sum(-1)
  found = np.asarray(vq.nearest(jnp.asarray(vectors), jnp.asarray(codebook)))
  np.testing.assert_allclose(distances[np.arange(50), found], distances.min(1), atol=1e-5)


def test_running_means_converge_to_the_cluster_means():
  rng = np.random.default_rng(0)
  centres = np.array([[4.0, 0.0], [-4.0, 0.0]], np.float32)
  running = vq.start(jnp.asarray(centres + 1.5))
  for _ in range(200):
    vectors = jnp.asarray(centres[rng.integers(0, 2, 64)] + 0.1 * rng.normal(size=(64, 2)).astype(np.float32))
    running = vq.update(running, vectors, vq.nearest(vectors, running.codebook), 0.9)
  np.testing.assert_allclose(running.codebook, centres, atol=0.05)


def test_dead_codes_move_to_badly_served_vectors_and_live_ones_stay():
  running = vq.start(jnp.array([[0.0, 0.0], [50.0, 50.0], [60.0, 60.0]]))
  running = running.replace(counts=jnp.array([1.0, 0.0, 0.0]))
  vectors = jnp.array([[0.0, 0.0]] * 30 + [[3.0, 3.0], [-3.0, 3.0]])
  after = vq.revive(running, vectors, vq.nearest(vectors, running.codebook), jax.random.key(0), threshold=0.03)
  np.testing.assert_array_equal(after.codebook[0], [0.0, 0.0])
  assert sorted(map(tuple, np.asarray(after.codebook[1:]).tolist())) == [(-3.0, 3.0), (3.0, 3.0)]
  # The new place must outlive the next update even if nothing falls there at once.
  np.testing.assert_allclose(after.sums / after.counts[:, None], after.codebook, atol=1e-6)


def test_kmeans_is_as_good_as_scipys():
  rng = np.random.default_rng(3)
  vectors = (rng.normal(size=(3000, 6)) * [4, 3, 2, 1, 0.5, 0.2]).astype(np.float32)

  def distortion(codebook):
    return ((vectors[:, None] - np.asarray(codebook)[None]) ** 2).sum(-1).min(1).mean()

  ours = distortion(vq.kmeans(jnp.asarray(vectors), 32, jax.random.key(0)))
  reference = distortion(scipy.cluster.vq.kmeans2(vectors, 32, iter=12, minit="++", seed=0)[0])
  assert ours < 1.03 * reference  # measured: 4.99 against 4.98
  assert ours < 0.8 * distortion(vectors[:32])  # a random start without rounds: 7.87


@pytest.mark.parametrize("counts, expected", [([1.0] * 8, 8.0), ([1.0, 0.0, 0.0, 0.0], 1.0), ([3.0, 3.0, 0.0], 2.0)])
def test_perplexity(counts, expected):
  assert float(vq.perplexity(jnp.array(counts))) == pytest.approx(expected, rel=1e-5)


def test_image_size_must_fit_the_cell():
  with pytest.raises(ValueError, match="not a multiple of the cell of 8"):
    VQGANConfig(image_size=60)


def test_imports_no_tensorflow():
  code = "import sys; import cm3leon_jax.models.vqgan; assert not {'tensorflow', 'seqio', 'gin'} & set(sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True)
