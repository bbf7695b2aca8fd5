"""One id space for text, image codes and special tokens (DESIGN: a token's id tells its modality).

Full size (paper §2.1: text 56,320, image 8,192; together with 1,024 special ids 2**16):

    0 … 56,319        text pieces; <pad>=0, <eos>=1, <unk>=2
    56,320 … 64,511   image codes
    64,512 … 65,535   <break>, <eoss>, <sentinel:0> … <sentinel:511>, reserved
"""

import dataclasses
import hashlib
import json

import numpy as np

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Pure ranges and names; sizes are parameters, ranges are computed.

  Attributes:
    text_size: number of text pieces, <pad>, <eos> and <unk> among them.
    image_size: number of image codes.
    num_sentinels: number of <sentinel:i> ids (CM3's <mask:i>, and <infill> in the tail).
    total_size: size of the embedding table; 0 means the next multiple of 128.
  """

  text_size: int = 56_320
  image_size: int = 8_192
  num_sentinels: int = 512
  total_size: int = 65_536

  def __post_init__(self):
    used = self.text_size + self.image_size + 2 + self.num_sentinels
    if self.total_size == 0:
      object.__setattr__(self, "total_size", -(-used // 128) * 128)
    if self.text_size <= UNK_ID or self.image_size < 1 or self.num_sentinels < 1:
      raise ValueError(f"text_size must exceed {UNK_ID}, image_size and num_sentinels be at least 1: {self}")
    if used > self.total_size:
      raise ValueError(f"total_size={self.total_size} is below the {used} ids in use: {self}")

  @property
  def image_start(self) -> int:
    return self.text_size

  @property
  def image_end(self) -> int:
    """One past the last image code."""
    return self.text_size + self.image_size

  @property
  def break_id(self) -> int:
    return self.image_end

  @property
  def eoss_id(self) -> int:
    """Closes an infilled span."""
    return self.image_end + 1

  @property
  def sentinel_start(self) -> int:
    return self.image_end + 2

  @property
  def sentinel_end(self) -> int:
    """One past the last sentinel."""
    return self.sentinel_start + self.num_sentinels

  def sentinel(self, i: int) -> int:
    if not 0 <= i < self.num_sentinels:
      raise ValueError(f"sentinel {i} is outside 0..{self.num_sentinels - 1}")
    return self.sentinel_start + i

  # The predicates take ints, NumPy, JAX or TensorFlow arrays of any shape.
  def is_text(self, ids):
    return ids < self.image_start

  def is_image(self, ids):
    return (ids >= self.image_start) & (ids < self.image_end)

  def is_special(self, ids):
    return ids >= self.image_end

  def is_sentinel(self, ids):
    return (ids >= self.sentinel_start) & (ids < self.sentinel_end)

  def image_ids(self, codes):
    """Codes in 0..image_size-1 → ids in the one id space."""
    codes = np.asarray(codes)
    if codes.size and (codes.min() < 0 or codes.max() >= self.image_size):
      raise ValueError(f"image codes must lie in 0..{self.image_size - 1}, got {codes.min()}..{codes.max()}")
    return (codes + self.image_start).astype(np.int32)

  def image_codes(self, ids):
    """The inverse of `image_ids`."""
    ids = np.asarray(ids)
    if ids.size and not np.all(self.is_image(ids)):
      raise ValueError(f"not image ids: {ids[~self.is_image(ids)][:8].tolist()}")
    return (ids - self.image_start).astype(np.int32)

  def name(self, token_id: int) -> str:
    """A readable name: `<break>`, `<sentinel:3>`, `<image:17>`, `<text:42>`."""
    token_id = int(token_id)
    fixed = {PAD_ID: "<pad>", EOS_ID: "<eos>", UNK_ID: "<unk>", self.break_id: "<break>", self.eoss_id: "<eoss>"}
    if token_id in fixed:
      return fixed[token_id]
    if not 0 <= token_id < self.total_size:
      raise ValueError(f"id {token_id} is outside 0..{self.total_size - 1}")
    if self.is_text(token_id):
      return f"<text:{token_id}>"
    if self.is_image(token_id):
      return f"<image:{token_id - self.image_start}>"
    if self.is_sentinel(token_id):
      return f"<sentinel:{token_id - self.sentinel_start}>"
    return f"<reserved:{token_id}>"

  def to_dict(self) -> dict:
    return dataclasses.asdict(self)

  def fingerprint(self) -> str:
    """Hash for manifests: equal exactly when the id ranges are equal."""
    return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]
