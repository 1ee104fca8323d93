"""The record of harnesses' results: what each run says, and each later one against the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import RecordError, UsageError
from ..records.head import describe_versions, head
from ..words.text import counted, distinct, some
from .figures import differences, measure, pass_hat_differences
from .items import Item, ResultSet, by_id, trial_counts
from .judging import judged_alike
from .pairing import Pairing, check_same_questions, pair

SCHEMA = "mlxquant.results/1"
# what must agree for two runs to be of one benchmark
_SAME = ("version", "num_fewshot", "limit", "chat_template_sha", "model_kind")


def make_results_record(
    sets: Sequence[ResultSet], *, confidence: float = 0.95, builds: Sequence[Mapping[str, Any] | None] = ()
) -> dict[str, Any]:
    """Measure each run, and every later one against the first. A single one has no baseline.

    `builds` says of each run which build was measured, as `describe_build` does; None where nobody says. Raises
    UsageError for runs of several harnesses, RecordError for one id that stands for two questions.
    """
    if len(harnesses := dict.fromkeys(each.harness for each in sets)) > 1:
        raise UsageError(f"results of several harnesses cannot be paired: {', '.join(harnesses)}")
    named = judged_alike([replace(s, name=name) for s, name in zip(sets, _names(sets), strict=True)])
    facts = [*builds, *[None] * (len(named) - len(builds))]
    sides = [_side(each, confidence) | dict(build or {}) for each, build in zip(named, facts, strict=True)]
    notes = [f"{each.name}: {note}" for each in named for note in each.notes]
    for other, side in zip(named[1:], sides[1:], strict=True):
        first, second = _of_one_task(named[0], other)
        pairing = pair(first.items, second.items)
        check_same_questions(pairing, (first.name, second.name))
        side["pairing"] = pairing.as_dict()
        side |= {"same_as_baseline": "run"} if _same_files(first, second) else {}
        slices = [name for name in first.slices if name in second.slices]
        side["measurements"] += list(differences(pairing.pairs, {**first.scales, **second.scales}, slices, confidence))
        side["measurements"] += _pass_hats(first.items, second.items, confidence)
        notes += _pair_notes(first, second, pairing)
    return {
        **head(SCHEMA),
        "harness": named[0].harness,
        "machine": {"unknown": "result files do not say what served the model"},
        "versions": describe_versions(),
        "date": max((str(s.about["date"]) for s in named if s.about.get("date")), default=None),
        "confidence": confidence,
        "baseline": sides[0] if len(sides) > 1 else None,
        "candidates": sides[1:] if len(sides) > 1 else sides,
        "notes": notes,
    }


def _names(sets: Sequence[ResultSet]) -> list[str]:
    """Names that tell the runs apart: their own, or the models', or the folders', or numbers."""
    models = [str(each.about.get("model") or "").rstrip("/").rpartition("/")[2] for each in sets]
    for names in ([each.name for each in sets], models, [each.folder for each in sets]):
        if len(set(names)) == len(sets) and all(names):
            return names
    return distinct([each.name for each in sets])


def _side(results: ResultSet, confidence: float) -> dict[str, Any]:
    items = results.items
    fewest, most = trial_counts(items)
    judged = [item for item in items if item.success is not None]
    return {
        "name": results.name,
        "file": some(results.files, 1),
        "files": list(results.files)[:100],
        "sha256": results.sha256,
        **({"model": str(results.about["model"])} if results.about.get("model") else {}),
        "about": dict(results.about),
        "counts": {
            "trials": len(items),
            "questions": len(by_id(items)),
            "clusters": len({item.cluster for item in items}),
            "fewest_trials": fewest,
            "most_trials": most,
            "judged": len(judged),
            "passed": sum(bool(item.success) for item in judged),
            "lost": results.lost,
        },
        "scales": dict(results.scales),
        "problems": list(results.problems),
        "measurements": measure(items, results.scales, results.slices, confidence),
    }


def _of_one_task(first: ResultSet, other: ResultSet) -> tuple[ResultSet, ResultSet]:
    """Both with the same ids where one's file does not name its one task. Raises RecordError for two tasks."""
    tasks = first.about.get("task"), other.about.get("task")
    if None in tasks or tasks[0] == tasks[1]:
        return first, other
    if all(tasks):
        raise RecordError(f"{other.name}: results of the task {tasks[1]}, but {first.name} is of {tasks[0]}")
    return _without_task(first), _without_task(other)


def _without_task(results: ResultSet) -> ResultSet:
    task = results.about["task"]

    def bare(name: str) -> str:
        return name.removeprefix(f"{task}/")

    items = (replace(item, id=bare(item.id), cluster=bare(item.cluster)) for item in results.items)
    return replace(results, items=tuple(items)) if task else results


def _pass_hats(first: Sequence[Item], second: Sequence[Item], confidence: float) -> list[dict[str, Any]]:
    hats = list(pass_hat_differences((first, second), confidence))
    return hats if len(hats) > 1 else []


def _same_files(first: ResultSet, other: ResultSet) -> bool:
    return first.sha256 == other.sha256 and first.items == other.items


def _pair_notes(first: ResultSet, other: ResultSet, pairing: Pairing) -> Iterator[str]:
    for key in _SAME:
        a, b = first.about.get(key), other.about.get(key)
        if a is not None and b is not None and a != b:
            yield f"{first.name} and {other.name} differ in {key}: {a} and {b}; the difference may come from that too"
    if _same_files(first, other):
        yield f"{other.name} is {first.name} once more: the same files, so no difference is one of two builds"
    if not pairing.shared:
        yield f"{first.name} and {other.name} share no question: no difference can be told"
    for name, only in ((first.name, pairing.only_baseline), (other.name, pairing.only_candidate)):
        if only and pairing.shared:
            ids = some([each[:40] for each in only])
            yield f"{counted(len(only), 'question')} only in {name} ({ids}), and left out of every difference"
    left = [n - len(only) for n, only in _unpaired(first, other, pairing)]
    if any(left) and pairing.shared:
        yield (
            f"{first.name}, {other.name}: {left[0]:,} and {left[1]:,} trials of shared questions without the other's,"
            " left out of every difference but pass^k"
        )


def _unpaired(first: ResultSet, other: ResultSet, pairing: Pairing) -> Iterator[tuple[int, list[Item]]]:
    """Trials of each side that have no partner, and those of them whose question the other side lacks."""
    for side, n, only in zip(
        (first, other), pairing.unpaired, (pairing.only_baseline, pairing.only_candidate), strict=True
    ):
        missing = set(only)
        yield n, [item for item in side.items if item.id in missing]
