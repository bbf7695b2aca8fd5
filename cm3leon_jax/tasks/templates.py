"""What the SFT tasks say, in training and when a model is asked (paper Table 5, shortened where a slot is short)."""

from cm3leon_jax.datasets.captions import STYLE_NAMES

EDIT_QUERY = "Edit first image following the instruction"
CAPTION_QUERY = "Describe the given picture."

RESTYLE = ("redraw it in the style of {}", "change the style to {}")
SKIN_TONE = ("make the skin tone {}", "change the skin tone to {}")
GENDER = ("make it a {}", "turn it into a {}")


def instruction(kind: tuple[str, ...], wording: int, value: str) -> str:
  """`instruction(RESTYLE, 0, "noto-v1")` → "redraw it in the style of noto v1"; styles by the names captions use."""
  return kind[wording % len(kind)].format(STYLE_NAMES.get(value, value))
