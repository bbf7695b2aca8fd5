"""CLIP: an image tower and a text tower into one unit sphere (Radford et al. 2021, arXiv:2103.00020).

One config, two kinds of geometry. `PUBLIC` names those of OpenAI's and OpenCLIP's models, `OPENAI_VIT_B_32`
among them, which the paper's retriever uses (PAPER §2): ViT, causal text transformer read at the last
token. `DEMO` is what two CPU cores train in a minute: a residual convolution net over 64 px, and a bag
of text pieces.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.vocabulary import EOS_ID

TEXT_TOWERS = ("bag", "transformer")
IMAGE_TOWERS = ("conv", "vit")
ACTIVATIONS = ("quick_gelu", "gelu")
IMAGE_FITS = ("squash", "crop")
MAX_LOGIT_SCALE = 100.0  # the public model's clip of exp(logit_scale)


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
  """Geometry of both towers.

  Attributes:
    vocab_size: rows of the text embedding.
    embed_dim: D, dimension of the shared space.
    text_tower: `bag` (masked mean of piece embeddings, then an MLP; no positions) or `transformer`.
    text_length: pieces that the text tower reads; longer texts are cut.
    text_width, text_layers, text_heads: the text tower (`bag` uses the width alone).
    image_tower: `vit`, or `conv` (three stages of residual blocks at 1/4, 1/8 and 1/16 of the size).
    image_size: pixels along one side.
    patch_size: `vit`: pixels along one side of a patch.
    image_width, image_layers, image_heads: the image tower; `conv`: channels of the first stage, blocks a stage.
    image_mean, image_std: per channel, of pixels in 0..1.
    activation: of both transformers: `quick_gelu` (OpenAI's models) or `gelu`, the exact one (OpenCLIP's).
    image_fit: how a picture is brought to `image_size`: `squash` (both sides, antialiased bicubic) or `crop` (the
      short side by PIL's bicubic, then the centre), as the public models were trained.
    text_start, text_end: `transformer`: ids put before (−1: none) and after a text; the vector is read at the latter.
  """

  vocab_size: int = 49_408
  embed_dim: int = 512
  text_tower: str = "transformer"
  text_length: int = 77
  text_width: int = 512
  text_layers: int = 12
  text_heads: int = 8
  image_tower: str = "vit"
  image_size: int = 224
  patch_size: int = 32
  image_width: int = 768
  image_layers: int = 12
  image_heads: int = 12
  image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
  image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
  activation: str = "quick_gelu"
  image_fit: str = "squash"
  text_start: int = -1
  text_end: int = EOS_ID

  def __post_init__(self):
    for field, known in (("text_tower", TEXT_TOWERS), ("image_tower", IMAGE_TOWERS), ("activation", ACTIVATIONS),
                         ("image_fit", IMAGE_FITS)):
      if getattr(self, field) not in known:
        raise ValueError(f"{field}={getattr(self, field)!r}; known: {known}")
    step = self.patch_size if self.image_tower == "vit" else 16
    if self.image_size % step:
      raise ValueError(f"image_size={self.image_size} is not a multiple of {step} ({self.image_tower})")
    for name in ("image_mean", "image_std"):  # JSON brings lists back
      object.__setattr__(self, name, tuple(getattr(self, name)))


OPENAI_VIT_B_32 = CLIPConfig(image_fit="crop", text_start=49_406, text_end=49_407)
OPENAI_VIT_B_16 = dataclasses.replace(OPENAI_VIT_B_32, patch_size=16)
OPENAI_VIT_L_14 = dataclasses.replace(OPENAI_VIT_B_32, embed_dim=768, text_width=768, text_heads=12, patch_size=14,
                                      image_width=1_024, image_layers=24, image_heads=16)
OPENAI_VIT_L_14_336 = dataclasses.replace(OPENAI_VIT_L_14, image_size=336)
OPEN_CLIP_VIT_H_14 = dataclasses.replace(OPENAI_VIT_L_14, embed_dim=1_024, text_width=1_024, text_layers=24, text_heads=16,
                                         image_width=1_280, image_layers=32, activation="gelu")
PUBLIC = {"vit_b_32": OPENAI_VIT_B_32, "vit_b_16": OPENAI_VIT_B_16, "vit_l_14": OPENAI_VIT_L_14,
          "vit_l_14_336": OPENAI_VIT_L_14_336, "vit_h_14": OPEN_CLIP_VIT_H_14}
DEMO = CLIPConfig(vocab_size=2_048, embed_dim=128, text_tower="bag", text_length=32, text_width=256, text_layers=0,
                  text_heads=0, image_tower="conv", image_size=64, patch_size=0, image_width=32, image_layers=1,
                  image_heads=0, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))


def quick_gelu(x: jax.Array) -> jax.Array:
  """OpenAI's activation."""
  return x * nn.sigmoid(1.702 * x)


def _gelu(x: jax.Array) -> jax.Array:
  return nn.gelu(x, approximate=False)


def _norm(name: str) -> nn.LayerNorm:
  """The transformers' LayerNorm: torch's epsilon, and the variance that does not cancel."""
  return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)


class Block(nn.Module):
  """Pre-norm attention and MLP: [B, L, W] → [B, L, W]."""

  heads: int
  causal: bool
  activation: str

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    batch, length, width = x.shape
    qkv = nn.Dense(3 * width, name="qkv")(_norm("norm_1")(x))
    q, k, v = jnp.split(qkv.reshape(batch, length, 3 * self.heads, width // self.heads), 3, axis=2)
    attended = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=self.causal)
    x = x + nn.Dense(width, name="out")(attended.reshape(batch, length, width))
    activate = {"quick_gelu": quick_gelu, "gelu": _gelu}[self.activation]
    hidden = activate(nn.Dense(4 * width, name="mlp_in")(_norm("norm_2")(x)))
    return x + nn.Dense(width, name="mlp_out")(hidden)


class ViT(nn.Module):
  """[B, H, W, 3] normalised pixels → [B, D]."""

  config: CLIPConfig

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    c = self.config
    patch = (c.patch_size, c.patch_size)
    x = nn.Conv(c.image_width, patch, strides=patch, padding="VALID", use_bias=False, name="patches")(images)
    x = x.reshape(x.shape[0], -1, c.image_width)
    scale = c.image_width**-0.5
    first = self.param("class_embedding", nn.initializers.normal(scale), (c.image_width,))
    x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, c.image_width)), x], axis=1)
    x = x + self.param("positions", nn.initializers.normal(scale), x.shape[1:])
    x = _norm("norm_pre")(x)
    for i in range(c.image_layers):
      x = Block(c.image_heads, False, c.activation, name=f"block_{i}")(x, None)
    return nn.Dense(c.embed_dim, use_bias=False, name="projection")(_norm("norm_post")(x[:, 0]))


class ConvNet(nn.Module):
  """[B, H, W, 3] normalised pixels → [B, D]; the last grid is read cell by cell, so places count."""

  config: CLIPConfig

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    c = self.config
    x = nn.Conv(c.image_width, (5, 5), strides=(4, 4), name="stem")(images)
    for stage in range(3):
      width = c.image_width * 2**stage
      if stage:
        x = nn.Conv(width, (2, 2), strides=(2, 2), name=f"down_{stage}")(nn.LayerNorm(name=f"down_norm_{stage}")(x))
      for i in range(c.image_layers):
        hidden = nn.Conv(width, (3, 3), name=f"conv_{stage}_{i}_in")(nn.LayerNorm(name=f"norm_{stage}_{i}")(x))
        x = x + nn.Conv(width, (3, 3), name=f"conv_{stage}_{i}_out")(nn.gelu(hidden))
    x = nn.LayerNorm(name="norm_post")(x)
    return nn.Dense(c.embed_dim, use_bias=False, name="projection")(x.reshape(x.shape[0], -1))


class BagOfPieces(nn.Module):
  """ids [B, L], mask bool[B, L] → [B, D]: order and spacing do not matter."""

  config: CLIPConfig

  @nn.compact
  def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
    c = self.config
    # Small at the start: Adam's steps are of one size, and rare pieces get few; the norm below takes any scale.
    pieces = nn.Embed(c.vocab_size, c.text_width, embedding_init=nn.initializers.normal(0.05), name="pieces")(ids)
    weight = mask[..., None].astype(pieces.dtype)
    mean = (pieces * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
    hidden = nn.gelu(nn.Dense(4 * c.text_width, name="mlp_in")(nn.LayerNorm(name="norm_1")(mean)))
    mean = mean + nn.Dense(c.text_width, name="mlp_out")(hidden)
    return nn.Dense(c.embed_dim, use_bias=False, name="projection")(nn.LayerNorm(name="norm_final")(mean))


class TextTransformer(nn.Module):
  """ids [B, L], mask bool[B, L] (a prefix of each row) → [B, D], read at the last True position."""

  config: CLIPConfig

  @nn.compact
  def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
    c = self.config
    x = nn.Embed(c.vocab_size, c.text_width, embedding_init=nn.initializers.normal(0.02), name="pieces")(ids)
    positions = self.param("positions", nn.initializers.normal(0.01), (c.text_length, c.text_width))
    x = x + positions[:ids.shape[1]]
    for i in range(c.text_layers):
      x = Block(c.text_heads, True, c.activation, name=f"block_{i}")(x, None)  # causal: padding comes after, so is unseen
    x = _norm("norm_final")(x)
    last = jnp.maximum(mask.sum(1) - 1, 0)
    return nn.Dense(c.embed_dim, use_bias=False, name="projection")(x[jnp.arange(x.shape[0]), last])


class CLIP(nn.Module):
  """Both towers and the learned logit scale."""

  config: CLIPConfig

  def setup(self):
    self.image = (ViT if self.config.image_tower == "vit" else ConvNet)(self.config)
    self.text = (BagOfPieces if self.config.text_tower == "bag" else TextTransformer)(self.config)
    self.logit_scale = self.param("logit_scale", nn.initializers.constant(np.log(1 / 0.07)), ())

  def encode_images(self, images: jax.Array) -> jax.Array:
    """[B, image_size, image_size, 3] pixels in 0..255, any dtype → float32[B, D], unit norm."""
    c = self.config
    pixels = images.astype(jnp.float32) / 255
    return unit(self.image((pixels - jnp.asarray(c.image_mean)) / jnp.asarray(c.image_std)))

  def encode_text(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """int32[B, L], bool[B, L] with L <= text_length → float32[B, D], unit norm."""
    return unit(self.text(ids, mask))

  def __call__(self, images: jax.Array, ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Image vectors [B, D], text vectors [B, D], scale of the logits (a scalar)."""
    scale = jnp.minimum(jnp.exp(self.logit_scale), MAX_LOGIT_SCALE)
    return self.encode_images(images), self.encode_text(ids, mask), scale


def unit(x: jax.Array) -> jax.Array:
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def contrastive_loss(images: jax.Array, texts: jax.Array, scale: jax.Array, positives: jax.Array) -> jax.Array:
  """Symmetric cross-entropy where a text may describe several images of the batch, and the reverse.

  Args:
    images, texts: float[B, D], unit norm.
    scale: multiplies the cosines.
    positives: bool[B, B], [i, j]: text i is true of image j; the diagonal is. A row's target is uniform over its
      positives, so that two drawings of one thing are not pushed apart.
  """
  logits = scale * texts @ images.T
  targets = positives.astype(logits.dtype)
  by_text = (targets / targets.sum(1, keepdims=True) * jax.nn.log_softmax(logits, axis=1)).sum(1)
  by_image = (targets / targets.sum(0, keepdims=True) * jax.nn.log_softmax(logits, axis=0)).sum(0)
  return -(by_text.mean() + by_image.mean()) / 2
