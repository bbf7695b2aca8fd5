"""Pages of runs and comparisons in a real browser, on a desk and on a phone, in the light and in the dark."""

import browser
import eval_workdir
import pytest

from cm3leon_jax.evaluation.run import compare, compare_page, page, page_data

pytestmark = browser.needs_browser

# Contrast after WCAG 2.2: (lighter + 0.05) / (darker + 0.05) of relative luminances; text over the nearest opaque colour.
LOOK = """
  page.querySelectorAll("details").forEach(d => d.open = true);
  const view = e.target.contentWindow, style = n => view.getComputedStyle(n);
  const wide = [...page.querySelectorAll("body *")].filter(
      n => !n.closest(".scroll, pre, svg") && n.getBoundingClientRect().right > root.clientWidth + 1);
  const far = [...page.querySelectorAll("svg *")].filter(n => n.getBoundingClientRect().right > root.clientWidth + 0.5);
  const broken = [...page.images].filter(i => !i.complete || !i.naturalWidth);
  const parts = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = parts(c).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const under = n => { for (; n; n = n.parentElement) { const c = style(n).backgroundColor;
      if ((parts(c)[3] ?? 1) > 0.99) return c; } return "rgb(255, 255, 255)"; };
  const contrast = n => { const ink = light(n.closest("svg") ? style(n).fill : style(n).color), paper = light(under(n));
      return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05); };
  const texts = [...page.querySelectorAll("body *")].filter(n => n.localName != "style" &&
      [...n.childNodes].some(c => c.nodeType == 3 && c.textContent.trim()));
  const faint = texts.filter(n => contrast(n) < 4.5);
  const small = texts.filter(n => !n.closest("svg") && parseFloat(style(n).fontSize) < 10);
  const cut = [...page.querySelectorAll(".drawn img, .side-by-side img, .asked img")].filter(
      n => n.getBoundingClientRect().width < 60);
  const result = {client: root.clientWidth, scroll: root.scrollWidth, wide: wide.map(n => n.outerHTML.slice(0, 99)),
    images: page.images.length, broken: broken.length, texts: texts.length, small: small.map(n => n.outerHTML.slice(0, 99)),
    faint: faint.map(n => contrast(n).toFixed(2) + " " + n.outerHTML.slice(0, 99)), cut: cut.length,
    far: far.map(n => n.outerHTML.slice(0, 99)), paper: style(page.body).backgroundColor};
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
  """name → HTML; a picture is missing, a field differs, a prompt is hostile."""
  folder = tmp_path_factory.mktemp("pages")
  weak, strong = (eval_workdir.make(folder / name, count=20, skill=skill, checkpoint=f"a_rather_long_name_of_a_{name}_checkpoint",
                                    sampling={"guidance": skill}) for name, skill in (("weak", 0.3), ("strong", 0.7)))
  (weak / "pictures" / "000002_0.png").unlink()
  answers = [eval_workdir.make(folder / f"vqa_{skill}", "vqa", count=20, skill=skill, checkpoint=f"{skill}")
             for skill in (0.3, 0.7)]
  return {"pictures": page.render(page_data.load(weak)), "answers": page.render(page_data.load(answers[0])),
          "compared pictures": compare_page.render(compare.measure([weak, strong])),
          "compared answers": compare_page.render(compare.measure(answers))}


@pytest.mark.parametrize("width, dark", [(1280, False), (390, True)])
@pytest.mark.parametrize("name", ["pictures", "answers", "compared pictures", "compared answers"])
def test_can_be_read(pages, tmp_path, name, width, dark):
  result = browser.probe(pages[name], width, LOOK, tmp_path, dark)
  assert result["far"] == []
  assert result["client"] == width and result["scroll"] <= width and result["wide"] == []
  assert result["images"] >= 35 and result["broken"] == 0 and result["cut"] == 0
  assert result["texts"] > 150 and result["small"] == []
  assert result["faint"] == []
  assert (result["paper"] == "rgb(21, 23, 26)") == dark  # --bg of report.css
