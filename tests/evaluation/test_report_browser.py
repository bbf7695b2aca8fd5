"""The report page in a real browser: nothing is wider than the window, every picture loads, the button works."""

import browser
import pytest

import report_workdir

pytestmark = browser.needs_browser

LOOK = """
  const truths = [...page.querySelectorAll(".hero .truth")];
  page.querySelectorAll("details").forEach(d => d.open = true);
  const wide = [...page.querySelectorAll("body *")].filter(
      n => !n.closest(".scroll, pre, svg") && n.getBoundingClientRect().right > root.clientWidth + 1);
  truths.forEach(d => d.open = false);
  const button = page.getElementById("truths"), open = () => truths.filter(d => d.open).length;
  button.click(); const shown = open(); button.click();
  const broken = [...page.images].filter(i => !i.complete || !i.naturalWidth);
  const size = n => parseFloat(e.target.contentWindow.getComputedStyle(n).fontSize);
  const small = [...page.querySelectorAll("p, td, figcaption, summary, dd, dt")].filter(n => size(n) < 10);
  const result = {client: root.clientWidth, scroll: root.scrollWidth, wide: wide.map(n => n.outerHTML.slice(0, 99)),
    images: page.images.length, broken: broken.length, shown: shown, hidden: open(), small: small.length};
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_fits_the_window(tmp_path, width):
  text = (report_workdir.finished() / "report" / "index.html").read_text(encoding="utf-8")
  result = browser.probe(text, width, LOOK, tmp_path)
  assert result["client"] == width
  assert result["scroll"] <= width and result["wide"] == []
  assert result["images"] > 100 and result["broken"] == 0
  assert (result["shown"], result["hidden"]) == (24, 0)
  assert result["small"] == 0  # no text under 10 CSS pixels
