"""Charts of the page, laid out here and drawn as SVG by `charts.html.jinja`, coloured by the page's style sheet.

Two kinds. `Tracks` are small panels (a slice, a role, a test), each with a line for every candidate; panels flow into
as many columns as there is room for, and a line that a reader hides leaves no gap. A `Plot` has two axes: errors by
layer, survival, damage by size, what one figure foretells of another. What belongs to a candidate carries its class, so
that one drawing serves light, dark and print, any choice of candidates, and the same colour in every section.

Coordinates are in units of the drawing, about a pixel each. The words for who cannot see a chart are the caller's, as
is a table of the same figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .candidates import Candidate
from .scales import Scale, Show, Tick, drawable, linear_scale, log_scale

WIDTH = 280
_LEFT, _RIGHT = 10, 16
_SIZE = 4.0


def percent(value: float) -> str:
    """A share in per cent, as an axis writes it."""
    return f"{float(f'{100 * value:.2g}'):g} %".replace("-", "−")


def plain(value: float) -> str:
    """A figure without an exponent, as an axis writes it."""
    return f"{float(f'{value:.3g}'):.10f}".rstrip("0").rstrip(".").replace("-", "−") if abs(value) < 1e9 else "…"


# --- tracks ---


@dataclass(frozen=True, slots=True)
class Track:
    """A candidate's line in a panel: what it is drawn as, the interval's ends, the estimate, and the words for both.

    `bar` draws from the scale's start to the estimate, with `text` at its end, in place of a mark.
    """

    css: str
    mark: str
    low: float | None
    high: float | None
    at: float
    words: str
    bar: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: what it is of, and its lines."""

    label: str
    tracks: tuple[Track, ...]


@dataclass(frozen=True, slots=True)
class Tracks:
    """A chart of panels on one scale. `zero` is the place of no difference, where there is one."""

    title: str
    label: str
    unit: str
    panels: tuple[Panel, ...]
    ticks: tuple[Tick, ...]
    zero: float | None = None
    width: int = WIDTH

    @property
    def span(self) -> int:
        """How many columns of the page it can use."""
        return min(len(self.panels), 3)


@dataclass(frozen=True, slots=True)
class Line:
    """What one candidate has in a panel: estimate, the interval's ends, and both in words."""

    candidate: Candidate
    value: float
    low: float | None
    high: float | None
    words: str


Rows = Sequence[tuple[str, Sequence[Line]]]


def ranges(title: str, label: str, rows: Rows, show: Show = percent, unit: str = "") -> Tracks:
    """Values above zero with intervals, or errors from the least to the worst module, on a logarithmic scale."""
    values = [v for _, lines in rows for x in lines for v in (x.low, x.value, x.high) if v is not None]
    scale = log_scale(values, _LEFT, WIDTH - _RIGHT, show)
    return Tracks(title, label, unit, _panels(rows, scale), scale.ticks)


def shares(title: str, label: str, rows: Rows) -> Tracks:
    """Shares with their intervals from 0 to 100 %, or up to 100 % from above a half; differences beside a line at 0."""
    values = [v for _, lines in rows for x in lines for v in (x.low, x.value, x.high) if v is not None]
    signed = any(value < 0 for value in values)
    least = min(values, default=0.0)
    ends = [0.0, *values] if signed else [least if least > 0.5 else 0.0, 1.0]
    scale = linear_scale(ends, _LEFT, WIDTH - _RIGHT, percent, margin=0.03 if signed else 0.0)
    return Tracks(title, label, "", _panels(rows, scale), scale.ticks, scale.at(0) if signed else None)


def ratios(title: str, label: str, rows: Rows, unit: str = "") -> Tracks:
    """Ratios with their intervals beside a line at 1, which is no difference."""
    values = [1.0, *(v for _, lines in rows for x in lines for v in (x.low, x.value, x.high) if v is not None)]
    scale = linear_scale(values, _LEFT, WIDTH - _RIGHT, plain, margin=0.08)
    return Tracks(title, label, unit, _panels(rows, scale), scale.ticks, scale.at(1))


def bars(title: str, label: str, rows: Rows, unit: str) -> Tracks:
    """Bars with intervals and their figures, from 0."""
    largest = max((max(x.value, x.high or 0.0) for _, lines in rows for x in lines), default=1.0) or 1.0
    scale = linear_scale([0.0, largest * 1.3], _LEFT, WIDTH - _RIGHT, plain)
    return Tracks(title, label, unit, _panels(rows, scale, bar=True), scale.ticks)


def _panels(rows: Rows, scale: Scale, *, bar: bool = False) -> tuple[Panel, ...]:
    return tuple(Panel(label, tuple(_track(line, scale, bar=bar) for line in lines)) for label, lines in rows)


def _track(line: Line, scale: Scale, *, bar: bool) -> Track:
    low, high = (None if end is None else scale.at(end) for end in (line.low, line.high))
    low, high = (None, None) if low is None or high is None else (low, high)
    at = scale.at(line.value)
    text = f"{line.value:,.4g}" if bar else ""
    mark = mark_path(line.candidate.mark, at, 6.0)
    return Track(line.candidate.css, mark, low, high, at, line.words, bar=bar, text=text)


# --- plots ---


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a plot has of one candidate: lines, marks (filled or hollow), words beside them and for who points there."""

    css: str
    lines: tuple[str, ...] = ()
    marks: str = ""
    hollow: str = ""
    ring: tuple[float, float] | None = None
    texts: tuple[tuple[float, float, str, str], ...] = ()
    words: str = ""
    thin: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart with two axes; `lines` belong to no candidate (a frontier), `dashes` neither (a floor)."""

    title: str
    label: str
    width: int
    height: int
    box: tuple[float, float, float, float]
    across: tuple[Tick, ...]
    upward: tuple[Tick, ...]
    across_label: str
    drawn: tuple[Drawn, ...]
    lines: tuple[str, ...] = ()
    dashes: tuple[str, ...] = ()
    upward_label: str = ""

    @property
    def span(self) -> int:
        """How many columns of the page it can use."""
        return 1 if self.width < 400 else 2


Points = Sequence[tuple[Candidate, Sequence[tuple[int, float]]]]


def by_layer(title: str, label: str, series: Points, limits: tuple[float, float], show: Show = percent) -> Plot:
    """Values above zero by layer, on a logarithmic scale; marks of a layer stand side by side, so that none hides."""
    layers = sorted({layer for _, points in series for layer, _ in points})
    width = 580 if len(layers) > 16 else WIDTH
    box = (46.0, 8.0, float(width - 10), 130.0)
    slot = (box[2] - box[0]) / (max(layers) - min(layers) + 1)
    across = linear_scale(layers, box[0] + slot / 2, box[2] - slot / 2, lambda v: f"{v:.0f}", whole=True)
    upward = log_scale(limits, box[3], box[1], show)
    step = min(slot * 0.8 / max(len(series), 1), 7.0)
    drawn = []
    for i, (candidate, points) in enumerate(series):
        shift = (i - (len(series) - 1) / 2) * step
        places = [(across.at(layer) + shift, upward.at(drawable(value))) for layer, value in sorted(points)]
        marks = "".join(mark_path(candidate.mark, x, y, min(3.4, max(slot / 4, 1.8))) for x, y in places)
        drawn.append(Drawn(candidate.css, (_path(places),), marks, words=candidate.name, thin=True))
    return Plot(title, label, width, 160, box, across.ticks, upward.ticks, "layer", tuple(drawn))


Curves = Sequence[tuple[Candidate, Sequence[float], Sequence[float], str]]


def survival(title: str, label: str, curves: Curves, last: float) -> Plot:
    """How many runs still go right: a falling step line for each (candidate, times, shares, words), from 1 at 0.

    Lines stand a little apart, so that none hides an equal one.
    """
    box = (46.0, 8.0, 570.0, 180.0)
    across = linear_scale([0.0, last], box[0], box[2], lambda v: f"{v:g}", whole=True)
    upward = linear_scale([0.0, 1.0], box[3], box[1], percent)
    drawn = []
    step = min(2.0, 10 / max(len(curves), 1))
    for i, (candidate, times, left, words) in enumerate(curves):
        aside = (i - (len(curves) - 1) / 2) * step
        places, share = [(0.0, 1.0)], 1.0
        for time, after in zip(times, left, strict=True):
            places += [(time, share), (time, after)]
            share = after
        path = _path([(across.at(x) + aside, upward.at(y) + aside) for x, y in (*places, (last, share))])
        ends = [(across.at(x) + aside, upward.at(y) + aside) for x, y in zip(times, left, strict=True)]
        marks = "".join(mark_path(candidate.mark, x, y, 3.0) for x, y in ends)
        drawn.append(Drawn(candidate.css, (path,), marks, words=words))
    return Plot(title, label, 580, 214, box, across.ticks, upward.ticks, "tool calls", tuple(drawn))


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate: its size, damage above 0 with its interval's ends, its label and words.

    What is not `inside` (every tolerance, or what a chart's caption says) is drawn hollow; `chosen` puts a ring around.
    """

    candidate: Candidate
    size: float
    damage: float
    low: float | None
    high: float | None
    label: str
    words: str
    inside: bool
    chosen: bool


def size_against_damage(
    title: str, label: str, points: Sequence[Point], frontier: Sequence[tuple[float, float]], floor: float | None,
    unit: str,
) -> Plot:  # fmt: skip
    """Size across, damage up on a logarithmic scale, with a frontier: through what none beats in both, or foretold."""
    box = (52.0, 10.0, 462.0, 270.0)
    ends = [v for p in points for v in (p.damage, p.low, p.high) if v is not None and v > 0]
    ends += [damage for _, damage in frontier]
    upward = log_scale([*ends, *([floor] if floor else [])], box[3] - 8, box[1] + 8, lambda value: plain(1000 * value))
    sizes = [*(p.size for p in points), *(size for size, _ in frontier)]
    across = linear_scale(sizes, box[0] + 12, box[2] - 12, plain, margin=0.06)
    places = [(across.at(p.size), upward.at(drawable(p.damage))) for p in points]
    labels = _labels([p.label for p in points], places, box)
    drawn = []
    for p, (x, y), text in zip(points, places, labels, strict=True):
        whisker = (
            (_path([(x, upward.at(drawable(end))) for end in (p.low, p.high)]),)
            if p.low is not None and p.high is not None
            else ()
        )  # fmt: skip
        mark = mark_path(p.candidate.mark, x, y, _SIZE)
        drawn.append(
            Drawn(
                p.candidate.css, whisker, mark if p.inside else "", "" if p.inside else mark,
                (x, y) if p.chosen else None, (text,) if text else (), p.words,
            )
        )  # fmt: skip
    line = _path([(across.at(x), upward.at(drawable(y))) for x, y in frontier])
    dashes = (_path([(box[0], upward.at(floor)), (box[2], upward.at(floor))]),) if floor else ()
    return Plot(
        title, label, 472, 306, box, across.ticks, upward.ticks, unit, tuple(drawn), (line,) if line else (), dashes,
        "KL, 10⁻³ nats",
    )  # fmt: skip


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (size, damage) that none beats in both, the smallest first.

    >>> frontier([(3, 1.0), (2, 5.0), (4, 2.0)])
    [(2, 5.0), (3, 1.0)]
    """
    kept: list[tuple[float, float]] = []
    for size, damage in sorted(points):
        if not kept or damage < kept[-1][1]:
            kept.append((size, damage))
    return kept


@dataclass(frozen=True, slots=True)
class Pair:
    """A candidate's two figures: `x` that is to foretell, and `y` with its interval's ends."""

    candidate: Candidate
    x: float
    y: float
    low: float | None
    high: float | None
    label: str
    words: str


def foretelling(title: str, label: str, pairs: Sequence[Pair], across: str, upward: str) -> Plot:
    """One figure across, on a logarithmic scale, against a share up: does the first put candidates in order?"""
    box = (52.0, 10.0, 270.0, 200.0)
    scale = log_scale([p.x for p in pairs if p.x > 0] or [1.0], box[0] + 10, box[2] - 10, plain)
    values = [v for p in pairs for v in (p.y, p.low, p.high) if v is not None]
    rising = linear_scale([0.0, *values], box[3], box[1] + 6, percent)
    places = [(scale.at(drawable(p.x)), rising.at(p.y)) for p in pairs]
    drawn = []
    for p, (x, y), text in zip(pairs, places, _labels([p.label for p in pairs], places, box), strict=True):
        ends = [end for end in (p.low, p.high) if end is not None]
        whisker = (_path([(x, rising.at(end)) for end in ends]),) if len(ends) == 2 else ()
        mark = mark_path(p.candidate.mark, x, y, _SIZE)
        drawn.append(Drawn(p.candidate.css, whisker, mark, texts=(text,) if text else (), words=p.words))
    return Plot(
        title, label, WIDTH, 236, box, scale.ticks, rising.ticks, across, tuple(drawn), upward_label=upward
    )  # fmt: skip


Box = tuple[float, float, float, float]


def _labels(
    texts: Sequence[str], places: Sequence[tuple[float, float]], box: Box
) -> list[tuple[float, float, str, str] | None]:
    """Where each mark's label stands, as (x, y, anchor, text), touching neither marks nor labels; None without room."""
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    labels: list[tuple[float, float, str, str] | None] = []
    for i, (text, (x, y)) in enumerate(zip(texts, places, strict=True)):
        others = [b for j, b in enumerate(taken) if j != i]
        wide, label = len(text) * 5.3, None
        for dx, dy, anchor in _AROUND:
            left = x + dx - (wide if anchor == "end" else wide / 2 if anchor == "middle" else 0)
            area = (left, y + dy - 8, left + wide, y + dy + 2)
            inside = box[0] <= area[0] and area[2] <= box[2] + 8 and box[1] - 8 <= area[1] and area[3] <= box[3]
            if text and inside and not any(_touch(area, other) for other in others):
                label = (round(x + dx, 1), round(y + dy, 1), anchor, text)
                taken.append(area)
                break
        labels.append(label)
    return labels


# where a label may stand beside its mark, the best first: right above, left below, right, left, …
_AROUND = (
    (7, -3, "start"), (-7, 9, "end"), (8, 4, "start"), (-8, 4, "end"), (7, 12, "start"), (-7, -5, "end"),
    (0, -9, "middle"), (0, 16, "middle"), (10, -14, "start"), (-10, 19, "end"), (-8, -11, "start"), (-8, 19, "start"),
)  # fmt: skip


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# --- paths ---


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in ((round(x, 1), round(y, 1)) for x, y in places)) if places else ""


def mark_path(mark: int, x: float, y: float, r: float = _SIZE) -> str:
    """The outline of a mark around a place: circle, square, diamond, triangle up or down, plus."""
    x, y, r = round(x, 1), round(y, 1), round(r, 1)
    t = round(r * 0.4, 1)
    shapes = (
        f"M{x - r:g} {y:g}a{r:g} {r:g} 0 1 0 {2 * r:g} 0a{r:g} {r:g} 0 1 0 {-2 * r:g} 0",
        f"M{x - r * 0.9:g} {y - r * 0.9:g}h{1.8 * r:g}v{1.8 * r:g}h{-1.8 * r:g}z",
        f"M{x:g} {y - 1.2 * r:g}l{1.2 * r:g} {1.2 * r:g}l{-1.2 * r:g} {1.2 * r:g}l{-1.2 * r:g} {-1.2 * r:g}z",
        f"M{x:g} {y - 1.1 * r:g}l{1.1 * r:g} {1.9 * r:g}h{-2.2 * r:g}z",
        f"M{x:g} {y + 1.1 * r:g}l{1.1 * r:g} {-1.9 * r:g}h{-2.2 * r:g}z",
        f"M{x - t:g} {y - r:g}h{2 * t:g}v{r - t:g}h{r - t:g}v{2 * t:g}h{t - r:g}v{r - t:g}h{-2 * t:g}v{t - r:g}"
        f"h{t - r:g}v{-2 * t:g}h{r - t:g}z",
    )
    return shapes[mark % len(shapes)]
