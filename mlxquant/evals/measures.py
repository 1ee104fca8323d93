"""Measurements with intervals: shares of each side, and differences of candidate and baseline, clustered by task.

Differences are paired: the same item, trial and call on both sides, so that what both get right or wrong cancels and
the interval rests on the pairs that differ. All measurements are flat tables: metric, where it applies, estimate, ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import comb
from typing import Any

from ..stats import Interval, clustered_difference, clustered_mean, difference_of_sums, share_of_sums
from .figures import Trial, Where, count, count_pairs, in_order, unit_of


def as_measurement(metric: str, found: Interval, where: Where = ()) -> dict[str, Any]:
    """One measurement of a record."""
    return {"metric": metric, **dict(where), **found.as_dict()}


def of_side(trials: Sequence[Trial], *, suites: bool, confidence: float) -> list[dict[str, Any]]:
    """What one side's judged trials show: shares by slice and depth, and pass^k where there are several trials."""
    counted = count(trials, suites=suites)
    found = []
    for key in sorted(counted, key=in_order):
        metric, where = key
        hits, totals = zip(*counted[key].values(), strict=True)
        found.append(as_measurement(metric, share_of_sums(hits, totals, confidence=confidence), where))
    for k, units, chances in _powers(trials):
        found.append(as_measurement(f"pass_hat_{k}", clustered_mean(chances, units, confidence=confidence)))
    return found


def of_difference(
    baseline: Sequence[Trial], candidate: Sequence[Trial], *, suites: bool, confidence: float
) -> list[dict[str, Any]]:
    """Candidate less baseline, over trials that both were judged in; `baseline[i]` is paired with `candidate[i]`."""
    counted = count_pairs(baseline, candidate, suites=suites)
    found = []
    for key in sorted(counted, key=in_order):
        metric, where = key
        columns = list(zip(*counted[key].values(), strict=True))
        totals = [sum(counts) for counts in counted[key].values()]
        difference = difference_of_sums(columns[2], columns[1], totals, confidence=confidence)
        found.append(as_measurement(f"{metric}_difference", difference, where))
    for (k, units, before), (_, _, after) in zip(_powers(baseline), _powers(candidate), strict=False):
        difference = clustered_difference(after, before, units, confidence=confidence, share=False)
        found.append(as_measurement(f"pass_hat_{k}_difference", difference))
    return found


def _powers(trials: Iterable[Trial]) -> Iterator[tuple[int, list[str], list[float]]]:
    """For each k up to the fewest trials of an item: each item's unit, and the chance that k trials all pass.

    That is ``C(c, k) / C(n, k)``, c of n trials having passed (Yao et al. 2024, arXiv:2406.12045). Nothing where every
    item has one trial.
    """
    runs: dict[tuple[str, str], list[bool]] = {}
    units: dict[tuple[str, str], str] = {}
    for trial in trials:
        item = (trial["suite"], trial["item"])
        runs.setdefault(item, []).append(trial["passed"])
        units[item] = unit_of(trial)
    if max((len(r) for r in runs.values()), default=0) < 2:
        return
    items = sorted(runs)
    for k in range(1, min(len(r) for r in runs.values()) + 1):
        yield k, [units[i] for i in items], [comb(sum(runs[i]), k) / comb(len(runs[i]), k) for i in items]
