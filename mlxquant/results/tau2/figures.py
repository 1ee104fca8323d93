"""What a result file's simulations come to: pass^k, rewards, actions, database, depth, and how a later file differs.

The unit that is drawn anew is the task, so every interval is clustered by task; trials of one task are not
independent. With few tasks an interval is wide, and that is the finding.

Two files are paired by task and trial, so that hard tasks weigh on both alike. A trial counts only where both files
have it evaluated: an infrastructure error on one side takes the other side's trial out too, or the two would be
averaged over different survivors. pass^k needs a task's trials together, so there the task is the pair, each side with
all its evaluated trials. Differences are the later file's minus the first's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any

from ...records.measurements import as_measurement
from ...stats import (
    Interval,
    clustered_difference,
    clustered_mean,
    linearized,
    mcnemar_exact,
    pass_hat_k,
    share_of_sums,
)
from .parsing import INFRASTRUCTURE, Results, Simulation, by_task

# --- one file ---


# what is counted of a simulation: (numerator, denominator), None where the file does not say
Part = Callable[[Simulation], tuple[float, float] | None]


def _one(value: float | None) -> tuple[float, float] | None:
    return None if value is None else (float(value), 1.0)


PARTS: dict[str, Part] = {
    "reward": lambda s: _one(s.reward),
    "read_action_accuracy": lambda s: s.reads,
    "write_action_accuracy": lambda s: s.writes,
    "db_match": lambda s: _one(s.db_match),
    "turns": lambda s: _one(s.turns),
    "tool_calls": lambda s: _one(s.calls),
    "tool_call_errors": lambda s: (s.call_errors or 0, s.calls) if s.calls else None,
}
# not a mean over simulations, but a share of their actions or calls
SHARES = ("read_action_accuracy", "write_action_accuracy", "tool_call_errors")
# what has no upper bound, so that no spread at all says nothing of what might be
UNBOUNDED = ("turns", "tool_calls")

# upper ends; the run's own length, and what the task asks for, which no model can change
_CALLS, _TURNS, _ACTIONS = (5, 10, 20, 50, 150), (2, 5, 10, 20, 50), (2, 5, 10, 20, 50)
AXES: dict[str, tuple[Callable[[Simulation], int | None], tuple[int, ...]]] = {
    "calls": (lambda s: s.calls, _CALLS),
    "turns": (lambda s: s.turns, _TURNS),
    "actions": (lambda s: s.actions, _ACTIONS),
}


def most_k(results: Results, dropped: Collection[str]) -> tuple[int, int]:
    """(largest k that τ² itself prints, most trials of any task); (0, 0) without a simulation."""
    counts = [len(trials) for trials in by_task(results.evaluated(dropped)).values()]
    if not counts:
        return 0, 0
    return min(counts) if results.num_trials is None else min(*counts, results.num_trials), max(counts)


def measure(results: Results, dropped: Collection[str], confidence: float) -> list[dict[str, Any]]:
    """All that a file says by itself, as measurements of the record.

    pass^k is tau2-bench@26ac2bc's (metrics/agent_metrics.py, after arXiv:2406.12045): C(c, k) / C(n, k) for a task of n
    trials of which c passed, averaged over tasks.
    """
    evaluated = results.evaluated(dropped)
    measurements = list(_pass_hats(results, dropped, confidence))
    for metric, part in PARTS.items():
        interval = ratio_of(evaluated, part, confidence, metric)
        if interval is not None:
            measurements.append(as_measurement(metric, interval))
    every = results.simulations
    lost = ratio_of(every, lambda s: _one(s.termination == INFRASTRUCTURE), confidence, "infrastructure_errors")
    if lost is not None:
        measurements.append(as_measurement("infrastructure_errors", lost))
    return measurements + list(_by_depth(evaluated, confidence))


def ratio_of(simulations: Sequence[Simulation], part: Part, confidence: float, metric: str) -> Interval | None:
    """Sums over sums of a part, clustered by task; None where no simulation has it."""
    have = [(s.task, counted) for s in simulations if (counted := part(s)) is not None]
    if not have:
        return None
    if metric not in SHARES:
        values, tasks = [top for _, (top, _) in have], [task for task, _ in have]
        share = False if metric in UNBOUNDED else None
        return spread_or_none(clustered_mean(values, tasks, confidence=confidence, share=share))
    sums: dict[str, tuple[float, float]] = {}
    for task, (top, bottom) in have:
        first, second = sums.get(task, (0.0, 0.0))
        sums[task] = (first + top, second + bottom)
    hits, counts = zip(*sums.values(), strict=True)
    return share_of_sums(hits, counts, confidence=confidence)


def spread_or_none(interval: Interval) -> Interval:
    """Take the ends from an interval of width 0: that all tasks gave one value is no certainty."""
    if interval.low is None or interval.low != interval.high:
        return interval
    return replace(interval, low=None, high=None, reason="every task gave the same value, so no spread is known")


@dataclass(frozen=True, slots=True)
class DepthRange:
    """A range of a simulation's depth along an axis, both ends included; the last range has no end."""

    axis: str
    first: int
    last: int | None

    def places(self) -> dict[str, Any]:
        """Where a measurement over it applies, in the record: the label ``"calls 6-10"`` and the two ends."""
        ends = "+" if self.last is None else f"-{self.last}" if self.first else ""
        return {"depth": f"{self.axis} {self.first}{ends}", "depth_first": self.first, "depth_last": self.last}


def depth_of(simulation: Simulation, axis: str) -> DepthRange | None:
    """The range that a simulation's depth falls in; None where the file does not say."""
    depth, ends = AXES[axis][0](simulation), AXES[axis][1]
    if depth is None:
        return None
    if depth == 0:
        return DepthRange(axis, 0, 0)
    starts = [1, *(end + 1 for end in ends)]
    at = sum(depth > end for end in ends)
    return DepthRange(axis, starts[at], ends[at] if at < len(ends) else None)


def depths(simulations: Sequence[Simulation], axis: str) -> list[DepthRange]:
    """The ranges of an axis that occur, shallow first."""
    return sorted({depth for s in simulations if (depth := depth_of(s, axis)) is not None}, key=lambda d: d.first)


def _pass_hats(results: Results, dropped: Collection[str], confidence: float) -> Iterator[dict[str, Any]]:
    tasks = by_task(results.evaluated(dropped))
    theirs, most = most_k(results, dropped)
    for k in range(1, most + 1):
        enough = [trials for trials in tasks.values() if len(trials) >= k]
        passed = [sum(s.success for s in trials) for trials in enough]
        interval = pass_hat_k(passed, [len(trials) for trials in enough], k, confidence=confidence)
        measured = as_measurement(f"pass_hat_{k}", interval) | {"n": sum(len(trials) for trials in enough)}
        if k > theirs:
            measured["note"] = f"is not τ²'s: over the {len(enough)} of {len(tasks)} tasks with {k} trials"
        yield measured


def _by_depth(simulations: Sequence[Simulation], confidence: float) -> Iterator[dict[str, Any]]:
    for axis in AXES:
        for depth in depths(simulations, axis):
            mine = [s for s in simulations if depth_of(s, axis) == depth]
            interval = clustered_mean([float(s.success) for s in mine], [s.task for s in mine], confidence=confidence)
            yield as_measurement("pass", interval, **depth.places())


# --- two files ---


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
    """Find the trials that both files have evaluated; trials without a number are not paired."""
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
    measurements = list(_paired_pass_hats(baseline, candidate, pairing, dropped, confidence))
    for metric, part in PARTS.items():
        interval = difference_of(pairing.pairs, part, confidence, bounded=metric not in UNBOUNDED)
        if interval is not None:
            measurements.append(as_measurement(f"{metric}_difference", interval))
    for depth in depths([a for a, _ in pairing.pairs], "actions"):
        at = [(a, b) for a, b in pairing.pairs if depth_of(a, "actions") == depth]
        interval = difference_of(at, lambda s: (float(s.success), 1.0), confidence)
        if interval is not None:
            measurements.append(as_measurement("pass_difference", interval, **depth.places()))
    return measurements


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
    difference = clustered_difference(second, first, tasks, confidence=confidence, share=True if none_differs else None)
    return spread_or_none(difference)


def _paired_pass_hats(
    baseline: Results, candidate: Results, pairing: Pairing, dropped: Collection[str], confidence: float
) -> Iterator[dict[str, Any]]:
    sides = [by_task(results.evaluated(dropped)) for results in (baseline, candidate)]
    shared = pairing.shared_tasks
    fewest = [min(len(side[task]) for side in sides) for task in shared]
    for k in range(1, max(fewest, default=0) + 1):
        tasks = [task for task, n in zip(shared, fewest, strict=True) if n >= k]
        first, second = ([_pass_hat(side, task, k) for task in tasks] for side in sides)
        entry = as_measurement(f"pass_hat_{k}_difference", _mean_difference(second, first, tasks, confidence))
        entry["n"] = sum(len(side[task]) for side in sides for task in tasks)
        if len(tasks) < len(shared):
            entry["note"] = f"is over the {len(tasks)} of {len(shared)} shared tasks with {k} trials in both"
        yield entry


def _pass_hat(side: Mapping[str, Sequence[Simulation]], task: str, k: int) -> float:
    trials = side[task]
    return comb(sum(s.success for s in trials), k) / comb(len(trials), k)


def _trials(simulations: Sequence[Simulation]) -> dict[tuple[str, int], Simulation]:
    first: dict[tuple[str, int], Simulation] = {}
    for simulation in simulations:
        if simulation.trial is not None:
            first.setdefault((simulation.task, simulation.trial), simulation)
    return first
