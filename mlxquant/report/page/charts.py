"""Charts as SVG for the page, drawn by matplotlib and coloured by the page's style sheet (see `svg`).

Each is about 340 units wide, so that a phone shows it at its own size and a screen has room for several in a line. The
words for who cannot see it are the caller's, as is a table of the same figures.

Sizes, measured with matplotlib 3.11 and Plotly 7.1: a chart of six roles takes 9 KB here, one of 288 points 34 KB;
in Plotly they would take 4.8 MB for its bundle, once a page, and show nothing where scripts are off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .svg import INK, MUTED, Show, cut, draw_svg, drawable, log_axis, marker, series_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    builds = max(len(found) for _, found in rows)
    step = 16 if builds == 1 else 12
    heights = [step * builds + 8 for _ in rows]

    rows = [(role, [s and (drawable(s[0]), drawable(s[1]), drawable(s[2])) for s in found]) for role, found in rows]

    def draw(axes: Axes) -> None:
        at, places = 0.0, []
        for (_, found), height in zip(rows, heights, strict=True):
            places.append(at + height / 2)
            for i, spread in enumerate(found):
                if spread is not None:
                    y = at + 4 + step * (i + 0.5)
                    axes.plot(
                        [spread[0], spread[2]], [y, y], color=series_colour(i), linewidth=2, solid_capstyle="butt"
                    )
                    axes.plot([spread[1]], [y], marker=marker(i), color=series_colour(i), markersize=6)
            at += height
        axes.set_ylim(at, 0)
        axes.set_yticks(places, [cut(role, 19) for role, _ in rows])
        log_axis(axes.xaxis, [x for _, found in rows for spread in found if spread for x in spread], show)

    return draw_svg(draw, sum(heights), name, left=118)


def error_by_layer(points: Sequence[Sequence[tuple[int, float]]], limits: tuple[float, float], name: str) -> str:
    """Errors of one role by layer: a mark for each module, `points` being (layer, error) for each build."""
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        for i, found in enumerate(points):
            if found:
                layers, errors = [layer for layer, _ in found], [drawable(error) for _, error in found]
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
        axes.set_yticks(range(len(rows)), [cut(r.label) for r in rows])
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
        axes.set_yticks(range(len(rows)), [cut(r.label, 25) for r in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.15)
        axes.set_xlabel("ratio of tokens per second")

    return draw_svg(draw, 26 * len(rows) + 8, name, left=168, bottom=34)


def shares(rows: Sequence[tuple[str, Sequence[Bar | None]]], name: str) -> str:
    """Shares with their intervals, several sides a row, from 0 to 100 %; or differences, beside a line at 0."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    step = 12
    heights = [step * len(found) + 8 for _, found in rows]
    signed = any(b.value < 0 or (b.low or 0) < 0 for _, found in rows for b in found if b is not None)

    def draw(axes: Axes) -> None:
        at, places = 0.0, []
        for (_, found), height in zip(rows, heights, strict=True):
            places.append(at + height / 2)
            for i, bar in enumerate(found):
                y = at + 4 + step * (i + 0.5)
                if bar is not None and bar.low is not None and bar.high is not None:
                    axes.plot([bar.low, bar.high], [y, y], color=series_colour(bar.series), linewidth=2)
                if bar is not None:
                    axes.plot(
                        [bar.value], [y], marker=marker(bar.series), color=series_colour(bar.series), markersize=6
                    )
            at += height
        axes.set_ylim(at, 0)
        axes.set_yticks(places, [cut(label, 19) for label, _ in rows])
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
