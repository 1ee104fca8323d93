"""Figures of items, and differences between two files' paired items, each with its interval.

The unit that is drawn anew is the cluster: trials of one question are not independent, nor are questions on one
passage. With few clusters an interval is wide, and that is the finding. Differences are the later file's minus the
first's, over the pairs that both files have (`pairing`).

pass^k needs a question's trials together, so there the question is the pair, each side with all its trials:
``C(c, k) / C(n, k)`` for n trials of which c passed, averaged over questions (tau-bench, arXiv:2406.12045).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..records.measurements import as_measurement
from ..stats import (
    Interval,
    clustered_difference,
    clustered_mean,
    difference_of_sums,
    linearized,
    pass_chances,
    pass_hat_difference,
    pass_hat_k,
    share_of_sums,
)
from .items import Item, Part, Scale, by_id

Pair = tuple[Item, Item]


# --- one file ---


def ratio_of(items: Sequence[Item], metric: str, scale: Scale, confidence: float) -> Interval | None:
    """A metric's sums over its counts, by cluster; None where no item has it."""
    having = [(item.cluster, item.parts[metric]) for item in items if metric in item.parts]
    if not having:
        return None
    if scale != "share":
        values, clusters = [top for _, (top, _) in having], [cluster for cluster, _ in having]
        share = scale == "score" and all(0 <= value <= 1 for value in values)
        return spread_or_none(clustered_mean(values, clusters, confidence=confidence, share=share))
    sums: dict[str, Part] = {}
    for cluster, (top, bottom) in having:
        first, second = sums.get(cluster, (0.0, 0.0))
        sums[cluster] = (first + top, second + bottom)
    hits, counts = zip(*sums.values(), strict=True)
    return share_of_sums(hits, counts, confidence=confidence)


def passed(items: Sequence[Item], confidence: float) -> Interval | None:
    """The share of items that passed; None where none says whether it did."""
    having = [item for item in items if item.success is not None]
    if not having:
        return None
    hits = [float(bool(item.success)) for item in having]
    return clustered_mean(hits, [item.cluster for item in having], confidence=confidence, share=True)


def pass_hats(items: Sequence[Item], confidence: float) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
    """pass^k for every k that some question has trials for: (k, questions with k trials, questions, measurement)."""
    questions = by_id(item for item in items if item.success is not None)
    for k in range(1, max((len(trials) for trials in questions.values()), default=0) + 1):
        enough = [trials for trials in questions.values() if len(trials) >= k]
        counts, clusters = [len(trials) for trials in enough], [trials[0].cluster for trials in enough]
        interval = pass_hat_k([_passed(trials) for trials in enough], counts, k, clusters, confidence=confidence)
        n = sum(len(trials) for trials in enough)
        yield k, len(enough), len(questions), as_measurement(f"pass_hat_{k}", interval) | {"n": n}


def _passed(trials: Sequence[Item]) -> int:
    return sum(bool(item.success) for item in trials)


def spread_or_none(interval: Interval) -> Interval:
    """Take the ends from an interval of width 0: that all tasks gave one value is no certainty."""
    if interval.low is None or interval.low != interval.high:
        return interval
    return replace(interval, low=None, high=None, reason="every task gave the same value, so no spread is known")


# --- two files ---


def difference_of(pairs: Sequence[Pair], metric: str, scale: Scale, confidence: float) -> Interval | None:
    """A metric's ratio of sums in the candidate minus that in the baseline, over the pairs where both have it.

    Linearized at each cluster: with R = sum(x) / sum(y) on either side, cluster c moves the difference by
    ``(x_c - R y_c) / sum(y)`` of the candidate less the same of the baseline.
    """
    both = [(a, b) for a, b in pairs if metric in a.parts and metric in b.parts]
    having = [(a.cluster, a.parts[metric], b.parts[metric]) for a, b in both]
    if not having:
        return None
    clusters = [cluster for cluster, _, _ in having]
    if all(x[1] == y[1] == 1.0 for _, x, y in having):
        second, first = [y[0] for _, _, y in having], [x[0] for _, x, _ in having]
        return mean_difference(second, first, clusters, confidence, bounded=scale != "count")
    below = sum(x[1] for _, x, _ in having), sum(y[1] for _, _, y in having)
    ratios = sum(x[0] for _, x, _ in having) / below[0], sum(y[0] for _, _, y in having) / below[1]
    scores, sizes = dict.fromkeys(clusters, 0.0), dict.fromkeys(clusters, 0.0)
    for cluster, x, y in having:
        scores[cluster] += (y[0] - ratios[1] * y[1]) / below[1] - (x[0] - ratios[0] * x[1]) / below[0]
        sizes[cluster] += y[1] / below[1] + x[1] / below[0]
    n = round(sum(below))
    if all(x[1] == y[1] for _, x, y in having):
        return replace(_of_equal_counts(having, confidence), n=n)
    shifts, weights = list(scores.values()), list(sizes.values())
    return spread_or_none(linearized(ratios[1] - ratios[0], shifts, weights, n=n, confidence=confidence))


def _of_equal_counts(having: Sequence[tuple[str, Part, Part]], confidence: float) -> Interval:
    """The difference of two shares of the same observations: actions that both were asked for, say."""
    sums: dict[str, list[float]] = {}
    for cluster, (first, count), (second, _) in having:
        totals = sums.setdefault(cluster, [0.0] * 4)
        for i, value in enumerate((max(second - first, 0.0), max(first - second, 0.0), count, first)):
            totals[i] += value
    only_second, only_first, counts, hits = zip(*sums.values(), strict=True)
    return difference_of_sums(only_second, only_first, counts, hits_b=hits, confidence=confidence)


def passed_difference(pairs: Sequence[Pair], confidence: float) -> Interval | None:
    """The difference of the shares that passed, over the pairs where both files say so."""
    having = [(a, b) for a, b in pairs if a.success is not None and b.success is not None]
    if not having:
        return None
    first, second = ([float(bool(item.success)) for item in side] for side in zip(*having, strict=True))
    return mean_difference(second, first, [a.cluster for a, _ in having], confidence)


def mean_difference(
    second: Sequence[float], first: Sequence[float], clusters: Sequence[str], confidence: float, *, bounded: bool = True
) -> Interval:
    """The mean of second - first; where none differs, as wide as that many clusters allow, not of width 0."""
    share = bounded and all(0 <= value <= 1 for value in (*first, *second))
    return spread_or_none(clustered_difference(second, first, clusters, confidence=confidence, share=share))


def pass_hat_differences(
    sides: tuple[Sequence[Item], Sequence[Item]], confidence: float, noun: str = "questions"
) -> Iterator[dict[str, Any]]:
    """pass^k of the second side minus the first's, over the questions that both have k trials of."""
    first, second = (by_id(item for item in side if item.success is not None) for side in sides)
    shared = sorted(first.keys() & second.keys())
    fewest = [min(len(first[name]), len(second[name])) for name in shared]
    for k in range(1, max(fewest, default=0) + 1):
        names = [name for name, n in zip(shared, fewest, strict=True) if n >= k]
        counts = [[len(side[name]) for name in names] for side in (first, second)]
        before, after = (
            pass_chances([_passed(side[name]) for name in names], n, k)
            for side, n in zip((first, second), counts, strict=True)
        )
        clusters = [first[name][0].cluster for name in names]
        interval = pass_hat_difference(after, before, counts[0], clusters, confidence=confidence)
        entry = as_measurement(f"pass_hat_{k}_difference", interval)
        entry["n"] = sum(len(side[name]) for side in (first, second) for name in names)
        if len(names) < len(shared):
            entry["note"] = f"is over the {len(names)} of {len(shared)} shared {noun} with {k} trials in both"
        yield entry


# --- all of a file's figures ---


def measure(items: Sequence[Item], scales: Mapping[str, Scale], slices: Sequence[str], confidence: float) -> list[Any]:
    """Every metric over everything and in every slice, and pass^k where a question has several trials."""
    measurements = list(_everywhere(items, scales, slices, confidence))
    hats = list(pass_hats(items, confidence))
    for k, enough, questions, entry in hats if len(hats) > 1 else ():
        if enough < questions:
            entry["note"] = f"is over the {enough} of {questions} questions with {k} trials"
        measurements.append(entry)
    return measurements


def _everywhere(
    items: Sequence[Item], scales: Mapping[str, Scale], slices: Sequence[str], confidence: float
) -> Iterator[dict[str, Any]]:
    for where, inside in _places(slices):
        here = [item for item in items if inside is None or inside in item.slices]
        if (interval := passed(here, confidence)) is not None:
            yield as_measurement("pass", interval, **where)
        for metric, scale in scales.items():
            if metric != "pass" and (of_metric := ratio_of(here, metric, scale, confidence)) is not None:
                yield as_measurement(metric, of_metric, **where)


def differences(
    pairs: Sequence[Pair], scales: Mapping[str, Scale], slices: Sequence[str], confidence: float
) -> Iterator[dict[str, Any]]:
    """Every figure's difference, over everything and in every slice, but for pass^k, which pairs questions."""
    for where, inside in _places(slices):
        here = [(a, b) for a, b in pairs if inside is None or inside in a.slices]
        if (interval := passed_difference(here, confidence)) is not None:
            yield as_measurement("pass_difference", interval, **where)
        for metric, scale in scales.items():
            if metric != "pass" and (of_metric := difference_of(here, metric, scale, confidence)) is not None:
                yield as_measurement(f"{metric}_difference", of_metric, **where)


def _places(slices: Sequence[str]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Everywhere, and each slice: a tolerance that names a task finds it, also where that was the only one."""
    yield {}, None
    for name in slices:
        yield {"slice": name}, name
