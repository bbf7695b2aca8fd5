"""Pictures for the report page: PNG data URIs, each small enough that hundreds fit in one page."""

import base64
import functools
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from cm3leon_jax.errors import InputError

MAX_SIDE = 128  # pixels kept along the longer side; the page shows at most 192 CSS pixels


@functools.lru_cache(maxsize=4096)
def data_uri(path: Path, side: int = MAX_SIDE, jpeg: bool = False) -> str:
  """`data:image/png;base64,…` of a picture, on white, at most `side` pixels a side and 256 colours.

  256 colours of the picture's own are not seen apart from its true ones at these sizes, and halve the page. Pictures
  with 256 colours or fewer are kept exactly.

  Args:
    path: a picture.
    side: pixels kept along the longer side.
    jpeg: write a JPEG instead where there are more colours, as in photographs: half the size, and faster.

  Raises:
    InputError: no such file, or not a picture.
  """
  try:
    with Image.open(path) as opened:
      rgba = opened.convert("RGBA")
  except FileNotFoundError as error:
    raise InputError(
      f"{path}: this picture is named in generations.jsonl but missing; generate the set again"
    ) from error
  except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
    raise InputError(f"{path}: not a picture that can be read; generate the set again") from error
  rgba.thumbnail((side, side), Image.Resampling.LANCZOS)
  picture = Image.new("RGB", rgba.size, "white")
  picture.paste(rgba, mask=rgba.getchannel("A"))
  out = io.BytesIO()
  if jpeg and picture.getcolors(256) is None:
    sharp = max(picture.size) <= MAX_SIDE  # small pictures are enlarged, where halved colours would be seen
    picture.save(out, "JPEG", quality=86, subsampling=0 if sharp else 2)
    kind = "jpeg"
  else:
    picture = picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    picture.save(out, "PNG", optimize=True)
    kind = "png"
  return f"data:image/{kind};base64," + base64.b64encode(out.getvalue()).decode("ascii")
