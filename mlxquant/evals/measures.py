"""Measurements with intervals: shares of each side, and differences of candidate and baseline, clustered by task.

Passing and item checks are paired: the same item and trial on both sides, so the interval rests on the pairs that
differ. Calls are not, since two runs of one loop may make different calls: with N right of D calls in each task, the
difference of the two ratios of sums is linearized, and a task's share of its error is

    e_g = (N_g - R D_g) / sum(D)  of the candidate, less that of the baseline

so what both sides share of a task cancels. All measurements are flat tables: metric, where it applies, estimate, ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import comb
from typing import Any

import numpy as np

from ..intervals import Interval, clustered_difference, clustered_mean, linearized, share_of_sums
from ..intervals.interval import EXACT_METHOD, exact_bound
from .tallies import Trial, Where, count, slices_of


def as_measurement(metric: str, found: Interval, where: Where = (), **more: Any) -> dict[str, Any]:
    """One measurement of a record."""
    return {"metric": metric, **dict(where), **found.as_dict(), **more}


def of_side(trials: Sequence[Trial], *, suites: bool, confidence: float) -> list[dict[str, Any]]:
    """What one side's judged trials show: shares by slice and depth, and pass^k where there are several trials."""
    found = [
        as_measurement(metric, share_of_sums(*_columns(units), confidence=confidence), where)
        for (metric, where), units in sorted(count(trials, suites=suites).items(), key=_order)
    ]
    for k, units, chances in _powers(trials):
        found.append(as_measurement(f"pass_hat_{k}", clustered_mean(chances, units, confidence=confidence)))
    return found


def of_difference(
    baseline: Sequence[Trial], candidate: Sequence[Trial], *, suites: bool, confidence: float
) -> list[dict[str, Any]]:
    """Candidate less baseline, over trials that both were judged in; `baseline[i]` is paired with `candidate[i]`."""
    found = list(_paired(baseline, candidate, suites=suites, confidence=confidence))
    known = {(m["metric"], m.get("slice")) for m in found}
    first, second = count(baseline, suites=suites), count(candidate, suites=suites)
    for key in sorted(first.keys() & second.keys(), key=lambda key: _order((key, None))):
        metric, where = key
        if (f"{metric}_difference", dict(where).get("slice")) not in known:
            difference = ratio_difference(first[key], second[key], confidence=confidence)
            found.append(as_measurement(f"{metric}_difference", difference, where))
    for (k, units, before), (_, _, after) in zip(_powers(baseline), _powers(candidate), strict=False):
        difference = clustered_difference(after, before, units, confidence=confidence, share=False)
        found.append(as_measurement(f"pass_hat_{k}_difference", difference))
    return found


def _paired(
    baseline: Sequence[Trial], candidate: Sequence[Trial], *, suites: bool, confidence: float
) -> Iterator[dict[str, Any]]:
    """Differences of passing and of item checks, pair by pair."""
    rows: dict[tuple[str, Where], list[tuple[str, bool, bool]]] = {}
    for a, b in zip(baseline, candidate, strict=True):
        places: list[Where] = [(), *((("slice", s),) for s in slices_of(a, suites=suites))]
        unit = f"{a['suite']}/{a['unit']}"
        both = {"pass": (a["passed"], b["passed"])}
        both |= {k: (v, b["checks"][k]) for k, v in a["checks"].items() if k in b["checks"]}
        for metric, (x, y) in both.items():
            for where in places:
                rows.setdefault((metric, where), []).append((unit, x, y))
    for (metric, where), pairs in sorted(rows.items(), key=_order):
        units, x, y = zip(*pairs, strict=True)
        difference = clustered_difference(y, x, units, confidence=confidence, share=True)
        yield as_measurement(f"{metric}_difference", difference, where)


def ratio_difference(baseline: dict[str, list[int]], candidate: dict[str, list[int]], *, confidence: float) -> Interval:
    """The difference of two ratios of sums over the same units, candidate less baseline.

    Where nothing varies between units, no variance can be seen; the ends are then as far off as Clopper-Pearson has
    them with one observation a unit.
    """
    units = sorted(baseline.keys() | candidate.keys())
    a, b = (np.array([side.get(u, [0, 0]) for u in units], np.float64) for side in (baseline, candidate))
    ratios = [float(x[:, 0].sum() / x[:, 1].sum()) for x in (a, b)]
    influence = [(x[:, 0] - r * x[:, 1]) / x[:, 1].sum() for x, r in zip((a, b), ratios, strict=True)]
    sizes = a[:, 1] + b[:, 1]
    n = round(float(b[:, 1].sum()))
    found = linearized(ratios[1] - ratios[0], influence[1] - influence[0], sizes, n=n, confidence=confidence)
    if found.se is not None and found.se < 1e-12:
        wide = exact_bound(found.clusters, confidence)
        low, high = max(found.estimate - wide, -1.0), min(found.estimate + wide, 1.0)
        return Interval(found.estimate, low, high, 0.0, n, found.clusters, confidence, EXACT_METHOD)
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
        units[item] = f"{trial['suite']}/{trial['unit']}"
    if max((len(r) for r in runs.values()), default=0) < 2:
        return
    items = sorted(runs)
    for k in range(1, min(len(r) for r in runs.values()) + 1):
        yield k, [units[i] for i in items], [comb(sum(runs[i]), k) / comb(len(runs[i]), k) for i in items]


def _columns(units: dict[str, list[int]]) -> tuple[list[int], list[int]]:
    return [hits for hits, _ in units.values()], [n for _, n in units.values()]


def _order(entry: tuple[tuple[str, Where], Any]) -> tuple[int, Where]:
    """Overall figures first, then by slice and depth."""
    (_, where), _ = entry
    return len(where), where
