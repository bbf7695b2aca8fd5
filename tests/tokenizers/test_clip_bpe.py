"""CLIP's byte-pair tokenizer: the ids of transformers' CLIPTokenizer and of OpenAI's own, from every public file."""

import gzip
import importlib.util
import json
from pathlib import Path
import sys

import numpy as np
import pytest

from cm3leon_jax.errors import InputError
from cm3leon_jax.tokenizers import clip_bpe
from cm3leon_jax.tokenizers.clip_bpe import ClipTokenizer

pytest.importorskip("tokenizers", reason="in requirements-reference.txt")

CAPTIONS = [
    "a photo of a cat", "", " ", "A  PHOTO\tof\na Cat ", "it's they're I've he'd we'll don't I'm", "3 dogs, 12345 & 1/2",
    "café naïve Ünïcödé ÅNGSTRÖM", "cafe\u0301 (combining)", "日本語のテキスト", "Привет, мир!", "العربية",
    "🎉👩‍👩‍👧‍👦🏳️‍🌈 party!!!",
    "&amp; &lt;b&gt; &quot;", "x" * 300, "!!!???...---", "\u00a0no\u2003break\u200bzero", "İstanbul ẞ ﬁne ½ ² Ⅷ", "'s 'S ''s",
    "\x00\x7f control", "snake_case and kebab-case http://a.b/c?d=e#f", " ".join(["word"] * 120)]


@pytest.fixture(scope="module")
def openai_file():
  spec = importlib.util.find_spec("clip")  # not imported: its __init__ wants torchvision
  if spec is None:
    pytest.skip("the package openai-clip holds OpenAI's vocabulary")
  return Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="module")
def tokenizer(openai_file, tmp_path_factory):
  return clip_bpe.write(tmp_path_factory.mktemp("clip") / "text", clip_bpe.read_merges(openai_file))


@pytest.fixture(scope="module")
def hugging_face(openai_file):
  transformers = pytest.importorskip("transformers", reason="in requirements-reference.txt")
  merges = clip_bpe.read_merges(openai_file)
  return transformers.CLIPTokenizer(vocab={p: i for i, p in enumerate(clip_bpe.pieces_of(merges))}, merges=merges)


def test_the_public_ids(tokenizer):
  # The ids that OpenAI's README and transformers' documentation show for this text: 320 is "a", 2368 "cat".
  assert tokenizer.size == 49_408 and (tokenizer.start, tokenizer.end) == (49_406, 49_407)
  assert tokenizer.encode("a photo of a cat").tolist() == [320, 1125, 539, 320, 2368]


def test_ids_equal_transformers(tokenizer, hugging_face):
  expected = hugging_face(CAPTIONS)["input_ids"]
  for caption, ours, theirs in zip(CAPTIONS, tokenizer.encode_batch(CAPTIONS), expected, strict=True):
    assert ours.dtype == np.int32
    assert [tokenizer.start, *ours, tokenizer.end] == theirs, caption


def test_ids_equal_openai(tokenizer, openai_file):
  """OpenAI's tokenizer itself, on text that it does not repair first."""
  pytest.importorskip("ftfy", reason="in requirements-reference.txt")
  pytest.importorskip("regex", reason="in requirements-reference.txt")
  spec = importlib.util.spec_from_file_location("openai_simple_tokenizer", openai_file.with_name("simple_tokenizer.py"))
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  theirs = module.SimpleTokenizer(str(openai_file))
  for caption in CAPTIONS:
    if module.basic_clean(caption) == caption.strip():
      assert tokenizer.encode(caption).tolist() == theirs.encode(caption), caption
  assert [theirs.decoder[i] for i in range(tokenizer.size)] == [tokenizer.piece(i) for i in range(tokenizer.size)]


def test_every_public_file_gives_the_same_merges(tokenizer, hugging_face, openai_file, tmp_path):
  hugging_face.save_pretrained(tmp_path / "hf")
  merges = clip_bpe.read_merges(openai_file)
  assert clip_bpe.read_merges(tmp_path / "hf") == merges == clip_bpe.read_merges(tmp_path / "hf" / "tokenizer.json")
  (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
  assert clip_bpe.write(tmp_path / "again", clip_bpe.read_merges(tmp_path / "merges.txt")).fingerprint == tokenizer.fingerprint


def test_spelt_out_specials_are_text(tokenizer):
  for text in ("<|endoftext|>", "a <|startoftext|> b"):
    assert not {tokenizer.start, tokenizer.end} & set(tokenizer.encode(text).tolist())


def test_decoding(tokenizer):
  assert tokenizer.decode([tokenizer.start, *tokenizer.encode("A Café, 日本語 🎉!"), tokenizer.end]) == "a café , 日本語 🎉!"


def small(tmp_path, lines, name="merges.txt"):
  path = tmp_path / name
  path.write_text("\n".join(["#version: 0.2", *lines]))
  return path


def test_wrong_files_are_named(tmp_path):
  assert clip_bpe.read_merges(small(tmp_path, ["a b", "ab c</w>"]), 516) == [("a", "b"), ("ab", "c</w>")]
  with pytest.raises(InputError, match="2 merges, 516 ids; the model has 49408"):
    clip_bpe.read_merges(small(tmp_path, ["a b", "ab c</w>"]))
  with pytest.raises(InputError, match=r"merge 2 \('abc d'\) is not of two pieces known"):
    clip_bpe.read_merges(small(tmp_path, ["a b", "abc d"]), 516)
  with pytest.raises(InputError, match=r"merge 1 \('hello'\)"):
    clip_bpe.read_merges(small(tmp_path, ["hello"]), 515)
  with pytest.raises(InputError, match="none.txt: no such file"):
    clip_bpe.read_merges(tmp_path / "none.txt")
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match="holds no CLIP vocabulary.*--vocabulary"):
    clip_bpe.read_merges(tmp_path / "empty")
  (tmp_path / "cut.gz").write_bytes(gzip.compress(b"a b\n" * 1000)[:20])
  with pytest.raises(InputError, match="cut.gz: not a CLIP vocabulary"):
    clip_bpe.read_merges(tmp_path / "cut.gz")
  assert clip_bpe.read_merges(small(tmp_path, ["a b", "", ""]), 515) == [("a", "b")]
  for content in ("[]", '{"model": {"type": "WordPiece"}}', "{", "[" * 100_000,
                  '{"model": {"end_of_word_suffix": "</w>", "merges": [3]}}'):
    with pytest.raises(InputError, match="tokenizer.json: not "):
      clip_bpe.read_merges(small_json(tmp_path, content))
  model = {"end_of_word_suffix": "</w>", "merges": ["a b"], "vocab": {"ab": 0}}
  with pytest.raises(InputError, match="ids in another order.*'!'"):
    clip_bpe.read_merges(small_json(tmp_path, json.dumps({"model": model})), 515)


def small_json(tmp_path, content):
  path = tmp_path / "tokenizer.json"
  path.write_text(content)
  return path


def test_a_changed_folder_is_named(tmp_path):
  clip_bpe.write(tmp_path / "text", [("a", "b")])
  (tmp_path / "text" / "merges.txt").write_text("#version: 0.2\na c\n")
  with pytest.raises(InputError, match="the file was changed"):
    ClipTokenizer.load(tmp_path / "text")


def test_a_folder_without_its_size_is_named(tmp_path):
  clip_bpe.write(tmp_path / "text", [("a", "b")])
  path = tmp_path / "text" / "manifest.json"
  path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "size"}))
  with pytest.raises(InputError, match="does not say how many ids"):
    ClipTokenizer.load(tmp_path / "text")


def test_half_a_surrogate_pair(tmp_path):
  """JSON may hold one, which no UTF-8 can."""
  tokenizer = clip_bpe.write(tmp_path / "text", [("a", "b")])
  assert tokenizer.encode(json.loads(r'"ab \ud83d"')).tolist() == tokenizer.encode("ab ?").tolist()


def test_the_package_is_asked_for(tmp_path, monkeypatch):
  clip_bpe.write(tmp_path / "text", [("a", "b")])
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(InputError, match="pip install tokenizers"):
    ClipTokenizer.load(tmp_path / "text")
