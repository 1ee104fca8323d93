"""From a tally's sums to measurements: what a candidate's figures are, each with an interval clustered by document.

The KL statistics are llama.cpp's, by its formulas (tools/perplexity/perplexity.cpp, `kl_divergence`, ggml-org/llama.cpp
@050fc7f3), under names that a record can hold; `metrics` has its own. `se_iid` is its uncertainty, which takes tokens
as independent, beside ours, which does not.

    log_perplexity_ratio        mean(q - r), q and r the candidate's and reference's -log p of the correct token
    perplexity_ratio            exp of it; perplexity = exp(mean(q)); perplexity_difference = exp(mean q) - exp(mean r)
    log_perplexity_correlation  the correlation of q and r over tokens
    kl_nats                     mean of D(reference || candidate)
    dp_mean, dp_rms             mean, root mean square of p - p_reference, p being that of the correct token
    same_top                    share of tokens at which both hold the same token most likely

A measurement is of the candidate as it would be served, unless `case` says otherwise. Identical candidates differ from
the reference nowhere, and then an interval of a mean has no width; an interval of a share has, for what is not seen
may still be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records.metrics import DP_QUANTILES, KL_QUANTILES
from ..stats import Interval, clustered_quantiles, linearized, ratio_of_sums, share_of_sums
from .grouping import ALL, Group
from .tally import ACCUMULATED, TEACHER_FORCED, TOKEN_FIELDS, Tally

Sums = NDArray[np.float64]
Measurement = dict[str, Any]


def measurement(metric: str, found: Interval, keys: Mapping[str, Any], *, se_iid: float | None = None) -> Measurement:
    """One measurement in a record: metric, what it is over, the interval; `se_iid` is llama.cpp's uncertainty."""
    iid = {} if se_iid is None or not math.isfinite(se_iid) else {"se_iid": float(f"{se_iid:.7g}")}
    return {"metric": metric, **keys, **found.as_dict(), **iid}


def token_measurements(tally: Tally, candidate: int, confidence: float) -> Iterator[Measurement]:
    """Everything over tokens: means by group, percentiles of all; the teacher-forced pass too where it was run."""
    for case in tally.cases("tokens", candidate):
        keys = {} if case == ACCUMULATED else {"case": case}
        for group in tally.grouping.groups:
            sums = tally.grouping.sums(tally.token_sums(candidate, case), group)
            if sums[:, 0].any():
                yield from _means(sums, group, confidence, keys)
                if group != ALL:  # means hide collapses; what is rare within a slice shows in its tail
                    values, documents = tally.values(candidate, case, "kl", group)
                    if len(values) == float(sums[:, 0].sum()):
                        tail = clustered_quantiles(
                            values, documents, [KL_QUANTILES["kl_p99_nats"]], confidence=confidence
                        )
                        yield measurement("kl_p99_nats", tail[0], {**group.keys(), **keys})
        yield from _percentiles(tally, candidate, case, confidence, keys)


def reference_measurements(tally: Tally, confidence: float) -> Iterator[Measurement]:
    """The reference's own perplexity, from the first candidate's tokens."""
    for group in tally.grouping.groups:
        sums = tally.grouping.sums(tally.token_sums(0, ACCUMULATED), group)
        if sums[:, 0].any():
            found, iid = _perplexity(sums, "r", confidence)
            yield measurement("perplexity", found, group.keys(), se_iid=iid)


def routing_damage(tally: Tally, candidate: int, confidence: float) -> Iterator[Measurement]:
    """KL through routing: with its own routing less with the reference's; that through weights is the rest.

    Paired by token, so summed a document. Only where the teacher-forced pass was run.
    """
    if TEACHER_FORCED not in tally.cases("tokens", candidate):
        return
    for group in tally.grouping.groups:
        own, forced = (
            tally.grouping.sums(tally.token_sums(candidate, case), group) for case in (ACCUMULATED, TEACHER_FORCED)
        )
        if own[:, 0].any():
            found = ratio_of_sums(own[:, _KL] - forced[:, _KL], own[:, 0], confidence=confidence)
            yield measurement("kl_through_routing_nats", found, group.keys())


# --- tokens ---

_KL = TOKEN_FIELDS.index("kl")


def _column(sums: Sums, field: str) -> Sums:
    return np.asarray(sums[:, TOKEN_FIELDS.index(field)])


def _means(sums: Sums, group: Group, confidence: float, case: dict[str, str]) -> Iterator[Measurement]:
    keys: dict[str, Any] = {**group.keys(), **case}
    n, q, r, total = (_column(sums, "n"), _column(sums, "q"), _column(sums, "r"), float(sums[:, 0].sum()))
    perplexity, iid = _perplexity(sums, "q", confidence)
    yield measurement("perplexity", perplexity, keys, se_iid=iid)
    ratio = ratio_of_sums(q - r, n, confidence=confidence)
    iid = _iid((q - r).sum(), (_column(sums, "qq") + _column(sums, "rr") - 2 * _column(sums, "rq")).sum(), total)
    yield measurement("log_perplexity_ratio", ratio, keys, se_iid=iid)
    grown = _exp(ratio)
    yield measurement("perplexity_ratio", grown, keys, se_iid=iid * grown.estimate)
    kl = ratio_of_sums(_column(sums, "kl"), n, confidence=confidence)
    yield measurement("kl_nats", kl, keys, se_iid=_iid(*_totals(sums, "kl", "kl2"), total))
    dp = ratio_of_sums(_column(sums, "dp"), n, confidence=confidence)
    yield measurement("dp_mean", dp, keys, se_iid=_iid(*_totals(sums, "dp", "dp2"), total))
    rms, squared = _root(ratio_of_sums(_column(sums, "dp2"), n, confidence=confidence)), _totals(sums, "dp2", "dp4")
    iid = _iid(*squared, total) / (2 * rms.estimate) if rms.estimate else 0.0
    yield measurement("dp_rms", rms, keys, se_iid=iid)
    same = share_of_sums(_column(sums, "same_top"), n, confidence=confidence)
    iid = math.sqrt(same.estimate * (1 - same.estimate) / (total - 1)) if total > 1 else math.nan
    yield measurement("same_top", same, keys, se_iid=iid)
    if group == ALL:
        yield from _joint(sums, confidence, case)


def _joint(sums: Sums, confidence: float, keys: dict[str, str]) -> Iterator[Measurement]:
    """What needs both perplexities at once: their difference, and the correlation of the -log p."""
    n, total = _column(sums, "n"), float(sums[:, 0].sum())
    q, r = (float(_column(sums, x).sum()) / total for x in "qr")
    if not (math.isfinite(q) and math.isfinite(r)):
        return
    scores = (math.exp(q) * (_column(sums, "q") - q * n) - math.exp(r) * (_column(sums, "r") - r * n)) / total
    difference = linearized(math.exp(q) - math.exp(r), scores, n, n=round(total), confidence=confidence)
    var_q, var_r, cov = (
        float(_column(sums, xy).sum()) / total - x * y for xy, x, y in (("qq", q, q), ("rr", r, r), ("rq", r, q))
    )
    spread = math.exp(2 * q) * var_q + math.exp(2 * r) * var_r - 2 * math.exp(q + r) * cov
    iid = math.sqrt(max(spread, 0.0) / (total - 1)) if total > 1 else math.nan
    yield measurement("perplexity_difference", difference, keys, se_iid=iid)
    if var_q <= 0 or var_r <= 0:
        return
    yield measurement("log_perplexity_correlation", _correlation(sums, (q, r), (var_q, var_r, cov), confidence), keys)


def _correlation(
    sums: Sums, means: tuple[float, float], moments: tuple[float, float, float], confidence: float
) -> Interval:
    """The correlation of q and r over tokens, its interval on Fisher's z.

    A token moves the correlation c by ``(z_q z_r - c (z_q² + z_r²) / 2) / N``, z standardized values, which is a
    quadratic, so that a document's sums of squares give its share.
    """
    (q, r), (var_q, var_r, cov) = means, moments
    n, total = _column(sums, "n"), float(sums[:, 0].sum())
    correlation = min(cov / math.sqrt(var_q * var_r), 1.0)
    if correlation > 1 - 1e-12:
        return replace(_exactly(1.0, sums), confidence=confidence)
    sq, sr = _column(sums, "q"), _column(sums, "r")
    qq = (_column(sums, "qq") - 2 * q * sq + q * q * n) / var_q
    rr = (_column(sums, "rr") - 2 * r * sr + r * r * n) / var_r
    qr = (_column(sums, "rq") - q * sr - r * sq + q * r * n) / math.sqrt(var_q * var_r)
    scores = (qr - correlation * (qq + rr) / 2) / total / (1 - correlation**2)
    found = linearized(math.atanh(correlation), scores, n, n=round(total), confidence=confidence)
    return found.mapped("tanh", 1 - correlation**2)


def _exactly(value: float, sums: Sums) -> Interval:
    why = "equal at every token"
    return Interval(value, None, None, None, round(float(sums[:, 0].sum())), int((sums[:, 0] > 0).sum()), reason=why)


def _perplexity(sums: Sums, which: str, confidence: float) -> tuple[Interval, float]:
    """Perplexity of "q" or "r", and llama.cpp's uncertainty of it."""
    mean = ratio_of_sums(_column(sums, which), _column(sums, "n"), confidence=confidence)
    found = _exp(mean)
    return found, found.estimate * _iid(*_totals(sums, which, which * 2), float(sums[:, 0].sum()))


def _exp(found: Interval) -> Interval:
    """The exponential of a mean log; a mean beyond what floats hold stays infinite."""
    return found.mapped("exp", math.exp(min(found.estimate, 700.0)))


def _root(found: Interval) -> Interval:
    slope = 0.5 / math.sqrt(found.estimate) if found.estimate > 0 else 0.0
    return found.mapped("sqrt", slope)


def _totals(sums: Sums, first: str, second: str) -> tuple[float, float]:
    return float(_column(sums, first).sum()), float(_column(sums, second).sum())


def _iid(total: float, squares: float, n: float) -> float:
    """llama.cpp's `mean_and_uncertainty`: ``sqrt((mean(x²) - mean(x)²) / (n - 1))``."""
    return math.sqrt(max(squares / n - (total / n) ** 2, 0.0) / (n - 1)) if n > 1 else math.nan


def _percentiles(
    tally: Tally, candidate: int, case: str, confidence: float, keys: dict[str, str]
) -> Iterator[Measurement]:
    expected = float(tally.token_sums(candidate, case)[0, :, 0].sum())
    for name, quantiles in (("kl", KL_QUANTILES), ("dp", DP_QUANTILES)):
        values, documents = tally.values(candidate, case, name)
        whole = len(values) == expected
        if not len(values):
            continue
        found = clustered_quantiles(values, documents, list(quantiles.values()), confidence=confidence)
        for metric, quantile in zip(quantiles, found, strict=True):
            reason = None if whole else f"{round(expected) - len(values)} values are not a number"
            broken = quantile if whole else replace(quantile, low=None, high=None, reason=reason)
            yield measurement(metric, broken, keys)
