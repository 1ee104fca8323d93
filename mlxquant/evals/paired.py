"""Pair by pair, who was right: both, neither, one alone, and whether those that differ lean to one side by chance.

For passing an item, and for each call that was due. McNemar's exact test takes pairs as independent, so it is given
one pair a unit: a task counts for the side that was right more often in it, and not at all where both were as often.
With one trial a task that is the usual test of passing. The counts of pairs are of all trials, or all calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..stats import LEAST_CLUSTERS, mcnemar_exact
from .figures import DEPTHS, Trial, count_pairs

METRICS = ("pass", "right_call")


def pair_up(baseline: Sequence[Trial], candidate: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    """The trials that both sides were judged in, in one order."""
    second = {_key(t): t for t in candidate if t["passed"] is not None}
    pairs = [(t, second[_key(t)]) for t in baseline if t["passed"] is not None and _key(t) in second]
    return [a for a, _ in pairs], [b for _, b in pairs]


def outcomes(baseline: Sequence[Trial], candidate: Sequence[Trial], *, suites: bool) -> list[dict[str, Any]]:
    """A row for all pairs of each metric, then its depths in order, then its slices, the worst first.

    Slices of too few units for an interval come last: the worst of many small ones is chance.
    """
    counted = count_pairs(baseline, candidate, suites=suites)
    rows = [
        {"metric": metric, **dict(where), **_row(units)}
        for (metric, where), units in counted.items()
        if metric in METRICS
    ]
    return sorted(rows, key=_worst_first)


def _row(units: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    leaning = [after - before for _, before, after, _ in units.values()]
    worse, better = sum(lean < 0 for lean in leaning), sum(lean > 0 for lean in leaning)
    both_right, only_baseline, only_candidate, both_wrong = (sum(c) for c in zip(*units.values(), strict=True))
    return {
        "n": both_right + only_baseline + only_candidate + both_wrong,
        "units": len(units),
        "both_right": both_right,
        "both_wrong": both_wrong,
        "only_baseline": only_baseline,
        "only_candidate": only_candidate,
        "units_worse": worse,
        "units_better": better,
        "mcnemar_p": round(mcnemar_exact(worse, better), 6),
    }


def _worst_first(row: Mapping[str, Any]) -> tuple[Any, ...]:
    labels = [label for label, _, _ in DEPTHS]
    depth = labels.index(row["depth"]) if "depth" in row else 0
    change = (row["only_candidate"] - row["only_baseline"]) / row["n"]
    small = "slice" in row and row["units"] < LEAST_CLUSTERS
    return METRICS.index(row["metric"]), "slice" in row, "depth" in row, depth, small, change, row.get("slice", "")


def _key(trial: Trial) -> tuple[str, str, int]:
    return trial["suite"], trial["item"], trial["trial"]
