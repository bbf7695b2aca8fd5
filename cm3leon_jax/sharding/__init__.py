"""Device meshes, the strict table from logical to mesh axes, multi-process start-up."""
