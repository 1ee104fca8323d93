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
    PAIRS_METHOD,
    T_METHOD,
    Interval,
    clopper_pearson,
    exact_bound,
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
    hits: ArrayLike, counts: ArrayLike, *, weights: ArrayLike | None = None, confidence: float = CONFIDENCE
) -> Interval:
    """The share of observations with a property, from each cluster's hits and counts `(clusters,)`.

    Where all or none have it, no variance can be seen: the interval is then Clopper-Pearson's with one observation a
    cluster. None of 200 documents: 0 … 0.0183, however many tokens they have. With `weights` (a sum a cluster), hits
    are sums of weights as well, and counts only say how many observations there are.
    """
    bottoms = counts if weights is None else weights
    ratio = ratio_of_sums(hits, bottoms, n=round(float(np.sum(np.asarray(counts)))), confidence=confidence)
    share = min(max(ratio.estimate, 0.0), 1.0)
    if ratio.clusters < LEAST_CLUSTERS:
        return ratio
    if share in (0.0, 1.0) or not ratio.se or ratio.df is None:  # every cluster has the same share
        low, high = clopper_pearson(share * ratio.clusters, ratio.clusters, confidence)
        return Interval(share, low, high, None, ratio.n, ratio.clusters, confidence, EXACT_METHOD)
    return share_interval(share, ratio.se, ratio.n, ratio.clusters, ratio.df, confidence)


def difference_of_sums(
    only_a: ArrayLike, only_b: ArrayLike, counts: ArrayLike, *, confidence: float = CONFIDENCE
) -> Interval:
    """The difference of two shares of the same observations, from each cluster's discordant counts `(clusters,)`.

    `only_a` counts those that have the property in A alone, `only_b` in B alone; the estimate is share A - share B. One
    discordant pair of each kind is added, at the effective sample size, which keeps few pairs from giving intervals
    that are too short (Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data", Journal of Educational and Behavioral Statistics 37). Where no pair differs,
    the ends are those that Clopper-Pearson gives either kind on clusters.
    """
    first, bottom = _checked(only_a, counts)
    second, _ = _checked(only_b, counts)
    difference = ratio_of_sums(first - second, bottom, confidence=confidence)
    if difference.se is None or difference.df is None:
        return difference
    discordant = float((first.sum() + second.sum()) / bottom.sum())
    if difference.se == 0:
        wide = exact_bound(difference.clusters, confidence)
        low, high = max(difference.estimate - wide, -1.0), min(difference.estimate + wide, 1.0)
        return Interval(
            difference.estimate, low, high, 0.0, difference.n, difference.clusters, confidence, EXACT_METHOD
        )
    effective = min(difference.n, (discordant - difference.estimate**2) / difference.se**2)
    a, b = ((effective * float(x.sum() / bottom.sum()) + 1) / (effective + 2) for x in (first, second))
    half = t_quantile(confidence, difference.df) * math.sqrt((a + b - (a - b) ** 2) / (effective + 2))
    low, high = max(a - b - half, -1.0), min(a - b + half, 1.0)
    return Interval(
        difference.estimate,
        low,
        high,
        difference.se,
        difference.n,
        difference.clusters,
        confidence,
        PAIRS_METHOD,
        df=difference.df,
    )


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
    """The mean of ``a - b`` over pairs `(n,)` that were measured on the same item.

    Where both are 0 or 1 throughout, it is a difference of shares and rests on the pairs that differ (see
    `difference_of_sums`), unless `share` is False.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"pairs expected: {first.shape} values against {second.shape}")
    if share is None:
        share = bool(np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all())
    ids, count = numbered(clusters, len(first))
    if not share:
        return clustered_mean(first - second, clusters, confidence=confidence, share=False)
    only_a, only_b = (_totals((x > y).astype(float), ids, count) for x, y in ((first, second), (second, first)))
    return difference_of_sums(only_a, only_b, _totals(np.ones(len(first)), ids, count), confidence=confidence)


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


def pass_hat_k(successes: Sequence[int], trials: Sequence[int], k: int, *, confidence: float = CONFIDENCE) -> Interval:
    """The chance that `k` trials of a task all succeed, ``C(c, k) / C(n, k)`` a task, averaged over tasks.

    Unbiased for each task (Yao et al. 2024, tau-bench, arXiv:2406.12045). Tasks are the clusters. Raises ValueError for
    a task of fewer than `k` trials, or none at all.
    """
    if short := [n for n in trials if n < k]:
        raise ValueError(f"pass^{k} needs {k} trials of every task; {len(short)} have fewer (the fewest: {min(short)})")
    values = [comb(c, k) / comb(n, k) for c, n in zip(successes, trials, strict=True)]
    return clustered_mean(values, range(len(values)), confidence=confidence)
