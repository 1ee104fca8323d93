"""Every figure of every candidate, as data of the page: what its section "Any two candidates" puts side by side.

A figure is of a metric at a place (a slice, a depth, a layer, …) in one record. Differences are those that records
hold, measured pair by pair: a comparison pairs every two candidates in KL, an evaluation each candidate with its
baseline, a bench each build with the first. Where a record pairs nothing, the page says so; nothing is worked out
here. The page's script shows the table; without scripts the figures stand in the tables of the sections.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...records.loading import BENCH, COMPARE, EVAL, RESULTS, SWEEP, TAU2, Loaded
from ...records.measurements import places_of
from ...records.metrics import metric_named
from .builds import Model
from .candidates import Cast, measured

_SIZES = ("bytes", "bpw", "active_bytes_per_token")
_DIFFERENCE = "_difference"
_PROTECTED = "protected modules"
# what two candidates differ in, by the figure of either that it is the difference of
_OF = {"log_perplexity": "log_perplexity_ratio"}
_TITLES = {
    COMPARE: "Comparison",
    EVAL: "Evaluation",
    TAU2: "Agent benchmark",
    RESULTS: "Other harness",
    BENCH: "Throughput",
    SWEEP: "Sweep",
}
# why two candidates have no paired difference, by the kind of record
_WHY = {
    COMPARE: "compare pairs any two candidates in KL and log-perplexity over all documents, and each one with the"
    " reference; its other figures stand side by side unpaired.",
    EVAL: "eval pairs each candidate with the baseline alone: choose the baseline as one of the two, or run eval with"
    " one of them as the baseline.",
    TAU2: "the later files are paired with the first alone: choose it as one of the two.",
    RESULTS: "the later runs are paired with the first alone: choose it as one of the two.",
    BENCH: "bench pairs each build with the first, round by round: choose that one as one of the two.",
    SWEEP: "a sweep's record repeats what its records measured: give report the comparison too.",
}

_WHY_ELSE = "the record pairs each candidate with the baseline alone: choose the baseline as one of the two."

Ends = tuple[float | None, float | None, float | None]
Key = tuple[str, str]


@dataclass
class _Figures:
    """The figures of one record: of each candidate by number, and the paired differences of two."""

    title: str
    why: str
    values: dict[Key, dict[int, Ends]] = field(default_factory=dict)
    pairs: dict[tuple[int, int], dict[Key, tuple[Ends, str]]] = field(default_factory=dict)

    def put(self, key: Key, number: int, ends: Ends) -> None:
        self.values.setdefault(key, {})[number] = ends

    def pair(self, first: int, second: int, key: Key, ends: Ends, words: str = "") -> None:
        self.pairs.setdefault((first, second), {})[key] = (ends, words)


def pair_data(records: Sequence[Loaded], models: Sequence[Model], cast: Cast) -> dict[str, Any] | None:
    """Lay the figures out for the page's script; None where there are no two candidates with figures."""
    held = [f for f in _all(records, models, cast) if len({n for v in f.values.values() for n in v}) > 1]
    if not held:
        return None
    numbers = sorted({n for f in held for v in f.values.values() for n in v})
    chosen = next((r.record["recommendation"]["name"] for r in records if r.schema == SWEEP), None)
    counts = {n: sum(n in v for f in held for v in f.values.values()) for n in numbers}
    plain = [n for n in numbers if not cast.all[n].baseline and not cast.all[n].floor]
    second = next((n for n in plain if cast.all[n].name == chosen), (plain or numbers)[0])
    baseline = next((n for n in numbers if cast.all[n].baseline and 2 * counts[n] > counts[second]), None)
    first = next((n for n in ([baseline] if baseline is not None else plain) if n != second), numbers[0])
    return {
        "candidates": [(n, " = ".join(cast.all[n].names), cast.all[n].css) for n in numbers],
        "first": first,
        "second": second,
        "packed": _packed([_laid_out(f) for f in held]),
    }


def _packed(value: Any) -> str:
    """JSON, compressed to a quarter, in letters that mean nothing in HTML; the same for the same figures."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _laid_out(figures: _Figures) -> dict[str, Any]:
    metrics = list(dict.fromkeys(metric for metric, _ in figures.values))
    sides = sorted({n for v in figures.values.values() for n in v})
    return {
        "title": figures.title,
        "why": figures.why,
        "sides": sides,
        "metrics": [(name, *_about(name)) for name in metrics],
        "rows": [
            [metrics.index(metric), place, *(_short(v[n]) if n in v else 0 for n in sides)]
            for (metric, place), v in sorted(figures.values.items(), key=lambda item: item[0][1] != "")
        ],
        "pairs": [
            [
                first,
                second,
                [[metric, place, words, *_short(ends)] for (metric, place), (ends, words) in paired.items()],
            ]
            for (first, second), paired in figures.pairs.items()
        ],
    }


def _about(name: str) -> tuple[str, str, bool]:
    """A metric's unit and meaning, as far as the registry has it, and whether it is exact, with nothing to pair."""
    metric = metric_named(name)
    return (metric.unit, metric.meaning, metric.family == "size") if metric else ("", "", name == _PROTECTED)


def _short(ends: Ends) -> list[float | int | None]:
    """A figure in the digits that its interval leaves it: value, value and half a width, or value and both ends."""
    value, low, high = ends
    if value is None or low is None or high is None:
        return [None if value is None else _rounded(value, 7)]  # the page shows four, also of differences
    half = (high - low) / 2
    if not half:
        return [_rounded(value, 7), 0]
    if abs((high + low) / 2 - value) < half / 50:
        places = 1 - math.floor(math.log10(half))
        return [_whole(round(value, places)), _rounded(half, 2)]
    return [_rounded(value, 4), _rounded(low, 3), _rounded(high, 3)]


def _rounded(value: float, digits: int) -> float | int:
    return _whole(value if type(value) is int else float(f"{value:.{digits}g}"))


def _whole(value: float) -> float | int:
    """``1.0`` as ``1``, which is shorter."""
    return int(value) if value == int(value) and abs(value) < 2**53 else value


def _all(records: Sequence[Loaded], models: Sequence[Model], cast: Cast) -> Iterator[_Figures]:
    given = {r.file for r in records if r.schema in (COMPARE, EVAL)}
    for model in models:
        yield _of_plans(model, cast)
    for loaded in records:
        if loaded.schema == SWEEP and given & {
            f for c in loaded.record["candidates"] for f in c.get("measured_in") or ()
        }:
            continue  # it repeats what these measured
        if loaded.schema == BENCH:
            yield _of_bench(loaded, cast)
        elif measured(loaded):
            yield _of_sides(loaded, cast)


def _of_plans(model: Model, cast: Cast) -> _Figures:
    figures = _Figures(f"Plans and builds of {model.title}", "")
    for side in model.sides:
        totals = side.record["totals"] | {_PROTECTED: side.record["protected"]["modules"]}
        for name in (*_SIZES, _PROTECTED):
            if totals.get(name) is not None:
                figures.put((name, ""), cast.of(side.record).number, (totals[name], None, None))
    return figures


def _of_sides(loaded: Loaded, cast: Cast) -> _Figures:
    """Figures of a record whose sides have measurements, and the differences among them."""
    record = loaded.record
    title = _TITLES.get(loaded.schema, loaded.schema.partition(".")[2].partition("/")[0].capitalize())
    figures = _Figures(f"{title} ({loaded.file})", _WHY.get(loaded.schema, _WHY_ELSE))
    baseline = record.get("baseline")
    sides = [*([baseline] if cast.knows(baseline) else []), *record["candidates"]]
    names = {str(side["name"]): cast.of(side).number for side in sides}
    for side in sides:
        number = cast.of(side).number
        for name in _SIZES:
            if type(side.get(name)) in (int, float):
                figures.put((name, ""), number, (side[name], None, None))
        for m in side.get("measurements", ()):
            places = places_of(m)
            against = names.get(str(places.pop("against", "")))
            place = ", ".join(f"{key} {value}" for key, value in places.items())
            ends = (m["estimate"], m["low"], m["high"])
            metric = str(m["metric"])
            of = metric.removesuffix(_DIFFERENCE)
            if of == metric and "against" not in m:
                figures.put((metric, place), number, ends)
            elif against is not None:
                figures.pair(
                    against, number, (_OF.get(of, of), place), ends, _verdict(side, m) if of == "kl_nats" else ""
                )
            elif baseline and side is not baseline and str(baseline["name"]) in names and "against" not in m:
                figures.pair(names[str(baseline["name"])], number, (of, place), ends)
    return figures


def _verdict(side: Mapping[str, Any], m: Mapping[str, Any]) -> str:
    """Whether a candidate is better than, worse than or like the other one, where the record judged it."""
    beside = next((b for b in side.get("beside") or () if b.get("against") == m["against"]), None)
    return str(beside["verdict"]) if beside else ""


def _of_bench(loaded: Loaded, cast: Cast) -> _Figures:
    record = loaded.record
    figures = _Figures(f"{_TITLES[BENCH]} ({loaded.file})", _WHY[BENCH])
    numbers = [cast.of(build).number for build in record["builds"]]
    for result in record["results"]:
        place, number = f"test {result['test']}", numbers[result["build"]]
        for key, name in (("tok_s", "tokens/s"), ("ttft_s", "first token, s")):
            if result.get(key):
                figures.put((name, place), number, (result[key]["mean"], None, None))
        if result.get("peak_memory_bytes") is not None:
            figures.put(("peak_memory_bytes", place), number, (result["peak_memory_bytes"], None, None))
    for ratio in record.get("ratios") or []:
        ends = (ratio["ratio"], ratio["low"], ratio["high"])
        figures.pair(numbers[ratio["a"]], numbers[ratio["b"]], ("tokens/s", f"test {ratio['test']}"), ends, "ratio")
    return figures
