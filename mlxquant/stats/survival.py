"""How long until something happens, where some were never seen to fail: the Kaplan-Meier curve and its median.

A run that ended well after 20 calls says that it got at least so far: it is censored, not dropped and not counted as
a failure. The curve's pointwise intervals use Greenwood's variance on the log(-log) scale, which stays within 0 and
1; the median's are the times at which those contain 1/2 (Brookmeyer and Crowley 1982, "A confidence interval for the
median survival time", Biometrics 38). Several runs of one task are not independent: give `clusters`, and whole tasks
are resampled instead. Assumes that what ends observation has nothing to do with how a run was doing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .interval import CONFIDENCE, LEAST_CLUSTERS, t_quantile, too_few
from .quantiles import percentile_ends
from .sums import Clusters, numbered

Curve = NDArray[np.float64]
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Survival:
    """A curve: at each of `times` `(m,)`, when something failed, how many were still running and failed, and the
    share that lasts longer with its interval. `median` is None where more than half outlast the observation; its
    ends are None where they are beyond the data. `reason` says why there are no intervals.
    """

    times: Curve
    at_risk: NDArray[np.int64]
    failed: NDArray[np.int64]
    survival: Curve
    low: Curve | None
    high: Curve | None
    median: float | None
    median_low: float | None
    median_high: float | None
    n: int
    clusters: int
    confidence: float
    method: str
    reason: str | None = None

    def at(self, time: float) -> float:
        """The share that lasts longer than `time`."""
        place = int(np.searchsorted(self.times, time, side="right"))
        return 1.0 if place == 0 else float(self.survival[place - 1])

    def as_dict(self) -> dict[str, Any]:
        """The curve in a record."""
        ends = {k: None if v is None else _rounded(v) for k, v in (("low", self.low), ("high", self.high))}
        record = {
            "times": self.times.tolist(), "at_risk": self.at_risk.tolist(), "failed": self.failed.tolist(),
            "survival": _rounded(self.survival), **ends, "median": self.median, "median_low": self.median_low,
            "median_high": self.median_high, "n": self.n, "clusters": self.clusters, "confidence": self.confidence,
            "method": self.method,
        }  # fmt: skip
        return record | ({} if self.reason is None else {"reason": self.reason})


def kaplan_meier(
    times: ArrayLike,
    observed: ArrayLike,
    clusters: Clusters | None = None,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Survival:
    """The curve of `times` `(n,)`; `observed` `(n,)` is True where the run failed then, False where observation ended.

    Times are those at which a run failed first (say the number of the call), from above 0. A run that is censored at
    the time of a failure was still running then. Raises ValueError for no runs, or times that are not positive.
    """
    t, seen = np.asarray(times, np.float64), np.asarray(observed, bool)
    if not len(t) or t.shape != seen.shape or not (t > 0).all():
        raise ValueError("a positive time and whether it was seen to fail expected for each of at least one run")
    ids, count = numbered(range(len(t)) if clusters is None else clusters, len(t))
    grid = np.unique(t[seen])
    at_risk, failed = _counts(t, seen, np.ones(len(t)), grid)
    curve = _product(at_risk, failed)
    parts = (grid, at_risk.astype(np.int64), failed.astype(np.int64), curve)
    median = _first_below(grid, curve)
    if count < LEAST_CLUSTERS:
        why = too_few(count, "runs" if clusters is None else "clusters")
        return Survival(*parts, None, None, median, None, None, len(t), count, confidence, "none", why)
    if count == len(t):
        low, high = _greenwood(curve, at_risk, failed, confidence)
        method = "Greenwood, log-log; median by Brookmeyer-Crowley"
        ends = _first_below(grid, low), _first_below(grid, high)
    else:
        low, high, *ends = _resampled(t, seen, ids, count, grid, confidence, seed)  # type: ignore[assignment]
        method = "cluster bootstrap"
    return Survival(*parts, low, high, median, *ends, len(t), count, confidence, method)


def _counts(t: Curve, seen: NDArray[np.bool_], weights: Curve, grid: Curve) -> tuple[Curve, Curve]:
    """At each time of `grid`, the weight still running just before, and that failing then."""
    order = np.argsort(t)
    left = np.concatenate([np.cumsum(weights[order][::-1])[::-1], [0.0]])
    at_risk = left[np.searchsorted(t[order], grid, side="left")]
    failed = np.bincount(np.searchsorted(grid, t[seen]), weights[seen], minlength=len(grid)).astype(np.float64)
    return at_risk, failed[: len(grid)]


def _product(at_risk: Curve, failed: Curve) -> Curve:
    """Kaplan and Meier's product: ``S(t) = prod(1 - failed / at_risk)`` over the times up to t."""
    return np.cumprod(1 - np.divide(failed, at_risk, out=np.zeros_like(failed), where=at_risk > 0))


def _greenwood(curve: Curve, at_risk: Curve, failed: Curve, confidence: float) -> tuple[Curve, Curve]:
    """Pointwise ends ``S ** exp(±z se / log S)``, ``se² = sum(failed / (at_risk (at_risk - failed)))``."""
    left = at_risk - failed
    inner = (curve > 0) & (curve < 1)
    terms = np.divide(failed, at_risk * left, out=np.zeros_like(curve), where=left > 0)
    se, logs = np.sqrt(np.cumsum(terms)), np.log(np.where(inner, curve, 0.5))
    move = np.exp(t_quantile(confidence, math.inf) * se / np.abs(logs))
    low = np.where(inner, np.exp(logs * move), curve)
    high = np.where(inner, np.exp(logs / move), curve)
    # all have failed: nothing is left to vary, and the last interval with something in it stands
    if len(curve) and curve[-1] == 0:
        high[-1] = high[-2] if len(curve) > 1 else 1.0
    return low, high


def _first_below(grid: Curve, curve: Curve) -> float | None:
    """The first time at which no more than half last longer; None where it does not come."""
    places = np.flatnonzero(curve <= 0.5 + 1e-12)
    return float(grid[places[0]]) if len(places) else None


def _resampled(
    t: Curve, seen: NDArray[np.bool_], ids: NDArray[np.intp], count: int, grid: Curve, confidence: float, seed: int
) -> tuple[Curve, Curve, float | None, float | None]:
    """Pointwise ends and the median's, by resampling whole clusters."""
    draw = np.random.default_rng(seed)
    curves, medians = np.empty((RESAMPLES, len(grid))), np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        weights = np.bincount(draw.integers(0, count, count), minlength=count)[ids].astype(np.float64)
        curves[i] = _product(*_counts(t, seen, weights, grid))
        median = _first_below(grid, curves[i])
        medians[i] = math.inf if median is None else median
    ends = [percentile_ends(curves[:, j], count, confidence) for j in range(len(grid))]
    with np.errstate(invalid="ignore"):
        low, high = percentile_ends(np.minimum(medians, 1e300), count, confidence)
    shown = (None if end >= 1e299 else end for end in (low, high))
    first, last = shown
    return np.array([e[0] for e in ends]), np.array([e[1] for e in ends]), first, last


def _rounded(values: Curve) -> list[float]:
    return [round(float(v), 6) for v in values]
