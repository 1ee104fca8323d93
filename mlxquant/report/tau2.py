"""The record of result files for a terminal of 80 columns: the paper's table, depth, pairs, what is wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..records.measurements import depth_range
from ..words.text import WIDTH, cut, filled, table

_LABELS = {
    "reward": "average reward",
    "read_action_accuracy": "read actions",
    "write_action_accuracy": "write actions",
    "db_match": "DB match",
    "tool_call_errors": "call errors",
    "turns": "user turns",
    "tool_calls": "tool calls",
}
_PLAIN = {"reward": 3, "turns": 1, "tool_calls": 1}
_AXES = (
    ("calls", "passed, by the run's own tool calls"),
    ("turns", "passed, by the user's turns in the run"),
    ("actions", "passed, by the actions that the task asks for"),
)
_NAME, _SHOWN = 16, 12


def tau2_text(record: Mapping[str, Any]) -> str:
    """Write a record for a reader: the files, the table against the first, depth, pairs, notes, problems."""
    baseline, candidates = record["baseline"], record["candidates"]
    sides = [*([baseline] if baseline else []), *candidates]
    parts = ["\n".join(line for side in sides for line in _head(side))]
    if baseline is None:
        parts += [_alone(side, record["confidence"]) for side in candidates]
    else:
        parts += [part for side in candidates for part in _against(baseline, side, record["confidence"])]
    parts += [_depth_table(sides, axis, title) for axis, title in _AXES]
    parts.append("\n".join(_remarks(record, sides)))
    return "\n\n".join(part for part in parts if part)


def _head(side: Mapping[str, Any]) -> Iterator[str]:
    counts, about = side["counts"], side["about"]
    what = [str(about[key]) for key in ("domain", "agent_llm") if key in about]
    description = ", ".join([*what, side["file"], side["form"]])
    yield textwrap.fill(f"{side['name']}: {description}", WIDTH, subsequent_indent="  ")
    trials = _range(counts["fewest_trials"], counts["most_trials"])
    yield _under(
        f"{counts['evaluated']:,} simulations of {counts['tasks']:,} tasks, {trials} trials each;"
        f" {counts['infrastructure_errors']:,} infrastructure errors apart; {counts['passed']:,} passed,"
        f" {counts['db_matched']:,} of {counts['db_checked']:,} databases match",
    )
    yield _under("ended by " + ", ".join(f"{why} {n:,}" for why, n in side["terminations"].items()))


def _alone(side: Mapping[str, Any], confidence: float) -> str:
    figures = _plain(side)
    rows = [
        (_starred(m), _value(m["estimate"], metric), _interval(m, metric), f"{m['n']:,}", f"{m['clusters']:,}")
        for metric, m in figures.items()
        if metric != "infrastructure_errors"
    ]
    marked = _marked(figures.values())
    return table(("", "found", f"{confidence:.0%} interval", "n", "tasks"), rows, "lrlrr") + marked


def _against(baseline: Mapping[str, Any], side: Mapping[str, Any], confidence: float) -> Iterator[str]:
    """The paper's table, with the later file's difference, and what became of the pairs."""
    first, second = _plain(baseline), _plain(side)
    rows = list[tuple[str, ...]]()
    for metric in dict.fromkeys([*first, *second]):
        if metric == "infrastructure_errors":
            continue
        a, b, d = first.get(metric), second.get(metric), second.get(f"{metric}_difference")
        if not metric.endswith("_difference"):
            rows.append((_starred(b or a), _cell(a, metric), _cell(b, metric), shown(d, metric, "+")))
    lost = [s["counts"]["infrastructure_errors"] for s in (baseline, side)]
    rows.append(("infrastructure", *(f"{n:,} errors" for n in lost), f"{lost[1] - lost[0]:+,}".replace("-", "−")))
    heads = ("", cut(baseline["name"], _NAME), cut(side["name"], _NAME), "difference")
    title = f"In % (reward, turns, calls: plain); {confidence:.0%} intervals, clustered by task"
    yield f"{title}\n{table(heads, rows, 'llll')}{_marked(second.values())}"
    p = side["pairing"]
    if p["pairs"]:
        yield filled(
            "pairs",
            f"{p['pairs']:,} trials of {p['tasks']:,} tasks in both: {p['both_passed']:,} passed in both,"
            f" {p['only_baseline_passed']:,} only in {baseline['name']}, {p['only_candidate_passed']:,} only in"
            f" {side['name']}, {p['neither_passed']:,} in neither; exact McNemar test p = {p['mcnemar_p']:.3g} (takes"
            " every trial as independent; the intervals do not)",
        )


def _depth_table(sides: Sequence[Mapping[str, Any]], axis: str, title: str) -> str:
    by_side = [
        {m["depth"]: m for m in side["measurements"] if m["metric"] == "pass" and m["depth"].startswith(f"{axis} ")}
        for side in sides[:3]
    ]
    first = {name: (depth_range(m) or (0, None))[0] for side in by_side for name, m in side.items()}
    names = sorted(first, key=lambda name: first[name])
    if not names:
        return ""
    rows = [(name.removeprefix(f"{axis} "), *(_share_of(side.get(name)) for side in by_side)) for name in names]
    return f"{title[0].upper()}{title[1:]}\n" + table(
        (axis, *(cut(s["name"], _NAME) for s in sides[:3])), rows, "l" * 4
    )


def _share_of(m: Mapping[str, Any] | None) -> str:
    return "-" if m is None else f"{_cell(m, 'pass')} of {m['n']:,}"


def _remarks(record: Mapping[str, Any], sides: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if any("tool_calls" in _plain(side) for side in sides):
        yield filled("note", "errors can make a run longer; the depth by what the task needs is the one to compare")
    if any(m.get("low") is None for side in sides for m in side["measurements"]):
        yield filled("note", "a figure without an interval rests on fewer than five tasks, or has no spread")
    for note in record["notes"]:
        yield filled("note", note)
    for side in sides:
        for problem in side["problems"][:_SHOWN]:
            yield filled("PROBLEM", problem)
        if len(side["problems"]) > _SHOWN:
            yield filled("", f"… and {len(side['problems']) - _SHOWN:,} more in {side['file']}; --json has them all")


def _plain(side: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """A side's overall measurements by metric."""
    return {m["metric"]: m for m in side["measurements"] if "depth" not in m}


def label(metric: str) -> str:
    """A metric as the table names it: ``"pass^1"``."""
    return _LABELS.get(metric, metric.replace("pass_hat_", "pass^"))


def _starred(m: Mapping[str, Any] | None) -> str:
    return "" if m is None else label(m["metric"]) + (" *" if "note" in m else "")


def _marked(measurements: Any) -> str:
    notes = [f"* {label(m['metric']).replace('_', ' ')} {m['note']}" for m in measurements if "note" in m]
    return "".join(f"\n{_under(note)}" for note in notes)


def _value(value: float, metric: str, sign: str = "", fewer: int = 0) -> str:
    """A figure as the paper writes it, in % or plain; `fewer` digits for ends, which are not known that well."""
    digits = _PLAIN.get(metric)
    shown = f"{100 * value:{sign}.{1 - fewer}f}" if digits is None else f"{value:{sign}.{digits - fewer}f}"
    return shown.replace("-", "−")


def _interval(m: Mapping[str, Any], metric: str, sign: str = "", fewer: int = 0) -> str:
    if m.get("low") is None or m.get("high") is None:
        return "none: " + str(m.get("reason") or "no reason given")[:40]
    return f"[{_value(m['low'], metric, sign, fewer)}, {_value(m['high'], metric, sign, fewer)}]"


def shown(m: Mapping[str, Any] | None, metric: str, sign: str = "") -> str:
    """A figure with its interval, in full; ``sign`` is "+" for differences."""
    if m is None:
        return "-"
    ends = f" {_interval(m, metric, sign)}" if m.get("low") is not None else ""
    return _value(m["estimate"], metric, sign) + ends


def _cell(m: Mapping[str, Any] | None, metric: str) -> str:
    if m is None:
        return "-"
    return _value(m["estimate"], metric) + (f" {_interval(m, metric, fewer=1)}" if m.get("low") is not None else "")


def _under(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"
