"""Any corpus → raw pairs: read, clean, prepare, leave out what cannot be used, set some aside; as Beam pipelines.

    D/corpus/train/pairs-*.arrayrecord   D/corpus/heldout/pairs-*.arrayrecord   D/corpus/rejects/rejects-*.jsonl

One shard of the source makes one shard of each split, so that a shard is the unit of work and of resume, and nothing
depends on which worker had it. Three passes, each over the shards that lack it:

1. prepare: records → pairs and rejects of the shard, with a digest of each id and picture;
2. duplicates: digests of all shards, grouped → which rows fall; the first one in the order of the source stays;
3. divide: pairs without those rows → the splits, by a hash of the picture, so that equal pictures stay together.
"""

import collections
import dataclasses
import hashlib
import io
import json
import os
from pathlib import Path
import shutil
import sys
import time
from typing import Any, Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np

from cm3leon_jax import manifest, records
from cm3leon_jax.datasets import caption_cleaning, pairs, pictures
from cm3leon_jax.datasets.corpora.corpus import CHOSEN, Corpus
from cm3leon_jax.datasets.corpora.raw import Raw, kept
from cm3leon_jax.datasets.splits import stable_fraction
from cm3leon_jax.errors import InputError
from cm3leon_jax.pipelines import shards

_DIGEST = 16  # bytes
_ID, _PICTURE = "duplicate_id", "duplicate_picture"
_MOST_WORDS = 256
QUANTILES = {"least": 0, "median": 0.5, "95 %": 0.95, "most": 1}


def make(folder: str | os.PathLike, corpus: Corpus, pixels: int, beam_options: Sequence[str] = ()) -> Path:
  """Makes the corpus folder, or what is missing of it.

  Args:
    folder: D/corpus.
    corpus: the source and what to do.
    pixels: side of the pictures.
    beam_options: Beam's own flags.

  Raises:
    InputError: nothing to read, too many bad records, or a folder that other settings made.
  """
  folder, settings = Path(folder), corpus.settings(pixels)
  if manifest.exists(folder):
    made = pairs.about(folder).get("settings")
    if made != settings:
      changed = sorted(k for k in settings if (made or {}).get(k) != settings[k])
      raise InputError(f"{folder}: made with another {', '.join(changed)}; take another --workdir, or delete the folder "
                       "and what was made from it")
    return folder
  begin = time.time()
  job = Job(str(folder), corpus, pixels, tuple(corpus.source.shards()))
  _begin(folder, {"settings": settings, "shards": list(job.shards)})
  numbers = range(len(job.shards))
  job.run("prepare", [n for n in numbers if not job.report(n).exists()], beam_options)
  for kind in (_ID, _PICTURE) if corpus.drop_duplicates else (_ID,):
    if not (job.work / f"{kind}.done").exists():
      _find_duplicates(job, kind, beam_options)
      (job.work / f"{kind}.done").touch()
  job.run("divide", [n for n in numbers if not job.divided(n).exists()], beam_options)
  for left_over in folder.rglob("*.partial-*"):  # of workers that were killed
    left_over.unlink()
  fields = _gather(job)
  told = _tell(fields, folder)
  _check(fields, corpus, folder, told)
  manifest.write_file(folder, "corpus", {**fields, "pixels": pixels, "settings": settings})
  shutil.rmtree(job.work)
  (folder / "plan.json").unlink()
  seconds = time.time() - begin
  print(f"{told}; {seconds:.0f} s, {fields['read'] / max(seconds, 1e-9):,.0f} records/s", file=sys.stderr)
  return folder


def _begin(folder: Path, plan: dict[str, Any]) -> None:
  """Keeps a folder that was begun with the same plan, and empties one of another."""
  path, text = folder / "plan.json", json.dumps(plan, sort_keys=True)
  if not path.is_file() or path.read_text(encoding="utf-8") != text:
    if path.is_file():
      print(f"  corpus: {folder} was begun with other settings or other shards; begins anew", file=sys.stderr)
    for stale in (*pairs.SPLITS, "prepared", "rejects"):
      shutil.rmtree(folder / stale, ignore_errors=True)
    for name in (*pairs.SPLITS, "prepared", "rejects"):
      (folder / name).mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Job:
  """The work on one shard, and where its files lie. Picklable."""

  folder: str
  corpus: Corpus
  pixels: int
  shards: tuple[str, ...]

  @property
  def work(self) -> Path:
    return Path(self.folder) / "prepared"

  def _name(self, stem: str, shard: int, suffix: str) -> str:
    return records.shard_name(stem, shard, len(self.shards)).replace(".arrayrecord", suffix)

  def prepared(self, shard: int) -> Path:
    return self.work / self._name(pairs.KIND, shard, ".arrayrecord")

  def keys(self, shard: int) -> Path:
    return self.work / self._name("keys", shard, ".npy")

  def report(self, shard: int) -> Path:
    return self.work / self._name("report", shard, ".json")

  def fallen(self, kind: str, shard: int) -> Path:
    return self.work / self._name(kind, shard, ".json")

  def divided(self, shard: int) -> Path:
    return self.work / self._name("divided", shard, ".json")

  def rejects(self, shard: int, folder: str = "rejects") -> Path:
    return Path(self.folder) / folder / self._name("rejects", shard, ".jsonl")

  def run(self, step: str, numbers: list[int], beam_options: Sequence[str]) -> None:
    """One pass over those shards."""
    if numbers:
      with shards.pipeline(beam_options) as pipeline:
        _ = pipeline | beam.Create(numbers, reshuffle=True) | beam.Map(getattr(self, step))

  def prepare(self, shard: int) -> None:
    """Pass 1: writes the pairs, their digests, the rejects, and last the report."""
    begin, report = time.time(), _Report()
    with _whole(self.prepared(shard)) as to:
      records.write_shard(to, self._pairs(shard, report))
    _write(self.keys(shard), report.keys_npy())
    _write(self.rejects(shard, "prepared"), _lines(report.rejects))
    _write(self.report(shard), json.dumps(report.counts()).encode())
    print(f"  corpus shard {shard + 1} of {len(self.shards)}: {report.read} records, {len(report.rejects)} rejected, "
          f"{time.time() - begin:.1f} s", file=sys.stderr, flush=True)

  def _pairs(self, shard: int, report: "_Report") -> Iterator[records.Record]:
    preparation = pictures.Preparation(self.pixels, self.corpus.min_side, self.corpus.max_pixels, self.corpus.max_aspect)
    steps = caption_cleaning.steps(self.corpus.cleaning)
    for raw in self.corpus.source.read(self.shards[shard]):
      report.read += 1
      name = _printable(raw.id)
      try:
        if raw.problem:
          raise pictures.Rejected(*raw.problem)
        caption = _caption(raw, steps)
        image, notes = preparation(raw.image)
      except pictures.Rejected as reason:
        report.rejects.append({"id": name, "shard": self.shards[shard], "kind": reason.kind, "reason": reason.reason,
                               "caption": _printable(raw.caption)[:200]})
        continue
      report.notes.update(notes)
      report.words[min(len(caption.split()), _MOST_WORDS)] += 1
      report.keys.append(_digest(name.encode()) + _digest(image.tobytes()))
      yield {"id": name, "caption": caption, "image": pictures.pack(image), "extra": kept(raw.extra, self.corpus.keep)}

  def divide(self, shard: int) -> None:
    """Pass 3: writes the shard of each split, its final rejects, and last the counts."""
    fell = {row: (kind, first) for kind in (_PICTURE, _ID) if self.fallen(kind, shard).exists()
            for row, first in json.loads(self.fallen(kind, shard).read_text())}
    keys = np.load(self.keys(shard))
    held = [stable_fraction(bytes(k[_DIGEST:]).hex(), "corpus/heldout") < self.corpus.held_out for k in keys]
    rows = records.Reader.of_shard(self.prepared(shard))
    counts = {}
    for split in pairs.SPLITS:
      with _whole(Path(self.folder) / split / self.prepared(shard).name) as to:
        counts[split] = records.write_shard(to, (rows[i] for i, h in enumerate(held)
                                                 if i not in fell and h == (split == pairs.HELD_OUT)))
    duplicates = []
    for row in sorted(fell):
      kind, (first_shard, first_row) = fell[row]
      record = rows[row]
      duplicates.append({"id": record["id"], "shard": self.shards[shard], "kind": kind, "caption": record["caption"][:200],
                         "reason": f"as pair {first_row} of {self.shards[first_shard]}"})
    _write(self.rejects(shard), self.rejects(shard, "prepared").read_bytes() + _lines(duplicates))
    counts["rejects"] = collections.Counter(d["kind"] for d in duplicates)
    _write(self.divided(shard), json.dumps(counts).encode())

  def digests(self, shard: int, kind: str) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """(digest, (shard, row)) of the rows that have not fallen before."""
    gone = set()
    if kind == _PICTURE and self.fallen(_ID, shard).exists():
      gone = {row for row, _ in json.loads(self.fallen(_ID, shard).read_text())}
    part = slice(0, _DIGEST) if kind == _ID else slice(_DIGEST, None)
    for row, key in enumerate(np.load(self.keys(shard))):
      if row not in gone:
        yield bytes(key[part]), (shard, row)

  def write_fallen(self, kind: str, fell: tuple[int, Iterable]) -> None:
    """The rows of a shard that fall, each with the (shard, row) that stays."""
    shard, rows = fell
    _write(self.fallen(kind, shard), json.dumps(sorted(rows)).encode())


class _Report:
  """What one shard gave."""

  def __init__(self):
    self.read, self.rejects, self.keys = 0, [], []
    self.notes, self.words = collections.Counter(), collections.Counter()

  def keys_npy(self) -> bytes:
    """uint8[N, 32]: the digests of each pair's id and picture."""
    out = io.BytesIO()
    np.save(out, np.frombuffer(b"".join(self.keys), np.uint8).reshape(-1, 2 * _DIGEST))
    return out.getvalue()

  def counts(self) -> dict[str, Any]:
    return {"read": self.read, "rejects": collections.Counter(r["kind"] for r in self.rejects), "notes": self.notes,
            "words": sorted(self.words.items())}


def _find_duplicates(job: Job, kind: str, beam_options: Sequence[str]) -> None:
  """Pass 2 for ids or pictures."""
  def later(group):
    _, rows = group
    first, *others = sorted(rows)
    for shard, row in others:
      yield shard, (row, first)

  with shards.pipeline(beam_options) as pipeline:
    _ = (pipeline | beam.Create(list(range(len(job.shards))), reshuffle=True)
         | "digests" >> beam.FlatMap(job.digests, kind)
         | "equal" >> beam.GroupByKey()
         | "later" >> beam.FlatMap(later)
         | "by shard" >> beam.GroupByKey()
         | "write" >> beam.Map(lambda fell: job.write_fallen(kind, fell)))


def _gather(job: Job) -> dict[str, Any]:
  """The counts of all shards, for the manifest; words are those of all pairs, duplicates too, 256 standing for more."""
  read, rejects, notes, words = 0, collections.Counter(), collections.Counter(), collections.Counter()
  splits: dict[str, list[int]] = {name: [] for name in pairs.SPLITS}
  for n in range(len(job.shards)):
    report, divided = (json.loads(path.read_text()) for path in (job.report(n), job.divided(n)))
    read += report["read"]
    notes.update(report["notes"])
    words.update(dict(report["words"]))
    rejects.update(report["rejects"])
    rejects.update(divided["rejects"])
    for name in pairs.SPLITS:
      splits[name].append(divided[name])
  return {"read": read, "splits": splits, "count": sum(map(sum, splits.values())), "rejects": dict(sorted(rejects.items())),
          "notes": dict(sorted(notes.items())), "caption_words": quantiles(words)}


def quantiles(numbers: collections.Counter) -> dict[str, int]:
  """Of a count of each number; empty for none."""
  if not numbers:
    return {}
  values, counts = np.array(sorted(numbers.items())).T
  places = np.cumsum(counts)
  at = lambda q: int(values[np.searchsorted(places, max(1, np.ceil(q * places[-1])))])
  return {name: at(q) for name, q in QUANTILES.items()}


def _tell(fields: dict[str, Any], folder: Path) -> str:
  sizes = ", ".join(f"{sum(n):,} {name}" for name, n in fields["splits"].items())
  told = [f"corpus: {fields['read']:,} records read, {fields['count']:,} pairs ({sizes})"]
  if fields["rejects"]:
    told.append("left out: " + ", ".join(f"{kind} {n:,}" for kind, n in fields["rejects"].items()) + f" ({folder / 'rejects'})")
  if fields["notes"]:
    told.append("put right: " + ", ".join(f"{kind} {n:,}" for kind, n in fields["notes"].items()))
  return "; ".join(told)


def _check(fields: dict[str, Any], corpus: Corpus, folder: Path, told: str) -> None:
  bad = sum(n for kind, n in fields["rejects"].items() if kind not in CHOSEN)
  if not sum(fields["splits"][pairs.TRAIN]):
    raise InputError(f"{told}: nothing to train on; see {folder / 'rejects'} and docs/corpora.md")
  if bad > corpus.most_rejects * fields["read"]:
    raise InputError(f"{told}: {bad / fields['read']:.1%} of the records are bad, Corpus.most_rejects allows "
                     f"{corpus.most_rejects:.1%}; look at {folder / 'rejects'}, then mend the source and delete {folder}, "
                     "or raise that share and go on")


def _caption(raw: Raw, steps: Sequence[caption_cleaning.Step]) -> str:
  caption = raw.caption
  if isinstance(caption, bytes):
    try:
      caption = caption.decode("utf-8-sig")
    except UnicodeDecodeError as error:
      raise pictures.Rejected("caption_not_utf8", str(error)) from error
  if not isinstance(caption, str):
    raise pictures.Rejected("no_caption", "none" if caption is None else f"a {type(caption).__name__}, not text")
  try:
    caption.encode()
  except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
    raise pictures.Rejected("caption_not_utf8", str(error)) from error
  for step in steps:
    caption = step(caption)
  if not caption:
    raise pictures.Rejected("empty_caption", "nothing is left after cleaning")
  return caption


def _printable(text: Any) -> str:
  """Any field as text that can be stored as UTF-8."""
  if isinstance(text, bytes):
    return text.decode("utf-8", "backslashreplace")
  return "" if text is None else str(text).encode("utf-8", "backslashreplace").decode()


def _digest(data: bytes) -> bytes:
  return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _lines(rows: Iterable[dict]) -> bytes:
  return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _write(path: Path, data: bytes) -> None:
  with _whole(path) as to:
    to.write_bytes(data)


class _whole:
  """A file under a temporary name, renamed when it is whole."""

  def __init__(self, path: Path):
    self._path, self._partial = path, path.with_name(f"{path.name}.partial-{os.getpid()}")

  def __enter__(self) -> Path:
    return self._partial

  def __exit__(self, kind, error, trace) -> None:
    if error is None:
      self._partial.replace(self._path)
      return
    self._partial.unlink(missing_ok=True)
    if isinstance(error, OSError) and error.errno == 28:  # ENOSPC
      raise InputError(f"no space left while writing {self._path}: free some and run again; finished shards are kept") from error
