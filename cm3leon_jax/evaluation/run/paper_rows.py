"""What the paper and the models that it cites report, by protocol: shown beside our numbers, never as ours.

Values: Tables 1 and 2 of "Scaling Autoregressive Multi-Modal Models" (CM3Leon, arXiv 2309.02591v1).
"""

import dataclasses

TABLE_1 = "CM3Leon paper, Table 1"
TABLE_2 = "CM3Leon paper, Table 2"


@dataclasses.dataclass(frozen=True)
class Row:
  model: str
  value: float
  docs: int | None = None  # documents retrieved at test; None: the model retrieves none, or the table does not say
  parameters: str = ""
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Rows:
  """One column of a table of the paper.

  Attributes:
    metric: the table's own name of the number.
    key: which number of ours stands beside it.
    source: which table.
    setting: split and amount, in words.
    lower: lower is better.
    rows: best last, as printed.
    count: items of the setting, where the paper says how many.
    docs: documents of the row that the protocol repeats.
    model: of that row.
    differs: how our protocol differs from the paper's setting; empty where it does not.
  """

  metric: str
  key: str
  source: str
  setting: str
  lower: bool
  rows: tuple[Row, ...]
  count: int | None = None
  docs: int | None = None
  model: str = "SFT-CM3Leon-7B"
  differs: str = ""


_FID = (
  Row("RA-CM3", 15.70, 2, "2.7B"),
  Row("Stable Diffusion", 12.60, None, "800M"),
  Row("KNN-Diffusion", 12.50, 10, "400M"),
  Row("MUSE", 7.88, None, "3B"),
  Row("PARTI", 7.23, None, "20B"),
  Row("RE-IMAGEN", 5.25, 2, "3.6B"),
  Row("CM3Leon-350M", 14.20, 2, "350M"),
  Row("CM3Leon-760M", 6.61, 2, "760M"),
  Row("CM3Leon-7B", 10.82, 0, "7B"),
  Row("CM3Leon-7B", 5.78, 1, "7B"),
  Row("CM3Leon-7B", 4.88, 2, "7B"),
)


def _fid(docs: int) -> Rows:
  return Rows("FID-30k", "fid", TABLE_1, "MS-COCO, 30,000 captions, 256×256, zero-shot", True, _FID, 30_000, docs,
              "CM3Leon-7B")


def _answers(metric: str, key: str, setting: str, flamingo: float | None, ours: float,
             open_flamingo: float | None = None, differs: str = "") -> Rows:
  rows = (
    Row("OpenFlamingo-9B", open_flamingo, parameters="9B", note="on the validation set") if open_flamingo else None,
    Row("Flamingo-9B", flamingo, parameters="9B") if flamingo else None,
    Row("SFT-CM3Leon-7B", ours, parameters="7B"),
  )
  return Rows(metric, key, TABLE_2, setting, False, tuple(row for row in rows if row), differs=differs)


_VALIDATION = "validation items, where the paper has test-dev"
PROTOCOLS = {
  "coco_30k": _fid(0),
  "coco_30k_docs1": _fid(1),
  "coco_30k_docs2": _fid(2),
  "coco_captions": _answers("CIDEr × 100", "cider", "MS-COCO, test", 79.4, 61.6, 65.5),
  "vqa2_test_dev": _answers("VQA accuracy, %", "vqa_accuracy", "VQA2, test-dev", 51.8, 47.6, 43.5),
  "vqa2": _answers("VQA accuracy, %", "vqa_accuracy", "VQA2, test-dev", 51.8, 47.6, 43.5, _VALIDATION),
  "vizwiz": _answers("VQA accuracy, %", "vqa_accuracy", "VizWiz, test-dev", 28.8, 37.6, differs=_VALIDATION),
  "okvqa": _answers("VQA accuracy, %", "vqa_accuracy", "OKVQA, val", 44.7, 23.8),
  "image_paragraph": _answers("CIDEr × 100", "cider", "Image Paragraph, test", None, 10.5),
  "visdial": _answers("NDCG × 100", "ndcg", "VisDial, val", 48.4, 22.6),
}


def find(protocol: str) -> Rows | None:
  """The paper's rows for a protocol, also where its name goes on: `coco_30k_docs2_stretch` is `coco_30k_docs2`."""
  names = [name for name in PROTOCOLS if protocol == name or protocol.startswith(name + "_")]
  return PROTOCOLS[max(names, key=len)] if names else None
