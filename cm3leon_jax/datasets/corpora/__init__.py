"""Readers of corpora as the world keeps them, by shard: each gives `Raw` records; docs/corpora.md shows the layouts."""
