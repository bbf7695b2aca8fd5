"""Made checkpoints in metaseq's layout, whole and in parts, give the weights that they were made from."""

import dataclasses

import checkpoint_writer as pt
import numpy as np
import pytest
import random_model
from random_model import CM3LEON

from cm3leon_jax import cli
from cm3leon_jax.errors import InputError
from cm3leon_jax.weights import metaseq, opt
from cm3leon_jax.weights.stored import npz_leaves

AFFINE = dataclasses.replace(CM3LEON, norm="layernorm", tie_embeddings=False)


def theirs(config, arrays) -> dict[str, np.ndarray]:
  """metaseq's names → arrays, written down here from its modules (metaseq/models/transformer_decoder.py)."""
  state = {}
  for piece in opt.pieces(config):
    ours = arrays[piece.leaf] if piece.layer is None else arrays[piece.leaf][piece.layer]
    state |= dict(zip(piece.parts, piece.split(ours)))
  names = {"model.decoder.final_layer_norm.weight": "decoder.layer_norm.weight",
           "model.decoder.final_layer_norm.bias": "decoder.layer_norm.bias", "lm_head.weight": "decoder.output_projection.weight"}
  return {names.get(name, name.removeprefix("model.")): x for name, x in state.items()}


def fuse(state):
  """Keys, values, queries in one matrix."""
  for name in [n for n in state if n.endswith("q_proj.weight")]:
    parts = [state.pop(name.replace("q_proj", f"{x}_proj")) for x in "kvq"]
    state[name.replace("q_proj", "qkv_proj")] = np.concatenate(parts)
  return state


def cut(state, count):
  """The states of `count` tensor-parallel ranks: rank i has its share of each projection's heads or columns."""
  ranks = []
  for rank in range(count):
    part = {}
    for name, x in state.items():
      if "qkv_proj" in name:
        part[name] = np.concatenate([np.split(y, count)[rank] for y in np.split(x, 3)])
      elif any(word in name for word in ("q_proj", "k_proj", "v_proj", "fc1", "embed_tokens", "output_projection")):
        part[name] = np.split(x, count)[rank]
      elif any(word in name for word in ("out_proj", "fc2")):
        part[name] = np.split(x, count, axis=1)[rank]
      else:
        part[name] = x
    ranks.append(part)
  return ranks


def save(path, state, **extra):
  return pt.write(path, {"model": {n: pt.tensor(x) for n, x in (state | extra).items()}, "extra_state": {"epoch": 1}})


def assert_same(folder, arrays):
  back = npz_leaves(folder / "weights.npz")
  assert back.keys() == arrays.keys()
  for name, x in arrays.items():
    np.testing.assert_array_equal(back[name].read(), x, err_msg=name)


@pytest.mark.parametrize("config", [CM3LEON, AFFINE], ids=["cm3leon", "gains_own_head"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_parts_are_put_together(tmp_path, config, fused, count):
  arrays = random_model.write(tmp_path / "ours", config)
  state = theirs(config, arrays)
  state = fuse(state) if fused else state
  (tmp_path / "theirs").mkdir()
  for i, part in enumerate(cut(state, count)):
    save(tmp_path / "theirs" / f"reshard-model_part-{i}.pt", part, **{"decoder.version": np.array([3.0], np.float32)})
  source = tmp_path / "theirs" / ("reshard-model_part-0.pt" if count == 1 else "")
  assert cli.main(["import", "--format=metaseq", f"--source={source}", f"--out={tmp_path / 'back'}",
                   f"--like={tmp_path / 'ours'}"]) == 0
  assert_same(tmp_path / "back", arrays)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "ours", "theirs"]


def test_what_a_killed_run_left_goes(tmp_path):
  arrays = random_model.write(tmp_path / "ours", CM3LEON)
  save(tmp_path / "theirs.pt", theirs(CM3LEON, arrays))
  (tmp_path / "back.unpacked" / "0").mkdir(parents=True)
  (tmp_path / "back.unpacked" / "0" / "0.raw").write_bytes(b"cut sh")
  metaseq.import_metaseq(tmp_path / "theirs.pt", tmp_path / "back", str(tmp_path / "ours"))
  assert_same(tmp_path / "back", arrays)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "ours", "theirs.pt"]


def test_what_is_wrong_is_said(tmp_path):
  arrays = random_model.write(tmp_path / "ours", CM3LEON)
  folder = tmp_path / "theirs"
  folder.mkdir()
  like = str(tmp_path / "ours")
  ranks = cut(theirs(CM3LEON, arrays), 2)

  def refused(says, like=like):
    with pytest.raises(InputError, match=says):
      metaseq.import_metaseq(folder, tmp_path / "back", like)

  refused("no …model_part-0.pt")
  save(folder / "reshard-model_part-1.pt", ranks[1])
  refused(r"parts \[1\] are there")
  refused("--like=M", like="")
  save(folder / "reshard-model_part-0.pt", {n: x for n, x in ranks[0].items() if "1.fc1" not in n})
  refused("decoder.layers.1.fc1.weight is in this part or in")
  save(folder / "reshard-model_part-0.pt", ranks[0], **{"decoder.embed_positions.weight": np.zeros((26, 32), np.float32)})
  refused("embed_positions.weight should be the same in all parts")
  save(folder / "reshard-model_part-0.pt", ranks[0], **{"decoder.layers.0.fc2.weight": np.zeros((32, 63), np.float32)})
  refused(r"part-1.pt: decoder.layers.0.fc2.weight has another shape or dtype than in reshard-model_part-0.pt")
  for rank in (0, 1):
    save(folder / f"reshard-model_part-{rank}.pt", ranks[rank], **{"decoder.layers.0.fc2.weight": np.zeros((32, 63), np.float32)})
  refused(r"decoder.layers.0.fc2.weight is 32×126 instead of 32×128")
  save(folder / "reshard-model_part-1.pt", ranks[1])
  save(folder / "other-model_part-1.pt", ranks[1])
  refused("other-model_part-1.pt and reshard-model_part-1.pt are both part 1")
  (folder / "other-model_part-1.pt").unlink()
  pt.write(folder / "reshard-model_part-0.pt", {"model": {3: pt.tensor(np.zeros(2, np.float32))}})
  refused("holds neither tensors by name")
  save(folder / "reshard-model_part-0.pt", ranks[0])
  (folder / "reshard-model_part-0-shard0.pt").touch()
  refused("a shard of one part")
  (folder / "reshard-model_part-0-shard0.pt").unlink()
  pt.write(folder / "reshard-model_part-0.pt", {"model": {}, "cfg": pt.Call(pt.Global("argparse", "Namespace"))})
  refused("asks for argparse.Namespace")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["ours", "theirs"]
