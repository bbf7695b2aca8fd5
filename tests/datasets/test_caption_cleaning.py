"""Each cleaning step on what it is for, and on what it must leave alone."""

import pytest

from cm3leon_jax.datasets import caption_cleaning
from cm3leon_jax.errors import InputError


@pytest.mark.parametrize("step, given, wanted", [
    ("unescape", "salt &amp;amp; pepper &#8211; &lt;3", "salt & pepper – <3"),
    ("strip_tags", "a <b>red</b><br/>hat <!-- x -->", "a  red  hat  "),
    ("strip_tags", "5 < 6 and 7 > 3, <3", "5 < 6 and 7 > 3, <3"),
    ("strip_urls", "a hat https://a.example/b?c=1 at www.hats.example.", "a hat   at  "),
    ("strip_addresses", "hat by ann.o@mail.example and @ann_o, 5 @ 3", "hat by   and  , 5 @ 3"),
    ("strip_file_names", "IMG_2041.JPG", ""),
    ("strip_file_names", "DSC 0012", ""),
    ("strip_file_names", "20190304_112233", ""),
    ("strip_file_names", "old_harbour_at_dawn.png", "old harbour at dawn"),
    ("strip_file_names", "the 1984 olympics", "the 1984 olympics"),
    ("strip_file_names", "snake_case stays", "snake_case stays"),
    ("name_persons", "<PERSON> and <person> at a desk", "person and person at a desk"),
    ("normalise", "cafe\u0301\u200b\u00ad\x07 bar\tend", "café bar end"),
    ("normalise", "👩\u200d🚀", "👩\u200d🚀"),
    ("lower", "A Red HAT", "a red hat"),
    ("collapse_spaces", "  a\n\n red \t hat ", "a red hat"),
])
def test_step(step, given, wanted):
  assert caption_cleaning.STEPS[step](given) == wanted


def test_in_order_and_every_step_is_tested():
  assert caption_cleaning.clean("&lt;b&gt;hat&lt;/b&gt;  ", ("unescape", "strip_tags", "collapse_spaces")) == "hat"
  assert caption_cleaning.clean("&lt;b&gt;hat", ("strip_tags", "unescape")) == "<b>hat"
  tested = {p.args[1][i][0] for p in test_step.pytestmark for i in range(len(p.args[1]))}
  assert tested == set(caption_cleaning.STEPS)


def test_an_unknown_step_names_the_nearest():
  with pytest.raises(InputError, match="no step 'strip_tag'; the nearest are strip_tags"):
    caption_cleaning.steps(("strip_tag",))
