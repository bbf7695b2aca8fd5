"""A VQGAN of the taming-transformers layout in torch: the encoder and the blocks are those of transformers' Chameleon."""

import types

import torch
from torch import nn
from transformers.models.chameleon import modeling_chameleon as chameleon


class Decoder(nn.Module):
  """The other half, which transformers leaves out; names as in the public checkpoints."""

  def __init__(self, c):
    super().__init__()
    widths = [c.base_channels * m for m in c.channel_multiplier]
    width = widths[-1]
    self.conv_in = nn.Conv2d(c.latent_channels, width, 3, padding=1)
    self.mid = nn.Module()
    self.mid.block_1 = chameleon.ChameleonVQVAEEncoderResnetBlock(c, width, width)
    self.mid.attn_1 = chameleon.ChameleonVQVAEEncoderAttnBlock(width)
    self.mid.block_2 = chameleon.ChameleonVQVAEEncoderResnetBlock(c, width, width)
    up = []
    for level in reversed(range(len(widths))):
      part = nn.Module()
      part.block, part.attn = nn.ModuleList(), nn.ModuleList()
      for _ in range(c.num_res_blocks + 1):
        part.block.append(chameleon.ChameleonVQVAEEncoderResnetBlock(c, width, widths[level]))
        width = widths[level]
        if c.resolution >> level in c.attn_resolutions:
          part.attn.append(chameleon.ChameleonVQVAEEncoderAttnBlock(width))
      if level:
        part.upsample = nn.Module()
        part.upsample.conv = nn.Conv2d(width, width, 3, padding=1)
      up.insert(0, part)
    self.up = nn.ModuleList(up)
    self.norm_out = nn.GroupNorm(32, width, eps=1e-6)
    self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

  def forward(self, z):
    h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(self.conv_in(z))))
    for level in reversed(range(len(self.up))):
      part = self.up[level]
      for i, block in enumerate(part.block):
        h = block(h)
        h = part.attn[i](h) if len(part.attn) else h
      if level:
        h = part.upsample.conv(nn.functional.interpolate(h, scale_factor=2.0, mode="nearest"))
    h = self.norm_out(h)
    return self.conv_out(h * torch.sigmoid(h))


class VQModel(nn.Module):
  """Pictures float[B, 3, H, W] in -1..1 ↔ codes int[B, N]."""

  def __init__(self, resolution=32, base_channels=32, channel_multiplier=(1, 2, 2), num_res_blocks=2, attn_resolutions=(16,),
               latent_channels=32, embed_dim=16, codes=64):
    super().__init__()
    c = types.SimpleNamespace(
        resolution=resolution, base_channels=base_channels, channel_multiplier=channel_multiplier, in_channels=3,
        num_res_blocks=num_res_blocks, attn_resolutions=attn_resolutions, latent_channels=latent_channels, dropout=0.0,
        double_latent=False, attn_type="vanilla", embed_dim=embed_dim, num_embeddings=codes)
    self.encoder, self.decoder = chameleon.ChameleonVQVAEEncoder(c), Decoder(c)
    self.quant_conv = nn.Conv2d(latent_channels, embed_dim, 1)
    self.post_quant_conv = nn.Conv2d(embed_dim, latent_channels, 1)
    self.quantize = nn.Module()
    self.quantize.embedding = nn.Embedding(codes, embed_dim)

  @torch.no_grad()
  def encode(self, images):
    z = self.quant_conv(self.encoder(images)).permute(0, 2, 3, 1).flatten(1, 2)
    table = self.quantize.embedding.weight
    distances = (z**2).sum(-1, keepdim=True) - 2 * z @ table.T + (table**2).sum(-1)
    return distances.argmin(-1)

  @torch.no_grad()
  def decode(self, codes):
    side = int(codes.shape[1] ** 0.5)
    z = self.quantize.embedding(codes).reshape(len(codes), side, side, -1).permute(0, 3, 1, 2)
    return self.decoder(self.post_quant_conv(z))


def random_model(seed=0, **shape) -> VQModel:
  """Weights that make every part matter: norms are not ones, biases not zeros, codes far apart."""
  torch.manual_seed(seed)
  model = VQModel(**shape).eval()
  with torch.no_grad():
    for p in model.parameters():
      if p.ndim == 1:
        p.add_(0.2 * torch.randn_like(p))
    model.quantize.embedding.weight.normal_()
    model.quant_conv.weight.mul_(4)
  return model
