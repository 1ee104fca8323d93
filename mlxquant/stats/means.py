"""Intervals from single observations and the cluster that each belongs to. The formulas stand in `sums`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .interval import CONFIDENCE, Interval
from .sums import Sums, difference_of_sums, ratio_of_sums, share_of_sums

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
    ids, count = _numbered(clusters, len(v))
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
    ids, count = _numbered(clusters, len(top))
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
    ids, count = _numbered(clusters, len(first))
    if not share:
        return clustered_mean(first - second, clusters, confidence=confidence, share=False)
    only_a, only_b = (_totals((x > y).astype(float), ids, count) for x, y in ((first, second), (second, first)))
    return difference_of_sums(only_a, only_b, _totals(np.ones(len(first)), ids, count), confidence=confidence)


def _numbered(clusters: Clusters, n: int) -> tuple[NDArray[np.intp], int]:
    """Number the clusters from 0; any hashable names one."""
    if len(clusters) != n:
        raise ValueError(f"a cluster for each of {n} observations expected, {len(clusters)} found")
    if isinstance(clusters, np.ndarray) and clusters.dtype.kind in "iu" and clusters.ndim == 1:
        names, found = np.unique(clusters, return_inverse=True)  # a million tokens at once
        return found.astype(np.intp), len(names)
    numbers: dict[Hashable, int] = {}
    ids = np.fromiter((numbers.setdefault(name, len(numbers)) for name in clusters), np.intp, n)
    return ids, len(numbers)


def _totals(values: NDArray[np.float64], ids: NDArray[np.intp], count: int) -> Sums:
    return np.bincount(ids, values, minlength=count).astype(np.float64)
