"""Text (SentencePiece) and image (VQGAN) tokenizers: train, load, encode, decode."""
