"""Scales of the charts: from a value to a place in the drawing, with ticks whose labels do not touch.

A scale is linear or logarithmic. Nothing is drawn here; `charts` lays drawings out with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Show = Callable[[float], str]

# Width of a sign of a tick's label and the least space between two labels, in units of the drawing
_SIGN, _GAP = 5.6, 8.0
_MOST = 6
# What a logarithmic axis holds; beyond lies only what a broken record says
_LEAST, _LARGEST = 1e-9, 1e6


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick: its place in the drawing and its label."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `low` to `high` on places from `start` to `end`; upright ones start below."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool
    ticks: tuple[Tick, ...] = ()

    def at(self, value: float) -> float:
        """The place of a value, within the ends."""
        low, high, value = (self._inner(v) for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 1)

    def _inner(self, value: float) -> float:
        return math.log10(drawable(value)) if self.logarithmic else value


def drawable(value: float) -> float:
    """A value above zero that a logarithmic axis can hold."""
    return min(max(value, _LEAST), _LARGEST)


def log_scale(values: Iterable[float], start: float, end: float, show: Show) -> Scale:
    """A logarithmic scale from the least to the largest of `values`, a quarter of either more at the ends."""
    held = [drawable(value) for value in values] or [1.0]
    low, high = min(held) / 1.25, max(held) * 1.25
    steps = [m * 10.0**e for e in range(-9, 7) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    decades = [step for step in steps if f"{step:e}".startswith("1")]
    places = steps if len(steps) <= _MOST else decades
    if len(places) < 2:
        places = [low * 1.1, (low * high) ** 0.5, high / 1.1]
    bare = Scale(low, high, start, end, logarithmic=True)
    return Scale(low, high, start, end, True, _spaced([(bare.at(v), show(v)) for v in places], upright=end < start))


def linear_scale(
    values: Iterable[float], start: float, end: float, show: Show, *, whole: bool = False, margin: float = 0.0
) -> Scale:
    """A linear scale from the least to the largest of `values`, with a share of their span more as `margin`.

    `whole` puts ticks at whole numbers alone.
    """
    held = list(values) or [0.0, 1.0]
    low, high = min(held), max(held)
    span = high - low or abs(high) or 1.0
    low, high = (low - margin * span, high + margin * span) if high > low else (low - span / 2, high + span / 2)
    step = _step((high - low) / (_MOST - 1), whole=whole)
    first = math.ceil(low / step - 1e-9)
    places = [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
    bare = Scale(low, high, start, end, logarithmic=False)
    return Scale(low, high, start, end, False, _spaced([(bare.at(v), show(v)) for v in places], upright=end < start))


def _step(least: float, *, whole: bool) -> float:
    """The next larger of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= least * 0.999)
    return max(1.0, float(round(step))) if whole else step


def _spaced(places: Sequence[tuple[float, str]], *, upright: bool) -> tuple[Tick, ...]:
    """As many of evenly spaced ticks as there is room for."""

    def half(text: str) -> float:
        return _GAP if upright else len(text) * _SIGN / 2

    for stride in range(1, len(places) + 1):
        taken = places[::stride]
        pairs = pairwise(taken)
        if all(abs(b[0] - a[0]) >= half(a[1]) + half(b[1]) + (0 if upright else _GAP) for a, b in pairs):
            return tuple(Tick(*place) for place in taken)
    return tuple(Tick(*place) for place in places[:1])
