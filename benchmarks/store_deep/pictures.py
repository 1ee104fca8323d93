"""Take the pictures of docs/studies/store-deep.md from the report's page of the study's records.

    python benchmarks/store_deep/pictures.py       needs Chromium, chromedriver, selenium and Pillow

Each is one chart of the page with those candidates ticked that the question is about.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mlxquant.records.loading import load  # noqa: E402
from mlxquant.report.page.page import make_report  # noqa: E402
from tests.support.browser import Browser, chromium  # noqa: E402

FOLDER, ASSETS = ROOT / "audits" / "store-deep", ROOT / "docs" / "assets"
# file, records, section of the page, beginning of the chart's title, expression for the names that are drawn
PICTURES = (
    ("1-eight-bits", ("compare.json",), "#quality", "KL by position", "bits=8,group_size=64(,method=rtn)?$|floor"),
    ("2-bytes", ("compare.json",), "#quality", "KL by size", "(gates|deepseek|uniform).*size=64(,method=rtn)?$"),
    ("3-routing", ("compare-forced.json",), "#quality", "share of KL through routing", "."),
    ("4-survival", ("eval.json",), "#evaluation", "loops that have not gone wrong", "."),
    ("5-methods", ("compare.json", "compare-more.json"), "#quality", "KL by size", "gates|roles|allocated"),
    ("6-foretold", ("compare.json", "compare-more.json", "eval.json", "eval-more.json"), "#foretelling", "KL, 10", "."),
)  # fmt: skip
# Draw only what is asked for, tick only who is asked for, and give the place of what is left.
SHOW = """(() => {
  const [css, title, names] = arguments, charts = document.querySelector(css + " .charts");
  if (!charts) return null;
  document.querySelectorAll(css + " .charts").forEach(c => { if (c !== charts) c.remove(); });
  for (const box of charts.querySelectorAll("fieldset input")) {
    const shown = new RegExp(names).test(box.parentElement.textContent.trim());
    if (box.checked !== shown) box.click();
    if (!shown) box.parentElement.style.display = "none";
  }
  for (const chart of charts.querySelectorAll("figure"))
    if (!chart.querySelector("figcaption").textContent.startsWith(title)) chart.remove();
  if (!charts.querySelector("figure")) return null;
  for (const link of charts.querySelectorAll("fieldset button, fieldset a")) link.remove();
  for (const note of charts.querySelectorAll("p.small")) note.remove();
  charts.scrollIntoView();
  const box = charts.getBoundingClientRect(), figure = charts.querySelector("figure").getBoundingClientRect();
  const legend = charts.querySelector("fieldset").getBoundingClientRect();
  return [box.left - 8, box.top - 4, Math.max(figure.right, legend.right) + 16, box.bottom + 4];
})()"""


def take(browser: Browser, page: Path, css: str, title: str, names: str, out: Path, folder: Path) -> bool:
    """Save one chart with its legend; False where the page has none."""
    browser.open(page, width=900, height=1400, scale=2)
    place = browser.ask(SHOW, css, title, names)
    if not place:
        return False
    browser.picture(folder / "whole.png")
    image = Image.open(folder / "whole.png").convert("RGB").crop(tuple(int(2 * v) for v in place))
    image.quantize(64).save(out, optimize=True)
    return True


def main() -> None:
    """Take those whose records are there."""
    with tempfile.TemporaryDirectory() as temporary, chromium(Path(temporary) / "profile") as browser:
        for name, records, css, title, names in PICTURES:
            files = [FOLDER / record for record in records if (FOLDER / record).exists()]
            if not any(file.name.startswith("compare") for file in files) and css != "#evaluation":
                files.append(FOLDER / "compare-forced.json")
            page = Path(temporary) / "page.html"
            page.write_text(make_report([load(file) for file in files]), encoding="utf-8")
            if not take(browser, page, css, title, names, ASSETS / f"store-deep-{name}.png", Path(temporary)):
                print(f"{name}: these records give no such chart", file=sys.stderr)


if __name__ == "__main__":
    main()
