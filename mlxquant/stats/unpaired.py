"""A difference or ratio of two figures that were given with an interval each, where no paired one was measured.

The method of variance estimates recovery (Zou and Donner 2008, "Construction of confidence limits about effect
measures: a general approach", Statistics in Medicine 27) takes from each interval how far the quantity may lie from
its estimate on the side that matters. With a in [la, ua] and b in [lb, ub]:

    low  = a - b - sqrt((a - la)² + (ub - b)²)
    high = a - b + sqrt((ua - a)² + (b - lb)²)

2.0 in [1.6, 2.4] less 1.0 in [0.7, 1.3]: 1.0 in [0.5, 1.5]. A ratio is the difference of logarithms. The two are taken
as independent; figures of one run go up and down together, so for them the interval is too wide rather than too short.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log, sqrt

from .interval import Interval, holds_estimate, t_quantile

METHOD = "MOVER, unpaired"


def difference_between(a: Interval, b: Interval, confidence: float) -> Interval:
    """Subtract b from a, each stated at this confidence; without ends where one of them has none."""
    first, second = stated(a, confidence), stated(b, confidence)
    n, clusters = a.n + b.n, min(a.clusters, b.clusters)
    estimate = a.estimate - b.estimate
    if None in (first.low, first.high, second.low, second.high):
        reason = first.reason or second.reason or "one of the two has no interval"
        return Interval(estimate, None, None, None, n, clusters, confidence, METHOD, reason)
    assert first.low is not None and first.high is not None and second.low is not None and second.high is not None
    below = sqrt((a.estimate - first.low) ** 2 + (second.high - b.estimate) ** 2)
    above = sqrt((first.high - a.estimate) ** 2 + (b.estimate - second.low) ** 2)
    se = (below + above) / 2 / t_quantile(confidence, max(clusters - 1, 1))
    return Interval(estimate, estimate - below, estimate + above, se, n, clusters, confidence, METHOD)


def log_ratio_between(a: Interval, b: Interval, confidence: float) -> Interval:
    """log(a / b) of two positive figures; without ends where an interval reaches 0."""
    first, second = stated(a, confidence), stated(b, confidence)
    if not (a.estimate > 0 and b.estimate > 0):
        return Interval(
            0.0, None, None, None, a.n + b.n, min(a.clusters, b.clusters), confidence, METHOD,
            f"no ratio of {a.estimate:g} to {b.estimate:g}",
        )  # fmt: skip
    return difference_between(_mapped(first, log), _mapped(second, log), confidence)


def stated(interval: Interval, confidence: float) -> Interval:
    """The interval at a confidence; a wider one that cannot be stated again stands for it.

    Without ends, and with the reason, where stating it again gives one that does not hold its estimate: then what was
    recorded does not fit its method, and nothing is to be concluded from it.
    """
    again = interval.at(confidence)
    if again.low is None and interval.low is not None and interval.confidence >= confidence:
        return interval
    if again.low is None or again.high is None:
        return again
    if not holds_estimate(again.estimate, again.low, again.high, again.clusters, again.method):
        why = f"stated at {confidence:.4g} the interval would not contain its estimate: it does not fit its method,"
        return replace(again, low=None, high=None, reason=f"{why} {again.method}")
    return again


def _mapped(interval: Interval, function: Callable[[float], float]) -> Interval:
    ends = [None if end is None or end <= 0 else function(end) for end in (interval.low, interval.high)]
    reason = None if None not in ends else interval.reason or "its interval reaches 0"
    return replace(interval, estimate=function(interval.estimate), low=ends[0], high=ends[1], se=None, reason=reason)
