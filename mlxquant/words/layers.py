"""Which layers a rule means: indices, ranges and fractions of depth, written as text.

A *point* is an index (`3`), an index from the end (`-1` is the last layer) or a fraction of the depth, which
floors and may carry an offset: in a model of n layers `7/8` is ``7 * n // 8`` and `1/8+2` is ``n // 8 + 2``.
A *range* `a..b` runs from a up to but not including b, as Python's does; either end may be left out, and
`step k` takes every k-th layer from a on. A list means any of its parts. With these, mlx-lm's

    index < n // 8 or index >= 7 * n // 8 or (index - n // 8) % 3 == 2

is ``["0..1/8", "7/8..", "1/8+2.. step 3"]``: for n = 48 the layers 0-5, 42-47 and 8, 11, …, 41.

What lies outside the model selects nothing, since one recipe serves models of many depths; `decide` notes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_POINT = r"-?\d+|\d+/\d+(?:[+-]\d+)?"
_PART = re.compile(rf"(?P<start>{_POINT})?\s*(?P<dots>\.\.)?\s*(?P<stop>{_POINT})?(?:\s*step\s+(?P<step>\d+))?")
_FORMS = '3, -1, "0..4", "-4..", "7/8..", "1/8+2.. step 3"'


@dataclass(frozen=True, slots=True)
class LayerPoint:
    """A place along the depth of a model: ``numerator * n // denominator + offset``."""

    numerator: int
    denominator: int
    offset: int

    def at(self, n_layers: int) -> int:
        """The layer index in a model of `n_layers`. ``LayerPoint(7, 8, 0).at(46) == 40``."""
        return self.numerator * n_layers // self.denominator + self.offset


@dataclass(frozen=True, slots=True)
class Span:
    """One part of a `layers` list, as it was written and as what it means."""

    text: str
    start: LayerPoint
    stop: LayerPoint
    step: int = 1

    def select(self, n_layers: int) -> frozenset[int]:
        """The layers meant in a model of `n_layers`."""
        start, stop = self.start.at(n_layers), self.stop.at(n_layers)
        # the phase counts from the start as written, even where that lies before layer 0
        return frozenset(i for i in range(n_layers) if start <= i < stop and (i - start) % self.step == 0)


def select_layers(spans: Sequence[Span], n_layers: int) -> frozenset[int]:
    """The layers that any of the parts means."""
    return frozenset[int]().union(*(span.select(n_layers) for span in spans))


def parse_layers(value: object) -> tuple[Span, ...]:
    """Read an index, a text, or a list of them. Raises ValueError saying what is wrong and what would be right."""
    parts = value if isinstance(value, list) else [value]
    if not parts:
        raise ValueError("layers is empty; leave it out to mean every layer")
    return tuple(_span(part) for part in parts)


def _span(part: object) -> Span:
    if isinstance(part, bool) or not isinstance(part, int | str):
        raise ValueError(f"{part!r} is not a layer; write {_FORMS}")
    text = str(part).strip()
    match = _PART.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"{text!r} is not a layer; write {_FORMS}")
    if not match["dots"]:
        if match["start"] is None or match["stop"] is not None or match["step"] is not None:
            raise ValueError(f"{text!r} is not a layer; a step needs a range, as in {_FORMS}")
        start = _point(match["start"])
        return Span(text, start, LayerPoint(start.numerator, start.denominator, start.offset + 1))
    start = _point(match["start"] or "0")
    stop = _point(match["stop"]) if match["stop"] else LayerPoint(1, 1, 0)
    step = int(match["step"] or 1)
    if step < 1:
        raise ValueError(f"{text!r}: a step is at least 1")
    if start.numerator * stop.denominator == stop.numerator * start.denominator and start.offset >= stop.offset:
        raise ValueError(f"{text!r} contains no layer: the end of a range is not part of it, so 3..4 is layer 3 alone")
    return Span(text, start, stop, step)


def _point(text: str) -> LayerPoint:
    """Read `3`, `-1` or `1/8+2`."""
    if "/" not in text:
        index = int(text)
        return LayerPoint(0, 1, index) if index >= 0 else LayerPoint(1, 1, index)
    fraction, offset = re.fullmatch(r"(\d+/\d+)([+-]\d+)?", text).groups()  # type: ignore[union-attr]
    numerator, denominator = (int(number) for number in fraction.split("/"))
    if denominator == 0 or numerator > denominator:
        raise ValueError(f"{text!r}: a fraction of depth lies between 0/1 and 1/1")
    return LayerPoint(numerator, denominator, int(offset or 0))


def layers_text(layers: Sequence[int]) -> list[int | str]:
    """Write a set of layers as shortly as it reads well; `parse_layers` of it gives the set back.

    >>> layers_text([0, 1, 2, 8, 11, 14, 17, 40])
    ['0..3', '8..18 step 3', 40]
    """
    rest = sorted(set(layers))
    parts: list[int | str] = []
    while rest:
        run = _longest_run(rest)
        if len(run) < 3:
            parts.extend(rest)
            break
        step = run[1] - run[0]
        parts.append(f"{run[0]}..{run[-1] + 1}" + (f" step {step}" if step > 1 else ""))
        rest = [layer for layer in rest if layer not in run]
    return sorted(parts, key=lambda part: part if isinstance(part, int) else int(part.split("..")[0]))


def layers_short(layers: Iterable[int]) -> str:
    """Write a set of layers in one cell of a table, which need not give them all.

    >>> layers_short(range(48)), layers_short([3, 7]), layers_short([3, 7, 11, 15, 19])
    ('0–47', '3, 7', '3, 7 … 19 (5)')
    """
    ordered = sorted(set(layers))
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]}–{ordered[-1]}"
    if len(ordered) > 4:
        return f"{ordered[0]}, {ordered[1]} … {ordered[-1]} ({len(ordered)})"
    return ", ".join(str(n) for n in ordered)


def _longest_run(layers: list[int]) -> list[int]:
    """The longest arithmetic progression within sorted `layers`, unbroken ranges first."""
    have, best = set(layers), layers[:1]
    for step in range(1, max(2, layers[-1] - layers[0] + 1)):
        for first in layers:
            run = [first]
            while run[-1] + step in have:
                run.append(run[-1] + step)
            if len(run) > len(best):
                best = run
        if step == 1 and len(best) >= 3:
            break
    return best
