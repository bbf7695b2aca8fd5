"""Feature networks in Flax that read the public weight files."""
