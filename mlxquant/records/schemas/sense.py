"""What a schema cannot say of a record: figures that contradict each other, and what stands twice.

A record passes a schema by its types. A gate must not pass one by figures that no measuring can give: an estimate
outside its interval, more clusters than observations, a share of 1.2; nor by a candidate or a measurement that stands
twice, of which a reader would find either. What a figure means, and whether it is good, is for others to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from ...words.text import printable
from ..metrics import BYTES, PLACES, metric_named

# sizes that a side states of itself; they are counted, not sampled
SIZES = ("bytes", "bpw", "active_bytes_per_token")
COUNTED = "counted"
# what an evaluation counts in trials: 3 of 40, where a tolerance speaks of a share
COUNTS = ("infrastructure_errors", "timeouts")

# records keep seven digits
_DIGITS = 1e-6
# a KL that is 0 may come out a little below it, in 32 bits
_ROUNDING = 1e-4
# of (tr A)² / tr A², which is 1 for a matrix of rank 1
_LEAST_DF = 0.99

SideRecord = Mapping[str, Any]


def senseless(kind: str, record: Mapping[str, Any]) -> Iterator[str]:
    """Name every contradiction in a record that its schema lets through, with its path in the record."""
    if kind in ("plan", "audit"):
        yield from _modules(record)
    elif kind == "bench":
        yield from _samples(record)
    elif kind in ("compare", "eval", "rollout", "tau2", "results"):
        yield from _sides(kind, record)
    elif kind == "sweep":
        sides = [(f"candidates[{number}]", side) for number, side in enumerate(record["candidates"])]
        yield from names_twice(sides)
    if kind == "eval":
        yield from _curves(record.get("survival", ()))


def _modules(record: Mapping[str, Any]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for number, module in enumerate(record["modules"]):
        if seen.setdefault(module["path"], number) != number:
            yield f"modules[{number}].path: {_short(module['path'])!r} stands at [{seen[module['path']]}] already"


def _samples(record: Mapping[str, Any]) -> Iterator[str]:
    """A benchmark's runs: each of a build that is there, each build, test and round once, each with its figures."""
    builds = record["builds"]
    yield from names_twice([(f"builds[{number}]", build) for number, build in enumerate(builds)])
    for number, build in enumerate(builds):
        yield from sizes_of(build, f"builds[{number}]")
        yield from measured(build.get("measurements", ()), f"builds[{number}].measurements", "bench")
    seen: dict[tuple[int, str, int], int] = {}
    for number, sample in enumerate(record["samples"]):
        place, run = f"samples[{number}]", (sample["build"], sample["test"], sample["round"])
        if sample["build"] >= len(builds):
            yield f"{place}.build: one of the record's {len(builds)} builds expected, {sample['build']} found"
        if seen.setdefault(run, number) != number:
            yield f"{place}: build {run[0]}, {run[1]}, round {run[2]} stands at [{seen[run]}] already"
        if "failure" not in sample and any(sample.get(k) is None for k in ("seconds", "tok_s", "token_s")):
            yield f"{place}: seconds, tok_s and token_s expected, or a failure"
    indexed = [("results", "build"), ("ratios", "a"), ("ratios", "b")]
    for rows, key in indexed:
        for number, row in enumerate(record.get(rows, ())):
            if row[key] >= len(builds):
                yield f"{rows}[{number}].{key}: one of the record's {len(builds)} builds expected, {row[key]} found"


def _sides(kind: str, record: Mapping[str, Any]) -> Iterator[str]:
    yield from _confidence(record, "")
    baseline = record.get("baseline")
    sides: list[tuple[str, SideRecord]] = [] if baseline is None else [("baseline", baseline)]
    sides += [(f"candidates[{number}]", side) for number, side in enumerate(record["candidates"])]
    yield from names_twice(sides)
    for place, side in sides:
        yield from sizes_of(side, place)
        yield from measured(side["measurements"], f"{place}.measurements", kind)
    if baseline is not None:
        for place, side in sides[1:]:
            yield from _paired(side["measurements"], baseline["measurements"], f"{place}.measurements")


def _paired(entries: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], place: str) -> Iterator[str]:
    """Differences and ratios that are not those of the two sides' own figures, over the same observations.

    Where fewer were paired than one side has (an item that never got an answer), they may differ.
    """
    ours, theirs = ({_key(entry): entry for entry in side} for side in (entries, others))
    for number, entry in enumerate(entries):
        of, _, kind = str(entry["metric"]).rpartition("_")
        a, b = (side.get((of, *_key(entry)[1:])) for side in (ours, theirs))
        if kind not in ("difference", "ratio") or a is None or b is None or not a["n"] == b["n"] == entry["n"]:
            continue
        x, y, estimate = a["estimate"], b["estimate"], entry["estimate"]
        if None in (x, y, estimate) or (kind == "ratio" and y == 0):
            continue
        expected = x - y if kind == "difference" else x / y
        if abs(estimate - expected) > _ROUNDING * max(1, abs(x), abs(y), abs(expected)):
            yield (
                f"{place}[{number}] ({label(entry)}): {_figure(expected)} expected of {_figure(x)} and"
                f" {_figure(y)} over the same {entry['n']:,} observations, {_figure(estimate)} found"
            )


def _key(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """What a measurement is of: its metric and its places."""
    return (str(entry["metric"]), *(str(entry.get(p)) if entry.get(p) is not None else "" for p in PLACES))


def _curves(curves: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for number, curve in enumerate(curves):
        if len({len(curve[key]) for key in ("times", "survival", "failed")}) > 1:
            yield f"survival[{number}]: times, survival and failed of one length expected"


def names_twice(sides: Sequence[tuple[str, SideRecord]]) -> Iterator[str]:
    """Sides of one name: whoever asks for the candidate of that name would get any of them."""
    seen: dict[str, str] = {}
    for place, side in sides:
        name = " ".join(str(side["name"]).split())  # "a" and "a " are one to a reader
        if not name:
            yield f"{place}.name: a name expected, {_short(side['name'])!r} found; it is what a verdict is about"
        if seen.setdefault(name, place) != place:
            yield f"{place}.name: {_short(name)!r} is the name of {seen[name]} already; names tell sides apart"


def sizes_of(table: Mapping[str, Any], place: str) -> Iterator[str]:
    """Sizes that no build has."""
    for key in SIZES:
        if _is_number(table.get(key)) and table[key] <= 0:
            yield f"{place}.{key}: a number above 0 expected, {_figure(table[key])} found"


def measured(entries: Sequence[Mapping[str, Any]], place: str, kind: str) -> Iterator[str]:
    """Contradictions within each measurement of a side, and measurements of one place that stand twice."""
    seen: dict[tuple[str, ...], int] = {}
    for number, entry in enumerate(entries):
        key = _key(entry)
        if seen.setdefault(key, number) != number:
            yield f"{place}[{number}] ({label(entry)}): stands at [{seen[key]}] already; a figure is measured once"
        yield from (f"{place}[{number}] ({label(entry)}): {problem}" for problem in _impossible(entry, kind))


def label(entry: Mapping[str, Any]) -> str:
    """What a measurement is of: ``"kl_nats, slice json"``."""
    places = [f"{key} {_short(entry[key])}" for key in PLACES if entry.get(key) is not None]
    return ", ".join([_short(entry["metric"]), *places])


def _impossible(entry: Mapping[str, Any], kind: str) -> Iterator[str]:
    estimate, low, high = entry["estimate"], entry["low"], entry["high"]
    n, clusters = entry["n"], entry["clusters"]
    if n <= 0 or clusters <= 0:
        yield f"n and clusters above 0 expected, {n} and {clusters} found; what was not observed was not measured"
    elif clusters > n:
        yield f"at most as many clusters as observations expected, {clusters:,} of {n:,} found"
    if (low is None) != (high is None):
        yield "low and high expected, or null for both; one of them found"
    elif low is not None:
        yield from _ends(estimate, low, high, entry)
    if entry.get("se") is not None and entry["se"] < 0:
        yield f"se: 0 or more expected, {_figure(entry['se'])} found"
    if (df := entry.get("df")) is not None and not _LEAST_DF <= df <= max(n, 1):
        yield f"df: from 1 to the number of observations expected, {_figure(df)} found"
    if (effect := entry.get("design_effect")) is not None and not 1 - _DIGITS <= effect <= max(n, 1) + _DIGITS:
        yield f"design_effect: from 1 to the number of observations expected, {_figure(effect)} found"
    yield from _confidence(entry, "")
    if estimate is not None:
        yield from _wrong_method(entry, estimate)
        yield from _out_of_range(entry, estimate, kind)


def _ends(estimate: float | None, low: float, high: float, entry: Mapping[str, Any]) -> Iterator[str]:
    from ...stats.interval import holds_estimate  # here, for numpy comes with it, and most records have no intervals

    if low > high:
        yield f"low at most high expected, {_figure(low)} and {_figure(high)} found"
        return
    if estimate is None:
        yield "estimate: a number expected, null found; yet there is an interval"
    elif not holds_estimate(estimate, low, high, entry["clusters"], entry.get("method", "")):
        yield f"estimate within its interval {_figure(low)} … {_figure(high)} expected, {_figure(estimate)} found"
    elif low == high and (entry.get("se") or 0) > 10 * _DIGITS * abs(low) and entry["clusters"] > 1:
        yield f"an interval with a width expected where se is {_figure(entry['se'])}, {_figure(low)} twice found"


def _wrong_method(entry: Mapping[str, Any], estimate: float) -> Iterator[str]:
    """Methods for shares, of what is none: stated again at another confidence, it would come out as a share."""
    from ...stats.interval import EFFECTIVE_METHOD, EXACT_METHOD, PAIRS_METHOD

    method = entry.get("method")
    least = -1.0 if method == PAIRS_METHOD or (method == EXACT_METHOD and entry.get("se") is not None) else 0.0
    ends = [end for end in (estimate, entry["low"], entry["high"]) if end is not None]
    if method in (EXACT_METHOD, EFFECTIVE_METHOD, PAIRS_METHOD) and not all(
        least - _DIGITS <= end <= 1 + _DIGITS for end in ends
    ):
        yield f"method: {_short(method)!r} is for shares, or differences of shares; {_figure(estimate)} is none"


def _out_of_range(entry: Mapping[str, Any], estimate: float, kind: str) -> Iterator[str]:
    """Values that the metric cannot have, and what is counted as though it were not sampled."""
    metric, name = metric_named(entry["metric"]), _short(entry["metric"])
    of_bytes = metric is not None and (metric.family == "size" or metric.unit == BYTES)
    if entry.get("method") == COUNTED and not (of_bytes and entry["clusters"] == 1):
        yield f"method: {COUNTED!r} is for sizes, in one cluster; {name} is sampled"
    if kind == "eval" and entry["metric"] in COUNTS:
        if not (0 <= estimate <= entry["n"] and estimate == int(estimate)):
            yield f"estimate: a number of trials from 0 to {entry['n']:,} expected, {_figure(estimate)} found"
    elif metric is None:
        return
    elif not metric.low - _ROUNDING <= estimate <= metric.high + _ROUNDING:
        span = f"lies in [{metric.low:g}, {metric.high:g}]" if isfinite(metric.high) else f"is {metric.low:g} or more"
        yield f"estimate: {name} {span}, {_figure(estimate)} found"


def _confidence(table: Mapping[str, Any], place: str) -> Iterator[str]:
    value = table.get("confidence", 0.95)
    if not _is_number(value) or not 0 < value < 1:
        yield f"{place}{'.' if place else ''}confidence: between 0 and 1 expected, {_figure(value)} found"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _figure(value: Any) -> str:
    return f"{value:.7g}" if _is_number(value) else repr(value)[:40]


def _short(value: Any) -> str:
    text = printable(str(value)[:41])
    return text if len(text) <= 40 else f"{text[:39]}…"
