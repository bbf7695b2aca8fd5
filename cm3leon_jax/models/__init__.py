"""Pure Flax modules: the transformer, its cache, the image tokenizer's VQGAN, CLIP."""
