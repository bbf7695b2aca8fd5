"""What the report's first paragraph says about this run, read from what the stages wrote."""

from importlib import metadata
from pathlib import Path

import jax

from cm3leon_jax import manifest
from cm3leon_jax.evaluation.report_data import RunFacts
from cm3leon_jax.training import checkpoints

LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "tensorflow", "seqio", "scann", "tensorflow-datasets")


def collect(workdir: Path, quick: bool) -> RunFacts:
  """Facts of a finished demo run."""
  _, vocabulary, layout, params, _ = checkpoints.load_for_inference(workdir / "pretrain")
  documents = {split: manifest.read(workdir / "documents" / split, "documents")
               for split in ("train", "heldout_drawings", "heldout_things")}
  device = jax.devices()[0]
  return RunFacts.here(
      parameters=sum(x.size for x in jax.tree.leaves(params)),
      drawings=documents["train"]["count"],
      artists=len(manifest.read(workdir / "corpus", "corpus")["styles"]),
      heldout=documents["heldout_drawings"]["count"] + documents["heldout_things"]["count"],
      image_size=documents["train"]["image_size"],
      image_tokens=layout.image_tokens,
      codebook_size=vocabulary.image_size,
      max_retrieved=layout.max_documents - 1,
      accelerator="" if device.platform == "cpu" else device.device_kind,
      quick=quick,
      versions={name: metadata.version(name) for name in LIBRARIES},
  )
