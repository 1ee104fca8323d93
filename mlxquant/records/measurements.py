"""Measurements of a record's sides: how one is written, and found by metric and where it applies. Without mlx.

A measurement is a flat table: metric, where it applies (slice, depth, …), estimate, ends, observations and clusters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..stats import Interval
from .files import read_checked

# The number of a call in its loop, as an evaluation has it, since errors compound: label, first, last
CALL_DEPTHS: tuple[tuple[str, int, int | None], ...] = (
    ("1-20", 1, 20), ("21-50", 21, 50), ("51-150", 51, 150), ("151+", 151, None),
)  # fmt: skip
OVER = ("slice", "depth", "turn", "layer", "against", "case")

Measured = Mapping[str, Any]


def read_comparison(path: Path) -> dict[str, Any]:
    """Read a comparison's record and check what readers count on. Raises RecordError with all that is wrong."""
    return read_checked(path, "compare")


def as_measurement(metric: str, interval: Interval, **where: Any) -> dict[str, Any]:
    """One measurement of a record; `where` says what of the data it is over."""
    return {"metric": metric, **where, **interval.as_dict()}


def measurement(side: Mapping[str, Any], metric: str, **where: str) -> dict[str, Any] | None:
    """A side's measurement of exactly this metric, slice and depth; None where there is none."""
    for entry in side["measurements"]:
        if entry["metric"] == metric and {k: entry[k] for k in ("slice", "depth") if k in entry} == where:
            return dict(entry)
    return None


def depth_range(entry: Mapping[str, Any]) -> tuple[int, int | None] | None:
    """First and last call, turn or action of a loop that a measurement is over; None where it is over all of them.

    Earlier versions wrote the depth's label alone: ``"51-150"``, ``"calls 151+"``, ``"turns 0"``.
    """
    if (first := entry.get("depth_first")) is not None:
        return first, entry.get("depth_last")
    label = re.search(r"(\d+)(?:-(\d+)|(\+))?$", str(entry.get("depth") or ""))
    if label is None:
        return None
    return int(label[1]), None if label[3] else int(label[2] or label[1])


class Figures:
    """The measurements of one candidate, by metric and keys."""

    def __init__(self, candidate: Mapping[str, Any]) -> None:
        """Index a candidate, or the baseline, of a record."""
        self.name = str(candidate["name"])
        self._found: dict[tuple[Any, ...], Measured] = {
            (m["metric"], *(m.get(key) for key in OVER)): m for m in candidate["measurements"]
        }

    def get(self, metric: str, **over: Any) -> Measured | None:
        """One figure; of everything, as served, unless `over` says otherwise."""
        return self._found.get((metric, *(over.get(key) for key in OVER)))

    def names(self, kind: str, metric: str = "kl_nats", case: str | None = None) -> list[Any]:
        """The slices, depths, turns or layers that a metric was measured over, in order."""
        place = OVER.index(kind) + 1
        wanted = (metric, *(None for _ in OVER[:-1]), case)
        found = [
            key[place]
            for key in self._found
            if key[place] is not None and (*key[:place], None, *key[place + 1 :]) == wanted
        ]
        return sorted(found, key=_order)

    def slices_worst_first(self) -> list[Measured]:
        """KL by slice, the largest first; those without an interval, too small to tell, come last."""
        found = [m for name in self.names("slice") if (m := self.get("kl_nats", slice=name)) is not None]
        return sorted(found, key=lambda m: (m["low"] is None, -(m["estimate"] or 0.0)))

    def worst_slice(self) -> Measured | None:
        """The slice with the largest KL of those that have an interval; None where there is none."""
        first = next(iter(self.slices_worst_first()), None)
        return first if first is not None and first["low"] is not None else None


def figures_of(record: Mapping[str, Any]) -> Iterator[Figures]:
    """Each candidate's figures, in the record's order."""
    for candidate in record["candidates"]:
        yield Figures(candidate)


def _order(name: Any) -> tuple[int, str]:
    """Layers and buckets by their first number, words by the alphabet."""
    number = re.match(r"\d+", str(name))
    return (int(number[0]), "") if number else (0, str(name))
