"""Intervals of quantiles: Woodruff's from order statistics, and a bootstrap over clusters.

A quantile's error depends on how dense the values are there, which no sum tells. Woodruff (1952, "Confidence intervals
for medians and other position measures", JASA 47) turns the question round: the share of values below the estimate has
an interval, and the values at its ends are the quantile's. Here the share's interval is that of `share_of_sums`, so
that clusters count. It costs a sort, which for millions of tokens a bootstrap could not. The bootstrap resamples
whole clusters (Davison and Hinkley 1997, section 3.8), its percentiles moved out as far as Student's t would
(Hesterberg 2015, arXiv:1411.5279).

An extreme (0 or 1) has no interval: nothing is known of what lies beyond the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .interval import CONFIDENCE, EXACT_METHOD, LEAST_CLUSTERS, Interval, t_quantile, too_few, without_ends
from .sums import OF_TOKENS, Clusters, numbered, share_of_sums

WOODRUFF = "Woodruff on clusters"
BOOTSTRAP = "cluster bootstrap"
RESAMPLES = 2000


def clustered_quantiles(
    values: ArrayLike, clusters: Clusters, qs: Sequence[float], *, confidence: float = CONFIDENCE
) -> list[Interval]:
    """Quantiles `qs` of `values` `(n,)`, each with Woodruff's interval; linear between neighbours as numpy's.

    Where the share's interval reaches beyond the data (the 99.9 % quantile of 500 values), that end is unknown, and the
    quantile has no interval. Raises ValueError for no values.
    """
    v = np.asarray(values, np.float64)
    if not len(v):
        raise ValueError("no values; an empty group has no quantiles")
    ids, count = numbered(clusters, len(v))
    order = np.argsort(v, kind="stable")
    ordered, owners = v[order], ids[order]
    sizes = np.bincount(ids, minlength=count).astype(np.float64)
    intervals = []
    for q in qs:
        estimate = _at(ordered, q)
        if count < LEAST_CLUSTERS:
            intervals.append(without_ends(estimate, len(v), count, confidence, too_few(count)))
            continue
        if not 0 < q < 1:
            intervals.append(without_ends(estimate, len(v), count, confidence, "an extreme; it has no interval"))
            continue
        below = round(q * len(v))
        hits = np.bincount(owners[:below], minlength=count)
        share = share_of_sums(hits, sizes, correlation=OF_TOKENS, confidence=confidence)
        if share.low is None or share.high is None or share.method == EXACT_METHOD:
            intervals.append(without_ends(estimate, len(v), count, confidence, "too few values beyond it"))
            continue
        low, high = share.low * len(v), share.high * len(v)  # as ranks
        if low < 1 or high > len(v) - 1:
            intervals.append(without_ends(estimate, len(v), count, confidence, "too few values beyond it"))
            continue
        ends = float(ordered[math.floor(low) - 1]), float(ordered[math.ceil(high)])
        intervals.append(Interval(estimate, *ends, None, len(v), count, confidence, WOODRUFF))
    return intervals


def bootstrap_quantile(
    values: ArrayLike,
    clusters: Clusters,
    q: float,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """One quantile of `values` `(n,)`, its interval by resampling whole clusters; the same for the same seed."""
    v = np.asarray(values, np.float64)
    if not len(v):
        raise ValueError("no values; an empty group has no quantiles")
    ids, count = numbered(clusters, len(v))
    estimate = float(np.quantile(v, q))
    if count < LEAST_CLUSTERS:
        return without_ends(estimate, len(v), count, confidence, too_few(count))
    order = np.argsort(v, kind="stable")
    ordered, owners = v[order], ids[order]
    draw = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for i in range(resamples):
        times = np.bincount(draw.integers(0, count, count), minlength=count)
        drawn[i] = _weighted_quantile(ordered, times[owners], q)
    low, high = percentile_ends(drawn, count, confidence)
    se = float(drawn.std(ddof=1))
    return Interval(estimate, low, high, se, len(v), count, confidence, BOOTSTRAP)


def percentile_ends(drawn: np.ndarray, count: int, confidence: float) -> tuple[float, float]:
    """The ends of an expanded percentile interval: tails ``Phi(-sqrt(n / (n - 1)) t(n - 1))`` instead of 2.5 %."""
    from scipy.special import ndtr

    tail = float(ndtr(-math.sqrt(count / (count - 1)) * t_quantile(confidence, count - 1)))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _at(ordered: np.ndarray, q: float) -> float:
    """The quantile of sorted values, linear between neighbours."""
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


def _weighted_quantile(ordered: np.ndarray, times: np.ndarray, q: float) -> float:
    """The quantile of sorted values that each stand `times` times, as numpy's of the values written out."""
    upto = np.cumsum(times)
    place = q * (upto[-1] - 1)
    low, high = (
        ordered[np.searchsorted(upto, math.floor(place) + i, side="right")] for i in (0, 1 if place % 1 else 0)
    )
    return float(low + (place - math.floor(place)) * (high - low))
