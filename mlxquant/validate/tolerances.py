"""Tolerances: what a build may cost, written down before it is measured. A TOML file, read with all its mistakes.

    [[tolerance]]
    metric = "right_call"        # a figure, see `metrics`
    depth = "51-150"             # where: slice, depth, turn, layer, case, against, test; "*" is every one found
    min_difference = -0.02       # within what: min/max, min_difference/max_difference, min_ratio/max_ratio
    confidence = 0.99            # how sure; min_clusters, min_samples: from how much
    why = "later steps need what earlier ones returned"

`min` and `max` bound the candidate's own figure; differences and ratios are candidate against baseline. A key that is
not given means the figure over all, not over each. What is not measured is never within a tolerance.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..disk.files import read_regular
from ..errors import MlxquantError
from ..records.metrics import METRICS, PLACES, SHARE, Metric, metric_named, valid_names
from ..words.text import listed, nearest, plain_texts, unknown_keys

SCHEMA = "mlxquant.tolerances/1"
EVERY = "*"
RECORDS = ("compare", "eval", "tau2", "results", "rollout", "bench", "plan", "audit")
KINDS: dict[str, tuple[str, str]] = {
    "itself": ("min", "max"),
    "difference": ("min_difference", "max_difference"),
    "ratio": ("min_ratio", "max_ratio"),
}
_LIMITS = tuple(key for keys in KINDS.values() for key in keys)
_SURENESS = ("confidence", "min_clusters", "min_samples")
_TOLERANCE_KEYS = ("metric", "record", *PLACES, *_LIMITS, *_SURENESS, "why")
_FILE_KEYS = ("schema", "name", *_SURENESS, "tolerance")
_DEFAULTS = {"confidence": 0.95, "min_clusters": 20, "min_samples": 0}
_MOST_TIMES = 50.0  # a ratio beyond it is a percentage
_MOST_PLACES = 10_000


class ToleranceError(MlxquantError):
    """A tolerance file with mistakes. All of them are in the message, one a line. Exit code 2: nothing was judged."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Tolerance:
    """One line that a figure must stay within. `low` and `high` are its ends, None where it is open.

    `kind` says of what: the figure "itself", its "difference" to the baseline's or its "ratio". `where` is where it
    applies, by the keys of `PLACES`; a value is one place, or "*". `record` is the command whose records alone count.
    """

    number: int
    metric: str
    kind: str
    low: float | None
    high: float | None
    where: tuple[tuple[str, str], ...] = ()
    record: str | None = None
    confidence: float = 0.95
    min_clusters: int = 20
    min_samples: int = 0
    why: str | None = None

    @property
    def limit(self) -> str:
        """The limit as a reader writes it: ``"≤ 0.01"``, ``"≥ −0.02 difference"``."""
        of = "" if self.kind == "itself" else f" {self.kind}"
        low, high = (f"{end:,.12g}".replace("-", "−") if end is not None else "" for end in (self.low, self.high))
        if low and high:
            return f"{low} … {high}{of}"
        return f"≤ {high}{of}" if high else f"≥ {low}{of}"


@dataclass(frozen=True, slots=True)
class Tolerances:
    """A file of them: its name for readers, the hash of its bytes, and each of them."""

    name: str
    file: str
    sha256: str
    tolerances: tuple[Tolerance, ...]


def read_tolerances(path: Path, also_valid: Sequence[str] | None = ()) -> Tolerances:
    """Read a tolerance file; metrics of records at hand (`also_valid`) may be named besides those of `metrics`.

    With None any metric may be named: where no record is at hand, nobody knows a suite's own checks.
    Raises ToleranceError with every mistake.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise ToleranceError(f"{path}: cannot be read ({error.strerror}); validate --init {path} writes one") from None
    try:
        table = plain_texts(tomllib.loads(data.decode("utf-8")))
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8, no TOML, numbers of 5,000 digits
        raise ToleranceError(f"{path}: no TOML: {error}") from None
    if key := _too_large(table):
        raise ToleranceError(f"{path.name}: {key} is a number of more than 64 bits; no figure is as large")
    if also_valid is None:
        also_valid = _own_names(table)
    problems = unknown_keys(table, _FILE_KEYS, path.name)
    if table.get("schema", SCHEMA) != SCHEMA:
        problems.append(f"{path.name}: schema is {table['schema']!r}, {SCHEMA!r} expected")
    if not isinstance(table.get("name", ""), str):
        problems.append(f"{path.name}: name is no text")
    defaults = {**_DEFAULTS, **_sureness(table, path.name, problems)}
    entries = table.get("tolerance", [])
    if not isinstance(entries, list) or not entries:
        problems.append(f"{path.name}: no tolerance in it; write [[tolerance]] with a metric and a limit")
        entries = []
    tolerances = [
        tolerance
        for number, entry in enumerate(entries, 1)
        for tolerance in _tolerances(entry, number, defaults, also_valid, f"{path.name}: tolerance {number}", problems)
    ]
    problems += _repeated(tolerances, path.name)
    if problems:
        raise ToleranceError(listed(problems))
    return Tolerances(
        str(table.get("name") or path.stem), path.name, hashlib.sha256(data).hexdigest(), tuple(tolerances)
    )


def _own_names(table: Mapping[str, Any]) -> list[str]:
    """All metrics that the file itself names."""
    entries = table.get("tolerance")
    named = [e.get("metric") for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return [name for name in named if isinstance(name, str)]


def _too_large(value: Any, key: str = "it") -> str | None:
    """The key of a whole number that TOML has no room for, though Python's reader takes it; None where all fit."""
    if isinstance(value, dict):
        return next((name for k, v in value.items() if (name := _too_large(v, k))), None)
    if isinstance(value, list):
        return next((name for v in value if (name := _too_large(v, key))), None)
    return key if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63 else None


def _tolerances(
    entry: Any, number: int, defaults: Mapping[str, Any], also_valid: Sequence[str], where: str, problems: list[str]
) -> list[Tolerance]:
    """One table; several tolerances where a place is a list of places."""
    if not isinstance(entry, dict):
        problems.append(f"{where}: {entry!r} is no table; write [[tolerance]]")
        return []
    before = len(problems)
    problems += unknown_keys(entry, _TOLERANCE_KEYS, where)
    problems += _metric_problems(entry.get("metric"), also_valid, where)
    kind, low, high = _limits(entry, where, problems)
    if len(problems) == before:
        problems += [f"{where}: {problem}" for problem in _idle(entry["metric"], kind, low, high)]
    sure = {**defaults, **_sureness(entry, where, problems)}
    places = _places(entry, where, problems)
    if entry.get("record", RECORDS[0]) not in RECORDS:
        problems.append(f"{where}: record is {entry['record']!r}; valid: {', '.join(RECORDS)}")
    if not isinstance(entry.get("why", ""), str):
        problems.append(f"{where}: why is no text")
    if len(problems) > before:
        return []
    return [
        Tolerance(number, entry["metric"], kind, low, high, place, entry.get("record"), **sure, why=entry.get("why"))
        for place in places
    ]


def _metric_problems(name: Any, also_valid: Sequence[str], where: str) -> list[str]:
    if isinstance(name, str) and (metric_named(name) or name in also_valid):
        return []
    if not isinstance(name, str):
        return [f"{where}: metric is missing; valid: {valid_names()}"]
    known = [metric.name for metric in METRICS] + list(also_valid)
    more = f"; in these records also: {', '.join(sorted(also_valid))}" if also_valid else ""
    return [f"{where}: unknown metric {name!r}{nearest(name, known)}; valid: {valid_names()}{more}"]


def _limits(entry: Mapping[str, Any], where: str, problems: list[str]) -> tuple[str, float | None, float | None]:
    kinds = [kind for kind, keys in KINDS.items() if any(key in entry for key in keys)]
    if len(kinds) != 1:
        what = "no limit" if not kinds else "limits of several kinds"
        problems.append(f"{where}: {what}; give min or max, or both, or the same with _difference, or with _ratio")
        return "itself", None, None
    ends: list[float | None] = []
    for key in KINDS[kinds[0]]:
        value = entry.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            problems.append(f"{where}: {key} is {value!r}, a number expected")
            value = None
        elif value is not None and not math.isfinite(value):
            problems.append(f"{where}: {key} is {value}, which limits nothing")
        elif value is not None and value <= 0 and kinds[0] == "ratio":
            problems.append(f"{where}: {key} is {value:g}; a ratio lies above 0")
        ends.append(None if value is None else float(value))
    low, high = ends
    if low is not None and high is not None and low > high:
        problems.append(f"{where}: from {low:g} to {high:g} no value lies")
    return kinds[0], low, high


def _idle(name: str, kind: str, low: float | None, high: float | None) -> Iterator[str]:
    """What is wrong with limits that no value of the metric can pass, or that every value passes.

    A mistake of this kind is the worst that a gate can have: nothing is refused, and nobody is told.
    """
    metric = metric_named(name)
    if metric is None:
        return
    of = {"itself": metric, "difference": metric.difference(), "ratio": metric.ratio()}[kind]
    keys = KINDS[kind]
    beyond = [
        _beyond(of, name, key, end)
        for key, end in zip(keys, (low, high), strict=True)
        if end is not None and not (of.low <= end <= of.high and (of.unit != "ratio" or end <= _MOST_TIMES))
    ]
    yield from beyond
    if beyond:
        return
    limits_below, limits_above = low is not None and low > of.low, high is not None and high < of.high
    if {"lower": limits_above, "higher": limits_below, "zero": limits_below or limits_above}[of.better]:
        return
    idle, meant = keys if of.better == "lower" else (keys[1], keys[0])
    if of.better != "zero" and (high if of.better == "lower" else low) is None:
        yield f"{name}: {of.best}; {idle} limits nothing, {meant} was probably meant"
    else:
        ends = " and ".join(f"{k} = {e:g}" for k, e in zip(keys, (low, high), strict=True) if e is not None)
        yield f"{name}: {ends} limits nothing: it lies between {of.low:g} and {of.high:g} anyway"


def _beyond(of: Metric, name: str, key: str, end: float) -> str:
    if of.unit == "ratio" and end > 0:
        return f"{key} is {end:g}, which allows {end:g} times as much; {end / 100:g} was probably meant"
    what = f"a {of.unit}" if of.unit in (SHARE, "probability") else f"in {of.unit}"
    subject = "its difference" if "difference" in key else "it"
    meant = f"; {end / 100:g} was probably meant" if of.high <= 1 < abs(end) <= 100 and of.low <= end / 100 else ""
    span = f"between {of.low:g} and {of.high:g}" if math.isfinite(of.high) else f"at {of.low:g} or above"
    return f"{key} is {end:g}, but {name} is {what}, so {subject} lies {span}{meant}"


def _places(entry: Mapping[str, Any], where: str, problems: list[str]) -> list[tuple[tuple[str, str], ...]]:
    """Every combination of the places that are given, as (key, value) pairs."""
    places: list[tuple[tuple[str, str], ...]] = [()]
    for key in PLACES:
        if key not in entry:
            continue
        values = entry[key] if isinstance(entry[key], list) else [entry[key]]
        if not values or not all(type(v) in (str, int) and str(v) for v in values):
            problems.append(f"{where}: {key} is {entry[key]!r}, a text, a number or a list of them expected")
            continue
        places = [(*place, (key, str(value))) for place in places[:_MOST_PLACES] for value in dict.fromkeys(values)]
    if len(places) > _MOST_PLACES:
        problems.append(f"{where}: its lists of places make more than {_MOST_PLACES:,} limits; split it or use '*'")
    return places


def _sureness(table: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    sureness: dict[str, Any] = {}
    for key in _SURENESS:
        if key not in table:
            continue
        value = table[key]
        if key == "confidence":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value < 1:
                problems.append(f"{where}: confidence is {value!r}, from 0.5 to below 1 expected")
                continue
        elif type(value) is not int or value < 0:
            problems.append(f"{where}: {key} is {value!r}, a whole number from 0 expected")
            continue
        sureness[key] = value
    return sureness


def _repeated(tolerances: Sequence[Tolerance], file: str) -> list[str]:
    seen: dict[tuple[Any, ...], int] = {}
    problems = []
    for t in tolerances:
        key = (t.metric, t.kind, t.where, t.record)
        if seen.setdefault(key, t.number) != t.number:
            problems.append(f"{file}: tolerances {seen[key]} and {t.number} limit the same; keep one")
    return problems
