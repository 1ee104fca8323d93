"""What the page counts on in verdicts and in records of agent benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..verdict import ORDER


def verdict_problems(record: Mapping[str, Any]) -> Iterator[str]:
    """What a verdict's record lacks."""
    if not isinstance(record.get("tolerances"), Mapping) or not isinstance(record.get("verdict"), str):
        yield "verdict, tolerances: a word and a table expected"
    candidates, checks = record.get("candidates"), record.get("checks")
    if not isinstance(candidates, list) or not all(_named(c) for c in candidates):
        yield "candidates: a list of tables with a name expected"
    if not isinstance(checks, list) or not all(_is_check(c) for c in checks):
        yield "checks: a list of tables with metric, limit, unit and one of the statuses expected"
    baseline = record.get("baseline")
    if baseline is not None and not (
        isinstance(baseline, Mapping) and isinstance(baseline.get("pointer", {}), Mapping)
    ):
        yield "baseline: a table with a pointer expected"


def agent_problems(record: Mapping[str, Any]) -> Iterator[str]:
    """What a record of τ²-bench files lacks."""
    if type(record.get("confidence")) not in (int, float):
        yield "confidence: a number expected"
    candidates = record.get("candidates")
    sides = [*([record["baseline"]] if record.get("baseline") else []), *(candidates or [])] if isinstance(
        candidates, list
    ) else []  # fmt: skip
    if not sides:
        yield "candidates: a list of at least one expected"
    counts = ("evaluated", "tasks", "passed", "db_matched", "db_checked", "infrastructure_errors")
    for number, side in enumerate(sides):
        if not _named(side) or not isinstance(side.get("counts"), Mapping):
            yield f"side {number}: a table with name and counts expected"
        elif not all(type(side["counts"].get(key)) is int for key in counts):
            yield f"side {number}: counts: {', '.join(counts)} expected"
        elif not isinstance(side.get("measurements"), list) or not all(_is_figure(m) for m in side["measurements"]):
            yield f"side {number}: measurements: a list of tables with metric, estimate, low and high expected"


def _named(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("name"), str)


def _is_check(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and value.get("status") in ORDER
        and all(isinstance(value.get(key), str) for key in ("metric", "limit", "unit"))
        and all(type(value.get(key)) in (int, float, type(None)) for key in ("estimate", "low", "high", "needed"))
    )


def _is_figure(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("metric"), str)
        and type(value.get("estimate")) in (int, float)
        and all(type(value.get(key)) in (int, float, type(None)) for key in ("low", "high"))
    )
