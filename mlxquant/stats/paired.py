"""Paired right-or-wrong outcomes: McNemar's test, and the chance that k trials in a row all succeed."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from .interval import CONFIDENCE, Interval
from .means import clustered_mean


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
