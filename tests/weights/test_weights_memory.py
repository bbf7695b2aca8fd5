"""Peak memory of an export and an import, in a process of its own: at most 1.2 × (largest shard + largest tensor)."""

import dataclasses
import json
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest
import random_model
from random_model import CHAMELEON, CM3LEON

from cm3leon_jax.models.init import abstract_parameters
from cm3leon_jax.training import checkpoints
from cm3leon_jax.vocabulary import Vocabulary
from cm3leon_jax.weights import npz_stream, safetensors_file

pytestmark = pytest.mark.slow

# An eighth of the 7B's width, its vocabulary: 65,536 × 512 float32 are 134 MB, a layer 13 to 17 MB, all 0.7 to 0.9 GB.
SIZES = {"vocab_size": 65_536, "model_dim": 512, "num_heads": 8, "num_layers": 40, "mlp_dim": 2048, "max_positions": 4096}
SHARD = "150MB"


def write(folder: Path, config) -> int:
  """Random weights, drawn a layer at a time; returns their bytes."""
  folder.mkdir()
  vocabulary = Vocabulary()
  checkpoints.write_model_file(folder, checkpoints.model_description(config, vocabulary, random_model.LAYOUT, {}))
  rng = np.random.default_rng(0)
  writer = npz_stream.Writer(folder / "weights.npz", {})
  for name, x in checkpoints.flatten(abstract_parameters(config)).items():
    writer.add(name, np.float32, x.shape, (rng.random(x.shape[1:], np.float32)[None] for _ in range(x.shape[0])))
  writer.close()
  return (folder / "weights.npz").stat().st_size


def risen(verb, layout, source, out) -> int:
  done = subprocess.run([sys.executable, Path(__file__).with_name("measure_memory.py"), verb, layout, source, out, SHARD],
                        check=True, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
  return int(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("layout, base", [("opt", CM3LEON), ("chameleon", CHAMELEON)])
def test_memory_is_bounded_by_a_shard_and_a_tensor(layout, base, tmp_path, record_property):
  config = dataclasses.replace(base, num_kv_heads=8, **SIZES)
  total = write(tmp_path / "ours", config)
  if layout == "chameleon":  # ids in another order, so that the tables are permuted
    theirs = np.roll(np.arange(65_536), 1000)
    names = {f"<text:{i}>": int(x) for i, x in enumerate(theirs)}
    (tmp_path / "ours" / "vocabulary_map.json").write_text(json.dumps(
        {"theirs": theirs.tolist(), "names": names, "config": {}}))
  out = risen("export", layout, tmp_path / "ours", tmp_path / "theirs")
  shards = sorted((tmp_path / "theirs").glob("*.safetensors"), key=lambda p: p.stat().st_size)
  tensor = max(entry.nbytes for entry in safetensors_file.read_folder(tmp_path / "theirs").values())
  limit = 1.2 * (shards[-1].stat().st_size + tensor)
  if layout == "chameleon":
    rename(tmp_path / "theirs" / "config.json")
  back = risen("import", layout, tmp_path / "theirs", tmp_path / "back")
  print(f"{layout}: {total / 1e6:.0f} MB of weights, {len(shards)} shards; limit {limit / 1e6:.0f} MB, "
        f"export {out / 1e6:.0f} MB, import {back / 1e6:.0f} MB")
  assert len(shards) > 2 and total > 1.5 * limit, "else the bound would say nothing"
  assert out < limit and back < limit


def rename(path: Path) -> None:
  """Names that the import sorts the ids of the table by: codes first, as in Chameleon's own."""
  from cm3leon_jax.weights.chameleon_vocabulary import code_name

  config = json.loads(path.read_text())
  names = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3} | {code_name(i): 4 + i for i in range(8192)}
  names |= {"<eoss>": 8196, "<racm3:break>": 8197} | {f"<sentinel:{i}>": 8198 + i for i in range(512)}
  config["vocabulary_map"] = names | {f"piece{i}": i for i in range(8804, 65_536)}
  path.write_text(json.dumps(config))
