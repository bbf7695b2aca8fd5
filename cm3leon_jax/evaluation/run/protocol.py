"""What fixes the numbers of an evaluation, and is written beside them: `protocol.json`."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Mapping, Sequence

from cm3leon_jax.datasets.items import Item
from cm3leon_jax.decoding.rules import Sampling
from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import captions, files

FORMAT = 1
FILE = "protocol.json"
MODEL_FIELDS = ("name", "model", "index", "excluded")  # may differ between results that are compared

# metric → the task that makes what it scores
TASKS = {"fid": "text_to_image", "perplexity": "text_to_image", "captions": "image_to_text", "vqa": "vqa", "scienceqa": "vqa",
         "visdial": "vqa"}
PAIRS = ("fid", "perplexity")  # these need each item's text and real picture; the others what people wrote
REFERENCES = ("crop", "stretch")
RANK_BY = ("mean", "sum")


@dataclasses.dataclass(frozen=True)
class Protocol:
  """One row of a table: which items, how the model is asked, what is counted.

  Attributes:
    name: of the protocol, e.g. `coco_30k_docs2`.
    metric: `fid` (text → image), `captions`, `vqa`, `scienceqa`, `visdial`, or `perplexity` (of real pairs).
    items: what a reader of `datasets/` gave.
    sampling: how tokens are drawn.
    docs: K, documents retrieved for each item.
    candidates: samples an item; pictures are ordered by CLIP, and each rank is scored.
    seed: item number n is drawn with seed + n, on however many processes.
    query: what asks for a description; empty for `tasks.templates.CAPTION_QUERY`.
    reference: fid and perplexity: how a real picture becomes a square of the model's size. `crop`: the middle square, scaled;
      `stretch`: scaled as it is. The paper does not say (PAPER §10), so both have a name.
    network: fid: pytorch-fid's weight file, or `efficientnet-lite0` (then the number is not called FID).
    clip: folder of a CLIP for `clip_score`; empty for the model's own, which also picked the best candidate.
    tokenizer: captions: `rules` (our own, no Java) or `ptb` (Stanford's, needs Java).
    rank_by: visdial: candidates ordered by the `mean` or the `sum` of their tokens' log-probabilities.
    exclude: keep documents of the items themselves out of retrieval, by id and by content.
    limit: only the first so many items; 0 for all.
  """

  name: str
  metric: str
  items: Sequence[Item]
  sampling: Sampling = Sampling()
  docs: int = 0
  candidates: int = 1
  seed: int = 0
  query: str = ""
  reference: str = "crop"
  network: str = ""
  clip: str = ""
  tokenizer: str = "rules"
  rank_by: str = "mean"
  exclude: bool = True
  limit: int = 0

  def __post_init__(self):
    for field, known in (("metric", TASKS), ("reference", REFERENCES), ("rank_by", RANK_BY),
                         ("tokenizer", captions.TOKENIZERS)):
      if getattr(self, field) not in known:
        raise InputError(f"Protocol.{field}={getattr(self, field)!r}: known are {', '.join(known)}")
    if self.metric == "fid" and not self.network:
      raise InputError("Protocol.network is not set: give pytorch-fid's weight file (the number is then FID), or "
                       "efficientnet-lite0, as --gin.Protocol.network=FILE")
    for field, least in (("docs", 0), ("candidates", 1), ("seed", 0), ("limit", 0)):
      if getattr(self, field) < least:
        raise InputError(f"Protocol.{field}={getattr(self, field)} must be at least {least}")
    if self.limit:
      object.__setattr__(self, "items", self.items[:self.limit])
    if not self.items:
      raise InputError(f"Protocol.items of {self.name} is empty")
    if self.metric == "fid" and len(self.items) < 2:
      raise InputError(f"Protocol.items of {self.name}: 1 item; a distance needs at least 2")
    ids = [item.id for item in self.items]
    files.check_unique(ids, f"Protocol.items of {self.name}", "id")
    needs = ("text", "image") if self.metric in PAIRS else ("image",) if self.metric == "captions" else ("text",)
    for field in needs:
      bare = [item.id for item in self.items if getattr(item, field) is None or not len(getattr(item, field))]
      if bare:
        raise InputError(f"Protocol.items of {self.name}: {files.count(len(bare), 'item')} without {field}, which "
                         f"{self.metric} needs: {files.sample(bare)}")
    bare = [item.id for item in self.items if not item.references]
    if self.metric not in PAIRS and 0 < len(bare) < len(self.items):
      raise InputError(f"Protocol.items of {self.name}: {files.count(len(bare), 'item')} without people's answers, while "
                       f"others have them: {files.sample(bare)}")

  @property
  def task(self) -> str:
    return TASKS[self.metric]


def fix(folder: str | os.PathLike, description: Mapping[str, Any]) -> None:
  """Writes protocol.json, or checks that the folder belongs to the same protocol and model.

  Raises:
    InputError: the folder holds a run of another protocol, model or index; names each field that differs.
  """
  path = Path(folder) / FILE
  description = json.loads(json.dumps(description))  # tuples become lists, as they will be read
  if not path.is_file():
    files.write_json_once(path, description)  # several processes may start at the same time
  found = differences(files.read_json(path), description)
  if found:
    raise InputError(f"{folder} holds another evaluation: " + "; ".join(
        f"{name} is {there!r} there and {here!r} now" for name, there, here in found)
        + "; use another --workdir, or the same values")


def differences(first: Mapping[str, Any], second: Mapping[str, Any], leave_out: Sequence[str] = ()) -> list[tuple]:
  """(dotted field, value there, value here) where two protocol.json differ, without the fields `leave_out`."""
  result = []
  for name in [*first, *(n for n in second if n not in first)]:
    a, b = first.get(name), second.get(name)
    if name in leave_out or a == b:
      continue
    if isinstance(a, Mapping) and isinstance(b, Mapping):
      result += [(f"{name}.{field}", x, y) for field, x, y in differences(a, b)]
    else:
      result.append((name, a, b))
  return result
