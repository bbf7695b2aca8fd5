"""The function behind `cm3leon generate`: files in, PNGs, a contact sheet and `generations.jsonl` out.

A line of `generations.jsonl` is written as soon as its prompt is done. Beside the prompt it holds
the candidates best first (file, text, score), the retrieved documents, seed, settings, and the
rules in the order in which they were applied. Every PNG carries the same in its text chunk
`cm3leon` (JSON), so that a picture alone tells how to draw it again.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
import sys
import time
from typing import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin
from tqdm import tqdm

from cm3leon_jax import assets, manifest
from cm3leon_jax.errors import InputError

GENERATIONS = "generations.jsonl"
CONTACT_SHEET = "contact_sheet.png"
CHUNK = "cm3leon"  # keyword of the PNG text chunk
_SHEET_ROWS = 48
_GAP = 4
_BATCH = 256  # prompts laid out at a time


def generate(checkpoint: str, task: str, out: str, *, text: str = "", prompts: str = "", image: str = "",
             region: str = "", docs: int = 0, index: str = "", candidates: int = 1, guidance: float | None = None,
             temperature: float | None = None, top_p: float | None = None, seed: int = 0, jacobi: int = 0) -> None:
  """Generates for one text, or for each line of a file, and writes the folder `out`.

  Args:
    checkpoint: run folder or released checkpoint.
    task: text_to_image, image_to_text, vqa, infill or edit.
    out: folder; files of the same names in it are replaced.
    text: prompt, caption of the hole, question, instruction, or what asks for a description.
    prompts: a file with one text a line, instead of `text`; line n (from 0) gets seed + n.
    image: path of the input picture.
    region: "x0,y0,x1,y1" in pixels of the picture, for infill.
    docs: K documents to retrieve.
    index: folder of the retrieval index, for docs above 0; by default the checkpoint's own, where one ships with it.
    candidates: samples a prompt.
    guidance, temperature, top_p: None takes the task's default (`api.DEFAULTS`).
    seed: of the first prompt.
    jacobi: image tokens guessed and checked in one forward pass, at least 2; 0 = one token a pass.

  Raises:
    InputError: anything missing, unreadable or that does not fit.
  """
  texts = _texts(text, prompts)
  corners = _corners(region) if task == "infill" else None
  checkpoint = str(assets.find(checkpoint))
  if docs > 0 and not index and os.path.isdir(checkpoint) and not manifest.exists(os.path.join(checkpoint, "index")):
    raise InputError(f"--docs={docs} needs an index to retrieve from: give --index=D/index, or --docs=0")
  if image and not Path(image).is_file():
    raise InputError(f"--image={image}: no such picture")

  import jax  # not before the flags are known to be right

  from cm3leon_jax import api

  asked = {"guidance": guidance, "temperature": temperature, "top_p": top_p}
  asked = {name: value for name, value in asked.items() if value is not None}
  sampling = dataclasses.replace(api.default_sampling(task, candidates), **asked)
  model = api.load(checkpoint, index=index or None, devices=jax.local_devices() if len(texts) > 1 else (),
                   jacobi_window=jacobi)
  provenance = {"checkpoint": os.path.basename(os.path.abspath(checkpoint)),
                "model": model_hash(checkpoint, model.meta), **({"jacobi": jacobi} if jacobi else {})}

  def laid_out(start: int) -> list[api.Job]:
    ask = api.CAPTION_QUERY if task == "image_to_text" else ""
    return [model.job(task, text=t or ask, image=image or None, region=corners, docs=docs, candidates=candidates,
                      seed=seed + start + n, sampling=sampling) for n, t in enumerate(texts[start:start + _BATCH])]

  jobs = laid_out(0)  # before anything is written: a prompt that does not fit leaves `out` as it was
  print("rules: " + " → ".join(sampling.describe(len(jobs[0].request.streams))), file=sys.stderr)
  folder = _made(out)
  begin, rows, pictures, codes, passes = time.time(), [], 0, 0, 0
  with (open(folder / GENERATIONS, "w", encoding="utf-8") as lines,
        tqdm(total=len(texts), desc=task, unit="prompt", file=sys.stderr, disable=len(texts) == 1) as bar):
    for start in range(0, len(texts), _BATCH):
      jobs = laid_out(start) if start else jobs
      for at, results in model.run(jobs):
        lines.write(json.dumps(write_row(folder, f"{start + at:04d}", jobs[at], results, provenance), ensure_ascii=False) + "\n")
        lines.flush()
        if start + at < _SHEET_ROWS:
          rows.append((start + at, jobs[at], results))
        pictures += sum(r.image is not None for r in results)
        codes += len(results) * jobs[at].request.streams[0].steps
        passes += sum(r.passes for r in results)
        if results[0].image is None:
          print(results[0].text)
        bar.update()
  if pictures:
    rows.sort(key=lambda row: row[0])
    contact_sheet([row[1:] for row in rows]).save(folder / CONTACT_SHEET)
  manifest.write_file(folder, "generations", {**provenance, "task": task, "count": len(texts)})
  print(f"{folder}: {len(texts)} prompt{'s' * (len(texts) != 1)}, "
        + (f"{pictures} pictures" if pictures else f"{len(texts) * candidates} texts")
        + f" in {time.time() - begin:.1f} s"
        + (f", {codes / passes:.1f} tokens a forward pass" if jacobi and pictures else ""), file=sys.stderr)


def _texts(text: str, prompts: str) -> list[str]:
  if not prompts:
    return [text]
  if text:
    raise InputError("--text and --prompts: give one of them")
  try:
    lines = Path(prompts).read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"--prompts={prompts}: cannot be read as UTF-8 text ({error})") from error
  texts = [line.strip() for line in lines if line.strip()]
  if not texts:
    raise InputError(f"--prompts={prompts}: has no line with text")
  return texts


def _corners(region: str) -> tuple[int, ...]:
  try:
    corners = tuple(int(v) for v in region.split(","))
  except ValueError:
    corners = ()
  if len(corners) != 4:
    raise InputError(f"--region={region}: write it as x0,y0,x1,y1 in pixels, such as --region=16,16,48,64")
  return corners


def _made(out: str) -> Path:
  folder = Path(out)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"--out={out}: the folder cannot be made ({error})") from error
  return folder


def model_hash(checkpoint: str, meta: dict) -> str:
  """What tells two checkpoints apart: hash of model.json, of the step, and of the weights (released) or their checksums."""
  folder = Path(checkpoint)
  digest = hashlib.sha256((folder / "model.json").read_bytes())
  step = str(meta.get("step", ""))
  for file in (folder / "weights.npz", *sorted((folder / "checkpoints" / step / "about").glob("*"))):
    if file.is_file():
      with open(file, "rb") as f:
        digest.update(hashlib.file_digest(f, "sha256").digest())
  digest.update(step.encode())
  return digest.hexdigest()[:16]


def write_row(folder: Path, stem: str, job, results, provenance: Mapping) -> dict:
  """Writes the pictures of one prompt, with names that begin with `stem`; returns its line."""
  request = job.request
  about = {**provenance, "task": job.task, "prompt": job.text, "seed": request.seed,
           "settings": dataclasses.asdict(request.sampling), "rules": request.sampling.describe(len(request.streams)),
           "candidates": request.candidates, "retrieved": [d.id for d in job.retrieved]}
  candidates = []
  for rank, result in enumerate(results):
    entry = {"candidate": result.candidate, "score": result.score, "log_prob": result.log_prob, "text": result.text,
             "file": ""}
    if result.image is not None:
      entry["file"] = f"{stem}_{rank}.png"
      save_png(folder / entry["file"], result.image,
               {**about, "rank": rank, "candidate": result.candidate, "score": result.score})
    candidates.append(entry)
  retrieved = []
  for n, document in enumerate(job.retrieved):
    file = f"{stem}_doc{n}.png"
    Image.fromarray(document.image).save(folder / file)
    retrieved.append({"id": document.id, "caption": document.caption, "score": document.score, "file": file})
  given = ""
  if job.given is not None:
    given = f"{stem}_given.png"
    Image.fromarray(job.given).save(folder / given)
  return {**about, "candidates": candidates, "retrieved": retrieved, "given": given}


def save_png(path: str | os.PathLike, image: np.ndarray, about: dict) -> None:
  """A PNG that says how it was made, in the text chunk `cm3leon`."""
  chunk = PngImagePlugin.PngInfo()
  chunk.add_itxt(CHUNK, json.dumps(about, ensure_ascii=False))
  Image.fromarray(image).save(path, pnginfo=chunk)


def contact_sheet(rows: Sequence[tuple]) -> Image.Image:
  """One row a prompt: its text above, then the given picture and the documents, a line, the candidates best first."""
  side = rows[0][1][0].image.shape[0]
  cells = [list(_row_pictures(job, results)) for job, results in rows]
  scale = max(1, -(-64 // side))
  side *= scale
  width = max(len(row) for row in cells) * (side + _GAP) + _GAP
  height = side + 14 + 2 * _GAP
  sheet = Image.new("RGB", (max(width, 240), height * len(rows)), "white")
  draw = ImageDraw.Draw(sheet)
  for y, ((job, _), row) in enumerate(zip(rows, cells)):
    words = job.text.encode("latin-1", "replace").decode("latin-1")  # what Pillow's built-in font can write
    draw.text((_GAP, y * height + 2), words[:sheet.width // 6], fill="black")
    for x, (picture, border) in enumerate(row):
      corner = (_GAP + x * (side + _GAP), y * height + 14 + _GAP)
      sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST), corner)
      if border:
        draw.rectangle((corner[0] - 2, corner[1] - 2, corner[0] + side + 1, corner[1] + side + 1), outline="#888888")
  return sheet


def _row_pictures(job, results) -> Iterator[tuple[np.ndarray, bool]]:
  """(picture, framed): what the model read is framed, what it drew is not."""
  if job.given is not None:
    yield job.given, True
  for document in job.retrieved:
    yield document.image, True
  for result in results:
    yield result.image, False
