"""Charts as SVG for the page, drawn by matplotlib and coloured by the page's style sheet (see `svg`).

Each is about 340 units wide, so that a phone shows it at its own size and a screen has room for several in a line. The
words for who cannot see it are the caller's, as is a table of the same figures.

Sizes, measured with matplotlib 3.11 and Plotly 7.1: a chart of six roles takes 9 KB here, one of 288 points 34 KB;
in Plotly they would take 4.8 MB for its bundle, once a page, and show nothing where scripts are off.

Which of many candidates a chart shows: it has six colours, and what is left out must not be what broke.

The frame that every chart is drawn in: matplotlib's SVG, made the page's own.

matplotlib is given stand-in colours, which become CSS variables here: `#0a0000` is the ink of text, `#0b0001` the
second series'. So one drawing serves light, dark and print. Text stays text.

The chart of size against damage: a mark for each candidate with its interval, the frontier, the recommended one.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...words.text import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# --- drawn ---


COLOURS = 6


def most_telling(damages: Sequence[float | None], most: int = COLOURS) -> list[int]:
    """Return the indices, in their order, of at most `most` candidates from the least damaged to the most.

    Both ends are in, the others as evenly between them as ranks allow; what has no figure counts as undamaged.

    >>> most_telling([0.1, 0.2, 0.3, 9.0], 3)
    [0, 2, 3]
    """
    if len(damages) <= most:
        return list(range(len(damages)))
    ranked = sorted(range(len(damages)), key=lambda i: damages[i] or 0.0)
    step = (len(ranked) - 1) / (most - 1)
    return sorted(ranked[round(i * step)] for i in range(most))


# --- svg ---


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


def short_label(label: str, width: int = 17) -> str:
    """A label in so many letters."""
    return cut(label, width, at="end")


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


# --- charts ---


def percent(value: float) -> str:
    """A share in per cent, as an axis writes it."""
    return f"{float(f'{100 * value:.2g}'):g} %"


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: its build (for the colour), label, length, and the ends of its interval."""

    series: int
    label: str
    value: float
    low: float | None
    high: float | None


def available() -> bool:
    """Whether matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def error_ranges(
    rows: Sequence[tuple[str, Sequence[tuple[float, float, float] | None]]], name: str, show: Show = percent
) -> str:
    """Errors by role: a dot for each build at its pooled error, on a line from its least to its worst module.

    `rows` are (role, a (least, pooled, worst) for each build); at least one is not None. Any value above zero with an
    interval can be drawn so; `show` writes the axis' figures.
    """
    builds = max(len(spreads) for _, spreads in rows)
    step = 16 if builds == 1 else 12
    heights = [step * builds + 8 for _ in rows]

    rows = [(role, [s and (drawable(s[0]), drawable(s[1]), drawable(s[2])) for s in spreads]) for role, spreads in rows]

    def draw(axes: Axes) -> None:
        at, places = 0.0, []
        for (_, spreads), height in zip(rows, heights, strict=True):
            places.append(at + height / 2)
            for i, spread in enumerate(spreads):
                if spread is not None:
                    y = at + 4 + step * (i + 0.5)
                    axes.plot(
                        [spread[0], spread[2]], [y, y], color=series_colour(i), linewidth=2, solid_capstyle="butt"
                    )
                    axes.plot([spread[1]], [y], marker=marker(i), color=series_colour(i), markersize=6)
            at += height
        axes.set_ylim(at, 0)
        axes.set_yticks(places, [short_label(role, 19) for role, _ in rows])
        log_axis(axes.xaxis, [x for _, spreads in rows for spread in spreads if spread for x in spread], show)

    return draw_svg(draw, sum(heights), name, left=118)


def error_by_layer(points: Sequence[Sequence[tuple[int, float]]], limits: tuple[float, float], name: str) -> str:
    """Errors of one role by layer: a mark for each module, `points` being (layer, error) for each build."""
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        for i, series in enumerate(points):
            if series:
                layers, errors = [layer for layer, _ in series], [drawable(error) for _, error in series]
                axes.plot(
                    layers, errors, marker(i), color=series_colour(i), markersize=4, alpha=0.75, markeredgewidth=0
                )
        log_axis(axes.yaxis, [drawable(error) for error in limits], percent)
        axes.set_xlabel("layer")
        axes.grid(visible=True, axis="y")
        axes.grid(visible=False, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    return draw_svg(draw, 120, name, left=50, bottom=34)


def bars(rows: Sequence[Bar], unit: str, name: str) -> str:
    """Bars with intervals, one below the other, each with its figure at its end."""

    def draw(axes: Axes) -> None:
        longest = max(max(r.value, r.high or 0) for r in rows)
        for y, row in enumerate(rows):
            axes.barh(y, row.value, height=0.62, color=series_colour(row.series))
            if row.low is not None and row.high is not None:
                ends = [[row.value - row.low], [row.high - row.value]]
                axes.errorbar(row.value, y, xerr=ends, ecolor=INK, capsize=3, elinewidth=1.2)
            axes.text(max(row.value, row.high or 0) + longest * 0.02, y, f"{row.value:,.4g}", va="center", color=INK)
        axes.set_yticks(range(len(rows)), [short_label(r.label) for r in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, longest * 1.22 or 1)
        axes.set_xlabel(unit)

    return draw_svg(draw, 26 * len(rows) + 8, name, left=118, bottom=34)


def intervals(rows: Sequence[Bar], name: str) -> str:
    """Ratios with their intervals beside a line at 1, which is no difference."""

    def draw(axes: Axes) -> None:
        axes.axvline(1, color=MUTED, linewidth=1, dashes=(3, 2))
        for y, row in enumerate(rows):
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [y, y], color=series_colour(row.series), linewidth=2.5)
            axes.plot([row.value], [y], marker=marker(row.series), color=series_colour(row.series), markersize=6)
        axes.set_yticks(range(len(rows)), [short_label(r.label, 25) for r in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.15)
        axes.set_xlabel("ratio of tokens per second")

    return draw_svg(draw, 26 * len(rows) + 8, name, left=168, bottom=34)


def shares(rows: Sequence[tuple[str, Sequence[Bar | None]]], name: str) -> str:
    """Shares with their intervals, several sides a row, from 0 to 100 %; or differences, beside a line at 0."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    step = 12
    heights = [step * len(sides) + 8 for _, sides in rows]
    signed = any(b.value < 0 or (b.low or 0) < 0 for _, sides in rows for b in sides if b is not None)

    def draw(axes: Axes) -> None:
        at, places = 0.0, []
        for (_, sides), height in zip(rows, heights, strict=True):
            places.append(at + height / 2)
            for i, bar in enumerate(sides):
                y = at + 4 + step * (i + 0.5)
                if bar is not None and bar.low is not None and bar.high is not None:
                    axes.plot([bar.low, bar.high], [y, y], color=series_colour(bar.series), linewidth=2)
                if bar is not None:
                    axes.plot(
                        [bar.value], [y], marker=marker(bar.series), color=series_colour(bar.series), markersize=6
                    )
            at += height
        axes.set_ylim(at, 0)
        axes.set_yticks(places, [short_label(label, 19) for label, _ in rows])
        if signed:
            axes.axvline(0, color=MUTED, linewidth=1, dashes=(3, 2))
        else:
            axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %".replace("-", "−")))

    return draw_svg(draw, sum(heights), name, left=118)


def survival(curves: Sequence[tuple[Sequence[float], Sequence[float]]], last: float, name: str) -> str:
    """How many runs still go right: a falling step line for each (times, shares), from 1 at 0 to `last`."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    def draw(axes: Axes) -> None:
        for i, (times, left) in enumerate(curves):
            xs, ys = [0.0, *times, last], [1.0, *left, left[-1] if left else 1.0]
            axes.step(xs, ys, where="post", color=series_colour(i), linewidth=2)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(0, last)
        axes.set_xlabel("tool calls")
        axes.grid(visible=True, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))

    return draw_svg(draw, 130, name, left=50, bottom=34)


# --- frontier chart ---


_SMALL = 9
# where a family's bits stand beside its marks: families often lie close together
_SIDES = ((5, 4), (-10, -10), (5, -10), (-10, 4))


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate: its family (for colour and mark), size, damage above 0 with its interval's ends, its bits.

    What is not `inside` every tolerance is drawn hollow; `chosen` puts a ring around it.
    """

    series: int
    size: float
    damage: float
    low: float | None
    high: float | None
    label: str
    inside: bool
    chosen: bool


def size_against_damage(
    points: Sequence[Point], frontier: Sequence[tuple[float, float]], floor: float | None, unit: str, name: str
) -> str:
    """Draw them: size across, damage up on a logarithmic axis.

    `frontier` are the (size, damage) that none beats, from the smallest; `floor` is the noise floor's damage.
    """

    def draw(axes: Axes) -> None:
        axes.plot([x for x, _ in frontier], [drawable(y) for _, y in frontier], color=MUTED, linewidth=1.2, zorder=1)
        if floor is not None:
            axes.axhline(drawable(floor), color=MUTED, linewidth=1, dashes=(3, 2), zorder=0)
        for p in points:
            _mark(axes, p)
        ends = [drawable(v) for p in points for v in (p.damage, p.low, p.high) if v is not None and v > 0]
        log_axis(axes.yaxis, [*ends, *([drawable(floor)] if floor else [])], lambda value: f"{value * 1000:,g}")
        axes.margins(x=0.1)
        axes.set_xlabel(unit)
        axes.set_ylabel("KL, 10⁻³ nats")
        axes.grid(visible=True, axis="y")
        axes.grid(visible=False, axis="x")

    return draw_svg(draw, 230, name, left=58, bottom=36)


def _mark(axes: Axes, p: Point) -> None:
    colour, y = series_colour(p.series), drawable(p.damage)
    if p.low is not None and p.high is not None:
        axes.plot([p.size, p.size], [drawable(p.low), drawable(p.high)], color=colour, linewidth=1.6, zorder=2)
    if p.chosen:
        axes.plot([p.size], [y], marker="o", markersize=15, markerfacecolor="none", markeredgecolor=INK, zorder=2)
    face = colour if p.inside else "none"
    axes.plot([p.size], [y], marker=marker(p.series), color=colour, markerfacecolor=face, markersize=6, zorder=3)
    away = 3 if p.chosen else 0
    across, up = _SIDES[p.series % len(_SIDES)]
    place = (across + (away if across > 0 else -away), up + (away if up > 0 else -away))
    axes.annotate(p.label, (p.size, y), place, textcoords="offset points", fontsize=_SMALL, color=INK)
