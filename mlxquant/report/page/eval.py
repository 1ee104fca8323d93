"""What the page shows of an evaluation: what changes beside the baseline, by depth and slice, survival, speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...records.loading import Loaded
from ...records.measurements import CALL_DEPTHS, measurement
from ..eval import WORDS, facts, points, share
from .charts import COLOURS, Bar, most_telling, shares, survival

_SLICES = 14  # more than this stand in the table alone
_CALL, _ITEM = "right_call", "pass"
_SERVING = (("ttft_s", "first token, s"), ("decode_tok_s", "tokens/s"), ("request_s", "whole answer, s"))


def evaluation(loaded: Loaded, number: int, *, draw: bool) -> dict[str, Any]:
    """Lay an eval record out; `draw` says that matplotlib is there."""
    record = loaded.record
    sides = [record["baseline"], *record["candidates"]]
    losses = [-(change["estimate"] or 0.0) if (change := _lost(c)) else None for c in sides[1:]]
    drawn = [0, *(i + 1 for i in most_telling(losses, COLOURS - 1))]
    return {
        "number": number,
        "drawn": [str(sides[i]["name"]) for i in drawn],
        "left_out": len(sides) - len(drawn),
        "title": f"{', '.join(c['name'] for c in sides[1:])} beside {sides[0]['name']}",
        "facts": [f"{label}: {text}" for label, text in facts(record)],
        "confidence": f"{record['confidence']:.0%}",
        "names": [str(side["name"]) for side in sides],
        "rows": list(_rows(sides)),
        "pairs": [row for c in sides[1:] for row in _pairs(c)],
        "groups": [
            g for g in (_group(sides, kind) for kind in (("depth", _CALL), ("slice", _CALL), ("slice", _ITEM))) if g
        ],
        "survival": [_reached(curve) for curve in record["survival"]],
        "serving": [_served(side) for side in sides],
        "pictures": list(_pictures(record, sides, drawn, number)) if draw else [],
        "notes": [str(note) for note in record["notes"]],
    }


def _rows(sides: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row a metric: every side's share, and each candidate's change."""
    first = sides[0]["measurements"]
    for metric in dict.fromkeys(m["metric"] for m in first if "slice" not in m and "depth" not in m):
        changes = [measurement(c, f"{metric}_difference") for c in sides[1:]]
        if any(changes):
            cells = [share(measurement(side, metric)) for side in sides]
            yield {
                "label": WORDS.get(metric, metric.replace("_", " ")),
                "cells": cells,
                "changes": [_changed(change) for change in changes],
            }


def _changed(change: Mapping[str, Any] | None) -> str:
    if change is None or change["estimate"] is None:
        return "-"
    if change["low"] is None:
        return f"{points(change['estimate'])} ({change.get('reason', 'no interval')})"
    return f"{points(change['estimate'])} [{points(change['low'])}, {points(change['high'])}]"


def _pairs(candidate: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in candidate["paired"]:
        if "slice" not in row and "depth" not in row:
            yield {"name": candidate["name"], "what": "items" if row["metric"] == _ITEM else "calls", **row}


def _group(sides: Sequence[Mapping[str, Any]], kind: tuple[str, str]) -> dict[str, Any] | None:
    """A table by depth, or by slice with the worst first, of one metric."""
    key, metric = kind
    names = _names(sides, key, metric)
    rows = []
    for name in names:
        where = {key: name}
        counted = next((m for s in sides if (m := measurement(s, metric, **where))), {"n": 0, "clusters": 0})
        cells = [share(measurement(side, metric, **where)) for side in sides]
        changes = [_changed(measurement(c, f"{metric}_difference", **where)) for c in sides[1:]]
        rows.append({"name": name, "n": counted["n"], "units": counted["clusters"], "cells": cells, "changes": changes})
    what = "Calls with nothing wrong" if metric == _CALL else "Items right"
    title = f"{what}, by {key}" + (", the worst first" if key == "slice" else "")
    return {"title": title, "kind": key, "rows": rows, "open": key == "depth"} if rows else None


def _names(sides: Sequence[Mapping[str, Any]], key: str, metric: str) -> list[str]:
    """Depths in order; slices by the worst change that any candidate has there, those without interval last."""
    if key == "depth":
        return [label for label, _, _ in CALL_DEPTHS if any(measurement(s, metric, depth=label) for s in sides)]
    worst: dict[str, tuple[bool, float]] = {}
    for candidate in sides[1:]:
        for m in candidate["measurements"]:
            if m["metric"] == f"{metric}_difference" and "slice" in m and m["estimate"] is not None:
                rank = (m["low"] is None, m["estimate"])
                worst[m["slice"]] = min(worst.get(m["slice"], rank), rank)
    return sorted(worst, key=lambda name: (worst[name], name))


def _reached(curve: Mapping[str, Any]) -> dict[str, str]:
    median = "more than half never went wrong" if curve["median"] is None else f"{curve['median']:g}"
    ends = ["beyond" if curve[k] is None else f"{curve[k]:g}" for k in ("median_low", "median_high")]
    interval = "" if curve["median"] is None or curve.get("reason") else f" [{ends[0]}, {ends[1]}]"
    return {
        "name": str(curve["name"]),
        "failed": f"{sum(curve['failed'])} of {curve['n']}",
        "median": median + interval,
    }


def _served(side: Mapping[str, Any]) -> dict[str, Any]:
    def quantiles(metric: str) -> str:
        figures = [measurement(side, f"{metric}_p{p}") for p in (50, 90, 99)]
        return " / ".join(f"{m['estimate']:.3g}" if m else "-" for m in figures) if any(figures) else "-"

    serving = side["serving"]
    counts = [serving.get(k) for k in ("requests", "input_tokens", "output_tokens", "repeats")]
    failures = ", ".join(f"{n} {kind}" for kind, n in (serving.get("failures") or {}).items()) or "none"
    return {
        "name": side["name"],
        "quantiles": [quantiles(metric) for metric, _ in _SERVING],
        "counts": ["-" if n is None else f"{n:,}" for n in counts],
        "failures": failures,
    }


def _lost(candidate: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the candidate changes, in calls where there are any."""
    return measurement(candidate, f"{_CALL}_difference") or measurement(candidate, f"{_ITEM}_difference")


def _pictures(
    record: Mapping[str, Any], everyone: Sequence[Mapping[str, Any]], drawn: Sequence[int], number: int
) -> Iterator[dict[str, str]]:
    sides = [everyone[i] for i in drawn]
    curves = [record["survival"][i] for i in drawn if i < len(record["survival"])]
    if curves:
        last = max(t["depth"] for t in record["trials"]) or 1
        lines = [(curve["times"], curve["survival"]) for curve in curves]
        words = "; ".join(f"{c['name']}: {r['failed']} went wrong, median call {r['median']}"
                         for c, r in zip(curves, map(_reached, curves), strict=True))  # fmt: skip
        yield {
            "title": "loops that have not gone wrong yet",
            "svg": survival(lines, last, f"e{number}-survival"),
            "label": f"Share of loops that have not gone wrong yet, by calls made: {words}",
        }
    for key, metric, title in (
        ("depth", _CALL, "calls with nothing wrong, by call number"),
        ("slice", _CALL, "calls with nothing wrong, by slice, the worst first"),
        ("slice", _ITEM, "items right, by slice, the worst first"),
    ):
        rows = [
            (name, [_bar(i, side, metric, {key: name}) for i, side in enumerate(sides)])
            for name in _names(sides, key, metric)[:_SLICES]
        ]
        if rows:
            words = "; ".join(f"{name}: {', '.join(share(measurement(s, metric, **{key: name})) for s in sides)}"
                             for name, _ in rows)  # fmt: skip
            yield {"title": title, "svg": shares(rows, f"e{number}-{key}-{metric}"), "label": f"{title}: {words}"}


def _bar(series: int, side: Mapping[str, Any], metric: str, where: Mapping[str, str]) -> Bar | None:
    figure = measurement(side, metric, **where)
    if figure is None or figure["estimate"] is None:
        return None
    return Bar(series, str(side["name"]), figure["estimate"], figure["low"], figure["high"])
