"""How fast pictures come in: JPEG bytes → 256 × 256 pixels, by the CPU time of one core.

    python benchmarks/pictures_in.py            # the table
    python benchmarks/pictures_in.py --profile  # where the time goes, by cProfile

One real photograph (Grace Hopper, 512 × 600, public domain, which matplotlib ships) and noise in other sizes whose
amplitudes fall as 1/frequency^1.4: at quality 90 it takes a quarter to a third of a byte a pixel, photographs a fifth
to a third. CPU time, so that other work on the machine changes little.
"""

import argparse
import cProfile
import io
import pstats
from pathlib import Path
import time

import matplotlib
import numpy as np
from PIL import Image

from cm3leon_jax.datasets import pictures

SIZES = ((256, 256), (512, 384), (640, 480), (1024, 768), (2048, 1536), (4000, 3000))  # width, height
SECONDS = 0.9  # a measurement
PIXELS = 256


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
  """A picture whose amplitudes fall with frequency as in photographs."""
  rng = np.random.default_rng(seed)
  frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width)
  planes = []
  shared = rng.normal(size=(height, width))
  for _ in range(3):  # channels of a photograph agree for the most part
    spectrum = np.fft.rfft2(0.85 * shared + 0.15 * rng.normal(size=(height, width))) / np.maximum(frequency, 1) ** 1.4
    plane = np.fft.irfft2(spectrum, (height, width))
    planes.append(np.clip(128 + 50 * plane / plane.std(), 0, 255))
  return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def jpeg(picture: Image.Image) -> bytes:
  out = io.BytesIO()
  picture.save(out, "JPEG", quality=90)
  return out.getvalue()


def plainly(data: bytes, how=Image.Resampling.BICUBIC) -> np.ndarray:
  """The whole picture decoded, then the middle square resized: what draft mode is compared with."""
  picture = Image.open(io.BytesIO(data)).convert("RGB")
  side = min(picture.size)
  left, top = (picture.width - side) // 2, (picture.height - side) // 2
  return np.asarray(picture.crop((left, top, left + side, top + side)).resize((PIXELS, PIXELS), how))


def by_simplejpeg(data: bytes) -> np.ndarray:
  """libjpeg-turbo without Pillow around it; resized by Pillow."""
  import simplejpeg

  picture = Image.fromarray(simplejpeg.decode_jpeg(data, min_height=PIXELS, min_width=PIXELS, min_factor=1))
  side = min(picture.size)
  left, top = (picture.width - side) // 2, (picture.height - side) // 2
  return np.asarray(picture.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))


def rate(step, data) -> float:
  """Calls a second, the best of three runs: other work on the machine only ever slows."""
  best = 0.0
  for _ in range(3):
    count, begin = 0, time.process_time()
    while (spent := time.process_time() - begin) < SECONDS / 3:
      step(data)
      count += 1
    best = max(best, count / spent)
  return best


def decibels(a: np.ndarray, b: np.ndarray) -> float:
  return float(10 * np.log10(255**2 / max(np.mean((a.astype(np.float64) - b) ** 2), 1e-9)))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--profile", action="store_true")
  arguments = parser.parse_args()
  prepare = pictures.Preparation(PIXELS)
  columns = [("prepared", lambda d: prepare(d)), ("decoded whole", plainly)]
  try:
    import simplejpeg  # noqa: F401
    columns.append(("simplejpeg", by_simplejpeg))
  except ImportError:
    pass
  real = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
  files = {"photograph, 512 × 600": real.read_bytes(), **{f"{w} × {h}": jpeg(noise(w, h)) for w, h in SIZES}}
  if arguments.profile:
    for size in (next(iter(files)), "2048 × 1536"):
      profile = cProfile.Profile()
      profile.enable()
      for _ in range(100):
        pictures.pack(prepare(files[size])[0])
      profile.disable()
      print(f"100 pictures ({size}) prepared and packed")
      pstats.Stats(profile).sort_stats("tottime").print_stats(8)
    return
  print("| size | kB | " + " | ".join(f"{name}/s" for name, _ in columns)
        + " | and packed/s | dB to decoded whole | dB Lanczos to bicubic |")
  print("|---" * (5 + len(columns)) + "|")
  for size, data in files.items():
    rates = [rate(step, data) for _, step in columns]
    kept = rate(lambda d: pictures.pack(prepare(d)[0]), data)
    ours, whole = prepare(data)[0], plainly(data)
    lanczos = plainly(data, Image.Resampling.LANCZOS)  # how much the choice of a filter alone changes
    print(f"| {size} | {len(data) / 1000:.0f} | " + " | ".join(f"{r:,.0f}" for r in rates)
          + f" | {kept:,.0f} | {decibels(ours, whole):.1f} | {decibels(lanczos, whole):.1f} |")


if __name__ == "__main__":
  main()
