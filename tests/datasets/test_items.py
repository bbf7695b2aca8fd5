import dataclasses

import numpy as np
import pytest

from cm3leon_jax.datasets import items
from cm3leon_jax.datasets.items import Item
from cm3leon_jax.errors import InputError

ITEMS = [Item(1, text="a red box", references=("a red box",)), Item("b", text="what?", references=("x", "y"))]


def test_the_digest_is_of_ids_texts_and_references_in_order():
  digest = items.digest(ITEMS)
  assert len(digest) == 16 and int(digest, 16) >= 0
  assert items.digest(ITEMS) == digest
  assert items.digest(ITEMS[::-1]) != digest
  for change in ({"id": 2}, {"id": "1"}, {"text": "a red bo"}, {"references": ("a", "red box")}, {"references": ()}):
    assert items.digest([dataclasses.replace(ITEMS[0], **change), ITEMS[1]]) != digest, change
  moved = dataclasses.replace(ITEMS[0], image="/another/place.jpg")
  assert items.digest([moved, ITEMS[1]]) == digest  # where the pictures lie is no part of what is asked


def test_a_digest_of_half_a_surrogate_pair():
  # A lone surrogate is legal in JSON's \u escapes, and cannot be encoded.
  assert items.digest([Item(1, text="\ud83d")]) != items.digest([Item(1, text="")])


def test_missing_pictures_are_reported_together(tmp_path):
  (tmp_path / "there.png").write_bytes(b"x")
  there, gone = str(tmp_path / "there.png"), [str(tmp_path / f"gone_{n}.png") for n in range(4)]
  fine = [Item(1, image=there), Item(2, image=np.zeros((2, 2, 3), np.uint8)), Item(3)]
  items.check_pictures(fine)
  with pytest.raises(InputError, match=r"5 of 6 pictures are not there: .*gone_0.png, .*gone_1.png, .*gone_2.png, …;"):
    items.check_pictures([*fine, *(Item(p, image=p) for p in gone), Item(9, image=gone[0]),
                          Item(10, image=str(tmp_path / "no" / "folder.png"))])


def test_items_say_where_they_come_from():
  found = items.Items(ITEMS, "set/val", ["a.json", "b.json"], "the first", 3)
  assert found == ITEMS
  assert found.about() == {"count": 2, "hash": items.digest(ITEMS), "source": "a.json, b.json", "caption": "the first",
                           "expected": 3}
