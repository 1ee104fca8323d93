"""The record of harnesses' results for a terminal of 80 columns: runs, paired table, slices, pairs, problems."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..records.measurements import measurement
from ..words.text import WIDTH, counted, cut, filled, some, table

_NAME, _METRIC, _SLICE, _SHOWN, _SLICES = 16, 26, 24, 12, 30


def results_text(record: Mapping[str, Any]) -> str:
    """Write a record for a reader: the runs, each against the first, slices, pairs, notes, problems."""
    baseline, candidates = record["baseline"], record["candidates"]
    sides = [*([baseline] if baseline else []), *candidates]
    parts = ["\n".join(line for side in sides for line in _head(side, record["harness"]))]
    if baseline is None:
        parts += [_alone(side, record["confidence"]) for side in candidates]
    else:
        parts += [part for side in candidates for part in _against(baseline, side, record["confidence"])]
    parts.append("\n".join(_remarks(record, sides)))
    return "\n\n".join(part for part in parts if part)


def _head(side: Mapping[str, Any], harness: str) -> Iterator[str]:
    counts, about = side["counts"], side["about"]
    what = [str(about[key]) for key in ("model", "task") if about.get(key)]
    recipe = (side.get("recipe") or {}).get("name")
    what += [f"build of recipe {recipe}"] if recipe else []
    yield textwrap.fill(f"{side['name']}: {', '.join([harness, *what, side['file']])}", WIDTH, subsequent_indent="  ")
    fewest, most = counts["fewest_trials"], counts["most_trials"]
    trials = "" if most <= 1 else f", {fewest if fewest == most else f'{fewest} to {most}'} trials each"
    clusters = f" in {counts['clusters']:,} clusters" if counts["clusters"] < counts["questions"] else ""
    passed = f"; {counts['passed']:,} of {counts['judged']:,} passed" if counts["judged"] else ""
    lost = f"; {counts['lost']:,} without a score apart" if counts["lost"] else ""
    yield _under(f"{counted(counts['questions'], 'question')}{clusters}{trials}{passed}{lost}")


def _alone(side: Mapping[str, Any], confidence: float) -> str:
    rows = [
        (_label(side, m), shown(side, {**m, "low": None}), _ends(side, m), f"{m['n']:,}", f"{m['clusters']:,}")
        for m in _overall(side).values()
    ]
    title = f"In % where it is a share; {confidence:.0%} intervals, clustered"
    text = f"{title}\n{table(('', 'estimate', 'interval', 'n', 'clusters'), rows, 'lrlrr')}"
    text += _starred(_overall(side).values())
    slices = [
        (
            cut(name, _SLICE),
            *(shown(side, measurement(side, metric, slice=name)) for metric in _main(side)),
            _n(side, name),
        )
        for name in _slices(side)[:_SLICES]
    ]
    heads = ("slice", *(cut(label(metric), _METRIC) for metric in _main(side)), "n")
    return text + (f"\n\n{table(heads, slices)}" if slices else "")


def _against(baseline: Mapping[str, Any], side: Mapping[str, Any], confidence: float) -> Iterator[str]:
    """The table of both, with the later run's difference; slices; what became of the pairs."""
    first, second = _overall(baseline), _overall(side)
    heads = (cut(baseline["name"], _NAME), cut(side["name"], _NAME), "difference")
    metrics = list(dict.fromkeys([*first, *second]))
    cells = [
        (shown(baseline, first.get(m), fewer=1), shown(side, second.get(m), fewer=1), change(side, m)) for m in metrics
    ]
    room = _room(heads, cells, _METRIC)
    rows = [(_label(side, second.get(m) or first[m], room), *each) for m, each in zip(metrics, cells, strict=True)]
    title = f"In % where it is a share; {confidence:.0%} intervals, clustered"
    yield f"{title}\n{table(('', *heads), rows, 'llll')}{_starred(second.values())}"
    names, metric = _slices(side), next(iter(_main(side)), "pass")
    cells = [
        (_short(baseline, metric, name), _short(side, metric, name), change(side, metric, slice=name))
        for name in names[:_SLICES]
    ]
    room = _room(heads, cells, _SLICE)
    rows = [(cut(name, room), *each) for name, each in zip(names, cells, strict=False)]
    if rows:
        more = f"\n… and {len(names) - _SLICES:,} more; --json has them all" if len(names) > _SLICES else ""
        yield f"{label(metric)}, by slice, the largest loss first\n{table(('', *heads), rows, 'llll')}{more}"
    yield _pairs(baseline, side)


def _room(heads: Sequence[str], cells: Sequence[Sequence[str]], most: int) -> int:
    """How wide the first column may be, beside columns of these heads and cells."""
    columns = zip(*([f"{head}  " for head in heads], *cells), strict=True)  # a head has two spaces more than it needs
    return max(8, min(most, WIDTH - sum(2 + max(map(len, column)) for column in columns)))


def _pairs(baseline: Mapping[str, Any], side: Mapping[str, Any]) -> str:
    p = side["pairing"]
    if "mcnemar_p" not in p or not p["pairs"]:
        return filled("pairs", f"{counted(p['pairs'], 'trial')} of {counted(p['questions'], 'question')} in both")
    trials = " (takes every trial as independent; the intervals do not)" if p["pairs"] > p["questions"] else ""
    return filled(
        "pairs",
        f"{counted(p['pairs'], 'trial')} of {counted(p['questions'], 'question')} in both:"
        f" {p['both_passed']:,} passed in both,"
        f" {p['only_baseline_passed']:,} only in {baseline['name']}, {p['only_candidate_passed']:,} only in"
        f" {side['name']}, {p['neither_passed']:,} in neither; exact McNemar test p = {p['mcnemar_p']:.3g}{trials}",
    )


def _remarks(record: Mapping[str, Any], sides: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if reasons := dict.fromkeys(
        str(m.get("reason")) for side in sides for m in side["measurements"] if m.get("low") is None
    ):
        yield filled("note", f"a figure without an interval: {some(list(reasons))}")
    for note in record["notes"]:
        yield filled("note", note)
    for side in sides:
        for problem in side["problems"][:_SHOWN]:
            yield filled("PROBLEM", f"{side['name']}: {problem}")
        if len(side["problems"]) > _SHOWN:
            yield filled("", f"… and {len(side['problems']) - _SHOWN:,} more in {side['name']}; --json has them all")


# --- figures ---


def label(metric: str) -> str:
    """A metric as the table names it: ``"pass^1"``."""
    return metric.replace("pass_hat_", "pass^")


def value(estimate: float, sign: str = "", fewer: int = 0, *, plain: bool = False) -> str:
    """A share in %, anything beyond as it is; `fewer` digits for ends, which are not known that well."""
    text = f"{estimate:{sign}.3g}" if plain else f"{100 * estimate:{sign}.{1 - fewer}f}"
    return text.replace("-", "−")


def interval(m: Mapping[str, Any], sign: str = "", fewer: int = 0, *, plain: bool = False) -> str:
    """A figure's interval, or why there is none."""
    if m.get("low") is None or m.get("high") is None:
        return "none: " + str(m.get("reason") or "no reason given")[:40]
    return f"[{value(m['low'], sign, fewer, plain=plain)}, {value(m['high'], sign, fewer, plain=plain)}]"


def shown(side: Mapping[str, Any], m: Mapping[str, Any] | None, sign: str = "", fewer: int = 0) -> str:
    """A figure of a side with its interval; "-" where there is none."""
    if m is None:
        return "-"
    plain = side["scales"].get(str(m["metric"]).removesuffix("_difference")) == "count"
    ends = f" {interval(m, sign, fewer, plain=plain)}" if m.get("low") is not None else ""
    return value(m["estimate"], sign, plain=plain) + ends


def _ends(side: Mapping[str, Any], m: Mapping[str, Any]) -> str:
    return "-" if m.get("low") is None else interval(m, plain=side["scales"].get(m["metric"]) == "count")


def change(side: Mapping[str, Any], metric: str, **where: str) -> str:
    """A metric's difference to the first run's, with its interval."""
    return shown(side, measurement(side, f"{metric}_difference", **where), "+")


def _short(side: Mapping[str, Any], metric: str, name: str) -> str:
    m = measurement(side, metric, slice=name)
    return "-" if m is None else f"{shown(side, {**m, 'low': None})} of {m['n']:,}"


def _overall(side: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """A side's own measurements over everything, by metric; one that only repeats `pass` is said in its label."""
    plain = {m["metric"]: m for m in side["measurements"] if "slice" not in m}
    own = {metric: m for metric, m in plain.items() if not metric.endswith("_difference")}
    return {metric: m for metric, m in own.items() if metric == "pass" or not _is_pass(own, m)}


def _is_pass(plain: Mapping[str, Mapping[str, Any]], m: Mapping[str, Any]) -> bool:
    """Whether a metric is what `pass` was taken from: the same figure to the last digit."""
    passed = plain.get("pass")
    keys = ("estimate", "low", "high", "n", "clusters")
    return passed is not None and not m["metric"].startswith("pass") and all(m[k] == passed[k] for k in keys)


def _label(side: Mapping[str, Any], m: Mapping[str, Any], room: int = _METRIC) -> str:
    text = cut(label(m["metric"]), room - 2 * ("note" in m)) + (" *" if "note" in m else "")
    if m["metric"] != "pass":
        return text
    plain = {e["metric"]: e for e in side["measurements"] if "slice" not in e}
    same = [name for name, e in plain.items() if not name.endswith("_difference") and _is_pass(plain, e)]
    return f"pass ({cut(same[0], room - 7)})" if same else text


def _starred(measurements: Iterable[Mapping[str, Any]]) -> str:
    notes = [f"* {label(m['metric'])} {m['note']}" for m in measurements if "note" in m]
    return "".join(f"\n{_under(note)}" for note in notes)


def _main(side: Mapping[str, Any]) -> list[str]:
    """What slices are shown of: `pass`, or the first metric."""
    metrics = list(_overall(side))
    return ["pass"] if "pass" in metrics else metrics[:1]


def _slices(side: Mapping[str, Any]) -> list[str]:
    """A side's slices, those that lost most first; one alone says nothing that the table does not."""
    names = dict.fromkeys(m["slice"] for m in side["measurements"] if "slice" in m)
    if len(names) == 1:
        return []
    metric = next(iter(_main(side)), "pass")
    lost = {name: measurement(side, f"{metric}_difference", slice=name) for name in names}
    return sorted(names, key=lambda name: m["estimate"] if (m := lost[name]) else 0.0)


def _n(side: Mapping[str, Any], name: str) -> str:
    m = measurement(side, next(iter(_main(side)), "pass"), slice=name)
    return "-" if m is None else f"{m['n']:,}"


def _under(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
