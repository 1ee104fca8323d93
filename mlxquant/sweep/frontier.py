"""What is worth its bytes: the candidates that no other one beats in size and in damage at once.

A candidate is dominated where another is no larger and no worse, and smaller or better. Damage is the estimate of mean
KL; whether the difference is more than chance says the paired interval in the comparison's record (`resolved`): it is,
where the whole interval lies above 0, or the two differ in size alone. Two candidates alike in both are both on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .candidates import Candidate

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


def size_of(candidate: Candidate, kind: str) -> int | None:
    """A candidate's size of a kind of `SIZES`."""
    return candidate.nbytes if kind == "bytes" else candidate.active


def frontier(candidates: Sequence[Candidate], kind: str = "bytes") -> list[str]:
    """Names of the candidates that none dominates, from the smallest; those without size or damage are left out."""
    beaten = dominated(candidates, kind)
    placed = [(size_of(c, kind), c.damage, c.name) for c in candidates if _placed(c, kind)]
    return [name for _, _, name in sorted(placed, key=lambda p: (p[0] or 0, p[1] or 0)) if name not in beaten]


def dominated(candidates: Sequence[Candidate], kind: str = "bytes") -> dict[str, Dominated]:
    """For each candidate that another beats, the one that does so with the least damage."""
    placed = [c for c in candidates if _placed(c, kind)]
    found = {}
    for c in placed:
        better = [other for other in placed if _beats(other, c, kind)]
        if better:
            best = min(better, key=lambda o: (o.damage or 0.0, size_of(o, kind) or 0, o.name))
            found[c.name] = Dominated(best.name, _resolved(c, best))
    return found


def _placed(c: Candidate, kind: str) -> bool:
    return size_of(c, kind) is not None and c.damage is not None


def _beats(a: Candidate, b: Candidate, kind: str) -> bool:
    mine, theirs = (size_of(a, kind), a.damage), (size_of(b, kind), b.damage)
    assert None not in mine and None not in theirs
    return mine[0] <= theirs[0] and mine[1] <= theirs[1] and mine != theirs  # type: ignore[operator]


def _resolved(worse: Candidate, better: Candidate) -> bool:
    if worse.damage == better.damage:
        return True
    paired = _paired(worse.entry, better.name)
    return paired is not None and paired.get("low") is not None and paired["low"] > 0


def _paired(entry: Mapping[str, Any], against: str) -> Mapping[str, Any] | None:
    """The paired difference in KL from another candidate, over everything."""
    others = ("slice", "depth", "turn", "layer", "case")
    for m in entry.get("measurements") or ():
        if m.get("metric") == _DIFFERENCE and m.get("against") == against and not any(k in m for k in others):
            return dict(m)
    return None
