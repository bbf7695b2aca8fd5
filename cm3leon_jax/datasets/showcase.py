"""The 24 held-out drawings that grids and counts by eye use: fixed, drawn at random once."""

import json
from importlib import resources
from typing import Iterable, Mapping

from cm3leon_jax.datasets.splits import stable_fraction

COUNT = 24
SEED = 0


def choose(rows: Iterable[Mapping], count: int = COUNT, seed: int = SEED) -> list[str]:
  """Ids of `count` random drawings without skin tone, at most one a thing; the same for the same rows and seed.

  Args:
    rows: raw pairs of a held-out split; the fields `id`, `thing` and `skin_tone` are used.
    count: how many.
    seed: another one chooses others.
  """
  chosen: dict[str, str] = {}
  for row in sorted(rows, key=lambda row: stable_fraction(row["id"], f"showcase/{seed}")):
    if not row["skin_tone"] and len(chosen) < count:
      chosen.setdefault(row["thing"], row["id"])
  return list(chosen.values())


def showcase_ids() -> list[str]:
  """The shipped ids (`showcase.json`): `choose` over `heldout_drawings` of the seven sets."""
  text = (resources.files("cm3leon_jax.datasets") / "showcase.json").read_text(encoding="utf-8")
  return json.loads(text)["ids"]
