"""Take trials apart into observations, by metric, slice and depth, for counting.

Passing and an item's own checks are observed once a trial, a call's checks once for each call that was due. A unit is
what intervals count as independent (`Item.unit`): a task, or what several items share. Depths are the buckets of
`DEPTHS`, since errors compound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .items import CALL_CHECKS

# The number of a call in its loop: label, first, last
DEPTHS: tuple[tuple[str, int, int | None], ...] = (
    ("1-20", 1, 20), ("21-50", 21, 50), ("51-150", 51, 150), ("151+", 151, None),
)  # fmt: skip

# Where a measurement applies: (("slice", "json"),), (("depth", "21-50"),) or () for all
Where = tuple[tuple[str, str], ...]
Trial = Mapping[str, Any]
# What is measured, where, and which of the trial's observations of it this is: 0, or a call's depth
Observed = tuple[str, Where, int]
_PAIR = {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}


def bucket(depth: int) -> str:
    """The bucket of a depth.

    >>> [bucket(d) for d in (1, 20, 21, 150, 151)]
    ['1-20', '1-20', '21-50', '51-150', '151+']
    """
    return next(label for label, _, last in DEPTHS if last is None or depth <= last)


def unit_of(trial: Trial) -> str:
    """The independent unit that a trial belongs to."""
    return f"{trial['suite']}/{trial['unit']}"


def slices_of(trial: Trial, *, suites: bool) -> list[str]:
    """A trial's slices; with `suites`, its suite is one of them."""
    return [*([trial["suite"]] if suites else []), *trial["slices"]]


def observe(trial: Trial, *, suites: bool) -> Iterator[tuple[Observed, bool]]:
    """All that one trial shows. `suites` says that there are several, so that each is a slice."""
    places: list[Where] = [(), *((("slice", s),) for s in slices_of(trial, suites=suites))]
    for metric, hit in (("pass", trial["passed"]), *trial["checks"].items()):
        for where in places:
            yield (metric, where, 0), bool(hit)
    for depth, signs, _, slices, *_ in trial["calls"]:
        places = [(), (("depth", bucket(depth)),), *((("slice", s),) for s in slices)]
        judged = [(check, sign == "1") for check, sign in zip(CALL_CHECKS, signs, strict=True) if sign != "-"]
        judged.append(("right_call", "0" not in signs))
        for metric, hit in judged:
            for where in places:
                yield (metric, where, depth), hit


def count(trials: Iterable[Trial], *, suites: bool) -> dict[tuple[str, Where], dict[str, list[int]]]:
    """How many observations hit, and how many there were, by unit."""
    found: dict[tuple[str, Where], dict[str, list[int]]] = {}
    for trial in trials:
        unit = unit_of(trial)
        for (metric, where, _), hit in observe(trial, suites=suites):
            sums = found.setdefault((metric, where), {}).setdefault(unit, [0, 0])
            sums[0] += hit
            sums[1] += 1
    return found


def count_pairs(
    baseline: Sequence[Trial], candidate: Sequence[Trial], *, suites: bool
) -> dict[tuple[str, Where], dict[str, list[int]]]:
    """Pairs by unit: both hit, only the baseline, only the candidate, neither.

    `baseline[i]` and `candidate[i]` are the same item and trial; what only one of them shows is in no pair.
    """
    found: dict[tuple[str, Where], dict[str, list[int]]] = {}
    for a, b in zip(baseline, candidate, strict=True):
        unit, other = unit_of(a), dict(observe(b, suites=suites))
        for observed, hit in observe(a, suites=suites):
            if observed in other:
                metric, where, _ = observed
                counts = found.setdefault((metric, where), {}).setdefault(unit, [0, 0, 0, 0])
                counts[_PAIR[hit, other[observed]]] += 1
    return found


def in_order(key: tuple[str, Where]) -> tuple[int, Where]:
    """Sort what is measured overall first, then by slice and depth."""
    return len(key[1]), key[1]
