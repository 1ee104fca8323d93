"""The frame that every chart is drawn in: matplotlib's SVG, made the page's own.

matplotlib is given stand-in colours, which become CSS variables here: `#0a0000` is the ink of text, `#0b0001` the
second series'. So one drawing serves light, dark and print. Text stays text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 340
INK, MUTED, LINE = "#0a0000", "#0a0001", "#0a0002"
_MARKERS = "osD^vP"
_SERIES = 6

Show = Callable[[float], str]


def drawable(error: float) -> float:
    """An error that an axis can hold; beyond lies only what a broken record says."""
    return min(max(error, 1e-9), 1e3)


def series_colour(i: int) -> str:
    """The stand-in for a series' colour."""
    return f"#0b000{i % _SERIES}"


def marker(i: int) -> str:
    """A series' mark, told apart without colour."""
    return _MARKERS[i % _SERIES]


def cut(label: str, width: int = 17) -> str:
    """A label in so many letters."""
    return label if len(label) <= width else label[: width - 1] + "…"


def log_axis(axis: Any, values: Sequence[float], show: Show) -> None:
    """A logarithmic axis from the least to the largest of `values`, with 2 to 6 ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values), max(values)
    low, high = low / 1.25, high * 1.25
    ticks = [m * 10.0**e for e in range(-9, 3) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    if len(ticks) > 6:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1")]
    if len(ticks) < 2:
        ticks = [low * 1.1, (low * high) ** 0.5, high / 1.1]
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    (axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim)(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))


def draw_svg(draw: Callable[[Axes], None], height: float, name: str, *, left: int, bottom: int = 24) -> str:
    """Draw on axes of `height` units below a small margin, and make the drawing the page's.

    `name` is unique on the page: matplotlib derives the ids within the drawing from it.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False, "font.size": 11,
        "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": LINE, "axes.labelcolor": MUTED,
        "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": MUTED, "ytick.labelcolor": INK,
        "axes.grid": True, "grid.color": LINE, "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.linewidth": 1.5,
    }  # fmt: skip
    top, right = 8, 14
    whole = height + top + bottom
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that its font lacks: the page has fonts of its own
        figure = Figure(figsize=(WIDTH / 72, whole / 72))
        box = (left / WIDTH, bottom / whole, (WIDTH - left - right) / WIDTH, height / whole)
        axes = figure.add_axes(box, facecolor="none")
        figure.patch.set_visible(False)
        axes.grid(visible=False, axis="y")
        draw(axes)
        axes.tick_params(length=0)
        out = io.StringIO()
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _of_the_page(out.getvalue(), name)


def _of_the_page(svg: str, name: str) -> str:
    """Strip what belongs to a file of its own, and give colours and ids to the page."""
    svg = svg[svg.index("<svg") :]
    for what in (r"<metadata>.*?</metadata>", r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", r"<!--.*?-->"):
        svg = re.sub(what, "", svg, flags=re.S)
    svg = re.sub(r"<svg[^>]*?viewBox=\"([^\"]+)\"[^>]*>", r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    used = set(re.findall(r"(?:href=\"|url\()#([\w.-]+)", svg))
    # what stands between tags is a record's, and stays as it is
    svg = re.sub(r"<[^>]*>", lambda tag: _tag_of_the_page(tag[0], name, used), svg)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def _tag_of_the_page(tag: str, name: str, used: set[str]) -> str:
    """One tag: colours as variables, two decimals, the page's font, ids that are used under names of their own."""
    for stand_in, variable in ((INK, "ink"), (MUTED, "muted"), (LINE, "line")):
        tag = tag.replace(stand_in, f"var(--{variable})")
    tag = re.sub(r"#0b000(\d)", r"var(--series-\1)", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    tag = re.sub(r"font-family: [^;\"]+;? ?", "", tag)
    tag = re.sub(r" transform=\"rotate\(-?0 [^\"]*\"", "", tag)
    tag = re.sub(r" id=\"([^\"]+)\"", lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag)
    return re.sub(r"(href=\"|url\()#", rf"\1#{name}-", tag)
