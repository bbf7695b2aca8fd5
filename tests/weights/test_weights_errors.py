"""What is wrong with a public checkpoint is said by name, and nothing half-written is left."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
import random_model
from random_model import CHAMELEON, CM3LEON

from cm3leon_jax import cli
from cm3leon_jax.errors import InputError
from cm3leon_jax.weights import exporter, importer, safetensors_file

FC1 = "model.decoder.layers.1.fc1.weight"


@pytest.fixture
def theirs(tmp_path):
  """An exported OPT in one file."""
  random_model.write(tmp_path / "ours", CM3LEON)
  exporter.export(tmp_path / "ours", tmp_path / "theirs", "opt")
  return tmp_path / "theirs"


def rewrite(folder, change):
  """Reads all tensors, lets `change` alter the dictionary, and writes them again."""
  path = folder / "model.safetensors"
  tensors = {name: entry.read() for name, entry in safetensors_file.read_header(path).items()}
  change(tensors)
  safetensors_file.write(path, {n: (x.dtype, x.shape) for n, x in tensors.items()}, [lambda x=x: x for x in tensors.values()])


def rename(tensors):
  tensors[FC1.replace("fc1", "fc_1")] = tensors.pop(FC1)


def cut(tensors):
  tensors[FC1] = tensors[FC1][:-1]


def count(tensors):
  tensors[FC1] = tensors[FC1].astype(np.int32)


def mix(tensors):
  tensors[FC1] = tensors[FC1].astype(np.float16)


@pytest.mark.parametrize("change, says", [
    (rename, [r"missing \(1\)", rf"{FC1} \(the file has model.decoder.layers.1.fc_1.weight\)", r"unknown \(1\)"]),
    (cut, [rf"{FC1} is 127×32 instead of 128×32"]),
    (count, [rf"{FC1} is int32"]),
    (mix, [rf"{FC1} is float16", "parts of one array"]),
    (lambda tensors: tensors.clear(), [r"missing \(20\)", "and 10 more"]),
])
def test_wrong_tensors_are_listed(theirs, tmp_path, change, says):
  rewrite(theirs, change)
  for words in says:
    with pytest.raises(InputError, match=words):
      importer.import_(theirs, tmp_path / "back", "opt")
  assert not [p for p in tmp_path.iterdir() if p.name.startswith("back")]


@pytest.mark.parametrize("stored", [np.float32, ml_dtypes.bfloat16])
def test_a_number_beyond_the_dtype_names_the_weight(tmp_path, stored):
  arrays = random_model.write(tmp_path / "ours", CM3LEON, dtype=stored)
  arrays["layers.mlp_out"][2, 5, 5] = 1e6
  np.savez(tmp_path / "ours" / "weights.npz", **{n: x.view(np.uint16) if stored != np.float32 else x for n, x in arrays.items()})
  with pytest.raises(InputError, match="layers.2.fc2.weight exceeds float16"):
    exporter.export(tmp_path / "ours", tmp_path / "theirs", "opt", dtype="float16", shard_size="20KB")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["ours"]


@pytest.mark.parametrize("layout, config, says", [
    ("opt", CHAMELEON, "OPT cannot express this model's position='rope', norm='rmsnorm', qk_norm=True, activation='swiglu'"),
    ("opt", dataclasses.replace(CM3LEON, qk_norm=True), "qk_norm=True; .*--gin.Transformer.qk_norm=False"),
    ("chameleon", CM3LEON, "Chameleon cannot express this model's position='learned'"),
])
def test_a_model_that_the_layout_cannot_express(tmp_path, layout, config, says):
  random_model.write(tmp_path / "ours", config)
  with pytest.raises(InputError, match=says):
    exporter.export(tmp_path / "ours", tmp_path / "theirs", layout)


@pytest.mark.parametrize("field, value, says", [
    ("enable_bias", True, "no biases"), ("do_layer_norm_before", False, "norms after"),
    ("activation_function", "silu", "activation_function='silu'"), ("model_type", "gpt2", "of type 'gpt2'"),
    ("word_embed_proj_dim", 16, "word_embed_proj_dim=16"), ("vocab_size", 97, "has 97 ids"),
    ("num_attention_heads", 0, "num_attention_heads=0, where a count"), ("ffn_dim", "128", "ffn_dim='128', where a count"),
    ("num_attention_heads", 5, "model_dim=32 does not divide"), ("dropout", None, "not a configuration of opt"),
])
def test_a_public_model_that_ours_cannot_be(theirs, tmp_path, field, value, says):
  config = json.loads((theirs / "config.json").read_text())
  (theirs / "config.json").write_text(json.dumps(config | {field: value}))
  with pytest.raises(InputError, match=says):
    importer.import_(theirs, tmp_path / "back", "opt")


@pytest.mark.parametrize("field, value, says", [
    ("num_key_value_heads", 0, "num_key_value_heads=0, where a count"), ("num_key_value_heads", 3, "num_heads=4 does not divide"),
    ("rope_parameters", 3, "not a configuration of chameleon"), ("rope_scaling", {"type": "linear"}, "rope_type='linear'"),
    ("hidden_act", "gelu", "hidden_act='gelu'"), ("vocabulary_map", {"<s>": 96}, "outside the table to <s>"),
    ("vocabulary_map", [], "no vocabulary_map"),
])
def test_a_public_chameleon_that_ours_cannot_be(tmp_path, field, value, says):
  random_model.write(tmp_path / "ours", CHAMELEON)
  exporter.export(tmp_path / "ours", tmp_path / "theirs", "chameleon")
  config = json.loads((tmp_path / "theirs" / "config.json").read_text())
  (tmp_path / "theirs" / "config.json").write_text(json.dumps(config | {field: value}))
  with pytest.raises(InputError, match=says):
    importer.import_(tmp_path / "theirs", tmp_path / "back", "chameleon")


@pytest.mark.parametrize("content, says", [
    ("{", "Expecting"), ("{}", "names"), ('{"theirs": [0, 1], "names": {}, "config": {}}', "of another model"),
    (json.dumps({"theirs": [0] * 96, "names": {}, "config": {}}), "of another model")])
def test_a_table_of_ids_that_is_another_models(tmp_path, content, says):
  random_model.write(tmp_path / "ours", CHAMELEON)
  (tmp_path / "ours" / "vocabulary_map.json").write_text(content)
  with pytest.raises(InputError, match=f"vocabulary_map.json: not what an import leaves.*{says}"):
    exporter.export(tmp_path / "ours", tmp_path / "theirs", "chameleon")


def test_a_damaged_release_is_noticed(theirs, tmp_path):
  importer.import_(theirs, tmp_path / "back", "opt")
  path = tmp_path / "back" / "weights.npz"
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  with pytest.raises(InputError, match="weights.npz: its hash is not the manifest's"):
    exporter.export(tmp_path / "back", tmp_path / "again", "opt")
  np.savez(path, objects=np.array([{}], object))
  with pytest.raises(InputError, match="Python objects"):
    exporter.export(tmp_path / "back", tmp_path / "again", "opt")


def test_a_tied_head_may_be_stored_too(theirs, tmp_path):
  tokens = "model.decoder.embed_tokens.weight"
  rewrite(theirs, lambda t: t.update({"lm_head.weight": t[tokens]}))
  importer.import_(theirs, tmp_path / "back", "opt")
  rewrite(theirs, lambda t: t.update({"lm_head.weight": t[tokens] + 1}))
  with pytest.raises(InputError, match="lm_head.weight differs from the embedding"):
    importer.import_(theirs, tmp_path / "other", "opt")


def test_a_public_opt_needs_to_be_told_its_vocabulary(theirs, tmp_path):
  (theirs / "manifest.json").unlink()
  with pytest.raises(InputError, match="--like"):
    importer.import_(theirs, tmp_path / "back", "opt")


def test_what_is_there_is_not_overwritten(theirs, tmp_path):
  for folder in ("ours", "theirs"):
    with pytest.raises(InputError, match="is there already"):
      exporter.export(tmp_path / "ours", tmp_path / folder, "opt")
    with pytest.raises(InputError, match="is there already"):
      importer.import_(theirs, tmp_path / folder, "opt")


def test_the_command_line_says_one_sentence(theirs, tmp_path, capsys):
  assert cli.main(["export", "--format=opt", f"--checkpoint={tmp_path / 'nowhere'}", f"--out={tmp_path / 'out'}"]) == 1
  assert "no such folder" in capsys.readouterr().err
  assert cli.main(["export", "--format=opt", f"--checkpoint={tmp_path / 'ours'}", f"--out={tmp_path / 'out'}",
                   "--shard_size=much"]) == 1
  assert "shard_size=much" in capsys.readouterr().err
  assert cli.main(["import", "--format=chameleon", f"--source={theirs}", f"--out={tmp_path / 'out'}"]) == 1
  assert "of type 'opt'; --format=chameleon" in capsys.readouterr().err


def test_shards_that_do_not_fit_their_index(tmp_path):
  random_model.write(tmp_path / "ours", CM3LEON, dtype=ml_dtypes.bfloat16)
  exporter.export(tmp_path / "ours", tmp_path / "theirs", "opt", shard_size="20KB")
  index = tmp_path / "theirs" / "model.safetensors.index.json"
  first = sorted((tmp_path / "theirs").glob("model-*"))[0]
  kept = first.read_bytes()
  first.unlink()
  with pytest.raises(InputError, match=f"{first.name}: no such file"):
    importer.import_(tmp_path / "theirs", tmp_path / "back", "opt")
  first.write_bytes(kept[:-10])
  with pytest.raises(InputError, match="does not lie within the file"):
    importer.import_(tmp_path / "theirs", tmp_path / "back", "opt")
  first.write_bytes(kept)
  about = json.loads(index.read_text())
  for places, says in (({FC1: first.name}, "which does not hold it"), ({FC1: "../x.safetensors"}, "outside the folder"),
                       ({FC1: ".."}, "outside the folder"), ({FC1: ""}, "outside the folder"),
                       ({FC1: "/etc/passwd"}, "outside the folder"), ({FC1: "model-9.safetensors"}, "9.safetensors: no such file")):
    index.write_text(json.dumps(about | {"weight_map": about["weight_map"] | places}))
    with pytest.raises(InputError, match=says):
      importer.import_(tmp_path / "theirs", tmp_path / "back", "opt")
