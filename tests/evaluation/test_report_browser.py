"""The report page in a real browser: nothing is wider than the window, every picture loads, the button works."""

import html
import json
import re
import shutil
import subprocess

import pytest

import report_workdir

BROWSER = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))),
  None,
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on PATH: apt-get install chromium")
FLAGS = (
  "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
  "--disable-component-update --disable-sync --hide-scrollbars"
).split()

# A headless window is never narrower than 500 pixels, so the page stands in a frame of the wanted width.
PROBE = """<!doctype html><iframe style="border:0;width:%dpx;height:2400px" srcdoc="%s"></iframe>
<script>document.querySelector("iframe").onload = e => {
  const page = e.target.contentDocument, root = page.documentElement;
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
  document.documentElement.dataset.result = JSON.stringify(result);
};</script>"""


@pytest.mark.parametrize("width", [1280, 390])
def test_fits_the_window(tmp_path, width):
  page = tmp_path / "page.html"
  report_html = (report_workdir.finished() / "report" / "index.html").read_text(encoding="utf-8")
  page.write_text(PROBE % (width, html.escape(report_html)), encoding="utf-8")
  done = subprocess.run(
    [
      BROWSER,
      *FLAGS,
      f"--user-data-dir={tmp_path / 'profile'}",
      "--window-size=1400,2400",
      "--virtual-time-budget=20000",
      "--dump-dom",
      page.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=180,
  )
  found = re.search(r'data-result="([^"]*)"', done.stdout)
  assert found, f"the page did not load: {done.stderr[-2000:]}"
  result = json.loads(html.unescape(found[1]))
  assert result["client"] == width
  assert result["scroll"] <= width and result["wide"] == []
  assert result["images"] > 100 and result["broken"] == 0
  assert (result["shown"], result["hidden"]) == (24, 0)
  assert result["small"] == 0  # no text under 10 CSS pixels
