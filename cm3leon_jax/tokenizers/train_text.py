"""Trains the SentencePiece model of the text tokenizer on captions and task sentences."""

import io
import os
from typing import Sequence

import numpy as np
import sentencepiece

from cm3leon_jax import manifest as manifests
from cm3leon_jax.errors import InputError
from cm3leon_jax.tokenizers.text import KIND, MODEL_FILE, TextTokenizer
from cm3leon_jax.vocabulary import EOS_ID, PAD_ID, UNK_ID

# Sentences that the SFT tasks say again and again (paper Table 5, and the demo's edits): seen in
# training, each word of them becomes one piece.
INSTRUCTIONS = (
    "Edit first image following the instruction",
    "Describe the given picture.",
    "Describe the given picture in very detail.",
    "Describe all the objects in the given image in very detail.",
    "redraw it in the style of twemoji",
    "redraw it in the style of openmoji",
    "redraw it in the style of noto",
    "redraw it in the style of emojione",
    "redraw it in the style of fxemoji",
    "make the skin tone light",
    "make the skin tone medium-light",
    "make the skin tone medium",
    "make the skin tone medium-dark",
    "make the skin tone dark",
    "change the skin tone to dark",
    "redraw it in the style of noto v1",
    "redraw it in the style of fluent",
    "draw it in another style",
    "change the style to twemoji",
    "make it a woman",
    "make it a man",
    "make it a person",
    "turn it into a woman",
    "Question: what is it? The answer is",
)
# Captions outnumber the sentences a thousandfold; each sentence is repeated to this share of them.
_INSTRUCTION_SHARE = 0.005


def train_text(captions: Sequence[str], folder: str | os.PathLike, *, instructions: Sequence[str] = INSTRUCTIONS,
               size: int = 56_320, model_type: str = "unigram", fold_case: bool = False) -> TextTokenizer:
  """Trains on `captions` and `instructions`, writes `folder`, returns the tokenizer.

  The same lines give the same file: one thread (the EM sums of the unigram model depend on
  their order), no subsampling, no paths in the model.

  Args:
    captions: training-split captions.
    instructions: sentences whose words should be single pieces.
    size: number of pieces, the 3 special and 256 byte pieces among them.
    model_type: `unigram` or `bpe`.
    fold_case: read "Red" as "red" (NFKC with case folding): for captions that have no capitals.

  Raises:
    InputError: too few different captions for `size` pieces.
  """
  repeats = max(1, round(len(captions) * _INSTRUCTION_SHARE))
  lines = list(captions) + [line for line in instructions for _ in range(repeats)]
  if not captions:
    raise InputError("the text tokenizer needs at least one caption to train on; got none")
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=size, model_type=model_type,
        pad_id=PAD_ID, eos_id=EOS_ID, unk_id=UNK_ID, bos_id=-1, pad_piece="<pad>", eos_piece="<eos>",
        unk_piece="<unk>", byte_fallback=True, split_digits=True, normalization_rule_name="nfkc_cf" if fold_case else "nfkc",
        character_coverage=0.9999, num_threads=1, input_sentence_size=0, shuffle_input_sentence=False,
        minloglevel=2)
  except (RuntimeError, OSError) as error:
    raise InputError(f"the text tokenizer cannot learn {size} pieces from {len(captions)} captions; "
                     f"lower its size, or give more captions ({str(error).strip().splitlines()[-1]})") from error
  with manifests.writing(folder, KIND) as (temporary, manifest):
    (temporary / MODEL_FILE).write_bytes(model.getvalue())
    manifest.update(size=size, model_type=model_type, fold_case=fold_case, captions=len(captions),
                    fingerprint=manifests.hash_file(temporary / MODEL_FILE))
  return TextTokenizer.load(folder)


def fertility(tokenizer: TextTokenizer, texts: Sequence[str]) -> dict[str, float]:
  """How long texts become: mean, 99th percentile and maximum of tokens a text, and mean tokens a word."""
  lengths = np.asarray([len(ids) for ids in tokenizer.encode_batch(texts)], np.float64)
  words = sum(len(text.split()) for text in texts)
  return {"tokens_mean": float(lengths.mean()), "tokens_p99": float(np.percentile(lengths, 99)),
          "tokens_max": float(lengths.max()), "tokens_per_word": float(lengths.sum() / max(words, 1))}
