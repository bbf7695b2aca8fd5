"""Five lines from a checkpoint to a picture:

    from cm3leon_jax import api
    model = api.load("D/pretrain", index="D/index")
    results = model.text_to_image("a red heart, twemoji", docs=2, candidates=8, guidance=2.0, seed=0)
    results[0].save("heart.png")
    print(results[0].score, [document.id for document in results[0].retrieved])

Also `image_to_text`, `vqa`, `infill` and `edit`. Each is `run([job(task, …)])`; many jobs in one
`run` are batched.
"""

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Callable, Collection, Iterator, Sequence

import jax
import numpy as np
from PIL import Image, ImageOps

from cm3leon_jax import assets, manifest
from cm3leon_jax.decoding import prompts, rerank
from cm3leon_jax.decoding.engine import Engine, Request
from cm3leon_jax.decoding.rules import Sampling
from cm3leon_jax.errors import InputError
from cm3leon_jax.retrieval.encoder import Encoder
from cm3leon_jax.retriever import Document, Retriever
from cm3leon_jax.tasks.templates import CAPTION_QUERY, EDIT_QUERY
from cm3leon_jax.tokenizers.image import ImageTokenizer
from cm3leon_jax.tokenizers.text import TextTokenizer
from cm3leon_jax.training import checkpoints

TASKS = ("text_to_image", "image_to_text", "vqa", "infill", "edit")
DEFAULTS = {
    "text_to_image": Sampling(guidance=2.0, temperature=0.8),
    "infill": Sampling(guidance=2.0, temperature=0.8),
    "edit": Sampling(guidance=2.0, image_guidance=1.2, temperature=0.8),
    "image_to_text": Sampling(guidance=1.0, temperature=0.0, top_p=1.0),
    "vqa": Sampling(guidance=1.0, temperature=0.0, top_p=1.0),
}
_SEVERAL_TEXTS = Sampling(guidance=1.0, temperature=0.7, top_p=0.9)  # the most likely one alone would come N times

Picture = np.ndarray | Image.Image | str | os.PathLike


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
  """One candidate.

  Attributes:
    image: uint8[H, W, 3], None for a text.
    codes: int32[I] codes of the image, None for a text.
    text: caption or answer, "" for an image.
    score: what candidates are ordered by: CLIP similarity with the prompt for images that have one,
      mean log-probability for texts, None for edits and fillings without a text (they keep their order).
    log_prob: mean log-probability of the chosen tokens, without guidance.
    candidate: its number before ordering.
    retrieved: what the model read before the prompt.
    passes: forward passes that it took.
  """

  image: np.ndarray | None
  codes: np.ndarray | None
  text: str
  score: float | None
  log_prob: float
  candidate: int
  retrieved: tuple[Document, ...]
  passes: int

  def save(self, path: str | os.PathLike) -> None:
    """Writes the picture."""
    Image.fromarray(self.image).save(path)


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
  """A task ready to run; made by `Model.job`.

  Attributes:
    task, text: as asked.
    request: for the engine.
    retrieved: documents in the prompt.
    given: uint8[H, W, 3] the input picture, squared and scaled; None without one.
    source: int32[I] ids of the input picture where only some cells are drawn.
    wanted: the text that pictures are scored against; "" for none.
  """

  task: str
  text: str
  request: Request
  retrieved: tuple[Document, ...]
  given: np.ndarray | None = None
  source: np.ndarray | None = None
  wanted: str = ""


class Model:
  """A checkpoint with its tokenizers, and with an index what it retrieves from. Made by `load`."""

  def __init__(self, loaded, text: TextTokenizer, image: ImageTokenizer, open_encoder: Callable[[], Encoder],
               index: str | os.PathLike | None = None, exclude: Collection[str] = (), devices: Sequence[jax.Device] = (),
               jacobi_window: int = 0):
    self.config, self.vocabulary, self.layout, params, self.meta = loaded
    self.text, self.image = text, image
    self._engine = Engine(self.config, params, devices=devices, jacobi_window=jacobi_window)
    self._open_encoder = open_encoder
    self._index, self._exclude = index, exclude
    if index:
      _ = self.retriever  # a wrong index shows now, not at the first prompt

  @functools.cached_property
  def encoder(self) -> Encoder:
    """The CLIP that retrieves and ranks; opened when first needed."""
    return self._open_encoder()

  @functools.cached_property
  def retriever(self) -> Retriever:
    if not self._index:
      raise InputError("retrieved documents need an index: give its folder (--index=D/index), or docs=0")
    return Retriever(self._index, self.vocabulary, self.layout, self.text, self.image, self.encoder, self._exclude)

  def text_to_image(self, text: str, *, docs=0, candidates: int = 1, seed: int = 0, **settings) -> list[Result]:
    """Draws a text; best first.

    Args:
      text: what to draw.
      docs: K, how many documents to retrieve; or the ids of documents to read.
      candidates: how many to draw and order by CLIP similarity with the text.
      seed: the same seed draws the same pictures on the same platform.
      **settings: fields of `decoding.rules.Sampling`, such as guidance=2.0, temperature=0.8, top_p=0.9.
    """
    return self._one("text_to_image", text=text, docs=docs, candidates=candidates, seed=seed, settings=settings)

  def image_to_text(self, image: Picture, query: str = CAPTION_QUERY, *, docs=0, candidates: int = 1, seed: int = 0,
                    **settings) -> list[Result]:
    """Describes a picture: what stands between `query` and the image. `query=""` suits a model without fine-tuning."""
    return self._one("image_to_text", text=query, image=image, docs=docs, candidates=candidates, seed=seed,
                     settings=settings)

  def vqa(self, image: Picture, question: str, *, docs=0, candidates: int = 1, seed: int = 0,
          **settings) -> list[Result]:
    """Answers a question about a picture."""
    return self._one("vqa", text=question, image=image, docs=docs, candidates=candidates, seed=seed, settings=settings)

  def infill(self, image: Picture, region: Sequence[int], text: str = "", *, docs=0, candidates: int = 1, seed: int = 0,
             **settings) -> list[Result]:
    """Draws the region (x0, y0, x1, y1), in pixels of `image`, anew; all codes outside it are kept."""
    return self._one("infill", text=text, image=image, region=region, docs=docs, candidates=candidates, seed=seed,
                     settings=settings)

  def edit(self, image: Picture, instruction: str, *, docs=0, candidates: int = 1, seed: int = 0,
           **settings) -> list[Result]:
    """Draws the picture after the instruction; `guidance` weighs the instruction, `image_guidance` the picture."""
    return self._one("edit", text=instruction, image=image, docs=docs, candidates=candidates, seed=seed,
                     settings=settings)

  def _one(self, task, *, settings, **fields) -> list[Result]:
    sampling = dataclasses.replace(default_sampling(task, fields["candidates"]), **settings)
    return next(self.run([self.job(task, sampling=sampling, **fields)]))[1]

  def job(self, task: str, *, text: str = "", image: Picture | None = None, region: Sequence[int] | None = None,
          docs: int | Sequence[str] = 0, candidates: int = 1, seed: int = 0, sampling: Sampling | None = None) -> Job:
    """Reads the inputs, retrieves, and lays out the prompt.

    Raises:
      InputError: an input is missing, unreadable, or does not fit the model.
    """
    if task not in TASKS:
      raise InputError(f"task={task}: no such task; known: {', '.join(TASKS)}")
    v, layout, text = self.vocabulary, self.layout, text.strip()
    if task != "text_to_image" and image is None:
      raise InputError(f"{task} needs a picture: give its path (--image=P)")
    if task in ("text_to_image", "vqa", "edit") and not text:
      raise InputError(f"{task} needs a text that is not empty: "
                       f"{ {'vqa': 'the question', 'edit': 'the instruction'}.get(task, 'what to draw')} (--text=T)")
    picture = given = ids = None
    if task != "text_to_image":
      picture = open_picture(image)
      given = squared(picture, self.image.image_size)
      ids = v.image_ids(self.image.encode(given[None])[0])
    found = self._documents(docs, text if task == "text_to_image" else given)
    pairs = [document.pair for document in found]
    words, source = self.text.encode(text), None
    if task == "text_to_image":
      streams = (prompts.text_to_image(v, layout, words, pairs), prompts.unconditional(v, layout))
    elif task == "infill":
      if region is None:
        raise InputError("infill needs a region: x0,y0,x1,y1 in pixels of the picture (--region)")
      cells = prompts.region_cells(layout, _in_square(region, picture, self.image.image_size), self.image.image_size)
      texts = [words, None] if text else [None]
      streams = tuple(prompts.infill_image(v, layout, t, ids, cells, pairs) for t in texts)
      source = ids
    elif task == "edit":
      query = self.text.encode(EDIT_QUERY)
      streams = (prompts.edit(v, layout, query, ids, words, pairs),
                 prompts.edit_without_instruction(v, layout, query, ids, pairs), prompts.unconditional(v, layout))
    else:
      before = self.text.encode(f"Question: {text} The answer is") if task == "vqa" else words
      streams = (prompts.image_to_text(v, layout, ids, before=before, docs=pairs),)
    sampling = sampling or default_sampling(task, candidates)
    if len(streams) == 2 and sampling.guidance == 1 and not sampling.contrast:
      streams = streams[:1]  # a twin without weight is not computed
    request = Request(streams, sampling, seed, candidates)
    return Job(task, text, request, found, given, source, text if task in ("text_to_image", "infill") else "")

  def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, list[Result]]]:
    """Yields (number of the job, its candidates best first), batch by batch."""
    for number, output in self._engine.run([job.request for job in jobs]):
      job, prompt = jobs[number], jobs[number].request.streams[0]
      log_probs = rerank.mean_log_prob(output.log_probs, output.tokens, prompt.given)
      if prompt.stop >= 0:
        texts = [self.text.decode(prompts.text_of(prompt, tokens)).strip() for tokens in output.tokens]
        drawn = [(None, None, text) for text in texts]
        scores = log_probs
      else:
        codes = np.stack([self.vocabulary.image_codes(prompts.image_of(prompt, t, job.source)) for t in output.tokens])
        images = self.image.decode(codes)
        drawn = [(image, code, "") for image, code in zip(images, codes)]
        scores = self._scores(job, images)
      ordered = rerank.best_first(scores) if scores is not None else range(len(drawn))
      yield number, [Result(*drawn[i], None if scores is None else float(scores[i]), float(log_probs[i]), int(i),
                            job.retrieved, int(output.passes[i])) for i in ordered]

  def answer_log_probs(self, job: Job, answers: Sequence[str]) -> list[np.ndarray]:
    """Log-probabilities in nats of each answer's tokens and its end, had the model given it; cut to the slot's room."""
    prompt = job.request.streams[0]
    ids = [np.append(self.text.encode(answer.strip())[:prompt.steps - 1], prompt.stop) for answer in answers]
    return self._engine.log_probs(prompt, ids)

  def pair_log_probs(self, job: Job, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities in nats of a real picture's ids [I] after the text of a text_to_image `job` and its documents;
    and of that text's tokens and its end [T + 1] before that picture, by infill."""
    pairs = [document.pair for document in job.retrieved]
    image, = self._engine.log_probs(job.request.streams[0], [ids])
    before = prompts.image_to_text(self.vocabulary, self.layout, ids, docs=pairs)
    text, = self._engine.log_probs(before, [np.append(self.text.encode(job.text)[:before.steps - 1], before.stop)])
    return image, text

  def _scores(self, job: Job, images: np.ndarray) -> np.ndarray | None:
    if not job.wanted:
      return None
    return rerank.clip_scores(self.encoder.encode_text([job.wanted])[0], self.encoder.encode_images(images))

  def _documents(self, docs, query) -> tuple[Document, ...]:
    if isinstance(docs, int):
      if docs < 0:
        raise InputError(f"docs={docs} must be at least 0")
      room = self.layout.max_documents - 1
      if docs > room:
        raise InputError(f"docs={docs}: this model reads at most {room} documents before a prompt")
      return self.retriever.search(query, docs) if docs else ()
    return self.retriever.get(list(docs), [None] * len(docs)) if len(docs) else ()


def load(checkpoint: str | os.PathLike, index: str | os.PathLike | None = None,
         tokenizers: str | os.PathLike | None = None, exclude: Collection[str] = (),
         devices: Sequence[jax.Device] = (), jacobi_window: int = 0) -> Model:
  """Opens a run folder or a released checkpoint.

  Args:
    checkpoint: folder with `model.json`; `tokenizers/demo_model` ships.
    index: folder of the retrieval index, with documents/train beside it; by default the checkpoint's own, if it has one.
    tokenizers: folder with `text`, `image` and `clip`. By default those with the fingerprints of
      `model.json` are looked for in the checkpoint, beside it, and among the shipped assets.
    exclude: ids of documents that retrieval never returns.
    devices: that share the jobs of a `run`, each with a copy of the model; by default JAX's first.
    jacobi_window: image tokens guessed and checked in one forward pass, at least 2; 0 = one token a pass.

  Raises:
    InputError: something is missing, or made by something else.
  """
  checkpoint = assets.find(checkpoint)
  own = checkpoint / "index"
  index = assets.find(index) if index else own if manifest.exists(own) else None
  loaded = checkpoints.load_for_inference(checkpoint)
  find = functools.partial(_find, checkpoint=Path(checkpoint), meta=loaded[-1],
                           extra=[Path(p) for p in (tokenizers, Path(index).parent if index else None) if p])
  text = find("text", "text_tokenizer", TextTokenizer.load)
  image = find("image", "image_tokenizer", ImageTokenizer.load)
  return Model(loaded, text, image, lambda: find("clip", "encoder", Encoder.load), index, exclude, devices,
               jacobi_window)


def default_sampling(task: str, candidates: int) -> Sampling:
  """The settings of a task where nothing is asked for."""
  return _SEVERAL_TEXTS if task in ("image_to_text", "vqa") and candidates > 1 else DEFAULTS.get(task, Sampling())


def _find(name: str, field: str, open_folder, *, checkpoint: Path, meta: dict, extra: Sequence[Path]):
  """Opens the folder `name` whose fingerprint is `meta[field]`."""
  wanted = meta.get(field)
  if not wanted:
    raise InputError(f"{checkpoint}/model.json does not say which {field} the model was trained with; "
                     "train or export it again")
  roots = [*extra, checkpoint, checkpoint.resolve().parent, *([Path(meta["data"])] if meta.get("data") else [])]
  places = [root / part / name for root in roots for part in ("", "assets", "tokenizers")]
  places.append(assets.root("tokenizers") / f"demo_{name}")
  for place in dict.fromkeys(places):
    try:
      known = json.loads((place / manifest.FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
      continue
    if wanted in known.values():
      return open_folder(place)
  looked = ", ".join(str(p) for p in dict.fromkeys(places) if p.is_dir()) or f"{name}/ in {', '.join(map(str, roots))}"
  raise InputError(f"{checkpoint}: trained with the {field.replace('_', ' ')} {wanted}, which is not found (looked in: "
                   f"{looked}); put it into {checkpoint / 'tokenizers' / name}")


def open_picture(image: Picture) -> Image.Image:
  """Any picture → RGB; what is transparent becomes white, as in the corpus."""
  if isinstance(image, (str, os.PathLike)):
    if not Path(image).is_file():
      raise InputError(f"{image}: no such picture")
    try:
      opened = Image.open(image)
      opened.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
      raise InputError(f"{image}: not a picture that can be read ({error}); give a PNG or JPEG file") from error
  else:
    opened = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
  rgba = ImageOps.exif_transpose(opened).convert("RGBA")  # a phone's photograph stands as its holder saw it
  ground = Image.new("RGBA", rgba.size, "white")
  return Image.alpha_composite(ground, rgba).convert("RGB")


def squared(picture: Image.Image, size: int) -> np.ndarray:
  """uint8[size, size, 3]: the middle square, scaled."""
  left, top, side = _middle(picture)
  square = picture.crop((left, top, left + side, top + side))
  return np.asarray(square if side == size else square.resize((size, size), Image.Resampling.LANCZOS))


def _middle(picture: Image.Image) -> tuple[int, int, int]:
  side = min(picture.size)
  return (picture.width - side) // 2, (picture.height - side) // 2, side


def _in_square(region: Sequence[int], picture: Image.Image, size: int) -> tuple[int, ...]:
  """A region in the picture's pixels → in those of its middle square scaled to `size`, rounded outwards."""
  if len(region) != 4:
    raise InputError(f"region {','.join(map(str, region))}: write it as x0,y0,x1,y1 in pixels")
  (x0, y0, x1, y1), (left, top, side) = region, _middle(picture)
  if not (0 <= x0 < x1 <= picture.width and 0 <= y0 < y1 <= picture.height):
    raise InputError(f"region {x0},{y0},{x1},{y1} is empty or lies outside the picture of "
                     f"{picture.width} x {picture.height} pixels")
  low = [max(0, int(np.floor((v - o) * size / side))) for v, o in ((x0, left), (y0, top))]
  high = [min(size, int(np.ceil((v - o) * size / side))) for v, o in ((x1, left), (y1, top))]
  if low[0] >= high[0] or low[1] >= high[1]:
    raise InputError(f"region {x0},{y0},{x1},{y1} lies outside the middle square of the picture, which is all "
                     f"the model sees: x {left}..{left + side}, y {top}..{top + side}")
  return (*low, *high)
