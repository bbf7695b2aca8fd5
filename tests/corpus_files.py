"""Small real corpora in every format, with every kind of bad record, made in a second."""

import io
import json
from pathlib import Path
import struct
import tarfile
import zlib

import numpy as np
from PIL import Image

# (id, picture, caption): what each format below holds.
Rows = list[tuple[str, bytes | None, str | bytes | None]]


def pixels(seed: int, width: int = 48, height: int = 40) -> np.ndarray:
  """uint8[height, width, 3]: a box of one colour on another."""
  rng = np.random.default_rng(seed)
  image = np.full((height, width, 3), rng.integers(0, 255, 3), np.uint8)
  x, y = rng.integers(5, 20, 2)
  image[y:y + 15, x:x + 20] = rng.integers(0, 255, 3)
  return image


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
  out = io.BytesIO()
  (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
  return out.getvalue()


def good(count: int, start: int = 0) -> Rows:
  return [(f"{i:06d}", encoded(pixels(i), "JPEG" if i % 2 else "PNG"), f"a box, number {i}") for i in range(start, start + count)]


def png_of_size(width: int, height: int) -> bytes:
  """A PNG whose head claims so many pixels: a decompression bomb of a few bytes."""
  chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
  head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


# One bad record of each kind that a picture or a caption can be: kind → (picture, caption).
BAD = {
    "no_picture": (b"", "nothing"),
    "not_a_picture": (b"<html>404</html>" * 9, "a page"),
    "broken_picture": (encoded(pixels(900, 200, 200), "JPEG")[:600], "cut off"),
    "too_small": (encoded(pixels(901)[:4, :4]), "a speck"),
    "too_large": (png_of_size(60_000, 60_000), "a bomb"),
    "blank": (encoded(np.full((40, 40, 3), 255, np.uint8)), "white"),
    "no_caption": (encoded(pixels(902)), None),
    "caption_not_utf8": (encoded(pixels(903)), b"caf\xe9"),
    "empty_caption": (encoded(pixels(904)), " <br> "),
}


def bad() -> Rows:
  return [(f"bad_{kind}", *row) for kind, row in BAD.items()]


def write_tar(path: Path, rows: Rows) -> None:
  """A shard as img2dataset writes it: <key>.jpg, <key>.txt, <key>.json."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w") as tar:
    for key, picture, caption in rows:
      about = json.dumps({"key": key, "url": f"https://example.org/{key}", "status": "success", "width": 48}).encode()
      text = caption.encode() if isinstance(caption, str) else caption
      for suffix, data in (("jpg", picture), ("txt", text), ("json", about)):
        if data is not None:
          member = tarfile.TarInfo(f"{key}.{suffix}")
          member.size = len(data)
          tar.addfile(member, io.BytesIO(data))


def write_tars(folder: Path, shards: list[Rows]) -> Path:
  for number, rows in enumerate(shards):
    write_tar(folder / f"{number:05d}.tar", rows)
  return folder
