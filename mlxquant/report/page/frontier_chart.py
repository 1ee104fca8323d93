"""The chart of size against damage: a mark for each candidate with its interval, the frontier, the recommended one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .svg import INK, MUTED, draw_svg, drawable, log_axis, marker, series_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
