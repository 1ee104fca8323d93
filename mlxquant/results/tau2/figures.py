"""What a result file's simulations come to: pass^k, rewards, actions, database, depth, each with its interval.

The unit that is drawn anew is the task, so every interval is clustered by task; trials of one task are not
independent. With few tasks an interval is wide, and that is the finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ...stats import Interval, clustered_mean, pass_hat_k, share_of_sums
from .results import INFRASTRUCTURE, Results, Simulation, by_task

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
    kept = results.evaluated(dropped)
    found = list(_pass_hats(results, dropped, confidence))
    for metric, part in PARTS.items():
        interval = ratio_of(kept, part, confidence, metric)
        if interval is not None:
            found.append(entry(metric, interval))
    every = results.simulations
    lost = ratio_of(every, lambda s: _one(s.termination == INFRASTRUCTURE), confidence, "infrastructure_errors")
    if lost is not None:
        found.append(entry("infrastructure_errors", lost))
    return found + list(_by_depth(kept, confidence))


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


def entry(metric: str, interval: Interval, **keys: Any) -> dict[str, Any]:
    """A measurement of the record."""
    return {"metric": metric, **keys, **interval.as_dict()}


def depth_of(simulation: Simulation, axis: str) -> str | None:
    """The range that a simulation's depth falls in: ``"calls 6-10"``; None where the file does not say."""
    depth, ends = AXES[axis][0](simulation), AXES[axis][1]
    if depth is None:
        return None
    if depth == 0:
        return f"{axis} 0"
    starts = [1, *(end + 1 for end in ends)]
    at = sum(depth > end for end in ends)
    return f"{axis} {starts[at]}-{ends[at]}" if at < len(ends) else f"{axis} {starts[at]}+"


def depths(simulations: Sequence[Simulation], axis: str) -> list[str]:
    """The ranges of an axis that occur, shallow first."""
    found = Counter(name for s in simulations if (name := depth_of(s, axis)) is not None)
    return sorted(found, key=lambda name: int(name.split()[1].split("-")[0].rstrip("+")))


def _pass_hats(results: Results, dropped: Collection[str], confidence: float) -> Iterator[dict[str, Any]]:
    tasks = by_task(results.evaluated(dropped))
    theirs, most = most_k(results, dropped)
    for k in range(1, most + 1):
        enough = [trials for trials in tasks.values() if len(trials) >= k]
        passed = [sum(s.success for s in trials) for trials in enough]
        found = entry(f"pass_hat_{k}", pass_hat_k(passed, [len(trials) for trials in enough], k, confidence=confidence))
        found["n"] = sum(len(trials) for trials in enough)
        if k > theirs:
            found["note"] = f"is not τ²'s: over the {len(enough)} of {len(tasks)} tasks with {k} trials"
        yield found


def _by_depth(simulations: Sequence[Simulation], confidence: float) -> Iterator[dict[str, Any]]:
    for axis in AXES:
        for name in depths(simulations, axis):
            mine = [s for s in simulations if depth_of(s, axis) == name]
            interval = clustered_mean([float(s.success) for s in mine], [s.task for s in mine], confidence=confidence)
            yield entry("pass", interval, depth=name)
