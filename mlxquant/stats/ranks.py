"""Rank correlation of two figures over a few builds or models, with an interval.

Spearman's: the correlation of ranks, ties sharing the mean of theirs. The interval is by Fisher's transformation with
the variance of Bonett and Wright (2000, Psychometrika 65:23):

    z = atanh(r) ± quantile · sqrt((1 + r²/2) / (n - 3))

An order that is the same throughout says less than r = 1 seems to: it is taken as if two neighbours were exchanged,
r = 1 - 12 / (n (n² - 1)). Worked: eight builds in one order, r = 1, 95 %: 0.82 … 1. What is measured of each build is
taken as exact here, which holds where builds differ by much more than their intervals.

Alone in its module because builds are the units here, and clusters of documents or tasks in all others.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .interval import CONFIDENCE, LEAST_CLUSTERS, Interval

METHOD = "Spearman, Bonett-Wright"


def rank_correlation(a: ArrayLike, b: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval | None:
    """Spearman's rank correlation of a and b (n,); None where either is the same throughout."""
    from scipy.stats import norm, rankdata

    first, second = (rankdata(np.asarray(values, np.float64)) for values in (a, b))
    n = len(first)
    if n < 2 or not first.std() or not second.std():
        return None
    r = float(np.corrcoef(first, second)[0, 1])
    if n < LEAST_CLUSTERS:
        return Interval(r, None, None, None, n, n, confidence, METHOD, f"fewer than {LEAST_CLUSTERS}")
    most = 1 - 12 / (n * (n * n - 1))
    inner = min(max(r, -most), most)
    half = float(norm.ppf((1 + confidence) / 2)) * math.sqrt((1 + inner**2 / 2) / (n - 3))
    low, high = (math.tanh(math.atanh(inner) + sign * half) for sign in (-1, 1))
    low, high = (-1.0 if r < -most else low), (1.0 if r > most else high)
    return Interval(r, low, high, None, n, n, confidence, METHOD)
