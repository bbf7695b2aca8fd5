"""Writes golden/features.npz and golden/ptb.json with the reference packages; run by hand.

    pip install torch==2.13.0 efficientnet-lite-pytorch==0.1.0 pytorch-fid==0.3.0 pycocoevalcap==1.2
    pip install --no-deps torchvision==0.28.0 clean-fid==0.1.35
    python tests/evaluation/make_goldens.py

With the CPU build of torch, torchvision cannot load its compiled operators and refuses to be imported; InceptionV3
needs none of them, so the two that it asks for are declared first. (transformers breaks beside such a torchvision:
use another environment.)
"""

import inspect
import json
from pathlib import Path

import cleanfid.resize
import efficientnet_lite_pytorch
import numpy as np
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
import torch

from cm3leon_jax.evaluation.networks import efficientnet_lite0
import public_weights

library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
  library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from pytorch_fid import inception  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"


def efficientnet_features(images: np.ndarray) -> np.ndarray:
  model = efficientnet_lite_pytorch.EfficientNet.from_pretrained(
      "efficientnet-lite0", weights_path=str(efficientnet_lite0.weights_path())).eval()
  x = torch.tensor(images.transpose(0, 3, 1, 2)).float()
  x = torch.nn.functional.interpolate(x, size=(224, 224), mode="bilinear", align_corners=False, antialias=True)
  return model.extract_features((x - 127) / 128).mean((2, 3)).numpy()


def inception_network() -> torch.nn.Module:
  """pytorch-fid's own construction, up to where it would download the weights."""
  source = inspect.getsource(inception.fid_inception_v3).split("state_dict =")[0] + "return inception\n"
  space = dict(vars(inception))
  exec(source, space)  # noqa: S102
  network = space["fid_inception_v3"]()
  network.load_state_dict({k: torch.tensor(v) for k, v in public_weights.inception_state().items()})
  inception.fid_inception_v3 = lambda: network
  return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()


def inception_features(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
  return model(torch.tensor(images.transpose(0, 3, 1, 2)).float() / 255)[0][:, :, 0, 0].numpy()


def main():
  with torch.no_grad():
    features = {f"efficientnet_{size}": efficientnet_features(public_weights.pictures(2, size)) for size in (64, 300)}
    model = inception_network()
    features |= {f"inception_{size}": inception_features(model, public_weights.pictures(2, size)) for size in (64, 320)}
  for size in (64, 320):
    resized = cleanfid.resize.build_resizer("clean")(public_weights.pictures(2, size)[0][:, :size - 7])
    features[f"clean_resize_{size}"] = resized[::23, ::23]
  np.savez_compressed(GOLDEN / "features.npz", **features)
  captions = (GOLDEN / "captions.txt").read_text(encoding="utf-8").splitlines()
  tokens = PTBTokenizer().tokenize({i: [{"caption": caption}] for i, caption in enumerate(captions + ["end"])})
  rows = [[caption, tokens[i][0].split()] for i, caption in enumerate(captions)]
  (GOLDEN / "ptb.json").write_text("[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]\n",
                                   encoding="utf-8")


if __name__ == "__main__":
  main()
