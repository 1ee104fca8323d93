"""What is worth its bytes (the frontier), and where a family leaves its tolerances as its bits go down (thresholds).

A candidate is dominated where another is no larger and no worse, and smaller or better. Damage is the estimate of mean
KL; whether the difference is more than chance says the paired interval in the comparison's record (`resolved`): it is,
where the whole interval lies above 0, or the two differ in size alone. Two candidates alike in both are both on it.

Thresholds are lines, one for each family, tolerance and place, and one for all tolerances together. Every line has its
statuses by bits, and where they turn:

    holds_to   the fewest bits down to which every member passes
    leaves_at  the next one that does not, and its status: not settled, or outside
    fails_at   the most bits at which a member is certainly outside
    regained   members below `leaves_at` that pass all the same: damage need not grow with every bit, and chance is left

What is recommended of it is `recommend`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..records.measurements import measurement
from ..validate.judge import FAIL, PASS, Check, verdict_of
from .candidates import SweepPoint

# --- frontier ---

# what size is: the build's bytes, or those that are read for a token
SIZES = ("bytes", "active_bytes_per_token")
_DIFFERENCE = "kl_nats_difference"


@dataclass(frozen=True, slots=True)
class Dominated:
    """Which candidate beats one, and whether that is more than chance."""

    by: str
    resolved: bool

    def as_dict(self) -> dict[str, Any]:
        """As in a record."""
        return {"by": self.by, "resolved": self.resolved}


def size_of(candidate: SweepPoint, kind: str) -> int | None:
    """A candidate's size of a kind of `SIZES`."""
    return candidate.nbytes if kind == "bytes" else candidate.active


def frontier(candidates: Sequence[SweepPoint], kind: str = "bytes") -> list[str]:
    """Names of the candidates that none dominates, from the smallest; those without size or damage are left out."""
    beaten = dominated(candidates, kind)
    placed = [(size_of(c, kind), c.damage, c.name) for c in candidates if _placed(c, kind)]
    return [name for _, _, name in sorted(placed, key=lambda p: (p[0] or 0, p[1] or 0)) if name not in beaten]


def dominated(candidates: Sequence[SweepPoint], kind: str = "bytes") -> dict[str, Dominated]:
    """For each candidate that another beats, the one that does so with the least damage."""
    placed = [c for c in candidates if _placed(c, kind)]
    beaten = {}
    for c in placed:
        better = [other for other in placed if _beats(other, c, kind)]
        if better:
            best = min(better, key=lambda o: (o.damage or 0.0, size_of(o, kind) or 0, o.name))
            beaten[c.name] = Dominated(best.name, _resolved(c, best))
    return beaten


def _placed(c: SweepPoint, kind: str) -> bool:
    return size_of(c, kind) is not None and c.damage is not None


def _beats(a: SweepPoint, b: SweepPoint, kind: str) -> bool:
    mine, theirs = (size_of(a, kind), a.damage), (size_of(b, kind), b.damage)
    assert None not in mine and None not in theirs
    return mine[0] <= theirs[0] and mine[1] <= theirs[1] and mine != theirs  # type: ignore[operator]


def _resolved(worse: SweepPoint, better: SweepPoint) -> bool:
    if worse.damage == better.damage:
        return True
    paired = measurement(worse.entry, _DIFFERENCE, against=better.name)
    return paired is not None and paired.get("low") is not None and paired["low"] > 0


# --- thresholds ---

Place = tuple[int, str, tuple[tuple[str, str], ...]]


def place_of(check: Check) -> Place:
    """What checks of several candidates have in common: the tolerance, the figure, and where."""
    return check.tolerance.number, check.tolerance.metric, check.where


def thresholds(candidates: Sequence[SweepPoint], checks: Mapping[str, Sequence[Check]]) -> list[dict[str, Any]]:
    """For every family of known bits, a line for each tolerance at each place; `checks` are by candidate's name.

    `statuses` are by bits, from the most; a line whose `tolerance` is None is of all tolerances together.
    """
    table = []
    families = dict.fromkeys(c.family for c in candidates if c.bits is not None)
    for family in families:
        members = sorted((c for c in candidates if c.family == family and c.bits), key=lambda c: -(c.bits or 0))
        places = dict.fromkeys(place_of(check) for c in members for check in checks[c.name])
        lines = [_line(family, place, members, checks) for place in sorted(places, key=lambda p: p[0])]
        table += [*lines, _all_of(family, members, checks)]
    return table


def _line(
    family: str, place: Place, members: Sequence[SweepPoint], checks: Mapping[str, Sequence[Check]]
) -> dict[str, Any]:
    statuses, limit = {}, ""
    for c in members:
        check = next((k for k in checks[c.name] if place_of(k) == place), None)
        if check is not None:
            statuses[str(c.bits)], limit = check.status, check.tolerance.limit
    number, metric, where = place
    return {"family": family, "tolerance": number, "metric": metric, **dict(where), "limit": limit} | _ends(statuses)


def _all_of(family: str, members: Sequence[SweepPoint], checks: Mapping[str, Sequence[Check]]) -> dict[str, Any]:
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
