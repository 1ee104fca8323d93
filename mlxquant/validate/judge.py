"""Tolerances held against evidence: within, outside, or not settled. Nothing is read or printed here.

    PASS          the whole interval lies within the tolerance
    FAIL          the whole interval lies outside it
    INCONCLUSIVE  it holds an end of the tolerance, or there is no interval; with how many would settle it
    TOO FEW       fewer clusters or observations than the tolerance asks for; not a pass, whatever they say
    MISSING       nothing was measured there; not a pass either

An interval is two-sided, so a limit on one side is held at more than its confidence says: at 95 %, a build that is
exactly at a limit passes by luck in 2.5 % of cases, as far as the interval holds the truth as often as it says. That of
a mean KL over few documents does not (`stats.covered`). All tolerances must pass, so that chance does not grow with
their number (an intersection-union test; Berger 1982, Technometrics 24); the chance that a good build fails one of
many does, and so does that one of many stays open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, isfinite, log
from typing import Any

from ..records.metrics import metric_named
from ..records.schemas.sense import COUNTED
from ..stats import Interval, Planned, planned
from ..stats.unpaired import difference_between, log_ratio_between, stated
from .evidence import Evidence, Figure, MeasuredSide, exactly
from .tolerances import Tolerance

PASS, FAIL, INCONCLUSIVE, TOO_FEW, MISSING = "PASS", "FAIL", "INCONCLUSIVE", "TOO FEW", "MISSING"
Where = tuple[tuple[str, str], ...]
_MEASURES = {
    "compare": "compare", "eval": "eval", "tau2": "tau2", "results": "results", "rollout": "rollout",
    "bench": "bench", "serving": "eval", "size": "plan or audit",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """One tolerance at one place. `interval` is as a reader wants it, None where nothing was measured.

    `needed` is how many more of `unit` the tolerance asks for, where there are too few; `plan` how many would settle
    what is open. `depth` is the figure's. `chance` is how far inside one that passes is: the least share of ``1 -
    confidence`` at which it still would, 1 where it just does, None where it does not.
    """

    tolerance: Tolerance
    status: str
    where: Where
    interval: Interval | None = None
    file: str | None = None
    unit: str = "samples"
    needed: int | None = None
    reason: str | None = None
    depth: tuple[int, int | None] | None = None
    plan: Planned | None = None
    chance: float | None = None

    @property
    def place(self) -> str:
        """Where it is, for readers: ``"slice json"``, ``"overall"``."""
        return ", ".join(f"{key} {value}" for key, value in self.where) or "overall"

    def as_dict(self) -> dict[str, Any]:
        """The check in a record."""
        t, i = self.tolerance, self.interval
        entry: dict[str, Any] = {"status": self.status, "metric": t.metric, **dict(self.where), "of": t.kind}
        entry |= {"tolerance": t.number, "limit": t.limit, "low_limit": t.low, "high_limit": t.high}
        if i is not None:
            entry |= i.as_dict()
        entry |= {"confidence": t.confidence, "unit": self.unit, "needed": self.needed}
        entry |= {"plan": None if self.plan is None else self.plan.as_dict(), "file": self.file}
        entry |= {"reason": self.reason, "why": t.why}
        return entry


def verdict_of(checks: Sequence[Check]) -> str:
    """FAIL where one fails, else PASS where all pass, else INCONCLUSIVE."""
    statuses = {check.status for check in checks}
    if FAIL in statuses:
        return FAIL
    return PASS if statuses == {PASS} else INCONCLUSIVE


def judge(tolerances: Sequence[Tolerance], chosen: Sequence[tuple[Evidence, MeasuredSide]]) -> list[Check]:
    """Hold every tolerance against the records of one candidate; `chosen` is its side in each of them."""
    return [check for tolerance in tolerances for check in _of_tolerance(tolerance, chosen)]


def _of_tolerance(t: Tolerance, chosen: Sequence[tuple[Evidence, MeasuredSide]]) -> Iterator[Check]:
    wanted, seen = dict(t.where), set[tuple[Any, ...]]()
    for evidence, side in chosen:
        if t.record not in (None, evidence.kind):
            continue
        for figure in _figures(t, wanted, evidence, side):
            counted = figure.interval.method == COUNTED
            key = (figure.where, figure.interval.estimate, *(() if counted else (evidence.file, len(seen))))
            if key not in seen:  # a build's size stands in every record of it
                seen.add(key)
                yield _held(t, figure, evidence)
    if not seen:
        yield Check(t, MISSING, t.where, reason=_why_missing(t, wanted, chosen))


def _figures(t: Tolerance, wanted: Mapping[str, str], evidence: Evidence, side: MeasuredSide) -> Iterator[Figure]:
    """What a tolerance is about in a record; differences and ratios as they were paired, else worked out."""
    if t.kind == "itself":
        yield from side.find(t.metric, wanted)
        return
    paired = side.find(f"{t.metric}_{t.kind}", wanted)
    yield from paired
    if paired or evidence.baseline is None:
        return
    for figure in side.find(t.metric, wanted):
        for other in evidence.baseline.find(t.metric, dict(figure.where)):
            a, b = figure.interval, other.interval
            if a.method == b.method == COUNTED:
                yield _of_counts(t, figure, b)
            elif t.kind == "difference":
                yield replace(figure, interval=difference_between(a, b, t.confidence))
            else:
                yield replace(figure, interval=log_ratio_between(a, b, t.confidence), log=True)


def _of_counts(t: Tolerance, figure: Figure, other: Interval) -> Figure:
    if t.kind == "difference":
        return replace(figure, interval=exactly(figure.interval.estimate - other.estimate))
    return replace(figure, interval=exactly(log(figure.interval.estimate / other.estimate)), log=True)


def _held(t: Tolerance, figure: Figure, evidence: Evidence) -> Check:
    interval = stated(figure.interval, t.confidence)
    low, high = ((None if end is None else log(end)) if figure.log else end for end in (t.low, t.high))
    status, reason = _status(t, interval, low, high)
    needed, plan = None, None
    if status == TOO_FEW:
        needed = max(t.min_clusters - interval.clusters, 0) or None
    elif status == INCONCLUSIVE:
        plan = _planned(t, interval, low, high)
    chance = _chance(t, figure.interval, low, high) if status == PASS else None
    shown = _exp(interval) if figure.log else interval
    return Check(
        t, status, figure.where, shown, evidence.file, evidence.unit, needed, reason, figure.depth, plan, chance
    )


def _status(t: Tolerance, i: Interval, low: float | None, high: float | None) -> tuple[str, str | None]:
    """The word, and why, where the interval alone does not say."""
    few = None
    if i.method != COUNTED and i.clusters < t.min_clusters:
        few = f"{i.clusters:,} of at least {t.min_clusters:,}"
    elif i.method != COUNTED and i.n < t.min_samples:
        few = f"{i.n:,} of at least {t.min_samples:,} observations"
    if i.low is None or i.high is None:
        return (TOO_FEW, few) if few else (INCONCLUSIVE, i.reason or "no interval")
    if (low is not None and i.high < low) or (high is not None and i.low > high):
        return FAIL, None
    if few:
        return TOO_FEW, few
    if (low is None or i.low >= low) and (high is None or i.high <= high):
        return PASS, None
    return INCONCLUSIVE, None


_SUREST = 1e-4


def _chance(t: Tolerance, i: Interval, low: float | None, high: float | None) -> float:
    """The least share of ``1 - confidence`` at which an interval that is within still is, by halving; at least 1e-4."""
    if i.method == COUNTED:
        return 0.0

    def within(share: float) -> bool:
        wide = stated(i, 1 - share * (1 - t.confidence))
        ends = wide.low, wide.high
        return None not in ends and (low is None or ends[0] >= low) and (high is None or ends[1] <= high)  # type: ignore[operator]

    least, most = log(_SUREST), 0.0
    if within(_SUREST):
        return _SUREST
    for _ in range(20):
        middle = (least + most) / 2
        least, most = (least, middle) if within(exp(middle)) else (middle, most)
    return exp(most)


def _planned(t: Tolerance, i: Interval, low: float | None, high: float | None) -> Planned | None:
    """How many clusters would settle it, the truth being assumed well within; of two ends that are held, the nearer.

    Of a difference or a ratio the truth is that of two alike; of the figure itself it is half-way between its limit and
    the best that it can be, or a tenth better than the limit where the best has no bound.
    """
    held = [end for end in (low, high) if end is not None and (i.low is None or i.high is None or i.low < end < i.high)]
    plans = [planned(i, end, _assumed(t, end, is_high=end == high), confidence=t.confidence) for end in held]
    plan = max((plan for plan in plans if plan is not None), key=lambda plan: plan.most, default=None)
    return plan and replace(plan, least=max(plan.least, t.min_clusters), most=max(plan.most, t.min_clusters))


def _assumed(t: Tolerance, end: float, *, is_high: bool) -> float:
    """The true figure that a plan assumes, inside of one end of a tolerance."""
    if t.kind != "itself":
        return 0.0
    metric = metric_named(t.metric)
    if t.low is not None and t.high is not None:
        return (t.low + t.high) / 2
    best = None if metric is None else metric.low if is_high else metric.high
    return (end + best) / 2 if best is not None and isfinite(best) else end * (0.9 if (end > 0) == is_high else 1.1)


def _exp(i: Interval) -> Interval:
    ends = (None if end is None else exp(end) for end in (i.low, i.high))
    low, high = ends
    se = None if i.se is None else i.se * exp(i.estimate)
    return replace(i, estimate=exp(i.estimate), low=low, high=high, se=se, df=None)


def _why_missing(t: Tolerance, wanted: Mapping[str, str], chosen: Sequence[tuple[Evidence, MeasuredSide]]) -> str:
    """What the records have instead, so that a misspelt slice shows."""
    sides = [(e, s) for e, s in chosen if t.record in (None, e.kind)]
    if not sides:
        return f"no record of {t.record} was given"
    metric = t.metric if t.kind == "itself" else f"{t.metric}_{t.kind}"
    there = [f for _, side in sides for f in side.figures if f.metric in (metric, t.metric)]
    if not there:
        known = metric_named(t.metric)
        return "no record given has it" + (f"; {_MEASURES[known.family]} measures it" if known else "")
    if t.kind != "itself" and not any(f.metric == metric for f in there) and not any(e.baseline for e, _ in sides):
        return f"{t.metric} was measured, but no baseline's to compare it with"
    values = {key: dict.fromkeys(v for f in there for k, v in f.where if k == key) for key in wanted}
    inside = f"in:{wanted.get('slice')}"
    if inside in values.get("slice", ()):
        return f"no document or item is called so; the tokens inside such parts are slice {inside!r}"
    places = "; ".join(f"{key}: {', '.join(list(names)[:8]) or 'none'}" for key, names in values.items())
    return f"{t.metric} was not measured there" + (f"; measured at {places}" if places else "")
