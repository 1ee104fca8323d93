"""What the page shows of verdicts and of agent benchmarks: checks worst first, the paper's table with differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...records.loading import Loaded
from ...words.text import figure
from ..tau2 import label, shown
from ..verdict import ORDER, interval, pointer, what_now, where
from .candidates import Cast

_CLASSES = {"PASS": "pass", "FAIL": "fail"}
_LEFT_OUT = ("infrastructure_errors",)


def verdict(loaded: Loaded, cast: Cast) -> dict[str, Any]:
    """Lay a verdict's record out: its word, each candidate's checks, what it rests on and cannot say."""
    record = loaded.record
    t = record["tolerances"]
    return {
        "word": record["verdict"],
        "css": _CLASSES.get(record["verdict"], "open"),
        "facts": [
            f"tolerances {t.get('name')} ({t.get('file')}, sha256 {str(t.get('sha256'))[:12]}, written"
            f" {t.get('written') or t.get('written_by')})",
            f"roll back to {pointer(record.get('baseline'), 16)}",
        ],
        "candidates": [_candidate(c, record["checks"], cast) for c in record["candidates"]],
        "warnings": [str(w) for w in record.get("warnings") or []],
        "caveats": [str(c) for c in record.get("caveats") or []],
    }


def _candidate(candidate: Mapping[str, Any], checks: Sequence[Mapping[str, Any]], cast: Cast) -> dict[str, Any]:
    drawn = cast.like(candidate)
    mine = [c for c in checks if c.get("candidate") == candidate["name"]]
    mine.sort(key=lambda c: (ORDER.index(c["status"]), -_beyond(c)))
    return {
        "name": candidate["name"],
        "key": drawn.css if drawn else "",
        "verdict": candidate.get("verdict"),
        "rows": [
            {
                "status": c["status"],
                "css": _CLASSES.get(c["status"], "open"),
                "what": where(c),
                "limit": c["limit"],
                "found": figure(c.get("estimate")),
                "interval": interval(c),
                "more": "" if c["status"] == "PASS" else what_now(c),
                "why": c.get("why") or "",
            }
            for c in mine
        ],
    }


def _beyond(check: Mapping[str, Any]) -> float:
    """How far an estimate lies beyond its limit, as a share of that; negative inside, least where nothing was found."""
    value = check.get("estimate")
    if value is None:
        return -math.inf
    limits = ((check.get("high_limit"), 1), (check.get("low_limit"), -1))
    return max(
        (sign * (value - limit) / (abs(limit) or 1.0) for limit, sign in limits if limit is not None), default=0.0
    )


def agent_runs(loaded: Loaded) -> dict[str, Any]:
    """Lay the record of τ²-bench files out: the first file's figures, every later one's, and the differences."""
    record = loaded.record
    baseline = record.get("baseline")
    sides = [*([baseline] if baseline else []), *record["candidates"]]
    plain = [_plain(side) for side in sides]
    metrics = dict.fromkeys(m for figures in plain for m in figures if not m.endswith("_difference"))
    return {
        "names": [side["name"] for side in sides],
        "compared": [side["name"] for side in sides[1:]] if baseline else [],
        "facts": [_counts(side) for side in sides],
        "legend": f"In per cent; reward, turns and calls plain. {record['confidence']:.0%} intervals, clustered by"
        " task; differences are paired by task and trial.",
        "rows": [
            {
                "label": label(metric),
                "cells": [shown(figures.get(metric), metric) for figures in plain],
                "changes": [shown(figures.get(f"{metric}_difference"), metric, "+") for figures in plain[1:]]
                if baseline
                else [],
            }
            for metric in metrics
            if metric not in _LEFT_OUT
        ],
        "notes": [str(note) for note in record.get("notes") or []],
        "problems": [str(p) for side in sides for p in (side.get("problems") or [])[:20]],
    }


def _plain(side: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {m["metric"]: m for m in side["measurements"] if "depth" not in m}


def _counts(side: Mapping[str, Any]) -> str:
    c = side["counts"]
    return (
        f"{side['name']}: {c['evaluated']:,} simulations of {c['tasks']:,} tasks, {c['passed']:,} passed,"
        f" {c['db_matched']:,} of {c['db_checked']:,} databases match, {c['infrastructure_errors']:,} infrastructure"
        " errors apart"
    )
