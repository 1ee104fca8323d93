"""Count what trials show, by metric, slice and depth, a pair of sums for every independent unit.

A unit is what intervals count (`Item.unit`): a task, or what several items share. Passing and an item's own checks
are counted once a trial, a call's checks once a call. Depths are the buckets of `DEPTHS`, since errors compound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .items import CALL_CHECKS

# Calls made before and with this one: label, first, last
DEPTHS: tuple[tuple[str, int, int | None], ...] = (
    ("1-20", 1, 20), ("21-50", 21, 50), ("51-150", 51, 150), ("151+", 151, None),
)  # fmt: skip

# Where a measurement applies: (("slice", "json"),), (("depth", "21-50"),) or () for all
Where = tuple[tuple[str, str], ...]
Trial = Mapping[str, Any]
# (metric, where) -> unit -> [how many had it, how many there were]
Tally = dict[tuple[str, Where], dict[str, list[int]]]


def bucket(depth: int) -> str:
    """The bucket of a depth.

    >>> [bucket(d) for d in (1, 20, 21, 150, 151)]
    ['1-20', '1-20', '21-50', '51-150', '151+']
    """
    return next(label for label, _, last in DEPTHS if last is None or depth <= last)


def slices_of(trial: Trial, *, suites: bool) -> list[str]:
    """A trial's slices; with `suites`, its suite is one of them."""
    return [*([trial["suite"]] if suites else []), *trial["slices"]]


def count(trials: Iterable[Trial], *, suites: bool) -> Tally:
    """Count trials that gave a result. `suites` says that there are several, so that each is a slice."""
    tally: Tally = {}
    for trial in trials:
        unit = f"{trial['suite']}/{trial['unit']}"
        places: list[Where] = [(), *((("slice", s),) for s in slices_of(trial, suites=suites))]
        for metric, hit in (("pass", trial["passed"]), *trial["checks"].items()):
            for where in places:
                _add(tally, metric, where, unit, hit)
        for metric, where, hit in _of_calls(trial["calls"]):
            _add(tally, metric, where, unit, hit)
    return tally


def _of_calls(calls: Iterable[list[Any]]) -> Iterator[tuple[str, Where, bool]]:
    for depth, signs, _, slices, *_ in calls:
        places: list[Where] = [(), (("depth", bucket(depth)),), *((("slice", s),) for s in slices)]
        judged = [(check, sign == "1") for check, sign in zip(CALL_CHECKS, signs, strict=True) if sign != "-"]
        judged.append(("right_call", "0" not in signs))
        for metric, hit in judged:
            for where in places:
                yield metric, where, hit


def _add(tally: Tally, metric: str, where: Where, unit: str, hit: bool) -> None:
    sums = tally.setdefault((metric, where), {}).setdefault(unit, [0, 0])
    sums[0] += bool(hit)
    sums[1] += 1
