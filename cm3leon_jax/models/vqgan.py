"""The image tokenizer's network: a VQGAN of the taming-transformers family (PAPER §1.1).

`VQGANConfig()` is the paper's 256-pixel model: f = 8, 32×32 codes of 8,192. Blocks, their order, padding and norms
are those of the public family, so that its weights fit. The fields below `commitment` change nothing at their
defaults; a small model for small pictures on a CPU needs them (see tokenizers/demo_image/README.md).

Pictures are float32 [batch, height, width, 3] in [-1, 1]; codes are in raster order.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cm3leon_jax.models import vq


@dataclasses.dataclass(frozen=True)
class VQGANConfig:
  """Shape of the network.

  Attributes:
    image_size: pixels a side.
    channels: width at the highest resolution.
    ch_mult: widths of the levels as multiples of `channels`; each level but the last halves the resolution.
    res_blocks: residual blocks a level (the decoder has one more).
    attention_resolutions: resolutions whose blocks are each followed by attention.
    z_channels: width of the encoder's output, before the 1×1 convolution to `embed_dim`.
    embed_dim: dimension of a code.
    codebook_size: number of codes.
    commitment: weight of the commitment loss.
    patch: pixels a side that are folded into channels before the first convolution and unfolded after the last;
      4 spares a small model its two costliest resolutions.
    patch_path: adds a linear map of each cell's own pixels to its latent, and one back; started from the principal
      components it makes the network a correction of PCA, which trains in minutes.
    grid_positions: adds a learned vector per grid cell to the decoder's input.
    encoder_attention: attention in the encoder's middle; without it a code depends on its surroundings only, so
      equal parts of different pictures get equal codes.
    decoder_channels: width of the decoder at the highest resolution; 0 = `channels`.
    decoder_mid_blocks: (attention, residual) pairs in the decoder's middle.
  """
  image_size: int = 256
  channels: int = 128
  ch_mult: tuple[int, ...] = (1, 1, 2, 4)
  res_blocks: int = 2
  attention_resolutions: tuple[int, ...] = ()
  z_channels: int = 256
  embed_dim: int = 256
  codebook_size: int = 8192
  commitment: float = 0.25
  patch: int = 1
  patch_path: bool = False
  grid_positions: bool = False
  encoder_attention: bool = True
  decoder_channels: int = 0
  decoder_mid_blocks: int = 1

  @property
  def cell(self) -> int:
    """Pixels a side of the picture that one code stands for (the factor f)."""
    return self.patch * 2 ** (len(self.ch_mult) - 1)

  @property
  def grid(self) -> int:
    """Codes a side."""
    return self.image_size // self.cell

  def __post_init__(self):
    # JSON and gin hand over lists; a frozen dataclass must be hashable for jit.
    object.__setattr__(self, "ch_mult", tuple(self.ch_mult))
    object.__setattr__(self, "attention_resolutions", tuple(self.attention_resolutions))
    if self.image_size % self.cell:
      raise ValueError(f"image_size {self.image_size} is not a multiple of the cell of {self.cell} pixels")


def fold(x: jax.Array, size: int) -> jax.Array:
  """Space to depth: [b, h, w, c] → [b, h/size, w/size, size·size·c]."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h // size, w // size, size * size * c)


def unfold(x: jax.Array, size: int) -> jax.Array:
  """Depth to space, the inverse of `fold`."""
  b, h, w, c = x.shape
  x = x.reshape(b, h, w, size, size, c // (size * size)).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h * size, w * size, c // (size * size))


def _conv(features: int, size: int = 3, name: str | None = None, zero: bool = False) -> nn.Conv:
  init = nn.initializers.zeros_init() if zero else nn.linear.default_kernel_init
  return nn.Conv(features, (size, size), padding="SAME", kernel_init=init, name=name)


def _norm(channels: int, name: str) -> nn.GroupNorm:
  return nn.GroupNorm(num_groups=math.gcd(32, channels), epsilon=1e-6, name=name)


class ResnetBlock(nn.Module):
  """norm, swish, 3×3, norm, swish, 3×3, plus the input (through 1×1 where the width changes)."""
  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    h = _conv(self.features, name="conv1")(nn.swish(_norm(x.shape[-1], "norm1")(x)))
    h = _conv(self.features, name="conv2")(nn.swish(_norm(self.features, "norm2")(h)))
    if x.shape[-1] != self.features:
      x = _conv(self.features, 1, name="nin_shortcut")(x)
    return x + h


class AttentionBlock(nn.Module):
  """One head of attention over all cells, plus the input."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    b, h, w, c = x.shape
    n = _norm(c, "norm")(x).reshape(b, h * w, c)
    q, k, v = (nn.Dense(c, name=name)(n) for name in ("q", "k", "v"))
    weights = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", q, k) * c**-0.5, axis=-1)
    out = nn.Dense(c, name="proj_out")(jnp.einsum("bqk,bkc->bqc", weights, v))
    return x + out.reshape(b, h, w, c)


class Encoder(nn.Module):
  """[batch, size, size, 3] → [batch, grid, grid, z_channels]."""
  config: VQGANConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c = self.config
    x = fold(x, c.patch) if c.patch > 1 else x
    h = _conv(c.channels, name="conv_in")(x)
    for level, mult in enumerate(c.ch_mult):
      for block in range(c.res_blocks):
        h = ResnetBlock(c.channels * mult, name=f"down_{level}_block_{block}")(h)
        if h.shape[1] in c.attention_resolutions:
          h = AttentionBlock(name=f"down_{level}_attn_{block}")(h)
      if level + 1 < len(c.ch_mult):
        # The family pads right and below only, then strides without padding.
        h = jnp.pad(h, ((0, 0), (0, 1), (0, 1), (0, 0)))
        h = nn.Conv(h.shape[-1], (3, 3), strides=2, padding="VALID", name=f"down_{level}_downsample")(h)
    h = ResnetBlock(h.shape[-1], name="mid_block_1")(h)
    if c.encoder_attention:
      h = AttentionBlock(name="mid_attn_1")(h)
      h = ResnetBlock(h.shape[-1], name="mid_block_2")(h)
    return _conv(c.z_channels, name="conv_out")(nn.swish(_norm(h.shape[-1], "norm_out")(h)))


class Decoder(nn.Module):
  """[batch, grid, grid, z_channels] → [batch, size, size, 3]."""
  config: VQGANConfig

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    c = self.config
    width = c.decoder_channels or c.channels
    h = _conv(width * c.ch_mult[-1], name="conv_in")(z)
    h = ResnetBlock(h.shape[-1], name="mid_block_1")(h)
    for i in range(1, c.decoder_mid_blocks + 1):
      h = AttentionBlock(name=f"mid_attn_{i}")(h)
      h = ResnetBlock(h.shape[-1], name=f"mid_block_{i + 1}")(h)
    for level in reversed(range(len(c.ch_mult))):
      for block in range(c.res_blocks + 1):
        h = ResnetBlock(width * c.ch_mult[level], name=f"up_{level}_block_{block}")(h)
        if h.shape[1] in c.attention_resolutions:
          h = AttentionBlock(name=f"up_{level}_attn_{block}")(h)
      if level:
        h = h.repeat(2, axis=1).repeat(2, axis=2)
        h = _conv(h.shape[-1], name=f"up_{level}_upsample")(h)
    h = nn.swish(_norm(h.shape[-1], "norm_out")(h))
    h = _conv(3 * c.patch**2, name="conv_out", zero=c.patch_path)(h)
    return unfold(h, c.patch) if c.patch > 1 else h


class VQGAN(nn.Module):
  """Encoder, codebook, decoder."""
  config: VQGANConfig

  def setup(self):
    c = self.config
    self.encoder = Encoder(c)
    self.decoder = Decoder(c)
    self.quant_conv = _conv(c.embed_dim, 1, zero=c.patch_path)
    self.post_quant_conv = _conv(c.z_channels, 1)
    scale = 1.0 / c.codebook_size
    self.codebook = self.param("codebook", lambda key: jax.random.uniform(
        key, (c.codebook_size, c.embed_dim), minval=-scale, maxval=scale))
    if c.patch_path:
      self.patch_in = nn.Dense(c.embed_dim)
      self.patch_out = nn.Dense(3 * c.cell**2)
    if c.grid_positions:
      self.positions = self.param("positions", nn.initializers.normal(0.02), (c.grid, c.grid, c.z_channels))

  def latents(self, images: jax.Array) -> jax.Array:
    """Pictures → what is quantised, [batch, grid, grid, embed_dim]."""
    z = self.quant_conv(self.encoder(images))
    return z + self.patch_in(fold(images, self.config.cell)) if self.config.patch_path else z

  def pictures(self, latents: jax.Array) -> jax.Array:
    """Quantised latents → pictures (not clipped to [-1, 1])."""
    h = self.post_quant_conv(latents)
    h = h + self.positions if self.config.grid_positions else h
    x = self.decoder(h)
    return x + unfold(self.patch_out(latents), self.config.cell) if self.config.patch_path else x

  def encode(self, images: jax.Array) -> jax.Array:
    """Pictures → codes, int32 [batch, grid·grid]."""
    codes = vq.nearest(self.latents(images), self.codebook)
    return codes.reshape(codes.shape[0], -1)

  def decode(self, codes: jax.Array) -> jax.Array:
    """Codes int [batch, grid·grid] → pictures, clipped to [-1, 1]."""
    grid = self.config.grid
    return jnp.clip(self.pictures(self.codebook[codes].reshape(codes.shape[0], grid, grid, -1)), -1.0, 1.0)

  def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The pass of training.

    Returns:
      reconstructions (not clipped), latents [batch, grid, grid, embed_dim], codes int32 [batch, grid, grid].
    """
    latents = self.latents(images)
    codes = jax.lax.stop_gradient(vq.nearest(latents, self.codebook))
    return self.pictures(vq.straight_through(latents, self.codebook[codes])), latents, codes
