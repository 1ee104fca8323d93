"""The record of result files: what each says, and each later one against the first. Nothing is printed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ...records.head import describe_versions, head
from ..pairing import Pairing
from .figures import differences, measure, most_k, pair_trials, pairing_entry
from .parsing import CONTEXT, INFRASTRUCTURE, REWARD_TOLERANCE, Results, by_task

SCHEMA = "mlxquant.tau2/1"
# what must agree for two runs to be of one benchmark
_SAME = ("domain", "agent", "user", "user_llm", "max_steps", "max_errors", "git_commit")
_PREMATURE = "max_steps"


def make_record(
    results: Sequence[Results],
    *,
    dropped: Collection[str] = (INFRASTRUCTURE,),
    confidence: float = 0.95,
    builds: Sequence[Mapping[str, Any] | None] = (),
) -> dict[str, Any]:
    """Measure each file, and every later one against the first. A single file has no baseline.

    `builds` says of each file which build was measured, as `describe_build` does; None where nobody says.
    """
    first, later = results[0], results[1:]
    facts = [*builds, *[None] * (len(results) - len(builds))]
    sides = [_side(r, dropped, confidence) | dict(build or {}) for r, build in zip(results, facts, strict=True)]
    notes = [note for r in results for note in _notes(r, dropped)]
    for other, side in zip(later, sides[1:], strict=True):
        pairing = pair_trials(first, other, dropped)
        side["pairing"] = pairing_entry(pairing)
        side["measurements"] += differences(first, other, pairing, dropped, confidence)
        notes += _pair_notes(first, other, pairing)
    return {
        **head(SCHEMA),
        "machine": {"unknown": "τ²-bench files do not say what served the model"},
        "versions": describe_versions(),
        "date": _date(results),
        "confidence": confidence,
        "dropped": sorted(dropped),
        "baseline": sides[0] if later else None,
        "candidates": sides[1:] if later else sides,
        "notes": notes,
    }


def _side(results: Results, dropped: Collection[str], confidence: float) -> dict[str, Any]:
    evaluated = results.evaluated(dropped)
    trials = [len(trials_of_task) for trials_of_task in by_task(evaluated).values()]
    theirs, most = most_k(results, dropped)
    return {
        "name": results.name,
        "file": results.file,
        "form": results.form,
        "sha256": results.sha256,
        "about": results.about,
        "counts": {
            "simulations": len(results.simulations),
            "evaluated": len(evaluated),
            "infrastructure_errors": sum(s.termination == INFRASTRUCTURE for s in results.simulations),
            "tasks": len(trials),
            "fewest_trials": min(trials, default=0),
            "most_trials": most,
            "tau2_k": theirs,
            "passed": sum(s.success for s in evaluated),
            "db_matched": sum(s.db_match is True for s in evaluated),
            "db_checked": sum(s.db_match is not None for s in evaluated),
            "unscored": sum(s.reward is None for s in evaluated),
        },
        "terminations": dict(Counter(s.termination or "not told" for s in results.simulations).most_common()),
        "problems": list(results.problems),
        "measurements": measure(results, dropped, confidence),
    }


def _notes(results: Results, dropped: Collection[str]) -> Iterator[str]:
    evaluated = results.evaluated(dropped)
    if evaluated and all(s.reads is None and s.writes is None for s in evaluated):
        yield f"{results.name}: no tool_type in the file, so read and write actions cannot be told apart"
    if spoken := sum(s.voice for s in evaluated):
        yield (
            f"{results.name}: {spoken:,} simulations are of voice, their dialogue in `ticks`, which is not read: their"
            " turns, calls and depth are not known"
        )
    if parts := sum(s.reward is not None and REWARD_TOLERANCE < s.reward < 1 - REWARD_TOLERANCE for s in evaluated):
        yield (
            f"{results.name}: {parts:,} simulations have a reward between 0 and 1: pass^k takes only 1 as passed, the"
            " average reward takes them as they are"
        )
    if over := sum(s.termination == CONTEXT for s in evaluated):
        yield (
            f"{results.name}: {over:,} simulations ran out of context and count as failures; newer versions of τ² leave"
            f" them out (--drop {CONTEXT})"
        )
    unchecked = sum(s.termination == _PREMATURE and s.db_match is None for s in evaluated)
    if unchecked:
        yield (
            f"{results.name}: {unchecked:,} simulations ended at max_steps: reward 0, but neither database nor actions"
            " were checked, so those figures are of the others alone"
        )
    if not evaluated and results.simulations:
        yield f"{results.name}: every simulation was dropped; there is nothing to measure"
    if results.form.startswith("tau-bench") and any(s.termination == INFRASTRUCTURE for s in results.simulations):
        yield f"{results.name}: errors without a trajectory are dropped; τ-bench itself counts them as failed"


def _pair_notes(first: Results, other: Results, pairing: Pairing) -> Iterator[str]:
    for key in _SAME:
        a, b = first.about.get(key), other.about.get(key)
        if a is not None and b is not None and a != b:
            yield f"{first.name} and {other.name} differ in {key}: {a} and {b}; the difference may come from that too"
    if not pairing.shared:
        yield f"{first.name} and {other.name} share no task: no difference can be told"
    elif not pairing.pairs:
        yield f"{first.name} and {other.name} share tasks but no numbered trial: only pass^k is compared"
    if pairing.other_seeds:
        yield (
            f"{first.name} and {other.name}: {pairing.other_seeds:,} of {len(pairing.pairs):,} pairs had other seeds,"
            " so a pair shares its task, not its user's words"
        )


def _date(results: Sequence[Results]) -> str | None:
    """When the last of the runs was made, as far as the files say: the measurements' date, not the reading's."""
    dates = [str(r.about["date"]) for r in results if "date" in r.about]
    return max(dates) if dates else None
