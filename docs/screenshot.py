"""Make docs/assets/report.png: the paper's two plans (audits/) and the audit of a tiny build, as a browser shows them.

.venv/bin/python docs/screenshot.py         needs Chromium, chromedriver and Pillow (pip install pillow)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from click.testing import CliRunner
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mlxquant.cli import main  # noqa: E402
from tests.checkpoints import write_tiny  # noqa: E402
from tests.support.browser import chromium  # noqa: E402

PLANS = [ROOT / "audits" / "qwen3.5-122b-a10b" / f"{name}.plan.json" for name in ("base", "agentic")]
# The map's cell to point at: v_proj of layer 27 in the second build
CELL = "#m1 .map[data-side='1'] tbody tr:nth-child(29) td[data-c='2']"


def run(*words: object) -> None:
    """Run one of our own commands."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output


def screenshot(folder: Path, out: Path) -> None:
    """Convert, report, look."""
    write_tiny(folder / "tiny", "qwen3_5_moe")
    page = folder / "report.html"
    run("convert", folder / "tiny", "-r", "gates-4bit", "-o", folder / "tiny-4bit")
    run("report", *PLANS, folder / "tiny-4bit", "-o", page)
    with chromium(folder / "profile") as browser:
        browser.open(page, width=1200, height=1160, scale=2)
        browser.ask("document.querySelector(arguments[0]).focus({preventScroll: true})", CELL)
        browser.picture(folder / "whole.png")
    Image.open(folder / "whole.png").convert("RGB").quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        screenshot(Path(temporary), ROOT / "docs" / "assets" / "report.png")
