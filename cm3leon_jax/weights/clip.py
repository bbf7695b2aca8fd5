"""Public CLIP weights (OpenAI, OpenCLIP, Hugging Face) → the folder that `retrieval.encoder.Encoder.load` opens.

Shapes tell most of the geometry. What they do not tell, heads and activation, comes from the configuration beside
the weights, or from what the file is: OpenAI publishes TorchScript archives, and all its models use QuickGELU.
"""

import dataclasses
import json
from pathlib import Path
import re
import tempfile
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.models.clip import ACTIVATIONS, OPENAI_VIT_B_32, PUBLIC, CLIPConfig
from cm3leon_jax.retrieval import encoder as encoders
from cm3leon_jax.tokenizers import clip_bpe
from cm3leon_jax.weights import blocks, clip_names, names, safetensors_file, torch_file

# SHA-256 of OpenAI's published files, as the addresses in its own code give them.
PUBLISHED = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B-32.pt",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B-16.pt",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L-14.pt",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "ViT-L-14-336px.pt",
}
_FILES = ("model.safetensors", safetensors_file.INDEX, "pytorch_model.bin", "open_clip_model.safetensors",
          "open_clip_pytorch_model.bin")  # of a folder, tried in this order
_HF_TEXT = {"num_attention_heads": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}  # what a left-out field means
_HF_IMAGE = _HF_TEXT | {"num_attention_heads": 12}
# OpenCLIP's switches that change what is computed and not the tensors, at the values that are CLIP's.
_OPEN_CLIP_IMAGE = {"pool_type": "tok", "final_ln_after_pool": False, "attentional_pool": False, "no_ln_pre": False,
                    "norm_kwargs": None, "act_kwargs": None}
_OPEN_CLIP_TEXT = {"pool_type": "argmax", "no_causal_mask": False, "embed_cls": False, "hf_model_name": None,
                   "hf_tokenizer_name": None, "tokenizer_kwargs": None, "norm_kwargs": None, "act_kwargs": None}
# Of pictures: OpenCLIP's, then Hugging Face's.
_PREPARATION = {"resize_mode": "shortest", "interpolation": "bicubic", "resample": 3, "do_resize": True, "do_center_crop": True,
                "do_rescale": True, "do_normalize": True}


class _Loaded(NamedTuple):
  """A tensor of a torch file, with the face of `safetensors_file.Entry`."""

  array: np.ndarray

  @property
  def dtype(self) -> np.dtype:
    return self.array.dtype

  @property
  def shape(self) -> tuple[int, ...]:
    return self.array.shape

  def read(self) -> np.ndarray:
    return self.array


@dataclasses.dataclass
class _Weights:
  """What was found: tensors by public name, the files, and what they say of the model."""

  where: Path
  tensors: dict[str, Any]  # emptied as they are read: a model is in memory about once
  files: list[Path]
  torchscript: bool = False

  @property
  def folder(self) -> Path:
    return self.where if self.where.is_dir() else self.where.parent

  def beside(self, name: str) -> dict | None:
    """A JSON file beside the weights."""
    path = self.folder / name
    if not path.is_file():
      return None
    try:
      found = json.loads(path.read_text(encoding="utf-8"))
      if not isinstance(found, dict):
        raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
      raise InputError(f"{path}: not a configuration ({error})") from error
    return found


def import_clip(source: str, out: str, vocabulary: str = "", activation: str = "") -> dict:
  """Writes an encoder folder from public weights.

  Args:
    source: a file (.pt, .bin, .safetensors), or a folder of Hugging Face or OpenCLIP.
    out: the folder to write.
    vocabulary: CLIP's merges: `bpe_simple_vocab_16e6.txt.gz`, `merges.txt` or `tokenizer.json`, or a folder
      that holds one; empty: beside the weights.
    activation: `quick_gelu` or `gelu`, for a file that does not say which; empty: as the source says.

  Returns:
    What was written, flat, for printing.

  Raises:
    InputError: names the file, key or flag that is wrong.
  """
  if Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
    raise InputError(f"{out}: is there already; choose another --out, or remove it first")
  if activation and activation not in ACTIVATIONS:
    raise InputError(f"--activation={activation}: known are {', '.join(ACTIVATIONS)}")
  weights = _open(Path(source))
  config, flat = _read(weights, activation)
  merges = clip_bpe.read_merges(vocabulary or weights.folder, config.vocab_size)
  hashes = {path.name: blocks.sha256(path) for path in weights.files}
  published = any(digest in PUBLISHED for digest in hashes.values())
  with tempfile.TemporaryDirectory() as temporary:
    clip_bpe.write(Path(temporary) / "text", merges)
    fingerprint = encoders.write(out, config, flax.traverse_util.unflatten_dict(flat, sep="/"), Path(temporary) / "text",
                                 {"source": hashes, "published": published})
  return {"model": encoders.name_of(config), "parameters": sum(x.size for x in flat.values()), "activation": config.activation,
          "image_size": config.image_size, "dim": config.embed_dim, "fingerprint": fingerprint,
          "openai_published_file": published, **{f"sha256 {name}": digest for name, digest in hashes.items()}}


def read(source: str, activation: str = "") -> tuple[CLIPConfig, dict]:
  """Geometry and parameters (nested, for `CLIP(config)`) of public weights; in the dtypes of the file, bfloat16 as float32.

  Raises:
    InputError: as `import_clip`.
  """
  config, flat = _read(_open(Path(source)), activation)
  return config, flax.traverse_util.unflatten_dict(flat, sep="/")


def _open(source: Path) -> _Weights:
  if not source.exists():
    raise InputError(f"{source}: no such file or folder")
  path = source
  if source.is_dir():
    path = next((source / name for name in _FILES if (source / name).is_file()), None)
    if path is None:
      raise InputError(f"{source}: no CLIP weights in it ({', '.join(_FILES)}); name the file itself")
  if path.name == safetensors_file.INDEX:
    tensors = safetensors_file.read_folder(path.parent)
    return _named(_Weights(source, tensors, [path, *sorted({entry.path for entry in tensors.values()})]))
  if path.suffix == ".safetensors":
    return _named(_Weights(source, safetensors_file.read_header(path), [path]))
  state = torch_file.load(path)
  torchscript = isinstance(state, torch_file.ScriptModule)
  if torchscript:
    state = torch_file.state_dict_of(state)
  elif isinstance(state, dict) and isinstance(state.get("state_dict"), dict):  # a training checkpoint of OpenCLIP
    state = state["state_dict"]
  if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, np.ndarray) for k, v in state.items()):
    raise InputError(f"{path}: not a dictionary of named tensors (a state_dict)")
  return _named(_Weights(source, {name: _Loaded(array) for name, array in state.items()}, [path], torchscript))


def _named(weights: _Weights) -> _Weights:
  """Without what is no weight, and without the prefix of a data-parallel wrapper."""
  cut = "module." if all(name.startswith("module.") for name in weights.tensors) else ""
  weights.tensors = {name.removeprefix(cut): x for name, x in weights.tensors.items()
                     if name.split(".")[-1] not in clip_names.SKIPPED}
  return weights


def _read(weights: _Weights, activation: str) -> tuple[CLIPConfig, dict[str, np.ndarray]]:
  tensors = weights.tensors
  layout = next((layout for start, layout in clip_names.LAYOUTS.items() if any(n.startswith(start) for n in tensors)), None)
  if layout is None:
    shown = ", ".join(list(tensors)[:3]) or "nothing"
    raise InputError(f"{weights.where}: not a CLIP: its tensors are named neither as OpenAI's and OpenCLIP's (visual.…) nor as "
                     f"Hugging Face's (vision_model.…); it has {shown}")
  config = _geometry(weights, layout)
  try:
    said = (_said_by_hugging_face if layout == "hugging_face" else _said_by_open_clip)(weights, config)
  except (TypeError, AttributeError) as error:  # an object is missing where one belongs
    raise InputError(f"{weights.folder}: the configuration beside the weights is not one of a CLIP ({error})") from error
  said |= {"activation": activation} if activation else {}
  if "activation" not in said:
    raise InputError(f"{weights.where}: does not say which activation the model has; give --activation=quick_gelu (OpenAI's "
                     "models, and those named -quickgelu) or --activation=gelu (OpenCLIP's others)")
  try:
    config = dataclasses.replace(config, **said)
  except (ValueError, TypeError) as error:
    raise InputError(f"{weights.where}: its configuration is not one of a CLIP ({error})") from error
  for tower, width, heads in (("image", config.image_width, config.image_heads),
                              ("text", config.text_width, config.text_heads)):
    if type(heads) is not int or heads < 1 or width % heads:
      raise InputError(f"{weights.where}: its {tower} tower has {heads!r} heads for a width of {width}, which they do not divide")
  wanted = clip_names.sources(config, layout)
  shapes = {name: shape for s in wanted.values() for name, shape in s.parts.items()}
  names.check(shapes, {name: (x.dtype, tuple(x.shape)) for name, x in tensors.items()}, str(weights.where))
  flat = {}
  for ours, wants in wanted.items():
    array = wants.join([tensors.pop(name).read() for name in wants.parts])
    array = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
    if not np.isfinite(array).all():
      raise InputError(f"{weights.where}: {', '.join(wants.parts)} holds NaN or infinity; get the file again")
    flat[ours] = np.asarray(array, order="C")
  return config, flat


def _geometry(weights: _Weights, layout: str) -> CLIPConfig:
  """What shapes tell; heads are those of the public model of these shapes, or OpenAI's 64 numbers each."""
  probe = clip_names.sources(OPENAI_VIT_B_32, layout)

  def shape(ours: str) -> tuple[int, ...]:
    (name, example), = probe[ours].parts.items()
    if name not in weights.tensors:
      names.check({name: example}, {n: (x.dtype, tuple(x.shape)) for n, x in weights.tensors.items() if "resblocks" not in n
                                    and "layers" not in n}, str(weights.where))
    found = tuple(weights.tensors[name].shape)
    if len(found) != len(example):
      raise InputError(f"{weights.where}: {name} has {len(found)} dimensions ({found}), a CLIP's has {len(example)}")
    return found

  image_width, _, patch, _ = shape("image/patches/kernel")
  cells = shape("image/positions")[0] - 1
  side = round(max(cells, 0)**0.5)
  if side < 1 or side * side != cells or patch < 1:
    raise InputError(f"{weights.where}: positions for {cells} patches of {patch} px, which make no square")
  vocab_size, text_width = shape("text/pieces/embedding")
  embed_dim = shape("text/projection/kernel")[0 if layout == "hugging_face" else 1]
  blocks_of = {"openai": ("visual.transformer.resblocks", "transformer.resblocks"),
               "hugging_face": ("vision_model.encoder.layers", "text_model.encoder.layers")}[layout]
  image_layers, text_layers = (
      1 + max((int(m[1]) for m in (re.match(rf"{re.escape(b)}\.(\d{{1,4}})\.", n) for n in weights.tensors) if m), default=-1)
      for b in blocks_of)
  config = dataclasses.replace(
      OPENAI_VIT_B_32, vocab_size=vocab_size, embed_dim=embed_dim, text_length=shape("text/positions")[0], text_width=text_width,
      text_layers=text_layers, text_heads=text_width // 64, image_size=side * patch, patch_size=patch, image_width=image_width,
      image_layers=image_layers, image_heads=image_width // 64, text_start=vocab_size - 2, text_end=vocab_size - 1)
  return next((public for public in PUBLIC.values() if dataclasses.replace(
      public, activation=config.activation, image_heads=config.image_heads, text_heads=config.text_heads) == config), config)


def _said_by_hugging_face(weights: _Weights, config: CLIPConfig) -> dict:
  """Fields from config.json and preprocessor_config.json."""
  about = weights.beside("config.json")
  if about is None:
    raise InputError(f"{weights.folder}: no config.json beside the weights; it says how many heads the model has")
  text, image = (defaults | (about.get(f"{tower}_config") or {}) | (about.get(f"{tower}_config_dict") or {})
                 for tower, defaults in (("text", _HF_TEXT), ("vision", _HF_IMAGE)))
  for field in ("hidden_act", "layer_norm_eps"):
    if text[field] != image[field] or field == "layer_norm_eps" and text[field] != 1e-5:
      raise InputError(f"{weights.folder / 'config.json'}: {field} is {text[field]!r} for text and {image[field]!r} for images; "
                       "CLIP has one activation, and layer_norm_eps=1e-05")
  said = {"activation": text["hidden_act"], "text_heads": text["num_attention_heads"],
          "image_heads": image["num_attention_heads"]}
  return said | _preparation(weights, "preprocessor_config.json", weights.beside("preprocessor_config.json") or {}, config,
                             "image_mean", "image_std")


def _said_by_open_clip(weights: _Weights, config: CLIPConfig) -> dict:
  """Fields from open_clip_config.json, where there is one."""
  about = weights.beside("open_clip_config.json")
  if about is None:
    if weights.torchscript:
      return {"activation": "quick_gelu"}
    if not any(dataclasses.replace(config, activation=public.activation) == public for public in PUBLIC.values()):
      raise InputError(f"{weights.where}: not the geometry of a known model ({', '.join(PUBLIC)}), and no open_clip_config.json "
                       "beside it that tells its heads")
    return {}
  try:
    model = about["model_cfg"]
    image, text = dict(model["vision_cfg"]), dict(model["text_cfg"])
    said = {"activation": "quick_gelu" if model.get("quick_gelu", False) else "gelu", "text_heads": int(text.get("heads", 8)),
            "image_heads": config.image_width // int(image.get("head_width", 64))}
  except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
    raise InputError(f"{weights.folder / 'open_clip_config.json'}: not a model of OpenCLIP ({type(error).__name__}: {error})"
                     ) from error
  for tower, fields, usual in (("vision_cfg", image, _OPEN_CLIP_IMAGE), ("text_cfg", text, _OPEN_CLIP_TEXT)):
    different = [f"{name}={fields[name]!r}" for name, value in usual.items() if (fields.get(name) or value) != value]
    if different:
      raise InputError(f"{weights.folder / 'open_clip_config.json'}: {tower} has {', '.join(different)}, which is another "
                       "computation than CLIP's")
  return said | _preparation(weights, "open_clip_config.json", about.get("preprocess_cfg") or {}, config, "mean", "std")


def _preparation(weights: _Weights, file: str, about: dict, config: CLIPConfig, mean: str, std: str) -> dict:
  """`image_mean` and `image_std` of a description of how pictures are prepared, which must be CLIP's own way otherwise."""
  where = weights.folder / file
  for field, usual in _PREPARATION.items():
    if about.get(field, usual) != usual:
      raise InputError(f"{where}: prepares pictures with {field}={about[field]!r}; known is {usual!r}: the short side to the "
                       "model's size, bicubic, then the centre")
  side = config.image_size
  for field, usual in (("size", (side, [side, side], {"shortest_edge": side})),
                       ("crop_size", (side, {"height": side, "width": side}))):
    if about.get(field, side) not in usual:
      raise InputError(f"{where}: prepares pictures with {field}={about[field]!r}, where the model reads {side} pixels a side; "
                       "known is the short side to that size, then the centre")
  found = {ours: about[theirs] for ours, theirs in (("image_mean", mean), ("image_std", std)) if about.get(theirs)}
  for ours, value in found.items():
    if not isinstance(value, list) or len(value) != 3 or not all(
        type(x) in (int, float) and np.isfinite(x) and (ours == "image_mean" or x > 0) for x in value):
      raise InputError(f"{where}: {ours} is {value!r}, not three numbers{' above 0' if ours == 'image_std' else ''}")
  return {ours: tuple(map(float, value)) for ours, value in found.items()}
