"""Means, ratios, shares and paired differences over clusters, each with its interval.

Everything is computed from one sum a cluster (`*_of_sums`), so that values of single tokens need not be kept; the
functions named `clustered_*` take single observations and the cluster that each belongs to, and add them up.

The estimate is a ratio of sums, ``R = sum(N) / sum(D)``; a mean has counts for `D`. Linearized, cluster g adds
``e_g = (N_g - R D_g) / sum(D)`` to its error, and

    var(R) = sum(e_g² / (1 - h_g)),        h_g = D_g / sum(D)

which is the cluster-robust variance CR2 of a regression on a constant, and the t quantile has Satterthwaite's degrees
of freedom, ``G - 1`` where all clusters are of one size and fewer otherwise (Bell and McCaffrey 2002; Imbens and
Kolesár 2016; Cameron and Miller 2015, "A practitioner's guide to cluster-robust inference", section VI). This matters
where a few documents hold most tokens. One document of 200 tokens and seven of 10, half of the variance between
documents: intervals with the common CR1 and G - 1 contain the truth in 44 % of cases, these in 97 %; with documents of
one size both do in 95 %. Simulated over 5 to 60 documents, sizes alike, uniform, log-normal, one large: 94 to 99 %.

Paired right-or-wrong outcomes have McNemar's test (`mcnemar_exact`), and repeated trials of a task the chance that k
in a row all succeed (`pass_hat_k`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .interval import (
    CONFIDENCE,
    EXACT_METHOD,
    LEAST_CLUSTERS,
    T_METHOD,
    Interval,
    clopper_pearson,
    pairs_interval,
    share_interval,
    t_quantile,
    too_few,
    without_ends,
)

Sums = NDArray[np.float64]


def ratio_of_sums(
    numerators: ArrayLike, denominators: ArrayLike, *, n: int | None = None, confidence: float = CONFIDENCE
) -> Interval:
    """The ratio of two sums over clusters, from each cluster's sums `(clusters,)`.

    Clusters whose denominator is 0 hold nothing and are left out. `n` is the number of observations; by default the
    sum of denominators, which are counts then. Raises ValueError where nothing is left, or a denominator is negative.
    """
    top, bottom = _checked(numerators, denominators)
    total = float(bottom.sum())
    estimate = float(top.sum()) / total
    with np.errstate(invalid="ignore"):  # an infinite estimate is reported by `linearized`
        scores = (top - estimate * bottom) / total
    return linearized(estimate, scores, bottom, n=round(total) if n is None else n, confidence=confidence)


def share_of_sums(
    hits: ArrayLike,
    counts: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    design_effect: float | None = None,
    correlation: float | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The share of observations with a property, from each cluster's hits and counts `(clusters,)`.

    Clopper-Pearson at the effective sample size; hits may be fractional, values between 0 and 1 that are averaged. Few
    clusters with hits say little of how hits cluster, so half of one more is counted with, of as many hits as the
    clusters have in which a hit is found (``sum(hits²) / sum(hits)``); `se` includes it. A variance that few clusters
    carry has few degrees of freedom (see `carried_by`). Where all or none have the property no variance can be seen: no
    end is tighter than for none of ``n / design_effect`` (see `assumed_effect`; `design_effect` is that of something
    seen in the same observations, `correlation` what is assumed within a cluster). None of 49,192 tokens in 86
    documents, correlated by 0.01: 0 … 0.0005.

    With `weights` (a sum a cluster), hits are sums of weights as well, and counts only say how many observations there
    are.
    """
    bottoms = counts if weights is None else weights
    ratio = ratio_of_sums(hits, bottoms, n=round(float(np.sum(np.asarray(counts)))), confidence=confidence)
    share = min(max(ratio.estimate, 0.0), 1.0)
    if ratio.clusters < LEAST_CLUSTERS:
        return ratio
    numbers = np.asarray(counts, np.float64)
    effect = assumed_effect(numbers, design_effect, correlation)
    if share in (0.0, 1.0):
        effective = ratio.n / effect
        low, high = clopper_pearson(share * effective, effective, confidence)
        return Interval(share, low, high, None, ratio.n, ratio.clusters, confidence, EXACT_METHOD, design_effect=effect)
    if not ratio.se or ratio.df is None:  # every cluster has the same share
        low, high = clopper_pearson(share * ratio.clusters, ratio.clusters, confidence)
        return Interval(share, low, high, None, ratio.n, ratio.clusters, confidence, EXACT_METHOD)
    se, (top, bottom) = ratio.se, _checked(hits, bottoms)
    rarer = top if share < 0.5 else bottom - top
    if numbers.max() > 1:
        se = math.hypot(se, float((rarer**2).sum() / rarer.sum() / bottom.sum()) * math.sqrt(MORE))
    df = carried_by(rarer, ratio.df)
    return share_interval(share, se, ratio.n, ratio.clusters, df, confidence, effect)


def difference_of_sums(
    only_a: ArrayLike,
    only_b: ArrayLike,
    counts: ArrayLike,
    *,
    hits_b: ArrayLike | None = None,
    n: int | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The difference of two shares of the same observations, from each cluster's discordant counts `(clusters,)`.

    `only_a` counts those that have the property in A alone, `only_b` in B alone; the estimate is share A - share B. As
    Bonett and Price do for independent pairs, one discordant pair of each kind is added, here as a cluster of its own
    that weighs as much as clustering may: the design effect of B's own share (`hits_b`), at least `assumed_effect`.

    One formula from none that differ to many, so that fewer differences never widen the interval: of 350 calls in 30
    tasks none differ: ±1.7 points; one of each kind: ±1.9. With a design effect of 1 it is theirs. (Bonett and Price
    2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data", Journal of
    Educational and Behavioral Statistics 37.) Counts may be sums of fractions between 0 and 1, of which there are `n`.
    """
    first, bottom = _checked(only_a, counts)
    second, _ = _checked(only_b, counts)
    difference = ratio_of_sums(first - second, bottom, n=n, confidence=confidence)
    if difference.se is None or difference.df is None:
        return difference
    total = difference.n
    sizes = bottom * total / bottom.sum()  # observations a cluster
    share = None if hits_b is None else np.asarray(hits_b, np.float64)[np.asarray(counts) > 0] * total / bottom.sum()
    effect = assumed_effect(sizes, None if share is None else design_effect_of(share, sizes))
    return pairs_interval(
        difference.estimate, difference.se, total, difference.clusters, difference.df, confidence, effect
    )


# Of one more cluster with hits, how much a share's variance is raised by: a whole one would make one hit say less than
# two, and none covers 83 % where hits are rare and come together.
MORE = 0.5
# Assumed where data cannot say how alike calls or trials of one task are; it covers what was simulated
# (`benchmarks/interval_coverage.py`).
CORRELATION = 0.1
# Tokens of one document are many and less alike: flips of the store model have 0.001 within documents.
OF_TOKENS = 0.01


def carried_by(hits: Sums, df: float) -> float:
    """Degrees of freedom of a variance that few clusters' hits `(clusters,)` carry; at most `df`, those of all.

    Where each of K clusters with hits has as many, nothing is taken off: it is one observation a cluster then. Where
    some have more, ``k = sum(hits²)² / sum(hits⁴)`` of the K carry the variance, and with ``e = 1 - k / K``

        1 / carried = (1 - e) / df + e / (k + 1)

    With it the interval holds the truth in 90 % of samples where 0.1 % of the tokens in 86 documents are hits that are
    correlated by 0.05, and in 84 % without (`benchmarks/interval_coverage.py`). Of 85 degrees of freedom, five clusters
    with 10 hits leave 85, one with 10 and four with 1 leave 2.6.
    """
    squares = hits**2
    carry = float(squares.sum() ** 2 / (squares**2).sum())
    if carry + 1 >= df:
        return df
    excess = 1 - carry / np.count_nonzero(hits)
    return 1 / ((1 - excess) / df + excess / (carry + 1))


def assumed_effect(counts: Sums, observed: float | None = None, correlation: float | None = None) -> float:
    """The design effect to count with where too little was seen to estimate it: n / this are independent.

    ``1 + (m - 1) 0.1``, m being the size of the cluster that an observation is in on average, or one that was
    `observed` if that is larger; at most m, which is one observation a cluster. 350 calls of 30 tasks: 2.1.
    """
    size = float((counts**2).sum() / counts.sum())
    alike = CORRELATION if correlation is None else correlation
    return max(1.0, 1 + (size - 1) * alike, min(observed or 0.0, size))


def design_effect_of(hits: Sums, counts: Sums) -> float | None:
    """By how much clusters raise the variance of a share over that of independent observations; None if unseen."""
    if (counts > 0).sum() < LEAST_CLUSTERS:
        return None
    ratio = ratio_of_sums(hits, counts)
    variance = ratio.estimate * (1 - ratio.estimate) / ratio.n
    return ratio.se**2 / variance if ratio.se and variance > 0 else None


def linearized(
    estimate: float, scores: ArrayLike, sizes: ArrayLike, *, n: int, confidence: float = CONFIDENCE, **named: Any
) -> Interval:
    """The interval of any smooth statistic, from each cluster's share of its error (its influence) `(clusters,)`.

    `scores` sum to 0 and say by how much the estimate moves for each cluster; `sizes` how much of the data each
    cluster is. `named` goes to Interval (`method`).
    """
    errors, weights = np.asarray(scores, np.float64), np.asarray(sizes, np.float64)
    errors, weights = errors[weights > 0], weights[weights > 0]
    clusters = len(errors)
    if clusters < LEAST_CLUSTERS:
        return without_ends(estimate, n, clusters, confidence, too_few(clusters))
    if not math.isfinite(estimate):
        return without_ends(estimate, n, clusters, confidence, "a value is infinite or not a number")
    leverage = weights / weights.sum()
    se = float(np.sqrt((errors**2 / (1 - leverage)).sum()))
    df = degrees_of_freedom(leverage)
    half = t_quantile(confidence, df) * se
    arguments = {"method": T_METHOD, **named}
    return Interval(estimate, estimate - half, estimate + half, se, n, clusters, confidence, df=df, **arguments)


def degrees_of_freedom(leverage: Sums) -> float:
    """Satterthwaite's degrees of freedom of the variance above, from each cluster's share of the data, h.

    For independent observations residuals have the covariance ``h_g (1 - h_g)`` and ``-h_g h_k``; with
    ``M[g,k] = cov[g,k] / sqrt((1 - h_g) (1 - h_k))`` it is ``tr(M)² / tr(M²)``, and tr(M) is 1. Ten clusters of one
    size: 9; one of 55 % and nine of 5 %: 2.8.
    """
    odds = leverage**2 / (1 - leverage)
    squares = float((leverage**2).sum() + odds.sum() ** 2 - (odds**2).sum())
    return min(1 / squares, len(leverage) - 1)


def _checked(numerators: ArrayLike, denominators: ArrayLike) -> tuple[Sums, Sums]:
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if top.shape != bottom.shape or top.ndim != 1:
        raise ValueError(f"one numerator and one denominator a cluster expected, got {top.shape} and {bottom.shape}")
    if (bottom < 0).any():
        raise ValueError("denominators are counts or weights and cannot be negative")
    nonempty = bottom > 0
    if not nonempty.any():
        raise ValueError("no cluster holds anything; an empty group has no estimate")
    return top[nonempty], bottom[nonempty]


# --- from single observations ---


Clusters = Sequence[Hashable] | NDArray[np.generic]


def clustered_mean(
    values: ArrayLike,
    clusters: Clusters,
    *,
    weights: ArrayLike | None = None,
    confidence: float = CONFIDENCE,
    share: bool | None = None,
) -> Interval:
    """The mean ``sum(w v) / sum(w)`` of `values` `(n,)`; `clusters` `(n,)` names each one's document or task.

    Values that are all 0 or 1 are a share (see `clustered_share`), unless `share` is False. Raises ValueError for no
    values at all.
    """
    v = np.asarray(values, np.float64)
    if share is None:
        share = bool(np.isin(v, (0.0, 1.0)).all())
    ids, count = numbered(clusters, len(v))
    w = np.ones_like(v) if weights is None else np.asarray(weights, np.float64)
    tops, bottoms = _totals(w * v, ids, count), _totals(w, ids, count)
    if share:
        sums = None if weights is None else bottoms
        return share_of_sums(tops, _totals(np.ones_like(v), ids, count), weights=sums, confidence=confidence)
    return ratio_of_sums(tops, bottoms, n=len(v), confidence=confidence)


def clustered_share(hits: ArrayLike, clusters: Clusters, *, confidence: float = CONFIDENCE) -> Interval:
    """The share of observations with a property, `hits` `(n,)` being True or 1 for those that have it.

    0 of n is no interval of width 0: see `share_of_sums`.
    """
    return clustered_mean(hits, clusters, confidence=confidence, share=True)


def clustered_ratio(
    numerators: ArrayLike, denominators: ArrayLike, clusters: Clusters, *, confidence: float = CONFIDENCE
) -> Interval:
    """The ratio ``sum(a) / sum(b)`` of values `(n,)`, linearized; say errors per call, over tasks of several calls."""
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    ids, count = numbered(clusters, len(top))
    return ratio_of_sums(_totals(top, ids, count), _totals(bottom, ids, count), n=len(top), confidence=confidence)


def clustered_difference(
    a: ArrayLike, b: ArrayLike, clusters: Clusters, *, confidence: float = CONFIDENCE, share: bool | None = None
) -> Interval:
    """The mean of ``a - b`` over pairs `(n,)` that were measured on the same item; b is the baseline.

    Where both are 0 or 1 throughout, or lie between and `share` is True, it is a difference of shares and rests on the
    pairs that differ (see `difference_of_sums`), unless `share` is False.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"pairs expected: {first.shape} values against {second.shape}")
    if share is None:
        share = bool(np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all())
    ids, count = numbered(clusters, len(first))
    if not share:
        return clustered_mean(first - second, clusters, confidence=confidence, share=False)
    only_a, only_b = (_totals(np.maximum(x - y, 0), ids, count) for x, y in ((first, second), (second, first)))
    counts, hits_b = _totals(np.ones(len(first)), ids, count), _totals(second, ids, count)
    return difference_of_sums(only_a, only_b, counts, hits_b=hits_b, confidence=confidence)


def numbered(clusters: Clusters, n: int) -> tuple[NDArray[np.intp], int]:
    """Number the clusters from 0; any hashable names one."""
    if len(clusters) != n:
        raise ValueError(f"a cluster for each of {n} observations expected, {len(clusters)} found")
    if isinstance(clusters, np.ndarray) and clusters.dtype.kind in "iu" and clusters.ndim == 1:
        names, inverse = np.unique(clusters, return_inverse=True)  # a million tokens at once
        return inverse.astype(np.intp), len(names)
    numbers: dict[Hashable, int] = {}
    ids = np.fromiter((numbers.setdefault(name, len(numbers)) for name in clusters), np.intp, n)
    return ids, len(numbers)


def _totals(values: NDArray[np.float64], ids: NDArray[np.intp], count: int) -> Sums:
    return np.bincount(ids, values, minlength=count).astype(np.float64)


# --- paired ---


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """The two-sided p-value that the pairs which differ lean to one side by chance (McNemar 1947, exact binomial).

    ``p = min(1, 2 P(X <= min(only_a, only_b)))``, X binomial with `only_a + only_b` draws at 1/2. Pairs that agree
    say nothing. ``mcnemar_exact(1, 9) == 0.0215``. It takes pairs as independent: with several trials of one task,
    give one pair a task, or look at the clustered difference instead.
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"counts of pairs expected, got {only_a} and {only_b}")
    n = only_a + only_b
    tail = sum(comb(n, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * tail / 2**n))


def pass_hat_k(
    successes: Sequence[int],
    trials: Sequence[int],
    k: int,
    clusters: Clusters | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The chance that `k` trials of a task all succeed, ``C(c, k) / C(n, k)`` a task, averaged over tasks.

    Unbiased for each task (Yao et al. 2024, tau-bench, arXiv:2406.12045). Tasks are the clusters, unless `clusters`
    names larger ones. It is a mean of values between 0 and 1, so its interval is that of a share of all trials: pass^1
    with as many trials for each task is that share, interval and all. Raises ValueError for a task of fewer than `k`
    trials, or none at all.
    """
    values = pass_chances(successes, trials, k)
    ids, count = numbered(range(len(values)) if clusters is None else clusters, len(values))
    sums, tasks = _totals(np.asarray(values), ids, count), _totals(np.ones(len(values)), ids, count)
    runs = _totals(np.asarray(trials, np.float64), ids, count)
    return share_of_sums(sums, runs, weights=tasks, confidence=confidence)


def pass_hat_difference(
    after: Sequence[float],
    before: Sequence[float],
    trials: Sequence[int],
    clusters: Clusters,
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean of ``after - before``, chances of tasks that `pass_chances` gave, `before` being the baseline's.

    `trials` are the baseline's of each task. With as many for each, that of pass^1 is the paired difference of trials.
    """
    a, b = np.asarray(after, np.float64), np.asarray(before, np.float64)
    ids, count = numbered(clusters, len(a))
    only_a, only_b = (_totals(np.maximum(x - y, 0), ids, count) for x, y in ((a, b), (b, a)))
    tasks, hits_b = _totals(np.ones(len(a)), ids, count), _totals(b, ids, count)
    return difference_of_sums(only_a, only_b, tasks, hits_b=hits_b, n=sum(trials), confidence=confidence)


def pass_chances(successes: Sequence[int], trials: Sequence[int], k: int) -> list[float]:
    """The chance of each task that `k` of its trials all succeed. Raises ValueError as `pass_hat_k`."""
    if short := [n for n in trials if n < k]:
        raise ValueError(f"pass^{k} needs {k} trials of every task; {len(short)} have fewer (the fewest: {min(short)})")
    return [comb(c, k) / comb(n, k) for c, n in zip(successes, trials, strict=True)]
