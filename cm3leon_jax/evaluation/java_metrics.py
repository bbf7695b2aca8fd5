"""METEOR and SPICE: pycocoevalcap's own Java programs, run on tokens.

Sources: Denkowski and Lavie 2014 (METEOR 1.5), Anderson et al. 2016 (SPICE 1.0). Neither has another implementation
that gives the same digits: METEOR aligns through a table of 60 MB of paraphrases, SPICE through Stanford's parser.
"""

import contextlib
import subprocess
from typing import NamedTuple, Sequence

import numpy as np

from cm3leon_jax.errors import InputError
from cm3leon_jax.evaluation import bootstrap, java

Tokens = Sequence[str]

# METEOR's parameters for English (its option -l en), used for the interval only: the values are the program's.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
_CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class Score(NamedTuple):
  """A metric of the corpus with its 95 % interval, and of each image, float64[N]."""
  corpus: bootstrap.Interval
  per_image: np.ndarray


def meteor(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Score:
  """METEOR 1.5: some 400 images of five references a second, after seconds of loading.

  The corpus' value is that of its summed counts, no mean over images.

  Raises:
    InputError: Java, pycocoevalcap or one of its files is missing, or the program stopped.
  """
  with java.on_path("METEOR") as folder:
    java.check_files("METEOR", [folder / "meteor" / "meteor-1.5.jar", folder / "meteor" / "data" / "paraphrase-en.gz"],
                     "install pycocoevalcap 1.2 anew, it holds them")
    from pycocoevalcap.meteor.meteor import Meteor

    counts = []

    class Recorded(Meteor):
      """Keeps the counts of each image."""

      def _stat(self, hypothesis_str, reference_list):
        line = super()._stat(hypothesis_str, reference_list)
        counts.append([float(word) for word in line.split()])
        return line

    program = Recorded()
    try:
      value, per_image = program.compute_score(*_as_strings(hypotheses, references))
    except (BrokenPipeError, ValueError) as error:
      program.meteor_p.kill()
      said = program.meteor_p.stderr.read().decode(errors="replace").strip().splitlines()
      raise InputError(f"METEOR's Java program stopped after {len(counts)} of {len(hypotheses)} captions; it said: "
                       f"{said[-1] if said else 'nothing'}") from error
    finally:
      if program.lock.locked():  # compute_score leaves it locked when it fails, and the destructor would wait for ever
        program.lock.release()
      with contextlib.suppress(BrokenPipeError):
        program.meteor_p.stdin.close()
      program.meteor_p.stdout.close()
      program.meteor_p.stderr.close()
  counts = np.array(counts)
  whole = (counts[:, :2] == counts[:, 21:]).all(axis=1) & (counts[:, 20] == 1)
  counts[whole, 20] = 0  # a sentence that matches in one piece adds no piece to the corpus
  resampled = _meteor_of_counts(bootstrap.resampled_means(counts) * len(counts))
  return Score(bootstrap.interval(value, resampled), np.array(per_image))


def _meteor_of_counts(counts: np.ndarray) -> np.ndarray:
  """METEOR from (sums of) the program's counts, float64[..., 23] → [...].

  A row: words and function words of hypothesis and reference (4); of each of 4 stages the matched content words of
  both and function words of both (16); pieces (contiguous matches); matched words of both (2).
  """
  lengths, functions, stages = counts[..., :2], counts[..., 2:4], counts[..., 4:20].reshape(*counts.shape[:-1], 4, 4)
  pieces, matched = counts[..., 20], counts[..., 21:23]
  weighted = np.einsum("...sk,s->...k", stages, _STAGE_WEIGHTS)
  found = _DELTA * weighted[..., :2] + (1 - _DELTA) * weighted[..., 2:]
  there = _DELTA * (lengths - functions) + (1 - _DELTA) * functions
  precision, recall = np.moveaxis(np.divide(found, there, out=np.zeros_like(found), where=there > 0), -1, 0)
  below = _ALPHA * precision + (1 - _ALPHA) * recall
  mean = np.divide(precision * recall, below, out=np.zeros_like(below), where=below > 0)
  average = matched.mean(-1)
  fragments = np.divide(pieces, average, out=np.zeros_like(average), where=average > 0)
  return mean * (1 - _GAMMA * fragments**_BETA)


def spice(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Score:
  """SPICE 1.0: F of the tuples of scene graphs, the mean over images.

  Raises:
    InputError: Java, pycocoevalcap or the parser's files (which pycocoevalcap does not ship) are missing, or the
      program stopped.
  """
  with java.on_path("SPICE") as folder:
    java.check_files("SPICE", [folder / "spice" / "spice-1.0.jar"], "install pycocoevalcap 1.2 anew, it holds it")
    java.check_files("SPICE", [folder / "spice" / "lib" / name for name in _CORENLP],
                     "run `python -m pycocoevalcap.spice.get_stanford_models` (it downloads about 400 MB from "
                     "nlp.stanford.edu), or copy them there out of stanford-corenlp-full-2015-12-09.zip")
    from pycocoevalcap.spice.spice import Spice

    try:
      value, per_image = Spice().compute_score(*_as_strings(hypotheses, references))
    except subprocess.CalledProcessError as error:
      raise InputError(f"SPICE's Java program stopped (exit code {error.returncode}; what it said stands above). It "
                       "needs 8 GB of memory, and Linux, macOS or Windows on x86-64") from error
    except OSError as error:
      raise InputError(f"SPICE writes into {folder / 'spice'} (tmp, cache), which failed: {error.strerror}") from error
  scores = np.array([image["All"]["f"] for image in per_image], np.float64)
  return Score(bootstrap.mean_interval(scores)._replace(value=float(value)), scores)


def _as_strings(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[dict, dict]:
  """pycocoevalcap's form: references, hypotheses."""
  return ({i: [" ".join(tokens) for tokens in refs] for i, refs in enumerate(references)},
          {i: [" ".join(tokens)] for i, tokens in enumerate(hypotheses)})
