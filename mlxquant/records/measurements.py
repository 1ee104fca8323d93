"""Measurements of a record's sides: how one is written, and found by metric and where it applies. Without mlx.

A measurement is a flat table: metric, where it applies (slice, depth, …), estimate, ends, observations and clusters.
Whatever command writes it, it is made and found here. Without a place it is over everything, as served. What a metric
means is in `metrics`, what a record must hold in `schemas`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..stats import Interval
from .files import read_checked
from .metrics import PLACES

# The number of a call in its loop, as an evaluation has it, since errors compound: label, first, last
CALL_DEPTHS: tuple[tuple[str, int, int | None], ...] = (
    ("1-20", 1, 20), ("21-50", 21, 50), ("51-150", 51, 150), ("151+", 151, None),
)  # fmt: skip

Measured = Mapping[str, Any]


def read_comparison(path: Path) -> dict[str, Any]:
    """Read a comparison's record and check what readers count on. Raises RecordError with all that is wrong."""
    return read_checked(path, "compare")


def as_measurement(metric: str, interval: Interval, *, se_iid: float | None = None, **where: Any) -> dict[str, Any]:
    """One measurement of a record; `where` says what of the data it is over, by the keys of `PLACES`.

    `se_iid` is the standard error that takes tokens as independent, as llama.cpp gives it.
    """
    iid = {} if se_iid is None or not math.isfinite(se_iid) else {"se_iid": float(f"{se_iid:.7g}")}
    return {"metric": metric, **where, **interval.as_dict(), **iid}


def measurement(side: Mapping[str, Any], metric: str, **where: Any) -> dict[str, Any] | None:
    """A side's measurement of a metric at exactly these places; None where there is none.

    `side` is a baseline or a candidate of a record.
    """
    for entry in side["measurements"]:
        if entry["metric"] == metric and places_of(entry) == where:
            return dict(entry)
    return None


def places_of(entry: Measured) -> dict[str, Any]:
    """Where a measurement applies."""
    return {key: entry[key] for key in PLACES if entry.get(key) is not None}


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
    """The measurements of one candidate of a comparison, indexed by metric and places."""

    def __init__(self, candidate: Mapping[str, Any]) -> None:
        """Index a candidate, or the baseline, of a record."""
        self.name = str(candidate["name"])
        self._index: dict[tuple[Any, ...], Measured] = {
            _key(m["metric"], places_of(m)): m for m in candidate["measurements"]
        }

    def get(self, metric: str, **where: Any) -> Measured | None:
        """One figure; of everything, as served, unless `where` says otherwise."""
        return self._index.get(_key(metric, where))

    def names(self, kind: str, metric: str = "kl_nats", case: str | None = None) -> list[Any]:
        """The slices, depths, turns or layers that a metric was measured over, in order."""
        places = [places_of(m) for m in self._index.values() if m["metric"] == metric]
        rest = {} if case is None else {"case": case}
        return sorted((p[kind] for p in places if kind in p and p == {kind: p[kind], **rest}), key=_order)

    def slices_worst_first(self) -> list[Measured]:
        """KL by slice, the largest first; those without an interval, too small to tell, come last."""
        slices = [m for name in self.names("slice") if (m := self.get("kl_nats", slice=name)) is not None]
        return sorted(slices, key=lambda m: (m["low"] is None, -(m["estimate"] or 0.0)))

    def worst_slice(self) -> Measured | None:
        """The slice with the largest KL of those that have an interval; None where there is none."""
        first = next(iter(self.slices_worst_first()), None)
        return first if first is not None and first["low"] is not None else None


def figures_of(record: Mapping[str, Any]) -> Iterator[Figures]:
    """Each candidate's figures, in the record's order."""
    for candidate in record["candidates"]:
        yield Figures(candidate)


def _key(metric: str, where: Mapping[str, Any]) -> tuple[Any, ...]:
    return (metric, *(where.get(key) for key in PLACES))


def _order(name: Any) -> tuple[int, str]:
    """Layers and buckets by their first number, words by the alphabet."""
    number = re.match(r"\d+", str(name))
    return (int(number[0]), "") if number else (0, str(name))
