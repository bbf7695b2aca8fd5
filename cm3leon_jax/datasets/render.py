"""SVG → RGB pixels on white, in worker processes.

resvg holds the GIL, so threads do not help. The workers are `python -m
cm3leon_jax.datasets.render` subprocesses, not a multiprocessing pool: spawn runs the caller's
`__main__` again (and fails where that is standard input), fork is unsafe beside JAX and TF threads.
"""

from concurrent.futures import ThreadPoolExecutor
import io
import json
import os
import subprocess
import sys
from typing import Iterator, Sequence

import numpy as np
from PIL import Image
import resvg_py

from cm3leon_jax.errors import InputError

_CHUNK = 512  # drawings a worker process renders: about 1 s, against 0.3 s to start it


def _cpus() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def svg_document(body: str, left: float, top: float, width: float, height: float) -> str:
  """A whole SVG around an icon's body; the viewBox is square, the drawing in its middle (letterboxed)."""
  side = max(width, height)
  box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
  return (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}">'
          f"{body}</svg>")


def render(svg: str, pixels: int) -> np.ndarray:
  """uint8[pixels, pixels, 3] on white. No system fonts: the result is the same on every machine.

  Raises:
    ValueError: not an SVG that resvg reads.
  """
  png = resvg_py.svg_to_bytes(svg_string=svg, width=pixels, height=pixels, background="white", skip_system_fonts=True)
  image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
  if image.shape != (pixels, pixels, 3):  # an SVG whose own viewBox is not square
    canvas = np.full((pixels, pixels, 3), 255, np.uint8)
    top, left = (pixels - image.shape[0]) // 2, (pixels - image.shape[1]) // 2
    canvas[top:top + image.shape[0], left:left + image.shape[1]] = image
    image = canvas
  return image


def _render_chunk(svgs: Sequence[str], pixels: int) -> np.ndarray:
  """uint8[len(svgs), pixels, pixels, 3], drawn by one worker process."""
  done = subprocess.run([sys.executable, "-m", "cm3leon_jax.datasets.render", str(pixels)],
                        input=json.dumps(list(svgs)).encode(), capture_output=True)
  if done.returncode:
    raise InputError(f"rendering failed: {done.stderr.decode(errors='replace').strip().splitlines()[-1:]}")
  return np.frombuffer(done.stdout, np.uint8).reshape(len(svgs), pixels, pixels, 3)


def render_all(svgs: Sequence[str], pixels: int, workers: int | None = None) -> Iterator[np.ndarray]:
  """Yields uint8[pixels, pixels, 3] for each of `svgs`, in order.

  Args:
    svgs: SVG documents.
    pixels: side of the pictures.
    workers: processes at a time; None = the CPUs this process may use.

  Raises:
    InputError: an SVG that cannot be rendered.
  """
  chunks = [svgs[i:i + _CHUNK] for i in range(0, len(svgs), _CHUNK)]
  with ThreadPoolExecutor(workers or _cpus()) as pool:
    for images in pool.map(lambda chunk: _render_chunk(chunk, pixels), chunks):
      yield from images


def _main() -> None:
  """Worker: a JSON list of SVGs on standard input → raw pixels on standard output."""
  pixels = int(sys.argv[1])
  for svg in json.load(sys.stdin.buffer):
    sys.stdout.buffer.write(render(svg, pixels).tobytes())


if __name__ == "__main__":
  _main()
