from hypothesis import given, strategies as st

from cm3leon_jax.datasets import captions

STYLES = st.sampled_from(sorted(captions.STYLE_NAMES))


def test_templates():
  got = [captions.caption("red heart", "fluent-emoji-flat", index=i, category="objects")
         for i in range(captions.NUM_TEMPLATES)]
  assert got == ["red heart, fluent", "fluent red heart", "red heart by fluent", "red heart, fluent style",
                 "a red heart, fluent"]


def test_articles():
  def article(name, category="objects"):
    return captions.caption(name, "noto", index=4, category=category)
  assert article("orange heart") == "an orange heart, noto"
  assert article("unicorn") == "a unicorn, noto"
  assert article("hourglass done") == "an hourglass done, noto"
  assert article("sunglasses") == "sunglasses, noto"
  assert article("men wrestling", "people and body") == "men wrestling, noto"


def test_skin_tones_are_spelled_out_once():
  assert captions.caption("waving hand", "noto-v1", "medium-dark", 1) == "waving hand, medium-dark skin, noto v1"
  assert captions.caption("kiss", "noto", "light+dark", 3) == "kiss, light and dark skin, noto"


@given(st.from_regex(r"[a-z]{1,9}( [a-z]{1,9}){0,8}", fullmatch=True), STYLES,
       st.sampled_from(["", "dark", "light+dark"]), st.integers(0, captions.NUM_TEMPLATES - 1),
       st.sampled_from(["", "objects", "flags"]))
def test_every_caption_names_thing_artist_and_skin(name, style, tone, index, category):
  text = captions.caption(name, style, tone, index, category)
  assert name in text and captions.STYLE_NAMES[style] in text
  assert all(part in text for part in tone.split("+"))
  assert text == " ".join(text.split())


def test_template_index_is_stable_and_half_plain():
  indices = [captions.template_index(f"twemoji/{i:x}") for i in range(4000)]
  assert indices[:8] == [captions.template_index(f"twemoji/{i:x}") for i in range(8)]
  # Binomial(4000, 0.5) has a standard deviation of 32; each of the four others is near 500 (21).
  assert abs(indices.count(0) - 2000) < 160
  assert all(abs(indices.count(i) - 500) < 110 for i in range(1, captions.NUM_TEMPLATES))
