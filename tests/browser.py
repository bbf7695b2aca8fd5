"""Pages in a real headless browser: a script looks at the loaded page and gives back what it found."""

import html
import json
from pathlib import Path
import re
import shutil
import subprocess
from typing import Any

import pytest

BROWSER = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))),
  None,
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on PATH: apt-get install chromium")
FLAGS = (
  "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
  "--disable-component-update --disable-sync --hide-scrollbars"
).split()

# A headless window is never narrower than 500 pixels, so the page stands in a frame of the wanted width.
_FRAME = """<!doctype html><iframe style="border:0;width:%dpx;height:2400px" srcdoc="%s"></iframe>
<script>document.querySelector("iframe").onload = e => {
  const page = e.target.contentDocument, root = page.documentElement;
  %s
  document.documentElement.dataset.result = JSON.stringify(result);
};</script>"""


def probe(text: str, width: int, script: str, folder: Path, dark: bool = False) -> dict[str, Any]:
  """Loads a page in a frame and runs a script on it.

  Args:
    text: the HTML.
    width: of the frame, CSS pixels.
    script: JavaScript that sees `page` (the document), `root` (its <html>) and `e` (the load event), and defines
      `result`, which must survive JSON.
    folder: where the browser may write.
    dark: a person who prefers dark pages.
  """
  file = folder / "page.html"
  file.write_text(_FRAME % (width, html.escape(text), script), encoding="utf-8")
  done = subprocess.run(
    [
      BROWSER,
      *FLAGS,
      f"--blink-settings=preferredColorScheme={0 if dark else 1}",
      f"--user-data-dir={folder / 'profile'}",
      "--window-size=1400,2400",
      "--virtual-time-budget=20000",
      "--dump-dom",
      file.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=180,
  )
  found = re.search(r'data-result="([^"]*)"', done.stdout)
  assert found, f"the page did not load: {done.stderr[-2000:]}"
  return json.loads(html.unescape(found[1]))
