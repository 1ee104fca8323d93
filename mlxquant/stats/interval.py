"""One measured quantity with its interval, and the quantiles that intervals are made of.

An interval keeps what it takes to state it again at another confidence: its standard error, its degrees of freedom,
how many observations and clusters it rests on, and the design effect that was assumed. It does not keep the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

# --- interval ---


LEAST_CLUSTERS = 5
CONFIDENCE = 0.95
T_METHOD = "cluster-robust t"
EXACT_METHOD = "Clopper-Pearson on clusters"
EFFECTIVE_METHOD = "Clopper-Pearson at the effective sample size"
PAIRS_METHOD = "cluster-robust, Bonett-Price"
RESAMPLED_METHOD = "cluster bootstrap-t"
# What an increasing function of a mean is, its inverse, and how its interval's method is called
SCALES: dict[str, tuple[Callable[[float], float], Callable[[float], float], str]] = {
    "exp": (lambda x: math.exp(min(x, 700.0)), lambda y: math.log(max(y, 1e-300)), f"{T_METHOD} on the logarithm"),
    "sqrt": (lambda x: math.sqrt(max(x, 0.0)), lambda y: y * y, f"{T_METHOD} on the square"),
    "tanh": (math.tanh, lambda y: math.atanh(min(max(y, -1 + 1e-15), 1 - 1e-15)), f"{T_METHOD} on Fisher's z"),
}
# those with degrees of freedom
T_METHODS = (T_METHOD, EFFECTIVE_METHOD, PAIRS_METHOD, RESAMPLED_METHOD, *(method for *_, method in SCALES.values()))


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate from `n` observations in `clusters` independent units, and the ends of its interval.

    `low` and `high` are None where none can be given, and `reason` says why. `se` is the standard error, None where
    the method has none; `df` are the degrees of freedom of its t quantile. `design_effect` is by how much clusters are
    taken to widen a share's interval where too little was seen to tell (see `sums`).
    """

    estimate: float
    low: float | None
    high: float | None
    se: float | None
    n: int
    clusters: int
    confidence: float = CONFIDENCE
    method: str = T_METHOD
    reason: str | None = None
    df: float | None = None
    design_effect: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The interval in a record; `confidence`, `method`, `df` and `reason` only where they are not the default."""
        record: dict[str, Any] = {k: _recorded(getattr(self, k)) for k in ("estimate", "low", "high", "se")}
        record |= {"n": self.n, "clusters": self.clusters}
        if self.confidence != CONFIDENCE:
            record["confidence"] = self.confidence
        if self.method != T_METHOD:
            record["method"] = self.method
        if self.df is not None and not math.isclose(self.df, self.clusters - 1):
            record["df"] = _recorded(self.df)
        if self.design_effect is not None:
            record["design_effect"] = _recorded(self.design_effect)
        if self.reason is not None:
            record["reason"] = self.reason
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Interval:
        """Read what `as_dict` wrote; other keys are passed over, and `se` may be missing."""
        method = str(record.get("method", T_METHOD))
        clusters = int(record["clusters"])
        default = clusters - 1 if method in T_METHODS and record["low"] is not None else None
        return cls(
            estimate=record["estimate"],
            low=record["low"],
            high=record["high"],
            se=record.get("se"),
            n=int(record["n"]),
            clusters=clusters,
            confidence=float(record.get("confidence", CONFIDENCE)),
            method=method,
            reason=record.get("reason"),
            df=record.get("df", default),
            design_effect=record.get("design_effect"),
        )

    def at(self, confidence: float) -> Interval:
        """State the interval at another confidence; without ends, and with the reason, where the method cannot.

        The width grows as the t quantile does: 1.3 times from 95 to 99 %, on either side of the estimate for a
        bootstrap-t. An interval by plain bootstrap or by order statistics would need the data again.
        """
        if confidence == self.confidence or self.low is None or self.high is None:
            return replace(self, confidence=confidence)
        if self.method == EXACT_METHOD:
            if self.se is None:
                effective = self.clusters if self.design_effect is None else self.n / self.design_effect
                low, high = clopper_pearson(self.estimate * effective, effective, confidence)
            else:  # a difference that is the same in every cluster, as earlier versions gave it
                wide = exact_bound(self.clusters, confidence)
                low, high = max(self.estimate - wide, -1.0), min(self.estimate + wide, 1.0)
            return replace(self, low=low, high=high, confidence=confidence)
        if self.method == EFFECTIVE_METHOD and self.se and self.df is not None:
            return share_interval(
                self.estimate, self.se, self.n, self.clusters, self.df, confidence, self.design_effect
            )
        if self.method == PAIRS_METHOD and self.se is not None and self.df is not None and self.design_effect:
            return pairs_interval(
                self.estimate, self.se, self.n, self.clusters, self.df, confidence, self.design_effect
            )
        if self.df is None:
            why = f"measured at {self.confidence:.0%}; {self.method} cannot be restated at {confidence:.4g}"
            return replace(self, low=None, high=None, confidence=confidence, reason=why)
        there, back = next(((f, g) for f, g, method in SCALES.values() if method == self.method), (_same, _same))
        before = t_quantile(self.confidence, self.df)
        scale = t_quantile(confidence, self.df) / before if before > 0 else math.nan
        if self.method == RESAMPLED_METHOD:
            low, high = (self.estimate + (end - self.estimate) * scale for end in (self.low, self.high))
            return replace(self, low=low, high=high, confidence=confidence)
        low, high = back(self.low), back(self.high)
        middle, half = (low + high) / 2, (high - low) / 2 * scale
        return replace(self, low=there(middle - half), high=there(middle + half), confidence=confidence)

    def mapped(self, scale: str, slope: float) -> Interval:
        """The interval of an increasing function of this quantity, one of SCALES, such as exp of a mean log.

        Ends are mapped, and so stay where the function's values lie; the standard error is the delta method's, `slope`
        being the derivative at the estimate. Only of an interval by Student's t.
        """
        function, _, method = SCALES[scale]
        low, high = (None if end is None else function(end) for end in (self.low, self.high))
        se = None if self.se is None else self.se * abs(slope)
        return replace(self, estimate=function(self.estimate), low=low, high=high, se=se, method=method)

    def excludes(self, value: float) -> bool:
        """Whether the interval leaves `value` out; False where there is no interval."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def holds_estimate(estimate: float, low: float, high: float, clusters: int, method: str) -> bool:
    """Whether an interval has its ends in order and its estimate within; False for ends that are not finite.

    Records keep seven digits, so differences that small are ignored. Bonett and Price centre an interval on counts to
    which a pair of each kind was added, which moves it by less than ``1 / (clusters + 2)``.
    """
    slack = 1e-6 * max(abs(low), abs(high)) + (1 / (max(clusters, 0) + 2) if method == PAIRS_METHOD else 0.0)
    return math.isfinite(low) and math.isfinite(high) and low - slack <= estimate <= high + slack and low <= high


def _same(value: float) -> float:
    return value


def without_ends(estimate: float, n: int, clusters: int, confidence: float, reason: str) -> Interval:
    """An estimate that no interval can be given for."""
    return Interval(estimate, None, None, None, n, clusters, confidence, reason=reason)


def too_few(clusters: int, unit: str = "clusters") -> str:
    """Why there is no interval."""
    return (
        f"{clusters} {unit if clusters != 1 else unit.removesuffix('s')}; an interval needs at least {LEAST_CLUSTERS}"
    )


@lru_cache(maxsize=4096)
def t_quantile(confidence: float, df: float) -> float:
    """Student's t for a two-sided interval; ``t_quantile(0.95, 4) == 2.776``, and 1.960 for infinite `df`."""
    from scipy.special import ndtri, stdtrit

    tail = (1 + confidence) / 2
    return float(ndtri(tail) if math.isinf(df) else stdtrit(df, tail))


def clopper_pearson(hits: float, n: float, confidence: float) -> tuple[float, float]:
    """The exact interval of a share, `hits` of `n`, which need not be whole (Clopper and Pearson 1934).

    ``clopper_pearson(0, 200, 0.95) == (0.0, 0.0183)``
    """
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return low, high


def exact_bound(n: float, confidence: float) -> float:
    """The upper end for none among `n`: ``1 - ((1 - confidence) / 2) ** (1 / n)``, as `clopper_pearson` has it."""
    return 1 - float(((1 - confidence) / 2) ** (1 / n))


def share_interval(
    share: float, se: float, n: int, clusters: int, df: float, confidence: float, design_effect: float | None = None
) -> Interval:
    """Clopper-Pearson with as many observations as give this standard error (Korn and Graubard 1998).

        n_eff = min(n, 1 + share (1 - share) / se²) (t(n - 1) / t(df))²

    The 1 makes it exact for independent observations; the last factor pays for few clusters. Share 0.01 with se 0.005
    from 10,000 tokens in 200 documents: n_eff = 397 · 0.988, interval 0.0027 … 0.0256,
    where t would give 0.0001 … 0.0199, and below zero for any smaller share. (Korn and Graubard, "Confidence intervals
    for proportions with small expected number of positive counts estimated from survey data", Survey Methodology 24.)

    No end is tighter than it would be had nothing been seen at all, at `n / design_effect` observations: so one error
    less never widens the interval.
    """
    effective = min(n, 1 + share * (1 - share) / se**2) if se**2 > 0 else n
    effective *= (t_quantile(confidence, n - 1) / t_quantile(confidence, df)) ** 2
    low, high = clopper_pearson(share * effective, effective, confidence)
    if design_effect is not None:
        unseen = exact_bound(n / design_effect, confidence)
        low, high = min(low, 1 - unseen), max(high, unseen)
    return Interval(share, low, high, se, n, clusters, confidence, EFFECTIVE_METHOD, df=df, design_effect=design_effect)


def pairs_interval(
    difference: float, se: float, n: int, clusters: int, df: float, confidence: float, design_effect: float
) -> Interval:
    """Bonett and Price's interval with clusters: a pair of each kind is added, as a cluster of `design_effect` pairs.

    half = t · sqrt((n se)² + 2 d²) / (n + 2 d)        around difference · n / (n + 2 d)
    """
    total = n + 2 * design_effect
    half = t_quantile(confidence, df) * math.sqrt((n * se) ** 2 + 2 * design_effect**2) / total
    low, high = max(difference * n / total - half, -1.0), min(difference * n / total + half, 1.0)
    return Interval(
        difference, low, high, se, n, clusters, confidence, PAIRS_METHOD, df=df, design_effect=design_effect
    )


def _recorded(value: float | None) -> float | None:
    """Seven digits: what an estimate of this kind can be known to, with room; infinity is no JSON."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.7g}")
