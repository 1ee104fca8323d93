"""Where a family leaves its tolerances as its bits go down: for each tolerance and place, and for all of them.

Every line has its statuses by bits, and where they turn:

    holds_to   the fewest bits down to which every member passes
    leaves_at  the next one that does not, and its status: not settled, or outside
    fails_at   the most bits at which a member is certainly outside
    regained   members below `leaves_at` that pass all the same: damage need not grow with every bit, and chance is left
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..validate.judge import FAIL, PASS, Check
from .candidates import Candidate

Place = tuple[int, str, tuple[tuple[str, str], ...]]


def place_of(check: Check) -> Place:
    """What checks of several candidates have in common: the tolerance, the figure, and where."""
    return check.tolerance.number, check.tolerance.metric, check.where


def thresholds(candidates: Sequence[Candidate], checks: Mapping[str, Sequence[Check]]) -> list[dict[str, Any]]:
    """For every family of known bits, a line for each tolerance at each place; `checks` are by candidate's name.

    `statuses` are by bits, from the most; a line whose `tolerance` is None is of all tolerances together.
    """
    found = []
    families = dict.fromkeys(c.family for c in candidates if c.bits is not None)
    for family in families:
        members = sorted((c for c in candidates if c.family == family and c.bits), key=lambda c: -(c.bits or 0))
        places = dict.fromkeys(place_of(check) for c in members for check in checks[c.name])
        lines = [_line(family, place, members, checks) for place in sorted(places, key=lambda p: p[0])]
        found += [*lines, _all_of(family, members, checks)]
    return found


def _line(
    family: str, place: Place, members: Sequence[Candidate], checks: Mapping[str, Sequence[Check]]
) -> dict[str, Any]:
    statuses, limit = {}, ""
    for c in members:
        check = next((k for k in checks[c.name] if place_of(k) == place), None)
        if check is not None:
            statuses[str(c.bits)], limit = check.status, check.tolerance.limit
    number, metric, where = place
    return {"family": family, "tolerance": number, "metric": metric, **dict(where), "limit": limit} | _ends(statuses)


def _all_of(family: str, members: Sequence[Candidate], checks: Mapping[str, Sequence[Check]]) -> dict[str, Any]:
    from ..validate.judge import verdict_of

    return {"family": family, "tolerance": None} | _ends({str(c.bits): verdict_of(checks[c.name]) for c in members})


def _ends(statuses: Mapping[str, str]) -> dict[str, Any]:
    """Where statuses, from the most bits to the fewest, turn."""
    bits = list(statuses)
    leaves = next((b for b in bits if statuses[b] != PASS), None)
    before = bits[: bits.index(leaves)] if leaves is not None else bits
    after = bits[bits.index(leaves) + 1 :] if leaves is not None else []
    return {
        "statuses": dict(statuses),
        "holds_to": int(before[-1]) if before else None,
        "leaves_at": int(leaves) if leaves is not None else None,
        "leaves_as": statuses[leaves] if leaves is not None else None,
        "fails_at": next((int(b) for b in bits if statuses[b] == FAIL), None),
        "regained": [int(b) for b in after if statuses[b] == PASS],
    }
