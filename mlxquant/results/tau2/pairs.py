"""Two result files held against each other, paired by task and trial, so that hard tasks weigh on both alike.

A trial counts only where both files have it evaluated: an infrastructure error on one side takes the other side's
trial out too, or the two would be averaged over different survivors. pass^k needs a task's trials together, so there
the task is the pair, each side with all its evaluated trials. Differences are the later file's minus the first's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any

from ...stats import Interval, clustered_difference, linearized, mcnemar_exact
from .figures import PARTS, UNBOUNDED, Part, depth_of, depths, entry, spread_or_none
from .results import Results, Simulation, by_task

Pair = tuple[Simulation, Simulation]


@dataclass(frozen=True, slots=True)
class Pairing:
    """The trials that two files share; `unpaired` are evaluated ones that the other file has not."""

    pairs: tuple[Pair, ...]
    shared_tasks: tuple[str, ...]
    only_baseline: int
    only_candidate: int
    unpaired: tuple[int, int]
    other_seeds: int

    def as_dict(self) -> dict[str, Any]:
        """Its entry in the record, with what became of each pair and the exact McNemar test of it."""
        both, worse, better, neither = (
            sum((a.success, b.success) == outcome for a, b in self.pairs)
            for outcome in ((True, True), (True, False), (False, True), (False, False))
        )
        return {
            "pairs": len(self.pairs),
            "tasks": len(self.shared_tasks),
            "tasks_only_baseline": self.only_baseline,
            "tasks_only_candidate": self.only_candidate,
            "unpaired_baseline": self.unpaired[0],
            "unpaired_candidate": self.unpaired[1],
            "other_seeds": self.other_seeds,
            "both_passed": both,
            "only_baseline_passed": worse,
            "only_candidate_passed": better,
            "neither_passed": neither,
            "mcnemar_p": mcnemar_exact(worse, better),
        }


def pair(baseline: Results, candidate: Results, dropped: Collection[str]) -> Pairing:
    """Find the trials that both files have evaluated; trials without a number are nobody's pair."""
    mine, theirs = (_trials(results.evaluated(dropped)) for results in (baseline, candidate))
    shared = [key for key in mine if key in theirs]
    tasks = [{s.task for s in results.evaluated(dropped)} for results in (baseline, candidate)]
    pairs = tuple((mine[key], theirs[key]) for key in shared)
    return Pairing(
        pairs=pairs,
        shared_tasks=tuple(sorted(tasks[0] & tasks[1])),
        only_baseline=len(tasks[0] - tasks[1]),
        only_candidate=len(tasks[1] - tasks[0]),
        unpaired=(
            len(baseline.evaluated(dropped)) - len(pairs),
            len(candidate.evaluated(dropped)) - len(pairs),
        ),
        other_seeds=sum(a.seed != b.seed for a, b in pairs),
    )


def differences(
    baseline: Results, candidate: Results, pairing: Pairing, dropped: Collection[str], confidence: float
) -> list[dict[str, Any]]:
    """Every figure's difference, candidate minus baseline, clustered by task; what cannot be paired is left out."""
    found = list(_pass_hats(baseline, candidate, pairing, dropped, confidence))
    for metric, part in PARTS.items():
        interval = difference_of(pairing.pairs, part, confidence, bounded=metric not in UNBOUNDED)
        if interval is not None:
            found.append(entry(f"{metric}_difference", interval))
    for name in depths([a for a, _ in pairing.pairs], "actions"):
        at = [(a, b) for a, b in pairing.pairs if depth_of(a, "actions") == name]
        interval = difference_of(at, lambda s: (float(s.success), 1.0), confidence)
        if interval is not None:
            found.append(entry("pass_difference", interval, depth=name))
    return found


def difference_of(pairs: Sequence[Pair], part: Part, confidence: float, *, bounded: bool = True) -> Interval | None:
    """A part's ratio of sums in the candidate minus that in the baseline, over the pairs where both have it.

    Linearized at each task: with R = sum(x) / sum(y) on either side, task c moves the difference by
    ``(x_c - R y_c) / sum(y)`` of the candidate less the same of the baseline.
    """
    have = [(a.task, x, y) for a, b in pairs if (x := part(a)) is not None and (y := part(b)) is not None]
    if not have:
        return None
    tasks = [task for task, _, _ in have]
    if all(x[1] == y[1] == 1.0 for _, x, y in have):
        second, first = [y[0] for _, _, y in have], [x[0] for _, x, _ in have]
        return _mean_difference(second, first, tasks, confidence, bounded=bounded)
    below = sum(x[1] for _, x, _ in have), sum(y[1] for _, _, y in have)
    ratios = sum(x[0] for _, x, _ in have) / below[0], sum(y[0] for _, _, y in have) / below[1]
    scores, sizes = dict.fromkeys(tasks, 0.0), dict.fromkeys(tasks, 0.0)
    for task, x, y in have:
        scores[task] += (y[0] - ratios[1] * y[1]) / below[1] - (x[0] - ratios[0] * x[1]) / below[0]
        sizes[task] += y[1] / below[1] + x[1] / below[0]
    n = round(sum(below))
    if all(x == y for _, x, y in have):
        return replace(_mean_difference([0.0] * len(scores), [0.0] * len(scores), list(scores), confidence), n=n)
    shifts, weights = list(scores.values()), list(sizes.values())
    return spread_or_none(linearized(ratios[1] - ratios[0], shifts, weights, n=n, confidence=confidence))


def _mean_difference(
    second: Sequence[float], first: Sequence[float], tasks: Sequence[str], confidence: float, *, bounded: bool = True
) -> Interval:
    """The mean of second - first; where none differs, as wide as that many tasks allow, not of width 0."""
    none_differs = bounded and list(first) == list(second)
    found = clustered_difference(second, first, tasks, confidence=confidence, share=True if none_differs else None)
    return spread_or_none(found)


def _pass_hats(
    baseline: Results, candidate: Results, pairing: Pairing, dropped: Collection[str], confidence: float
) -> Iterator[dict[str, Any]]:
    sides = [by_task(results.evaluated(dropped)) for results in (baseline, candidate)]
    shared = pairing.shared_tasks
    fewest = [min(len(side[task]) for side in sides) for task in shared]
    for k in range(1, max(fewest, default=0) + 1):
        tasks = [task for task, n in zip(shared, fewest, strict=True) if n >= k]
        first, second = ([_pass_hat(side, task, k) for task in tasks] for side in sides)
        found = entry(f"pass_hat_{k}_difference", _mean_difference(second, first, tasks, confidence))
        found["n"] = sum(len(side[task]) for side in sides for task in tasks)
        if len(tasks) < len(shared):
            found["note"] = f"is over the {len(tasks)} of {len(shared)} shared tasks with {k} trials in both"
        yield found


def _pass_hat(side: Mapping[str, Sequence[Simulation]], task: str, k: int) -> float:
    trials = side[task]
    return comb(sum(s.success for s in trials), k) / comb(len(trials), k)


def _trials(simulations: Sequence[Simulation]) -> dict[tuple[str, int], Simulation]:
    found: dict[tuple[str, int], Simulation] = {}
    for simulation in simulations:
        if simulation.trial is not None:
            found.setdefault((simulation.task, simulation.trial), simulation)
    return found
