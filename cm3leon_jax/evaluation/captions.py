"""CIDEr-D, BLEU-1…4 and ROUGE-L, equal to pycocoevalcap's on the same tokens.

All scores are computed for the corpus at once on integer n-gram ids: a sentence is a row
of (n-gram, count) entries, and tf-idf, clipping and norms are sums over such entries.

Sources: Vedantam et al. 2015 (CIDEr-D), Papineni et al. 2002 (BLEU), Lin 2004 (ROUGE-L),
with the constants of pycocoevalcap 1.2, which published COCO numbers come from.
"""

import os
from typing import NamedTuple, Sequence

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import bootstrap, caption_files, files, java_metrics, ptb

TOKENIZERS = {"rules": "own rules after Stanford PTB (no Java)", "ptb": "Stanford PTBTokenizer 3.4.1"}
METRICS = ("cider", "bleu", "rouge_l")
JAVA_METRICS = ("meteor", "spice")  # in java_metrics, under the same names
MAX_N = 4
CIDER_SIGMA = 6.0  # width of the length penalty, in bigrams
ROUGE_BETA = 1.2
_SMALL, _TINY = 1e-9, 1e-15  # keep BLEU finite when nothing matches

Tokens = Sequence[str]


class _Entries(NamedTuple):
  """Distinct n-grams of each sentence; sorted by (sentence, gram). All arrays are [entries]."""
  sentence: np.ndarray
  gram: np.ndarray
  count: np.ndarray


class Corpus(NamedTuple):
  """N hypotheses and their R references (each image has at least one) as numbers."""
  grams: list[_Entries]  # for n = 1 … MAX_N; sentences 0 … N−1 are hypotheses, N … N+R−1 references
  lengths: np.ndarray  # int64[N + R], tokens
  image: np.ndarray  # int64[N + R], image number of each sentence
  num_images: int


def corpus(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Corpus:
  """Counts n-grams. `references[i]` are the references of `hypotheses[i]`.

  Raises:
    ValueError: no sentences, the two differ in number, or an image has no reference.
  """
  if len(hypotheses) != len(references) or not hypotheses:
    raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} images; they must be equal and above 0")
  without = [i for i, refs in enumerate(references) if not refs]
  if without:
    raise ValueError(f"{len(without)} images have no reference, the first is number {without[0]}")
  sentences = list(hypotheses) + [ref for refs in references for ref in refs]
  image = np.concatenate([np.arange(len(hypotheses)),
                          np.repeat(np.arange(len(hypotheses)), [len(refs) for refs in references])])
  lengths = np.array([len(s) for s in sentences], np.int64)
  words: dict[str, int] = {}
  tokens = np.fromiter((words.setdefault(word, len(words)) for s in sentences for word in s), np.int64, lengths.sum())
  sentence = np.repeat(np.arange(len(sentences)), lengths)
  grams = []
  ids, last = tokens, np.arange(len(tokens))  # the n-gram's id, and where its last token stands
  for n in range(1, MAX_N + 1):
    if n > 1:  # lengthen each (n−1)-gram by the next token of the same sentence
      keep = last + 1 < len(tokens)
      keep[keep] = sentence[last[keep] + 1] == sentence[last[keep]]
      ids, last = ids[keep], last[keep] + 1
      ids = ids * len(words) + tokens[last]
      ids = np.searchsorted(_distinct(ids), ids)
    size = int(ids.max()) + 1 if len(ids) else 1
    all_keys = np.sort(sentence[last] * size + ids)
    keys = _distinct(all_keys)
    count = np.diff(np.searchsorted(all_keys, keys), append=len(all_keys))
    grams.append(_Entries(keys // size, keys % size, count))
  return Corpus(grams, lengths, image, len(hypotheses))


def _distinct(values: np.ndarray) -> np.ndarray:
  """The sorted distinct values of an int64 array; np.unique's hash table is 20 times slower than a vectorised sort."""
  values = np.sort(values)
  return values[np.concatenate([[True], values[1:] != values[:-1]])[:len(values)]]


def _in_hypothesis(data: Corpus, entries: _Entries) -> tuple[np.ndarray, np.ndarray]:
  """For each entry: its row among the hypotheses' entries of the same image and gram, and whether it has one."""
  size = int(entries.gram.max(initial=0)) + 1
  num_hyp = int(np.searchsorted(entries.sentence, data.num_images))
  hyp_keys = entries.sentence[:num_hyp] * size + entries.gram[:num_hyp]  # a hypothesis' number is its image's
  keys = data.image[entries.sentence] * size + entries.gram
  if not num_hyp:
    return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
  row = np.minimum(np.searchsorted(hyp_keys, keys), num_hyp - 1)
  return row, hyp_keys[row] == keys


def cider(data: Corpus) -> np.ndarray:
  """CIDEr-D of each image, float64[N]; document frequencies come from the references given."""
  num_images, num_sentences = data.num_images, len(data.lengths)
  log_images = np.log(float(num_images))
  total = np.zeros(num_sentences)
  for entries in data.grams:
    is_ref = entries.sentence >= num_images
    size = int(entries.gram.max(initial=0)) + 1
    seen = _distinct(data.image[entries.sentence[is_ref]] * size + entries.gram[is_ref])
    frequency = np.bincount(seen % size, minlength=size)
    weight = entries.count * (log_images - np.log(np.maximum(1.0, frequency)))[entries.gram]
    norm = np.sqrt(np.bincount(entries.sentence, weight**2, num_sentences))
    row, found = _in_hypothesis(data, entries)
    match = np.flatnonzero(found & is_ref)
    dot = np.bincount(entries.sentence[match], np.minimum(weight[row[match]], weight[match]) * weight[match],
                      num_sentences).astype(np.float64)  # bincount of nothing counts in integers
    scale = norm[data.image] * norm  # a hypothesis is sentence number `image`
    total += np.divide(dot, scale, out=dot.copy(), where=scale != 0)
  bigrams = np.maximum(data.lengths - 1, 0)
  delta = (bigrams[data.image] - bigrams).astype(np.float64)
  total *= np.exp(-delta**2 / (2 * CIDER_SIGMA**2))
  ref = slice(num_images, None)
  sums = np.bincount(data.image[ref], total[ref], num_images)
  return 10.0 * sums / MAX_N / np.bincount(data.image[ref], minlength=num_images)


def bleu_parts(data: Corpus) -> np.ndarray:
  """What BLEU sums over a corpus: float64[N, 2 + 2·4]: length, closest reference length, matches, n-grams."""
  num_images = data.num_images
  length = data.lengths[:num_images]
  refs = data.lengths[num_images:]
  image = data.image[num_images:]
  # The closest reference; of two equally close the shorter, as in the reference's min over (distance, length).
  order = np.lexsort((refs, np.abs(refs - length[image]), image))
  first = np.searchsorted(image[order], np.arange(num_images))
  parts = [length, refs[order][first]]
  guesses = []
  for n, entries in enumerate(data.grams, 1):
    row, found = _in_hypothesis(data, entries)
    match = np.flatnonzero(found & (entries.sentence >= num_images))
    num_hyp = int(np.searchsorted(entries.sentence, num_images))
    most = np.zeros(num_hyp, np.int64)
    np.maximum.at(most, row[match], entries.count[match])
    clipped = np.minimum(most, entries.count[:num_hyp])
    parts.append(np.bincount(entries.sentence[:num_hyp], clipped, num_images))
    guesses.append(np.maximum(0, length - n + 1))
  return np.stack(parts + guesses, axis=1).astype(np.float64)


def bleu(parts: np.ndarray, count: int = 1) -> np.ndarray:
  """BLEU-1 … BLEU-4 from summed parts [..., 10], or from their means over `count` examples; float64[..., 4]."""
  length, closest = parts[..., :1] * count, parts[..., 1:2] * count
  matches, guesses = parts[..., 2:2 + MAX_N] * count, parts[..., 2 + MAX_N:] * count
  precision = np.cumprod((matches + _TINY) / (guesses + _SMALL), axis=-1)
  ratio = (length + _TINY) / (closest + _SMALL)
  penalty = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
  return precision ** (1 / np.arange(1, MAX_N + 1)) * penalty


def _lcs(positions: dict[str, int], length: int, tokens: Tokens) -> int:
  """Longest common subsequence, bit-parallel (Hyyrö 2004): one step of big-integer arithmetic a token.

  Args:
    positions: word → bits of the places where the other sentence of `length` tokens has it.
  """
  row = full = (1 << length) - 1
  for token in tokens:
    match = row & positions.get(token, 0)
    row = ((row + match) | (row - match)) & full
  return length - row.bit_count()


def rouge_l(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> np.ndarray:
  """ROUGE-L of each image, float64[N]: the best precision and the best recall over its references."""
  scores = []
  for hypothesis, refs in zip(hypotheses, references, strict=True):
    hypothesis = hypothesis or [""]  # the reference splits an empty caption into one empty word
    positions: dict[str, int] = {}
    for i, token in enumerate(hypothesis):
      positions[token] = positions.get(token, 0) | 1 << i
    common = [(_lcs(positions, len(hypothesis), ref or [""]), len(ref or [""])) for ref in refs]
    precision = max(lcs for lcs, _ in common) / len(hypothesis)
    recall = max(lcs / length for lcs, length in common)
    scores.append((1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision) if recall else 0.0)
  return np.array(scores)


def score(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]],
          metrics: Sequence[str] = METRICS) -> dict[str, float]:
  """Caption metrics of a corpus of tokens, as fractions (CIDEr of 10), each with `_low` and `_high`.

  The intervals resample images; CIDEr's document frequencies stay those of the whole corpus.

  Args:
    metrics: of METRICS (all of them by default) and JAVA_METRICS; `bleu` gives `bleu_1` … `bleu_4`.

  Raises:
    InputError: a metric is unknown, or one needs Java and what it needs is missing.
  """
  check_metrics(metrics)
  data = corpus(hypotheses, references)
  columns = {}  # what is summed over images, resampled together below
  if "cider" in metrics:
    columns["cider"] = cider(data)
  if "rouge_l" in metrics:
    columns["rouge_l"] = rouge_l(hypotheses, references)
  if "bleu" in metrics:
    columns["bleu"] = bleu_parts(data)
  means = {}
  if columns:
    resampled = bootstrap.resampled_means(np.column_stack(list(columns.values())))
    widths = [column[0].size for column in columns.values()]
    means = dict(zip(columns, np.split(resampled, np.cumsum(widths)[:-1], axis=1)))
  result: dict[str, float] = {}
  for metric in dict.fromkeys(metrics):
    if metric == "bleu":
      estimate, low_high = bleu(columns["bleu"].sum(axis=0)), bleu(means["bleu"], data.num_images)
      for n in range(MAX_N):
        result |= bootstrap.interval(estimate[n], low_high[:, n]).as_fields(f"bleu_{n + 1}")
    elif metric in columns:
      result |= bootstrap.interval(columns[metric].mean(), means[metric][:, 0]).as_fields(metric)
    else:
      result |= getattr(java_metrics, metric)(hypotheses, references).corpus.as_fields(metric)
  return result


def per_item(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> dict[str, np.ndarray]:
  """Scores of each image: `cider`, `rouge_l`, `bleu_4`, each float64[N].

  CIDEr's document frequencies are those of all references given, so an image's score depends on its company. BLEU of
  one sentence is pycocoevalcap's, which has no smoothing but a tiny constant: without a common 4-gram it is near 0.
  """
  data = corpus(hypotheses, references)
  return {"cider": cider(data), "rouge_l": rouge_l(hypotheses, references), "bleu_4": bleu(bleu_parts(data))[:, -1]}


def check_metrics(metrics: Sequence[str]) -> None:
  """Raises InputError where a metric is unknown, or none is named."""
  unknown = [metric for metric in metrics if metric not in METRICS + JAVA_METRICS]
  if unknown or not metrics:
    raise InputError(f"--metrics: {', '.join(unknown) or 'nothing'} named; known: {', '.join(METRICS + JAVA_METRICS)}")


def check_tokenizer(tokenizer: str) -> None:
  """Raises InputError where a tokenizer is unknown."""
  if tokenizer not in TOKENIZERS:
    raise InputError(f"--tokenizer={tokenizer}: unknown; known: {', '.join(TOKENIZERS)}")


def tokenize(texts: Sequence[str], tokenizer: str = "rules") -> list[list[str]]:
  """Tokens of captions.

  Args:
    tokenizer: `rules` (`ptb.tokenize`) or `ptb` (Stanford's, needs Java and pycocoevalcap).
  """
  check_tokenizer(tokenizer)
  return ptb.tokenize_java(texts) if tokenizer == "ptb" else [ptb.tokenize(text) for text in texts]


def evaluate_captions(predictions: str | os.PathLike, references: str | os.PathLike, json_out: str | os.PathLike = "",
                      *, split: str | os.PathLike = "", metrics: Sequence[str] = METRICS, tokenizer: str = "rules",
                      allow_missing: bool = False) -> dict:
  """Scores COCO results against a file of references, over all its images or those of a split.

  Args:
    predictions: JSON `[{"image_id", "caption"}, …]`, one caption an image.
    references: JSON of a form that `caption_files.read_references` knows: COCO's, or Image Paragraph Captioning's.
    json_out: where the result goes; empty for nowhere.
    split: JSON list of the image ids to score (paragraphs: `test_split.json`); empty for all of the references.
    metrics: see `score`.
    tokenizer: see `tokenize`.
    allow_missing: score the images that have a prediction, instead of stopping at those without.

  Returns:
    Flat: `cider`, `bleu_1` … `bleu_4`, `rouge_l` (or what `metrics` names; each also `_low`, `_high`: 95 % interval
    over images), `count`, `share_scored`, `empty_captions`, `empty_references`, `tokenizer`.

  Raises:
    InputError: a file is missing or of another form; duplicate, unknown or missing image ids; an image without
      references; an unknown metric or tokenizer, or what one needs is missing.
  """
  check_metrics(metrics)
  check_tokenizer(tokenizer)
  predicted = caption_files.read_predictions(predictions)
  truth = caption_files.read_references(references, split)
  ids = files.check_ids(list(predicted), list(truth), predictions, split or references, "image id", allow_missing)
  tokens = tokenize([predicted[i] for i in ids] + [caption for i in ids for caption in truth[i]], tokenizer)
  hypotheses, rest = tokens[:len(ids)], iter(tokens[len(ids):])
  ref_tokens = [[next(rest) for _ in truth[i]] for i in ids]
  result = score(hypotheses, ref_tokens, metrics)
  result |= {"count": len(ids), "share_scored": len(ids) / len(truth),
             "empty_captions": sum(not tokens for tokens in hypotheses),
             "empty_references": sum(not tokens for refs in ref_tokens for tokens in refs),
             "tokenizer": TOKENIZERS[tokenizer]}
  if json_out:
    files.write_json(json_out, result)
  return result
