"""The recommendation: the smallest candidate inside every tolerance, and why nothing smaller is.

Inside means PASS on every check: what is not settled, too few or not measured is not inside. Of candidates of one size
the one that reads less for a token is taken, then the one with less damage. Where nothing passes, the nearest is named:
with the fewest checks certainly outside, then the fewest not passed, then the least damage. It is no recommendation.

The same documents choose and judge, which flatters the choice. Each member of a family is a test at the tolerance's
confidence; where the sizes are walked down one by one and the walk ends at the first that does not pass, the chance of
taking one that is outside stays that of a single test (a fixed sequence; Maurer, Hothorn and Lehmacher 1995). Several
families are several walks, so that chance grows with their number: Holm's procedure (1979) says whether the recommended
one would be inside at the confidence that this asks for. Where it would not, where it lies beyond the end of its walk,
and where another family was passed over, that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..report.verdict import ORDER, interval, name, what_now
from ..validate.judge import FAIL, PASS, Check, verdict_of
from ..words.text import figure
from ..words.units import show_bytes
from .candidates import SweepPoint

Checks = Mapping[str, Sequence[Check]]


def recommend(candidates: Sequence[SweepPoint], checks: Checks) -> dict[str, Any]:
    """Choose, with reasons; `candidates` are the smallest first, `checks` by candidate's name."""
    inside = [c for c in candidates if verdict_of(checks[c.name]) == PASS and c.nbytes is not None]
    if not inside:
        return {"name": None, "why": _why_none(candidates, checks), "nearest": _nearest(candidates, checks)}
    best = min(inside, key=_preference)
    smaller = [c for c in candidates if c.nbytes is not None and c.nbytes < (best.nbytes or 0)]
    return {
        "name": best.name,
        "bytes": best.nbytes,
        "inside": len(checks[best.name]),
        "why": _why(best, inside, checks),
        "smaller": [_refused(c, checks) for c in reversed(smaller)],
        "remarks": list(_remarks(best, candidates, checks)),
    }


def missed(checks: Sequence[Check]) -> list[Check]:
    """The checks that are not passed, the worst first, then in the file's order."""
    return sorted((c for c in checks if c.status != PASS), key=lambda c: (ORDER.index(c.status), c.tolerance.number))


def reason(check: Check) -> str:
    """What is wrong with one figure: status, limit, figure and interval, and what would settle it."""
    entry = check.as_dict()
    if check.interval is None:
        return f"{check.status}: {name(entry)}: {check.reason}"
    value = f"{figure(entry['estimate'], 3)} {interval(entry, 3)}".strip()
    after = f" ({remedy})" if (remedy := what_now(entry)) and check.status != FAIL else ""
    return f"{check.status}: {name(entry)}: {value}{after}"


def _preference(c: SweepPoint) -> tuple[Any, ...]:
    return (c.nbytes, c.active is None, c.active or 0, c.damage is None, c.damage or 0.0, c.name)


def _refused(c: SweepPoint, checks: Checks) -> dict[str, Any]:
    """A smaller candidate that is not inside."""
    return {
        "name": c.name,
        "bytes": c.nbytes,
        "verdict": verdict_of(checks[c.name]),
        "reasons": [reason(check) for check in missed(checks[c.name])],
    }


def _why(best: SweepPoint, inside: Sequence[SweepPoint], checks: Checks) -> str:
    count = len(checks[best.name])
    if len(inside) == 1:
        return f"the only candidate inside all {count} checks"
    return f"the smallest of {len(inside)} candidates inside all {count} checks"


def _why_none(candidates: Sequence[SweepPoint], checks: Checks) -> str:
    failing = sum(verdict_of(checks[c.name]) == FAIL for c in candidates)
    left = len(candidates) - failing
    if not left:
        return f"all {len(candidates)} candidates are outside a tolerance"
    return f"{failing} of {len(candidates)} candidates are outside a tolerance, {left} not settled or not measured"


def _nearest(candidates: Sequence[SweepPoint], checks: Checks) -> dict[str, Any] | None:
    if not candidates:
        return None

    def far(c: SweepPoint) -> tuple[Any, ...]:
        statuses = [check.status for check in checks[c.name]]
        open_ones = sum(s != PASS for s in statuses)
        return (statuses.count(FAIL), open_ones, c.damage is None, c.damage or 0.0, *_preference(c)[:1])

    return _refused(min(candidates, key=far), checks)


# --- several families ---


def _holds_among(best: SweepPoint, candidates: Sequence[SweepPoint], checks: Checks) -> tuple[int, bool]:
    """How many families were tried, and whether the one chosen holds by Holm's procedure over all of them."""
    families = dict.fromkeys(c.family for c in candidates)
    chances = {family: _chance_of(family, best, candidates, checks) for family in families}
    for tried, (family, chance) in enumerate(sorted(chances.items(), key=lambda item: item[1])):
        if chance > 1 / (len(families) - tried):
            return len(families), False
        if family == best.family:
            break
    return len(families), True


def _chance_of(family: str, best: SweepPoint, candidates: Sequence[SweepPoint], checks: Checks) -> float:
    """How far inside the member is at which a family's walk ends, 1 at the edge; more where none is inside."""
    inside = [c for c in candidates if c.family == family and verdict_of(checks[c.name]) == PASS]
    chosen = best if best in inside else min(inside, key=_preference, default=None)
    if chosen is None:
        return 2.0
    walked = [c for c in inside if (c.bits or 0) >= (chosen.bits or 0)]
    return max((check.chance or 0.0 for c in walked for check in checks[c.name]), default=0.0)


def _others(best: SweepPoint, candidates: Sequence[SweepPoint], checks: Checks) -> Iterator[str]:
    """What other families came to, and whether choosing among them was paid for."""
    tried, holds = _holds_among(best, candidates, checks)
    if tried == 1:
        return
    if holds:
        yield f"chosen among {tried} families, and inside also at the confidence that this asks for (Holm)"
    else:
        yield (
            f"chosen among {tried} families, and not inside at the confidence that this asks for (Holm): judge"
            f" {best.name} again on other documents"
        )
    for family in dict.fromkeys(c.family for c in candidates if c.family != best.family):
        members = [c for c in candidates if c.family == family]
        inside = [c for c in members if verdict_of(checks[c.name]) == PASS and c.nbytes is not None]
        if inside:
            other = min(inside, key=_preference)
            more = (other.nbytes or 0) - (best.nbytes or 0)
            size = f"{show_bytes(more)} larger" if more > 0 else "of the same size"
            yield f"passed over: {other.name}, the smallest inside of its family, {size}"
        else:
            yield f"passed over: {family}, no member of which is inside"


# --- remarks ---


def _remarks(best: SweepPoint, candidates: Sequence[SweepPoint], checks: Checks) -> Iterator[str]:
    """What a reader should know of this choice."""
    larger = [c for c in candidates if c.family == best.family and (c.bits or 0) > (best.bits or 0)]
    for c in sorted(larger, key=lambda c: c.bits or 0):
        if (verdict := verdict_of(checks[c.name])) != PASS:
            worst = missed(checks[c.name])[0]
            yield (
                f"{c.name} has more bits and is not inside ({verdict}: {worst.tolerance.metric}, {worst.place}); that"
                f" {best.name} is inside may be chance, so judge it again on other documents"
            )
    yield from _others(best, candidates, checks)
