"""Item by item, who was right: both, neither, one alone, and whether those that differ lean to one side by chance.

McNemar's exact test takes pairs as independent, so it is given one pair a unit: a task counts for the side that passed
more of its trials, and not at all where both passed as many. With one trial and no shared units that is the usual
test. The counts of pairs are of all trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..intervals import mcnemar_exact
from .tallies import Trial, slices_of


def pair_up(baseline: Sequence[Trial], candidate: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    """The trials that both sides were judged in, in one order."""
    second = {_key(t): t for t in candidate if t["passed"] is not None}
    pairs = [(t, second[_key(t)]) for t in baseline if t["passed"] is not None and _key(t) in second]
    return [a for a, _ in pairs], [b for _, b in pairs]


def outcomes(baseline: Sequence[Trial], candidate: Sequence[Trial], *, suites: bool) -> list[dict[str, Any]]:
    """One row for all pairs (without `slice`), then one for each slice, the worst for the candidate first."""
    groups: dict[str | None, list[tuple[str, bool, bool]]] = {}
    for a, b in zip(baseline, candidate, strict=True):
        for place in (None, *slices_of(a, suites=suites)):
            groups.setdefault(place, []).append((f"{a['suite']}/{a['unit']}", a["passed"], b["passed"]))
    overall = groups.pop(None, [])
    rows = [{"slice": name, **_row(pairs)} for name, pairs in groups.items()]
    rows.sort(key=lambda r: ((r["only_candidate"] - r["only_baseline"]) / r["n"], str(r["slice"])))
    return [_row(overall), *rows] if overall else []


def _row(pairs: Sequence[tuple[str, bool, bool]]) -> dict[str, Any]:
    leaning: dict[str, int] = {}
    for unit, a, b in pairs:
        leaning[unit] = leaning.get(unit, 0) + b - a
    worse, better = (sum(sign * lean > 0 for lean in leaning.values()) for sign in (-1, 1))
    return {
        "n": len(pairs),
        "units": len(leaning),
        "both_right": sum(a and b for _, a, b in pairs),
        "both_wrong": sum(not a and not b for _, a, b in pairs),
        "only_baseline": sum(a and not b for _, a, b in pairs),
        "only_candidate": sum(b and not a for _, a, b in pairs),
        "units_worse": worse,
        "units_better": better,
        "mcnemar_p": round(mcnemar_exact(worse, better), 6),
    }


def _key(trial: Trial) -> tuple[str, str, int]:
    return trial["suite"], trial["item"], trial["trial"]
