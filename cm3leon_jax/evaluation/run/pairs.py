"""The metric `perplexity`: how likely a model finds real pairs, with K retrieved documents before them. Nothing is drawn.

Two conditionals, each under the grammar of decoding (codes only inside a picture, text only inside a text): the picture's
codes after its caption, and the caption's tokens and its end before its picture, by infill. Nats a token, over all items'
tokens together; perplexity is exp of that. They compare between models of one vocabulary and tokenizers only.
"""

import math
from typing import Any, Mapping, Sequence

import numpy as np

from cm3leon_jax import api
from cm3leon_jax.evaluation import bootstrap

PARTS = ("image", "text")


def fields(model: api.Model, jobs: Sequence[api.Job], pictures: np.ndarray) -> list[dict[str, float]]:
  """Of each item `image_nats`, `image_tokens`, `text_nats`, `text_tokens`.

  Args:
    model: to be asked.
    jobs: of text_to_image, with the documents that are read first.
    pictures: uint8[N, S, S, 3], the real ones at the model's size.
  """
  codes = model.vocabulary.image_ids(model.image.encode(pictures))
  rows = []
  for job, ids in zip(jobs, codes, strict=True):
    parts = zip(PARTS, model.pair_log_probs(job, ids))
    rows.append({f"{name}_{what}": value for name, values in parts
                 for what, value in (("nats", -float(values.sum(dtype=np.float64))), ("tokens", len(values)))})
  return rows


def score(rows: Sequence[Mapping[str, Any]]) -> tuple[dict, dict[str, np.ndarray]]:
  """Flat `image_nats_per_token`, `image_perplexity` and the text's, with 95 % intervals over items; and each item's
  `image_log_prob`, `text_log_prob`: mean log-probability of its tokens, so that more is better."""
  result: dict[str, float] = {}
  per_item = {}
  for name in PARTS:
    nats, tokens = (np.array([row[f"{name}_{what}"] for row in rows], np.float64) for what in ("nats", "tokens"))
    found = bootstrap.ratio_interval(nats, tokens)
    result |= found.as_fields(f"{name}_nats_per_token")
    result |= bootstrap.Interval(*map(math.exp, found)).as_fields(f"{name}_perplexity")
    per_item[f"{name}_log_prob"] = -nats / tokens
  return result, per_item
