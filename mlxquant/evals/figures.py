"""The figures of an evaluation, from its trials: shares, paired differences, pairs, and how fast answers came.

Trials are taken apart into observations by metric, slice and depth: passing and an item's own checks once a trial, a
call's checks once for each call that was due. Intervals take as independent what `Item.unit` says: a task, or what
several items share. Depths are the buckets of `CALL_DEPTHS`, since errors compound.

- Shares of each side, clustered by task; pass^k where there are several trials of an item.
- Differences of candidate and baseline, over the same item, trial and call on both sides: what both get right or
  wrong cancels, and the interval rests on the pairs that differ.
- Pairs: how often both, neither or one alone was right. McNemar's exact test takes pairs as independent, so it is
  given one pair a unit: a task counts for the side that was right more often in it, and not at all where both were as
  often. With one trial a task that is the usual test of passing. The counts are of all trials, or all calls.
- Serving: quantiles over requests, intervals over tasks, and what kept some from an answer. Requests of a loop share a
  prompt cache and come one at a time, so this is no benchmark (`bench` is one). The time to the first token is left
  out where it cannot be seen, as in calls that a server hands out whole; `n` says how many were seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..records.measurements import CALL_DEPTHS, as_measurement
from ..stats import (
    LEAST_CLUSTERS,
    Interval,
    clustered_quantiles,
    difference_of_sums,
    mcnemar_exact,
    pass_chances,
    pass_hat_difference,
    pass_hat_k,
    share_of_sums,
)
from .items import CallMade

# --- observations ---


# Where a measurement applies: (("slice", "json"),), (("depth", "21-50"),) or () for all
Where = tuple[tuple[str, str], ...]
Trial = Mapping[str, Any]
# What is measured, where, and which of the trial's observations of it this is: 0, or a call's depth
Observed = tuple[str, Where, int]
_PAIR = {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}


def bucket(depth: int) -> str:
    """The bucket of a depth.

    >>> [bucket(d) for d in (1, 20, 21, 150, 151)]
    ['1-20', '1-20', '21-50', '51-150', '151+']
    """
    return next(label for label, _, last in CALL_DEPTHS if last is None or depth <= last)


def unit_of(trial: Trial) -> str:
    """The independent unit that a trial belongs to."""
    return f"{trial['suite']}/{trial['unit']}"


def slices_of(trial: Trial, *, suites: bool) -> list[str]:
    """A trial's slices; with `suites`, its suite is one of them."""
    return [*([trial["suite"]] if suites else []), *trial["slices"]]


def observe(trial: Trial, *, suites: bool) -> Iterator[tuple[Observed, bool]]:
    """All that one trial shows. `suites` says that there are several, so that each is a slice."""
    places: list[Where] = [(), *((("slice", s),) for s in slices_of(trial, suites=suites))]
    for metric, hit in (("pass", trial["passed"]), *trial["checks"].items()):
        for where in places:
            yield (metric, where, 0), bool(hit)
    for call in map(CallMade.from_record, trial["calls"]):
        places = [(), (("depth", bucket(call.depth)),), *((("slice", s),) for s in call.slices)]
        for metric, hit in (*call.checks.items(), ("right_call", call.right)):
            for where in places:
                yield (metric, where, call.depth), hit


def count(trials: Iterable[Trial], *, suites: bool) -> dict[tuple[str, Where], dict[str, list[int]]]:
    """How many observations hit, and how many there were, by unit."""
    sums_of: dict[tuple[str, Where], dict[str, list[int]]] = {}
    for trial in trials:
        unit = unit_of(trial)
        for (metric, where, _), hit in observe(trial, suites=suites):
            sums = sums_of.setdefault((metric, where), {}).setdefault(unit, [0, 0])
            sums[0] += hit
            sums[1] += 1
    return sums_of


def count_pairs(
    baseline: Sequence[Trial], candidate: Sequence[Trial], *, suites: bool
) -> dict[tuple[str, Where], dict[str, list[int]]]:
    """Pairs by unit: both hit, only the baseline, only the candidate, neither.

    `baseline[i]` and `candidate[i]` are the same item and trial; what only one of them shows is in no pair.
    """
    pairs_of: dict[tuple[str, Where], dict[str, list[int]]] = {}
    for a, b in zip(baseline, candidate, strict=True):
        unit, other = unit_of(a), dict(observe(b, suites=suites))
        for observed, hit in observe(a, suites=suites):
            if observed in other:
                metric, where, _ = observed
                counts = pairs_of.setdefault((metric, where), {}).setdefault(unit, [0, 0, 0, 0])
                counts[_PAIR[hit, other[observed]]] += 1
    return pairs_of


def in_order(key: tuple[str, Where]) -> tuple[int, Where]:
    """Sort what is measured overall first, then by slice and depth."""
    return len(key[1]), key[1]


# --- shares and differences ---


def _placed(metric: str, interval: Interval, where: Where = ()) -> dict[str, Any]:
    """A measurement at a place; one at a depth has its ends as numbers, too."""
    places: dict[str, Any] = dict(where)
    ends = next(((first, last) for label, first, last in CALL_DEPTHS if label == places.get("depth")), None)
    extra = {"depth_first": ends[0], "depth_last": ends[1]} if ends else {}
    return as_measurement(metric, interval, **places, **extra)


def of_side(trials: Sequence[Trial], *, suites: bool, confidence: float) -> list[dict[str, Any]]:
    """What one side's judged trials show: shares by slice and depth, and pass^k where there are several trials."""
    counted = count(trials, suites=suites)
    measurements = []
    for key in sorted(counted, key=in_order):
        metric, where = key
        hits, totals = zip(*counted[key].values(), strict=True)
        measurements.append(_placed(metric, share_of_sums(hits, totals, confidence=confidence), where))
    for k, runs in _powers(trials):
        interval = pass_hat_k(runs.passed, runs.trials, k, runs.units, confidence=confidence)
        measurements.append(as_measurement(f"pass_hat_{k}", interval))
    return measurements


def of_difference(
    baseline: Sequence[Trial], candidate: Sequence[Trial], *, suites: bool, confidence: float
) -> list[dict[str, Any]]:
    """Candidate less baseline, over trials that both were judged in; `baseline[i]` is paired with `candidate[i]`."""
    counted = count_pairs(baseline, candidate, suites=suites)
    measurements = []
    for key in sorted(counted, key=in_order):
        metric, where = key
        columns = list(zip(*counted[key].values(), strict=True))
        totals = [sum(counts) for counts in counted[key].values()]
        hits = [both + only for both, only in zip(columns[0], columns[1], strict=True)]
        difference = difference_of_sums(columns[2], columns[1], totals, hits_b=hits, confidence=confidence)
        measurements.append(_placed(f"{metric}_difference", difference, where))
    for (k, first), (_, second) in zip(_powers(baseline), _powers(candidate), strict=False):
        before, after = (pass_chances(runs.passed, runs.trials, k) for runs in (first, second))
        difference = pass_hat_difference(after, before, first.trials, first.units, confidence=confidence)
        measurements.append(as_measurement(f"pass_hat_{k}_difference", difference))
    return measurements


class _Runs(NamedTuple):
    """Of each item: its unit, its trials and how many of them passed."""

    units: list[str]
    trials: list[int]
    passed: list[int]


def _powers(trials: Iterable[Trial]) -> Iterator[tuple[int, _Runs]]:
    """Each k up to the fewest trials of an item, and the items' runs. Nothing where every item has one trial."""
    runs: dict[tuple[str, str], list[bool]] = {}
    units: dict[tuple[str, str], str] = {}
    for trial in trials:
        item = (trial["suite"], trial["item"])
        runs.setdefault(item, []).append(trial["passed"])
        units[item] = unit_of(trial)
    if max((len(r) for r in runs.values()), default=0) < 2:
        return
    items = sorted(runs)
    every = _Runs([units[i] for i in items], [len(runs[i]) for i in items], [sum(runs[i]) for i in items])
    for k in range(1, min(every.trials) + 1):
        yield k, every


# --- pairs ---


METRICS = ("pass", "right_call")


def pair_up(baseline: Sequence[Trial], candidate: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    """The trials that both sides were judged in, in one order."""
    second = {_key(t): t for t in candidate if t["passed"] is not None}
    pairs = [(t, second[_key(t)]) for t in baseline if t["passed"] is not None and _key(t) in second]
    return [a for a, _ in pairs], [b for _, b in pairs]


def outcomes(baseline: Sequence[Trial], candidate: Sequence[Trial], *, suites: bool) -> list[dict[str, Any]]:
    """A row for all pairs of each metric, then its depths in order, then its slices, the worst first.

    Slices of too few units for an interval come last: the worst of many small ones is chance.
    """
    counted = count_pairs(baseline, candidate, suites=suites)
    rows = [
        {"metric": metric, **dict(where), **_row(units)}
        for (metric, where), units in counted.items()
        if metric in METRICS
    ]
    return sorted(rows, key=_worst_first)


def _row(units: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    leaning = [after - before for _, before, after, _ in units.values()]
    worse, better = sum(lean < 0 for lean in leaning), sum(lean > 0 for lean in leaning)
    both_right, only_baseline, only_candidate, both_wrong = (sum(c) for c in zip(*units.values(), strict=True))
    return {
        "n": both_right + only_baseline + only_candidate + both_wrong,
        "units": len(units),
        "both_right": both_right,
        "both_wrong": both_wrong,
        "only_baseline": only_baseline,
        "only_candidate": only_candidate,
        "units_worse": worse,
        "units_better": better,
        "mcnemar_p": round(mcnemar_exact(worse, better), 6),
    }


def _worst_first(row: Mapping[str, Any]) -> tuple[Any, ...]:
    labels = [label for label, _, _ in CALL_DEPTHS]
    depth = labels.index(row["depth"]) if "depth" in row else 0
    change = (row["only_candidate"] - row["only_baseline"]) / row["n"]
    small = "slice" in row and row["units"] < LEAST_CLUSTERS
    return METRICS.index(row["metric"]), "slice" in row, "depth" in row, depth, small, change, row.get("slice", "")


def _key(trial: Trial) -> tuple[str, str, int]:
    return trial["suite"], trial["item"], trial["trial"]


# --- serving ---


_PERCENTILES = (50, 90, 99)
_FIGURES = (("ttft_s", "ttft_s"), ("decode_tok_s", "decode_tok_s"), ("request_s", "seconds"))
_TOKENS = ("input_tokens", "output_tokens", "cached_tokens")


def of_requests(trials: Sequence[Trial], confidence: float) -> list[dict[str, Any]]:
    """Quantiles of a side's requests, and how many trials had no answer; failed trials' answers count as well."""
    return [*_quantiles(trials, confidence), *_failures(trials)]


def _quantiles(trials: Sequence[Trial], confidence: float) -> Iterator[dict[str, Any]]:
    for metric, key in _FIGURES:
        observations = [
            (r[key], f"{t['suite']}/{t['unit']}") for t in trials for r in t["requests"] if r[key] is not None
        ]
        if not observations:
            continue
        values, units = zip(*observations, strict=True)
        intervals = clustered_quantiles(values, units, [p / 100 for p in _PERCENTILES], confidence=confidence)
        for percentile, interval in zip(_PERCENTILES, intervals, strict=True):
            yield as_measurement(f"{metric}_p{percentile}", interval)


def _failures(trials: Sequence[Trial]) -> Iterator[dict[str, Any]]:
    failed = [t["failure"]["kind"] for t in trials if t["failure"]]
    units = len({(t["suite"], t["unit"]) for t in trials})
    for metric, hits in (("infrastructure_errors", len(failed)), ("timeouts", failed.count("timeout"))):
        yield {
            "metric": metric, "estimate": hits, "low": None, "high": None, "se": None, "n": len(trials),
            "clusters": units, "reason": "a count of trials, not a sample",
        }  # fmt: skip


def totals(trials: Sequence[Trial]) -> dict[str, Any]:
    """Requests, repeats after transport errors, tokens and seconds of a side; None for tokens that were not counted."""
    requests = [r for t in trials for r in t["requests"]]
    counts = {key: [r[key] for r in requests if r[key] is not None] for key in _TOKENS}
    return {
        "requests": len(requests),
        "repeats": sum(t["attempts"] for t in trials) - len(requests) - sum(t["failure"] is not None for t in trials),
        **{key: sum(numbers) if numbers else None for key, numbers in counts.items()},
        "seconds": round(sum(r["seconds"] for r in requests), 3),
        "first_token_seen": sum(r["ttft_s"] is not None for r in requests),
        "failures": dict(sorted(Counter(t["failure"]["kind"] for t in trials if t["failure"]).items())),
    }
