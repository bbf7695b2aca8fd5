"""Any picture's bytes → the square that training sees: decode, white ground, resize, centre crop. Pure.

The paper's preparation: the short side is resized and the middle is cropped; what is transparent becomes white. A
picture that cannot be used is `Rejected` with a kind; what was unusual about one that can is told as notes.
"""

import dataclasses
import io
import warnings

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin

# Formats whose readers are made for pictures from anywhere. Others (EPS runs Ghostscript, …) are not tried.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
PILLOW_LIMIT = 89_478_485  # pixels above which Pillow warns of a decompression bomb; it refuses twice as many
REJECTS = {
    "no_picture": "no bytes at all",
    "not_a_picture": "bytes of no format that is read",
    "broken_picture": "truncated or damaged",
    "too_small": "short side below `min_side`",
    "too_large": "more pixels than `max_pixels` (a decompression bomb)",
    "too_long": "sides further apart than `max_aspect`",
    "odd_mode": "pixels of a kind that has no one meaning as colours",
    "blank": "one colour all over",
}
NOTES = {
    "alpha": "transparent pixels, laid on white",
    "palette": "colours by palette",
    "grey": "no colours",
    "cmyk": "inks, turned into colours without their profile",
    "16_bit": "16 bits a channel, the upper 8 kept",
    "exif_rotation": "turned as its EXIF orientation says",
    "animated": "first frame taken",
    "enlarged": "short side below the wanted one",
}
_ORIENTATION = 0x0112  # the EXIF tag
_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")
_COLOURS = ("RGB", "YCbCr", "HSV")


class Rejected(Exception):
  """A record that cannot be used: `kind` is counted, `reason` is kept for a person."""

  def __init__(self, kind: str, reason: str):
    super().__init__(kind, reason)
    self.kind, self.reason = kind, reason


@dataclasses.dataclass(frozen=True)
class Preparation:
  """What a picture must be, and how large it comes out.

  Attributes:
    pixels: side of the square.
    min_side: pixels that the short side has at least; smaller pictures are rejected.
    max_pixels: pixels in all, looked at before any is decoded; larger pictures are rejected. Pillow itself reads no more than
      179 million.
    max_aspect: long side ÷ short side; the crop of a longer picture would show little of it. 0: no limit.
  """

  pixels: int = 256
  min_side: int = 16
  max_pixels: int = PILLOW_LIMIT
  max_aspect: float = 0.0

  def __call__(self, data: bytes | None) -> tuple[np.ndarray, list[str]]:
    """A file's bytes → uint8[pixels, pixels, 3], and the names of `NOTES` that hold for it.

    Raises:
      Rejected: with a kind of `REJECTS`.
    """
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of bombs, where `max_pixels` decides, and of what is an error right after
      return self._prepared(data)

  def _prepared(self, data: bytes | None) -> tuple[np.ndarray, list[str]]:
    if not data:
      raise Rejected("no_picture", "0 bytes")
    picture = _opened(data)
    self._check(*picture.size)
    notes = ["animated"] if picture.format != "MPO" and getattr(picture, "is_animated", False) else []
    if min(picture.size) < self.pixels:
      notes.append("enlarged")
    if picture.tile and "16" in str(picture.tile[0][3]):  # the raw mode, such as `RGB;16B`
      notes.append("16_bit")
    try:
      if isinstance(picture, JpegImagePlugin.JpegImageFile):
        # The decoder itself halves, quarters or eighths while both sides stay as long as is wanted: far fewer pixels.
        picture.draft(None, (self.pixels, self.pixels))
      picture.load()
      picture = _upright(picture, notes)
      picture = _coloured(picture, notes)
    except Rejected:
      raise
    except Exception as error:  # a decoder may raise anything over bytes from anywhere
      raise Rejected("broken_picture", f"{type(error).__name__}: {error}") from error
    square = self._square(picture)
    if (square[::16] == square[0, 0]).all() and (square == square[0, 0]).all():  # few rows tell of almost any picture
      raise Rejected("blank", f"every pixel is {tuple(int(v) for v in square[0, 0])}")
    return square, notes

  def _check(self, width: int, height: int) -> None:
    size = f"{width} × {height} pixels"
    if width * height > self.max_pixels:
      raise Rejected("too_large", f"{size}, {self.max_pixels:,} are allowed")
    if min(width, height) < self.min_side:
      raise Rejected("too_small", f"{size}, the short side must have {self.min_side}")
    if self.max_aspect and max(width, height) > self.max_aspect * min(width, height):
      raise Rejected("too_long", f"{size}, the sides may differ {self.max_aspect:g} times")

  def _square(self, picture: Image.Image) -> np.ndarray:
    """The middle square, scaled; pixels outside of it are never computed."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    if side == self.pixels:
      return np.asarray(picture.crop(box))
    return np.asarray(picture.resize((self.pixels, self.pixels), Image.Resampling.BICUBIC, box=box))


def _opened(data: bytes) -> Image.Image:
  """Reads the head alone."""
  try:
    return Image.open(io.BytesIO(data), formats=FORMATS)
  except Image.UnidentifiedImageError as error:
    raise Rejected("not_a_picture", f"{len(data):,} bytes that begin with {data[:12]!r}") from error
  except Image.DecompressionBombError as error:
    raise Rejected("too_large", str(error)) from error
  except Exception as error:  # as above
    raise Rejected("broken_picture", f"{type(error).__name__}: {error}") from error


def _upright(picture: Image.Image, notes: list[str]) -> Image.Image:
  if picture.getexif().get(_ORIENTATION, 1) in (0, 1):
    return picture
  notes.append("exif_rotation")
  return ImageOps.exif_transpose(picture)


def _coloured(picture: Image.Image, notes: list[str]) -> Image.Image:
  """Any mode → RGB; adds what was unusual to `notes`."""
  mode = picture.mode
  if mode == "P":
    notes.append("palette")
  elif mode == "CMYK":
    notes.append("cmyk")
  elif mode in ("1", "L", "LA", "La") or mode.startswith("I"):
    notes.append("grey")
  if mode.startswith("I"):  # Pillow's own conversion clips at 255 instead of scaling
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 65_535:
      raise Rejected("odd_mode", f"grey values {values.min()} … {values.max()}")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
  if mode in _TRANSPARENT or "transparency" in picture.info:
    rgba = picture.convert("RGBA")
    if rgba.getextrema()[3][0] < 255:
      notes.append("alpha")
      return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return rgba.convert("RGB")
  if mode == "RGB":
    return picture
  if mode in ("1", "L", "P", "CMYK", *_COLOURS):
    return picture.convert("RGB")
  raise Rejected("odd_mode", f"pixels of mode {mode}")


def pack(image: np.ndarray) -> bytes:
  """uint8[H, W, 3] → lossless WebP: of a photograph at 256 px 89 kB in 2 ms, where PNG takes 121 kB and 5 ms."""
  out = io.BytesIO()
  Image.fromarray(image).save(out, "WEBP", lossless=True, method=0, quality=0)
  return out.getvalue()


def unpack(data: bytes) -> np.ndarray:
  """The inverse of `pack`."""
  return np.asarray(Image.open(io.BytesIO(data), formats=("WEBP",)))
