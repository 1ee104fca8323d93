"""What the page shows of results of other harnesses: each run, the differences, slices, what became of pairs.

It stands apart from τ²-bench's section, whose figures are others; the template is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...records.loading import Loaded
from ...records.measurements import measurement
from ..results import label, shown

_SLICES, _PROBLEMS = 60, 20


def harness_runs(loaded: Loaded) -> dict[str, Any]:
    """Lay a record of results out."""
    record = loaded.record
    baseline = record.get("baseline")
    sides = [*([baseline] if baseline else []), *record["candidates"]]
    return {
        "names": [side["name"] for side in sides],
        "compared": [side["name"] for side in sides[1:]] if baseline else [],
        "facts": [_counts(side, record["harness"]) for side in sides] + [_pairs(side) for side in sides[1:]],
        "legend": f"In per cent where it is a share. {record['confidence']:.0%} intervals, clustered; differences are"
        " paired by question and trial.",
        "rows": list(_rows(sides)),
        "notes": [str(note) for note in record.get("notes") or []],
        "problems": [f"{side['name']}: {p}" for side in sides for p in (side.get("problems") or [])[:_PROBLEMS]],
    }


def _rows(sides: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row a metric, then a row a slice of the first of them."""
    plain = [m["metric"] for side in sides for m in side["measurements"] if "slice" not in m]
    metrics = list(dict.fromkeys(m for m in plain if not m.endswith("_difference")))
    for metric in metrics:
        yield _row(sides, label(metric), metric)
    slices = dict.fromkeys(m["slice"] for side in sides for m in side["measurements"] if "slice" in m)
    for name in list(slices)[:_SLICES]:
        yield _row(sides, f"{label(metrics[0])}: {name}", metrics[0], slice=name)


def _row(sides: Sequence[Mapping[str, Any]], text: str, metric: str, **where: str) -> dict[str, Any]:
    later = sides[1:]
    return {
        "label": text,
        "cells": [shown(side, measurement(side, metric, **where)) for side in sides],
        "changes": [shown(side, measurement(side, f"{metric}_difference", **where), "+") for side in later],
    }


def _counts(side: Mapping[str, Any], harness: str) -> str:
    c = side["counts"]
    passed = f", {c['passed']:,} of {c['judged']:,} passed" if c["judged"] else ""
    return f"{side['name']}: {harness}, {c['trials']:,} trials of {c['questions']:,} questions{passed}"


def _pairs(side: Mapping[str, Any]) -> str:
    p = side.get("pairing") or {}
    if "mcnemar_p" not in p:
        return f"{side['name']}: {p.get('pairs', 0):,} pairs"
    return (
        f"{side['name']}: {p['pairs']:,} pairs, {p['both_passed']:,} passed in both, {p['only_baseline_passed']:,} only"
        f" in the first, {p['only_candidate_passed']:,} only in it, {p['neither_passed']:,} in neither; exact McNemar"
        f" test p = {p['mcnemar_p']:.3g}"
    )
