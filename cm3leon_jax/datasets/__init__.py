"""Readers of the world's formats and TFDS builders: anything → raw pairs."""
