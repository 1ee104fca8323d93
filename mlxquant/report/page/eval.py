"""What the page shows of an evaluation: what changes beside the baseline, by depth and slice, survival, speed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...records.loading import Loaded
from ...records.measurements import CALL_DEPTHS, measurement
from ...words.text import some
from ..eval import PAIRED, WORDS, alike, facts, points, share
from .candidates import Cast, legend, shown_first
from .charts import Line, Plot, Tracks, shares, survival

_SLICES = 18  # more than this stand in the table alone
_CALL, _ITEM = "right_call", "pass"
_SERVING = (("ttft_s", "first token, s"), ("decode_tok_s", "tokens/s"), ("request_s", "whole answer, s"))


def evaluation(loaded: Loaded, number: int, cast: Cast) -> dict[str, Any]:
    """Lay an eval record out."""
    record = loaded.record
    sides = [record["baseline"], *record["candidates"]]
    return {
        "number": number,
        "title": f"{some([str(c['name']) for c in sides[1:]])} beside {sides[0]['name']}",
        "facts": [(label, text) for label, text in facts(record)],
        "confidence": f"{record['confidence']:.0%}",
        "names": [(str(side["name"]), cast.of(side).css) for side in sides],
        "rows": list(_rows(sides)),
        "pairs": [row | {"css": cast.of(c).css} for c in sides[1:] for row in _pairs(c)],
        "alike": [f"{c['name']}: {line}" for c in sides[1:] for line in alike(c)],
        "groups": [
            g for g in (_group(sides, kind) for kind in (("depth", _CALL), ("slice", _CALL), ("slice", _ITEM))) if g
        ],
        "survival": [
            _reached(curve) | {"css": cast.of(side).css} for curve, side in zip(record["survival"], sides, strict=False)
        ],
        "serving": [_served(side) | {"css": cast.of(side).css} for side in sides],
        "legend": legend(cast.named(sides), shown_first(sides, cast, _worse(sides))),
        "charts": list(_charts(record, sides, cast)),
        "notes": [str(note) for note in record["notes"]],
    }


def _worse(sides: Sequence[Mapping[str, Any]]) -> str:
    """The metric by which the most telling candidates are chosen: calls where there are any, else items."""
    return next((f"{m}_difference" for m in (_CALL, _ITEM) if any(measurement(s, m) for s in sides)), _ITEM)


def _rows(sides: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row a metric: every side's share, and each candidate's change."""
    first = sides[0]["measurements"]
    for metric in dict.fromkeys(m["metric"] for m in first if "slice" not in m and "depth" not in m):
        changes = [measurement(c, f"{metric}_difference") for c in sides[1:]]
        if any(changes):
            cells = [share(measurement(side, metric)) for side in sides]
            yield {
                "label": WORDS.get(metric, metric.replace("_", " ")),
                "cells": list(zip(cells, ["", *(_changed(change) for change in changes)], strict=True)),
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
            yield {"name": candidate["name"], "what": PAIRED.get(row["metric"], row["metric"]), **row}


def _group(sides: Sequence[Mapping[str, Any]], kind: tuple[str, str]) -> dict[str, Any] | None:
    """A table by depth, or by slice with the worst first, of one metric."""
    key, metric = kind
    names = _names(sides, key, metric)
    rows = []
    for name in names:
        where = {key: name}
        counted = next((m for s in sides if (m := measurement(s, metric, **where))), {"n": 0, "clusters": 0})
        cells = [share(measurement(side, metric, **where)) for side in sides]
        changes = ["", *(_changed(measurement(c, f"{metric}_difference", **where)) for c in sides[1:])]
        mean = _mean(sides, metric, where)
        rows.append(
            {
                "name": name,
                "n": counted["n"],
                "units": counted["clusters"],
                "mean": points(mean) if key == "slice" and mean is not None and len(sides) > 2 else "",
                "cells": list(zip(cells, changes, strict=True)),
            }
        )
    what = "Calls with nothing wrong" if metric == _CALL else "Items right"
    title = f"{what}, by {key}" + (", the worst first" if key == "slice" else "")
    return {"title": title, "kind": key, "rows": rows, "open": key == "depth"} if rows else None


def _names(sides: Sequence[Mapping[str, Any]], key: str, metric: str) -> list[str]:
    """Depths in order; slices by their mean change over the candidates, those without an interval last."""
    if key == "depth":
        return [label for label, _, _ in CALL_DEPTHS if any(measurement(s, metric, depth=label) for s in sides)]
    names = dict.fromkeys(
        m["slice"] for s in sides for m in s["measurements"] if m["metric"] == metric and "slice" in m
    )
    ranks = {}
    for name in names:
        changes = [m for c in sides[1:] if (m := measurement(c, f"{metric}_difference", slice=name))]
        mean = _mean(sides, metric, {"slice": name})
        if mean is not None:
            ranks[name] = (all(m["low"] is None for m in changes), mean, name)
    return sorted(ranks, key=lambda name: ranks[name])


def _mean(sides: Sequence[Mapping[str, Any]], metric: str, where: Mapping[str, str]) -> float | None:
    """Mean change of a share over the candidates."""
    changes = [m for c in sides[1:] if (m := measurement(c, f"{metric}_difference", **where))]
    values = [m["estimate"] for m in changes if m["estimate"] is not None]
    return math.fsum(values) / len(values) if values else None


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


def _charts(record: Mapping[str, Any], sides: Sequence[Mapping[str, Any]], cast: Cast) -> Iterator[Tracks | Plot]:
    curves = list(zip(record["survival"], sides, strict=False))
    if curves:
        last = max(t["depth"] for t in record["trials"]) or 1
        lines = []
        for curve, side in curves:
            reached = _reached(curve)
            words = f"{curve['name']}: {reached['failed']} went wrong, median call {reached['median']}"
            lines.append((cast.of(side), curve["times"], curve["survival"], words))
        title = "loops that have not gone wrong yet"
        yield survival(title, f"{title}, by calls made: {'; '.join(line[3] for line in lines)}", lines, last)
    for key, metric, title in (
        ("depth", _CALL, "calls with nothing wrong, by call number"),
        ("slice", _CALL, "calls with nothing wrong, by slice, the worst change first"),
        ("slice", _ITEM, "items right, by slice, the worst change first"),
    ):
        rows = [
            (name, [line for side in sides if (line := _line(side, cast, metric, {key: name}))])
            for name in _names(sides, key, metric)[:_SLICES]
        ]
        rows = [(name, lines) for name, lines in rows if lines]
        if rows:
            figures = "; ".join(f"{name}: {', '.join(line.words for line in lines)}" for name, lines in rows)
            yield shares(title, f"{title}: {figures}", rows)


def _line(side: Mapping[str, Any], cast: Cast, metric: str, where: Mapping[str, str]) -> Line | None:
    figure = measurement(side, metric, **where)
    if figure is None or figure["estimate"] is None:
        return None
    return Line(cast.of(side), figure["estimate"], figure["low"], figure["high"], f"{side['name']} {share(figure)}")
