"""Public CLIP weights (OpenAI, OpenCLIP, Hugging Face) → the folder that `retrieval.encoder.Encoder.load` opens."""

from cm3leon_jax.errors import InputError


def import_clip(source: str, out: str, vocabulary: str = "", activation: str = "") -> dict:
  """Writes an encoder folder from public weights.

  Args:
    source: a file (.pt, .bin, .safetensors), or a folder of Hugging Face or OpenCLIP.
    out: the folder to write.
    vocabulary: CLIP's merges: `bpe_simple_vocab_16e6.txt.gz`, `merges.txt` or `tokenizer.json`, or a folder
      that holds one; empty: beside the weights.
    activation: `quick_gelu` or `gelu`, for a file that does not say which; empty: as the source says.

  Returns:
    What was written, flat, for printing.

  Raises:
    InputError: names the file, key or flag that is wrong.
  """
  raise InputError("cm3leon import --format=clip is not finished")
