"""Figures from samples: a summary of one build's, and the paired ratio of two with its interval.

Two builds are measured in turn, so the pairs (A, B) of one round saw the same machine. Their log ratios are
averaged, ``ratio = exp(mean(log(b / a)))``, and rounds are resampled (Efron's bootstrap) for the interval. With five
rounds the plain percentile interval is too narrow: it holds the truth in about 84 % of cases instead of 95 %. So its
ends are moved out to where Student's t would put them (Hesterberg 2015, arXiv:1411.5279, "expanded percentile"):

    alpha' = Phi(-sqrt(n / (n - 1)) * t(0.975, n - 1))        n = 5: Phi(-1.118 * 2.776) = 0.00096

and never further than the extremes that were seen, since resampling cannot leave them. Five rounds of normal noise
then hold the truth in 92 % of cases, seven in 95; three in 75 %, so fewer than five give no interval at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, log, sqrt
from random import Random
from statistics import NormalDist, fmean, median, stdev
from typing import Any

CONFIDENCE = 0.95
RESAMPLES = 10_000
LEAST_ROUNDS = 5

# Student's t, two-sided 95 %, for 1, 2, … degrees of freedom (any table of it); 30 stands for more
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean, sample standard deviation (None for one value), median and extremes of `n` values."""

    n: int
    mean: float
    sd: float | None
    median: float
    min: float
    max: float

    def as_dict(self) -> dict[str, Any]:
        """The summary in a record."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}


def summarize(values: Sequence[float]) -> Summary:
    """Summarize at least one value."""
    sd = stdev(values) if len(values) > 1 else None
    return Summary(len(values), fmean(values), sd, median(values), min(values), max(values))


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share `q` lies, interpolated between neighbours.

    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.5
    """
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@dataclass(frozen=True, slots=True)
class Ratio:
    """B over A. `low` and `high` are None, and `reason` says why, where rounds are too few."""

    n: int
    ratio: float
    low: float | None
    high: float | None
    reason: str | None = None

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves 1 out, so that one of the two is faster."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high

    def as_dict(self) -> dict[str, Any]:
        """The ratio in a record."""
        ends = {k: None if v is None else round(v, 6) for k, v in (("low", self.low), ("high", self.high))}
        return {
            "n": self.n,
            "ratio": round(self.ratio, 6),
            **ends,
            "confidence": CONFIDENCE,
            "resolved": self.resolved,
            "reason": self.reason,
        }


def paired_ratio(a: Sequence[float], b: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Ratio:
    """Compare the rates of two builds, pair by pair; at least one pair."""
    logs = [log(second / first) for first, second in zip(a, b, strict=True)]
    n, center = len(logs), exp(fmean(logs))
    if n < LEAST_ROUNDS:
        return Ratio(n, center, None, None, f"not resolved: {n} rounds, an interval needs at least {LEAST_ROUNDS} (-r)")
    draw = Random(seed)
    means = sorted(fmean(draw.choices(logs, k=n)) for _ in range(resamples))
    tail = NormalDist().cdf(-sqrt(n / (n - 1)) * _T95[min(n - 1, len(_T95)) - 1])
    low, high = exp(quantile(means, tail)), exp(quantile(means, 1 - tail))
    reason = f"not resolved: the interval contains 1 after {n} rounds" if low <= 1 <= high else None
    return Ratio(n, center, low, high, reason)
