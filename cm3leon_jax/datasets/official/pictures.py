"""Where pictures lie: as the official archives unpack, or anywhere below one folder that a person names."""

import os
from pathlib import Path
import re
from typing import Callable

from cm3leon_jax.errors import InputError

_SUFFIXES = {".jpg", ".jpeg", ".png"}


class PictureFolder:
  """The pictures below a folder, by name and by number; listed once, links to folders followed."""

  def __init__(self, folder: str | os.PathLike):
    self.folder = os.fspath(folder)
    if not Path(folder).is_dir():
      raise InputError(f"{folder}: no such folder of pictures")
    self._by_name: dict[str, str] = {}
    self._by_number: dict[int, list[str]] = {}
    for path, folders, names in os.walk(self.folder, followlinks=True):
      folders.sort()
      for name in sorted(names):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in _SUFFIXES:
          full = os.path.join(path, name)
          self._by_name.setdefault(name, full)
          if number := re.search(r"(\d+)$", stem):
            self._by_number.setdefault(int(number[1]), []).append(full)

  def find(self, name: str) -> str:
    """The path of a picture: by its official file name, else by the number that its name ends in.

    `COCO_val2014_000000000042.jpg` is found as `000000000042.jpg`, as the archives of 2017 have it. A picture that is
    not there gets the path that it should have; `items.check_pictures` reports all of them together.

    Raises:
      InputError: several pictures have that number and none has the name.
    """
    if name in self._by_name:
      return self._by_name[name]
    number = re.search(r"(\d+)$", os.path.splitext(name)[0])
    found = self._by_number.get(int(number[1]), []) if number else []
    if len(found) > 1:
      raise InputError(f"{self.folder}: no {name} in it, and several pictures of that number: {', '.join(found[:3])}; "
                       "name a folder that holds this set alone")
    return found[0] if found else os.path.join(self.folder, name)


def locator(root: str | os.PathLike, images: str) -> Callable[[str], str]:
  """Function from an official path (`val2014/COCO_val2014_000000000042.jpg`) to the path here.

  Args:
    root: folder of the set, where the archives were unpacked; no file is looked at.
    images: another folder that has the pictures, in whatever folders below it; empty for `root`.
  """
  if not images:
    base = os.fspath(root)
    return lambda path: os.path.join(base, path)
  folder = PictureFolder(images)
  return lambda path: folder.find(os.path.basename(path))


def coco_name(folder: str, image_id: int) -> str:
  """`val2014`, 42 → `val2014/COCO_val2014_000000000042.jpg`."""
  return f"{folder}/COCO_{folder}_{image_id:012d}.jpg"
