"""A whole workdir with random weights, made in seconds: every folder is real, only the text tokenizer is trained."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax import assets, manifest, records
from cm3leon_jax.layout import Layout
from cm3leon_jax.models.clip import CLIP, DEMO
from cm3leon_jax.models.config import TransformerConfig
from cm3leon_jax.models.transformer import init_parameters
from cm3leon_jax.models.vqgan import VQGAN, VQGANConfig
from cm3leon_jax.retrieval import encoder as encoders
from cm3leon_jax.retrieval.index import Index
from cm3leon_jax.tokenizers.image import ImageTokenizer
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.training import checkpoints
from cm3leon_jax.vocabulary import Vocabulary

LAYOUT = Layout(image_tokens=16, text_tokens=16, max_documents=3, numbering="document")
IMAGES = VQGANConfig(image_size=32, channels=8, ch_mult=(1, 2), res_blocks=1, z_channels=8, embed_dim=8,
                     codebook_size=32, patch=4, encoder_attention=False)
CAPTIONS = ["red heart, twemoji", "blue heart, noto", "green apple, noto", "grinning cat, openmoji", "house, twemoji",
            "the sun, noto"]


def normal(init, seed, scale):
  """The parameters that `init()` would make, all drawn anew: no part of a network is idle, and nothing compiles."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: (scale * rng.normal(size=x.shape)).astype(np.float32), jax.eval_shape(init))


def pictures(count, seed=0):
  """uint8[count, 32, 32, 3]: a box of one colour on white."""
  rng = np.random.default_rng(seed)
  out = np.full((count, 32, 32, 3), 255, np.uint8)
  for image in out:
    x, y = rng.integers(0, 20, 2)
    image[y:y + 12, x:x + 12] = rng.integers(0, 255, 3)
  return out


def make(root: Path) -> Path:
  """Writes root/{tokenizers/image,clip,documents/train,index,model}; returns root."""
  text_folder = assets.path("tokenizers/demo_text")
  text = TextTokenizer.load(text_folder)
  params = normal(lambda: VQGAN(IMAGES).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"], 1, 0.3)
  ImageTokenizer(IMAGES, params).save(root / "tokenizers" / "image")
  image = ImageTokenizer.load(root / "tokenizers" / "image")
  clip = dataclasses.replace(DEMO, vocab_size=text.size, embed_dim=16, text_width=16, image_size=32, image_width=8)
  ids, mask = (jnp.asarray(x) for x in encoders.pad_texts([text.encode("red heart")], clip))
  params = normal(lambda: CLIP(clip).init(jax.random.key(1), jnp.zeros((1, 32, 32, 3)), ids, mask)["params"], 3, 0.3)
  encoder = encoders.save(root / "clip", clip, params, text_folder)

  vocabulary = Vocabulary(text_size=text.size, image_size=image.codebook_size, num_sentinels=16, total_size=0)
  drawn = pictures(len(CAPTIONS))
  codes, names = vocabulary.image_ids(image.encode(drawn)), [f"tiny/{i}" for i in range(len(CAPTIONS))]
  with manifest.writing(root / "documents" / "train", "documents") as (folder, info):
    records.write_shard(folder / records.shard_name("documents", 0, 1), (
        {"id": n, "caption": c, "text": text.encode(c), "image": i} for n, c, i in zip(names, CAPTIONS, codes)))
    info |= {"vocabulary": vocabulary.fingerprint(), "text_tokenizer": text.fingerprint,
             "image_tokenizer": image.fingerprint}
  by_text, by_image = encoder.encode_text(CAPTIONS), encoder.encode_images(drawn)
  Index.build(root / "index", encoder.document(by_text, by_image), names, encoder.fingerprint, rules={"max_score": 1.0})

  config = TransformerConfig(vocab_size=vocabulary.total_size, num_layers=2, model_dim=32, num_heads=4, dtype="float32",
                             max_positions=LAYOUT.num_positions, position_period=LAYOUT.stride)
  weights = normal(lambda: init_parameters(config, jax.random.key(0)), 2, 0.3)
  (root / "model").mkdir()
  checkpoints.write_model_file(root / "model", checkpoints.model_description(config, vocabulary, LAYOUT, {
      "text_tokenizer": text.fingerprint, "image_tokenizer": image.fingerprint, "encoder": encoder.fingerprint,
      "data": "/where/it/was/trained"}))
  np.savez(root / "model" / "weights.npz", **{n: np.asarray(x) for n, x in checkpoints.flatten(weights).items()})
  return root
