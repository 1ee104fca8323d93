"""What a result file's simulations come to: pass^k, rewards, actions, database, depth, and how a later file differs.

τ²'s own metrics and depths, as items for the engine that all harnesses share (`results.figures`). The unit that is
drawn anew is the task, so every interval is clustered by task; trials of one task are not independent. A trial counts
only where both files have it evaluated: an infrastructure error on one side takes the other side's trial out too, or
the two would be averaged over different survivors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...records.measurements import as_measurement
from ...stats import clustered_mean
from ..figures import difference_of, pass_hat_differences, pass_hats, passed_difference, ratio_of
from ..items import Item, Part, Scale, trial_counts
from ..pairing import Pairing, pair
from .parsing import INFRASTRUCTURE, Results, Simulation

# --- one file ---


def _one(value: float | None) -> Part | None:
    return None if value is None else (float(value), 1.0)


# what is counted of a simulation, None where the file does not say
_PARTS: dict[str, Callable[[Simulation], Part | None]] = {
    "reward": lambda s: _one(s.reward),
    "read_action_accuracy": lambda s: s.reads,
    "write_action_accuracy": lambda s: s.writes,
    "db_match": lambda s: _one(s.db_match),
    "turns": lambda s: _one(s.turns),
    "tool_calls": lambda s: _one(s.calls),
    "tool_call_errors": lambda s: (s.call_errors or 0, s.calls) if s.calls else None,
}
# accuracies are no means over simulations, but shares of their actions or calls
SCALES: dict[str, Scale] = {
    "reward": "score",
    "read_action_accuracy": "share",
    "write_action_accuracy": "share",
    "db_match": "score",
    "turns": "count",
    "tool_calls": "count",
    "tool_call_errors": "share",
}

# upper ends; the run's own length, and what the task asks for, which no model can change
_CALLS, _TURNS, _ACTIONS = (5, 10, 20, 50, 150), (2, 5, 10, 20, 50), (2, 5, 10, 20, 50)
AXES: dict[str, tuple[Callable[[Simulation], int | None], tuple[int, ...]]] = {
    "calls": (lambda s: s.calls, _CALLS),
    "turns": (lambda s: s.turns, _TURNS),
    "actions": (lambda s: s.actions, _ACTIONS),
}


def item_of(simulation: Simulation) -> Item:
    """A simulation as an item: the task is question and cluster."""
    parts = {metric: counted for metric, part in _PARTS.items() if (counted := part(simulation)) is not None}
    return Item(
        id=simulation.task,
        cluster=simulation.task,
        trial=simulation.trial,
        success=simulation.success,
        parts=parts,
        seed=simulation.seed,
    )


def items_of(results: Results, dropped: Collection[str]) -> list[Item]:
    """The items that count: all but those that ended for a reason in `dropped`."""
    return [item_of(simulation) for simulation in results.evaluated(dropped)]


def most_k(results: Results, dropped: Collection[str]) -> tuple[int, int]:
    """(largest k that τ² itself prints, most trials of any task); (0, 0) without a simulation."""
    fewest, most = trial_counts(items_of(results, dropped))
    return fewest if results.num_trials is None else min(fewest, results.num_trials), most


def measure(results: Results, dropped: Collection[str], confidence: float) -> list[dict[str, Any]]:
    """All that a file says by itself, as measurements of the record.

    pass^k is tau2-bench@26ac2bc's (metrics/agent_metrics.py, after arXiv:2406.12045).
    """
    items = items_of(results, dropped)
    theirs, _ = most_k(results, dropped)
    measurements = list(_pass_hats(items, theirs, confidence))
    for metric, scale in SCALES.items():
        interval = ratio_of(items, metric, scale, confidence)
        if interval is not None:
            measurements.append(as_measurement(metric, interval))
    every = [(s.task, float(s.termination == INFRASTRUCTURE)) for s in results.simulations]
    if every:
        lost = clustered_mean([value for _, value in every], [task for task, _ in every], confidence=confidence)
        measurements.append(as_measurement("infrastructure_errors", lost))
    return measurements + list(_by_depth(results.evaluated(dropped), confidence))


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


def _pass_hats(items: Sequence[Item], theirs: int, confidence: float) -> Iterator[dict[str, Any]]:
    for k, enough, tasks, entry in pass_hats(items, confidence):
        if k > theirs:
            entry["note"] = f"is not τ²'s: over the {enough} of {tasks} tasks with {k} trials"
        yield entry


def _by_depth(simulations: Sequence[Simulation], confidence: float) -> Iterator[dict[str, Any]]:
    for axis in AXES:
        for depth in depths(simulations, axis):
            mine = [s for s in simulations if depth_of(s, axis) == depth]
            interval = clustered_mean([float(s.success) for s in mine], [s.task for s in mine], confidence=confidence)
            yield as_measurement("pass", interval, **depth.places())


# --- two files ---


def pair_trials(baseline: Results, candidate: Results, dropped: Collection[str]) -> Pairing:
    """Find the trials that both files have evaluated; trials without a number are not paired."""
    return pair(items_of(baseline, dropped), items_of(candidate, dropped))


def pairing_entry(pairing: Pairing) -> dict[str, Any]:
    """Its entry in the record, with what became of each pair and the exact McNemar test of it."""
    return {
        "pairs": len(pairing.pairs),
        "tasks": len(pairing.shared),
        "tasks_only_baseline": len(pairing.only_baseline),
        "tasks_only_candidate": len(pairing.only_candidate),
        "unpaired_baseline": pairing.unpaired[0],
        "unpaired_candidate": pairing.unpaired[1],
        "other_seeds": pairing.other_seeds,
        **pairing.outcomes(),
    }


def differences(
    baseline: Results, candidate: Results, pairing: Pairing, dropped: Collection[str], confidence: float
) -> list[dict[str, Any]]:
    """Every figure's difference, candidate minus baseline, clustered by task; what cannot be paired is left out."""
    sides = items_of(baseline, dropped), items_of(candidate, dropped)
    measurements = list(pass_hat_differences(sides, confidence, noun="tasks"))
    for metric, scale in SCALES.items():
        interval = difference_of(pairing.pairs, metric, scale, confidence)
        if interval is not None:
            measurements.append(as_measurement(f"{metric}_difference", interval))
    asked: dict[tuple[str, int | None], DepthRange | None] = {}
    for s in baseline.evaluated(dropped):
        asked.setdefault((s.task, s.trial), depth_of(s, "actions"))
    ranges = {depth for a, _ in pairing.pairs if (depth := asked[a.id, a.trial]) is not None}
    for depth in sorted(ranges, key=lambda d: d.first):
        interval = passed_difference([(a, b) for a, b in pairing.pairs if asked[a.id, a.trial] == depth], confidence)
        if interval is not None:
            measurements.append(as_measurement("pass_difference", interval, **depth.places()))
    return measurements
