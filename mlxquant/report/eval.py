"""An evaluation's record as text for a terminal of 80 columns. Nothing is worked out here."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from ..records.measurements import CALL_DEPTHS, measurement
from ..stats import LEAST_CLUSTERS
from ..words.text import WIDTH, cut, filled, percent, table
from ..words.units import show_bytes

_NAME = 13
_SLICES = 10
PAIRED = {"pass": "items", "right_call": "calls"}
WORDS = {
    "pass": "whole items right",
    "valid_call": "is a call at all",
    "valid_json": "… valid JSON",
    "valid_schema": "… valid to its schema",
    "right_tool": "… the right tool",
    "right_arguments": "… right arguments",
    "in_order": "… in order",
    "right_call": "nothing wrong with it",
    "policy_kept": "breaks no rule",
    "made": "made in the end",
    "state_equal": "store as expected",
    "rules_kept": "no rule ever broken",
    "replies_right": "all replies right",
    "refused_rightly": "refused what it must",
    "nothing_refused_wrongly": "refused nothing else",
}
_CALLS = ("valid_call", "valid_json", "valid_schema", "right_tool", "right_arguments", "in_order", "policy_kept",
          "right_call", "made")  # fmt: skip


def eval_text(record: Mapping[str, Any]) -> str:
    """Write a record for a reader: what was run, what changed, by depth and slice, speed, notes."""
    parts = [_head(record)]
    for candidate in record["candidates"]:
        parts += [part(record["baseline"], candidate) for part in (_changes, _pairs, _by_depth, _slices)]
    parts += [_survival(record), _serving(record), _remarks(record)]
    return "\n\n".join(part for part in parts if part)


def _head(record: Mapping[str, Any]) -> str:
    return "\n".join(filled(f"{label}:", text, 11) for label, text in facts(record))


def facts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was run: where, when, with what, on what; each with its label."""
    m, s, v = record["machine"], record["settings"], record["versions"]
    memory = show_bytes(m["memory_bytes"], 0) if type(m.get("memory_bytes")) is int else "memory unknown"
    yield "machine", f"{m.get('chip')}, {m.get('cores')} cores, {memory}, {m.get('os')}"
    names = ("mlxquant", "mlx", "mlx-lm", "python")
    yield "versions", f"{', '.join(f'{n} {v[n]}' for n in names if v.get(n))}; {record['date']}"
    for suite in record["suites"]:
        about = ", ".join(f"{k} {_listed(v)}" for k, v in suite["about"].items())
        yield "suite", f"{suite['name']}, {suite['items']} items" + (f" ({about})" if about else "")
    drawn = f"temperature {s['temperature']:g}, seed {s['seed']}" if s["temperature"] else "temperature 0"
    yield "settings", f"{_number(s['trials'], 'trial')} of each item, {drawn}; sides in turn, order drawn for each item"
    for word, side in (("baseline", record["baseline"]), *(("candidate", c) for c in record["candidates"])):
        yield word, _described(side)


def _described(side: Mapping[str, Any]) -> str:
    recipe = side.get("recipe") or {}
    parts = [
        side["name"],
        f"recipe {recipe['name']}" if recipe.get("name") else "",
        str(side.get("format") or ""),
        f"{show_bytes(side['bytes'])}, {side['bpw']:.4f} bpw" if side.get("bytes") else "",
        f"{side['endpoint']}, model {side['model']}" if side.get("endpoint") else "",
    ]
    return ", ".join(part for part in parts if part)


def _changes(baseline: Mapping[str, Any], candidate: Mapping[str, Any]) -> str:
    metrics = [m["metric"] for m in baseline["measurements"] if "slice" not in m and "depth" not in m]
    shares = [m for m in metrics if measurement(candidate, f"{m}_difference") is not None]
    items = [m for m in shares if m not in _CALLS]
    rows = [_row(WORDS.get(m, m.replace("_", " ")), m, baseline, candidate) for m in items]
    calls = [m for m in _CALLS if m in shares]
    if calls:
        due = measurement(baseline, "valid_call") or {"n": 0}
        rows += [(f"each of {due['n']:,} calls due", "", "", "", "")]
        rows += [_row(f"  {WORDS[m]}", m, baseline, candidate) for m in calls]
    if not rows:
        return f"{candidate['name']}: nothing that both sides were judged in"
    title = f"{candidate['name']} beside {baseline['name']}: shares, and what changes pair by pair"
    head = ("", "baseline", "candidate", "change", _interval_head(candidate))
    return f"{textwrap.fill(title, WIDTH)}\n{table(head, rows, 'lrrrr')}"


def _interval_head(candidate: Mapping[str, Any]) -> str:
    change = measurement(candidate, "pass_difference") or {}
    return f"{change.get('confidence', 0.95):.0%} interval"


def _row(
    label: str, metric: str, baseline: Mapping[str, Any], candidate: Mapping[str, Any], **where: str
) -> tuple[str, str, str, str, str]:
    change = measurement(candidate, f"{metric}_difference", **where)
    before, after = (share(measurement(side, metric, **where)) for side in (baseline, candidate))
    return (label, before, after, *_change(change))


def _change(change: Mapping[str, Any] | None) -> tuple[str, str]:
    if change is None or change["estimate"] is None:
        return "-", "-"
    if change["low"] is None:
        return points(change["estimate"]), _why(change)
    return points(change["estimate"]), f"{points(change['low'])} … {points(change['high'])}"


def _pairs(baseline: Mapping[str, Any], candidate: Mapping[str, Any]) -> str:
    rows = [
        (
            PAIRED.get(row["metric"], row["metric"]),
            *(f"{row[k]:,}" for k in ("both_right", "only_baseline", "only_candidate", "both_wrong")),
            f"{row['units_worse']} / {row['units_better']}",
            _p(row["mcnemar_p"]),
        )
        for row in candidate["paired"]
        if "slice" not in row and "depth" not in row
    ]
    if not rows:
        return ""
    head = ("", "both", "first only", "second only", "neither", "tasks −/+", "p")
    title = "Right on both, on one alone, on neither; tasks worse/better, McNemar's exact p"
    return "\n".join([f"{title}\n{table(head, rows, 'lrrrrrr')}", *alike(candidate)])


def alike(candidate: Mapping[str, Any]) -> Iterator[str]:
    """What no pair that differs says: not that none would, but how many at most."""
    for row in candidate["paired"]:
        if "slice" in row or "depth" in row or row["only_baseline"] or row["only_candidate"]:
            continue
        change = measurement(candidate, f"{row['metric']}_difference") or {}
        most = "" if change.get("high") is None else f": a difference of at most {points(change['high'])[1:]} points"
        yield f"None of {row['n']:,} {PAIRED.get(row['metric'], row['metric'])} differed{most}"


def _by_depth(baseline: Mapping[str, Any], candidate: Mapping[str, Any]) -> str:
    rows = []
    for label, _, _ in CALL_DEPTHS:
        figure = measurement(candidate, "right_call", depth=label)
        if figure is not None:
            row = _row(label, "right_call", baseline, candidate, depth=label)
            rows.append((row[0], f"{figure['n']:,}", *row[1:]))
    if not rows:
        return ""
    head = ("call number", "calls", "baseline", "candidate", "change", "interval")
    return f"Calls with nothing wrong, by depth\n{table(head, rows, 'lrrrrr')}"


def _slices(baseline: Mapping[str, Any], candidate: Mapping[str, Any]) -> str:
    parts = []
    for metric, title in (("pass", "Items right"), ("right_call", "Calls with nothing wrong")):
        names = [r["slice"] for r in candidate["paired"] if r["metric"] == metric and "slice" in r]
        rows = []
        for name in names[:_SLICES]:
            figure = measurement(candidate, metric, slice=name) or {"n": 0}
            row = _row(cut(name, 20), metric, baseline, candidate, slice=name)
            rows.append((row[0], f"{figure['n']:,}", *row[1:]))
        if rows:
            more = f" ({len(names) - len(rows)} more in the record)" if len(names) > len(rows) else ""
            head = ("slice", "n", "baseline", "candidate", "change", "interval")
            parts.append(f"{title}, worst slice first{more}\n{table(head, rows, 'lrrrrr')}")
    return "\n\n".join(parts)


def _survival(record: Mapping[str, Any]) -> str:
    rows = []
    for curve in record["survival"]:
        failed = sum(curve["failed"])
        rows.append((cut(curve["name"], _NAME), f"{failed} of {curve['n']}", *_median(curve)))
    if not rows:
        return ""
    head = ("side", "loops that went wrong", "median call at which", "interval")
    return f"How far loops get before they first go wrong\n{table(head, rows, 'lrrr')}"


def _median(curve: Mapping[str, Any]) -> tuple[str, str]:
    if curve["median"] is None:
        return "more than half never did", "-"
    if curve.get("reason"):
        return f"{curve['median']:g}", _why(curve)
    low, high = (("beyond" if curve[k] is None else f"{curve[k]:g}") for k in ("median_low", "median_high"))
    return f"{curve['median']:g}", f"{low} … {high}"


def _serving(record: Mapping[str, Any]) -> str:
    """Times of answers; nothing where builds read drafts along, whose times are no times of decoding."""
    rows = []
    sides = (record["baseline"], *record["candidates"])
    if record["settings"].get("draft") and all(side.get("kind") == "build" for side in sides):
        return ""
    for side in sides:
        s = side["serving"]
        rows.append(
            (
                cut(side["name"], _NAME),
                f"{s['requests']:,}",
                _quantiles(side, "ttft_s"),
                _quantiles(side, "decode_tok_s"),
                _quantiles(side, "request_s"),
            )
        )
    head = ("side", "answers", "ttft_s", "tok/s", "answer s")
    return f"Serving: p50/p90/p99 of time to the first token, rate, whole answer\n{table(head, rows, 'lrrrr')}"


def _quantiles(side: Mapping[str, Any], metric: str) -> str:
    quantiles = [measurement(side, f"{metric}_p{p}") for p in (50, 90, 99)]
    return "/".join(_figure(m["estimate"]) if m else "-" for m in quantiles) if any(quantiles) else "-"


def _figure(value: float) -> str:
    """Two figures, or whole numbers from 100 on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _remarks(record: Mapping[str, Any]) -> str:
    lines = []
    for side in (record["baseline"], *record["candidates"]):
        s = side["serving"]
        tokens = (f"{'?' if s[k] is None else format(s[k], ',')} tokens" for k in ("input_tokens", "output_tokens"))
        failures = ", ".join(f"{n} {kind}" for kind, n in s["failures"].items()) or "none"
        lines.append(f"{side['name']}, {' in, '.join(tokens)} out; failed: {failures}; sent again: {s['repeats']}")
    notes = [*(("requests:", line) for line in lines), *(("note:", note) for note in record["notes"])]
    return "\n".join(filled(label, text, 11) for label, text in notes)


def share(figure: Mapping[str, Any] | None) -> str:
    """A measured share in per cent, "-" for none."""
    return percent(None if figure is None else figure["estimate"])


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _why(figure: Mapping[str, Any]) -> str:
    """Why there is no interval, in a column's width; the record has the whole reason."""
    few = figure["clusters"] < LEAST_CLUSTERS
    return f"none from {_number(figure['clusters'], 'task')}" if few else "none"


def _listed(value: Any) -> str:
    return ", ".join(str(v) for v in value) if isinstance(value, list) else str(value)


def _number(n: int, word: str) -> str:
    return f"{n} {word}" + ("s" if n != 1 else "")
