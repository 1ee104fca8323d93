"""From a tally's sums to measurements: what a candidate's figures are, each with an interval clustered by document.

The KL statistics are llama.cpp's, by its formulas (tools/perplexity/perplexity.cpp, `kl_divergence`, ggml-org/llama.cpp
@050fc7f3), under names that a record can hold; `metrics` has its own. `se_iid` is its uncertainty, which takes tokens
as independent, beside ours, which does not.

    log_perplexity_ratio        mean(q - r), q and r the candidate's and reference's -log p of the correct token
    perplexity_ratio            exp of it; perplexity = exp(mean(q)); perplexity_difference = exp(mean q) - exp(mean r)
    log_perplexity_correlation  the correlation of q and r over tokens
    kl_nats                     mean of D(reference || candidate); of 20 to 499 documents by bootstrap-t, being skewed
    kl_above_0_1_nats           share of tokens where it is above 0.1 nat (0.01, 1): what a mean hides
    dp_mean, dp_rms             mean, root mean square of p - p_reference, p being that of the correct token
    same_top                    share of tokens at which both hold the same token most likely

A measurement is of the candidate as it would be served, unless `case` says otherwise (cases are those of
`stream.scores`). Identical candidates differ from the reference nowhere; then an interval of a mean has no width, but
an interval of a share has one, since what is not seen may still be.

What happened within layers: routing that flipped, blocks and hidden states that moved.

    expert_set_changed      share of tokens whose set of chosen experts differs from the reference's
    first_expert_changed    share whose expert of the highest score does
    block_change            mean over tokens of |block output - reference's| / |reference's|
    flips_weighted          the same sum over tokens whose experts changed, divided by all tokens

`flips_weighted` weighs a flip by what it does: one between two experts that answer alike counts little. It is divided
by all tokens and not by the sum of changes, so that candidates can be compared; flips_weighted / block_change is the
share of a candidate's change that stands at flipped tokens.

Verdicts: candidates beside each other and beside the noise floor, paired by document, against a margin set beforehand.
Candidates were run on the same tokens, so the difference of two is taken token by token, and what makes a text hard
for both drops out. Without a margin, enough data resolve any difference, however small; so the question is whether it
is larger than what matters, which must be said before one sees it. The default, 0.001 nats a token, is a change in
probability of one in a thousand; it is in every record.

    above the noise floor     KL exceeds the floor's by more than the margin: the interval lies above it
    within the noise floor    it does not: the interval ends below the margin
    not resolved              the interval includes the margin, or there is none

The noise floor is the reference itself computed in bf16, which serving costs whatever the weights are (see
`stream.floor`). What KL cannot do: it rejects bad quantizations, it does not rank near-lossless ones. Over all
quantizations of a model its rank correlation with benchmark scores was -0.72 and -0.86, among those close to the
reference 0.00 and -0.24 (Nikolić et al. 2026, arXiv:2606.19558).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records.measurements import as_measurement
from ..records.metrics import ABOVE, ALIKE, BETTER, DP_QUANTILES, KL_ABOVE, KL_QUANTILES, OPEN, WITHIN, WORSE
from ..stats import (
    OF_TOKENS,
    Interval,
    Planned,
    clustered_quantiles,
    linearized,
    planned,
    ratio_of_sums,
    share_of_sums,
    skewed_ratio,
)
from .tally import ACCUMULATED, ALL, LAYER_FIELDS, OWN, ROUTER, TEACHER_FORCED, TOKEN_FIELDS, SliceGroup, Sums, Tally

Measurement = dict[str, Any]
_N, _Q, _KL = (TOKEN_FIELDS.index(name) for name in ("n", "q", "kl"))

# --- tokens ---


def token_measurements(tally: Tally, candidate: int, confidence: float) -> Iterator[Measurement]:
    """Everything over tokens: means by group, percentiles of all; the teacher-forced pass too where it was run."""
    for case in tally.cases("tokens", candidate):
        keys: dict[str, Any] = {} if case == ACCUMULATED else {"case": case}
        for group in tally.grouping.groups:
            sums = tally.grouping.sums(tally.token_sums(candidate, case), group)
            if sums[:, 0].any():
                yield from _means(sums, group, confidence, keys)
                values, documents = tally.values(candidate, case, "kl", group)
                if len(values) == float(sums[:, 0].sum()):  # means hide collapses; what is rare shows in the tail
                    yield from _above(values, documents, sums, group, confidence, keys)
                    if group != ALL:
                        p99 = [KL_QUANTILES["kl_p99_nats"]]
                        tail = clustered_quantiles(values, documents, p99, confidence=confidence)
                        yield as_measurement("kl_p99_nats", tail[0], **group.keys(), **keys)
        yield from _percentiles(tally, candidate, case, confidence, keys)


def _above(
    values: NDArray[np.float64],
    documents: NDArray[np.intp],
    sums: Sums,
    group: SliceGroup,
    confidence: float,
    keys: dict[str, Any],
) -> Iterator[Measurement]:
    """The shares of tokens whose KL is above a limit; `values` and the cluster of each are `(tokens,)`."""
    for metric, limit in KL_ABOVE.items():
        hits = np.bincount(documents[values > limit], minlength=len(sums))
        share = share_of_sums(hits, sums[:, _N], correlation=OF_TOKENS, confidence=confidence)
        yield as_measurement(metric, share, **group.keys(), **keys)


def reference_measurements(tally: Tally, confidence: float) -> Iterator[Measurement]:
    """The reference's own perplexity, from the first candidate's tokens."""
    for group in tally.grouping.groups:
        sums = tally.grouping.sums(tally.token_sums(0, ACCUMULATED), group)
        if sums[:, 0].any():
            perplexity, iid = _perplexity(sums, "r", confidence)
            yield as_measurement("perplexity", perplexity, se_iid=iid, **group.keys())


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
            damage = skewed_ratio(own[:, _KL] - forced[:, _KL], own[:, 0], confidence=confidence)
            yield as_measurement("kl_through_routing_nats", damage, **group.keys())


def _column(sums: Sums, field: str) -> Sums:
    return np.asarray(sums[:, TOKEN_FIELDS.index(field)])


def _means(sums: Sums, group: SliceGroup, confidence: float, case: dict[str, Any]) -> Iterator[Measurement]:
    keys: dict[str, Any] = {**group.keys(), **case}
    n, q, r, total = (_column(sums, "n"), _column(sums, "q"), _column(sums, "r"), float(sums[:, 0].sum()))
    perplexity, iid = _perplexity(sums, "q", confidence)
    yield as_measurement("perplexity", perplexity, se_iid=iid, **keys)
    ratio = ratio_of_sums(q - r, n, confidence=confidence)
    iid = _iid((q - r).sum(), (_column(sums, "qq") + _column(sums, "rr") - 2 * _column(sums, "rq")).sum(), total)
    yield as_measurement("log_perplexity_ratio", ratio, se_iid=iid, **keys)
    grown = _exp(ratio)
    yield as_measurement("perplexity_ratio", grown, se_iid=iid * grown.estimate, **keys)
    kl = skewed_ratio(_column(sums, "kl"), n, confidence=confidence)
    yield as_measurement("kl_nats", kl, se_iid=_iid(*_totals(sums, "kl", "kl2"), total), **keys)
    dp = ratio_of_sums(_column(sums, "dp"), n, confidence=confidence)
    yield as_measurement("dp_mean", dp, se_iid=_iid(*_totals(sums, "dp", "dp2"), total), **keys)
    rms, squared = _root(ratio_of_sums(_column(sums, "dp2"), n, confidence=confidence)), _totals(sums, "dp2", "dp4")
    iid = _iid(*squared, total) / (2 * rms.estimate) if rms.estimate else 0.0
    yield as_measurement("dp_rms", rms, se_iid=iid, **keys)
    same = share_of_sums(_column(sums, "same_top"), n, correlation=OF_TOKENS, confidence=confidence)
    iid = math.sqrt(same.estimate * (1 - same.estimate) / (total - 1)) if total > 1 else math.nan
    yield as_measurement("same_top", same, se_iid=iid, **keys)
    if group == ALL:
        yield from _joint(sums, confidence, case)


def _joint(sums: Sums, confidence: float, keys: dict[str, Any]) -> Iterator[Measurement]:
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
    yield as_measurement("perplexity_difference", difference, se_iid=iid, **keys)
    if var_q <= 0 or var_r <= 0:
        return
    correlation = _correlation(sums, (q, r), (var_q, var_r, cov), confidence)
    yield as_measurement("log_perplexity_correlation", correlation, **keys)


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
    z = linearized(math.atanh(correlation), scores, n, n=round(total), confidence=confidence)
    return z.mapped("tanh", 1 - correlation**2)


def _exactly(value: float, sums: Sums) -> Interval:
    why = "equal at every token"
    return Interval(value, None, None, None, round(float(sums[:, 0].sum())), int((sums[:, 0] > 0).sum()), reason=why)


def _perplexity(sums: Sums, which: str, confidence: float) -> tuple[Interval, float]:
    """Perplexity of "q" or "r", and llama.cpp's uncertainty of it."""
    perplexity = _exp(ratio_of_sums(_column(sums, which), _column(sums, "n"), confidence=confidence))
    return perplexity, perplexity.estimate * _iid(*_totals(sums, which, which * 2), float(sums[:, 0].sum()))


def _exp(mean: Interval) -> Interval:
    """The exponential of a mean log; a mean beyond what floats hold stays infinite."""
    return mean.mapped("exp", math.exp(min(mean.estimate, 700.0)))


def _root(mean: Interval) -> Interval:
    slope = 0.5 / math.sqrt(mean.estimate) if mean.estimate > 0 else 0.0
    return mean.mapped("sqrt", slope)


def _totals(sums: Sums, first: str, second: str) -> tuple[float, float]:
    return float(_column(sums, first).sum()), float(_column(sums, second).sum())


def _iid(total: float, squares: float, n: float) -> float:
    """llama.cpp's `mean_and_uncertainty`: ``sqrt((mean(x²) - mean(x)²) / (n - 1))``."""
    return math.sqrt(max(squares / n - (total / n) ** 2, 0.0) / (n - 1)) if n > 1 else math.nan


def _percentiles(
    tally: Tally, candidate: int, case: str, confidence: float, keys: dict[str, Any]
) -> Iterator[Measurement]:
    expected = float(tally.token_sums(candidate, case)[0, :, 0].sum())
    for name, quantiles in (("kl", KL_QUANTILES), ("dp", DP_QUANTILES)):
        values, documents = tally.values(candidate, case, name)
        whole = len(values) == expected
        if not len(values):
            continue
        intervals = clustered_quantiles(values, documents, list(quantiles.values()), confidence=confidence)
        for metric, quantile in zip(quantiles, intervals, strict=True):
            reason = None if whole else f"{round(expected) - len(values)} values are not a number"
            interval = quantile if whole else replace(quantile, low=None, high=None, reason=reason)
            yield as_measurement(metric, interval, **keys)


# --- layers ---


# What is 0 in a case whatever the candidate: a whole layer on the reference's state has no error entering, and so on.
_ALWAYS_ZERO = {
    OWN: {"hidden_error_in"},
    ROUTER: {"hidden_error_in", "hidden_error_out", "block_change", "flips_weighted"},
    TEACHER_FORCED: {"expert_set_changed", "first_expert_changed", "flips_weighted"},
}


def layer_measurements(
    tally: Tally, candidate: int, confidence: float, *, kept_routers: bool = False
) -> Iterator[Measurement]:
    """Routing and hidden-state error: by layer, and over all layers by group, in each case.

    Over all layers an observation is a token at a layer, a hidden-state error the mean over layers. A router that is
    kept chooses as the reference's on the same input: its flips are 0 by construction and have no interval.
    """
    for measured in _of_layers(tally, candidate, confidence):
        if kept_routers and measured.get("case") == ROUTER and measured["estimate"] == 0:
            measured |= {"low": None, "high": None, "se": None, "reason": "0 by construction: the router is kept"}
            measured.pop("df", None)
        yield measured


def _of_layers(tally: Tally, candidate: int, confidence: float) -> Iterator[Measurement]:
    for case in tally.cases("routing", candidate):
        keys: dict[str, Any] = {} if case == ACCUMULATED else {"case": case}
        for group in tally.grouping.groups:
            sums = tally.grouping.sums(tally.routing_sums(candidate, case), group)
            if sums[:, 0].any():
                yield from _layer_measurements(sums, confidence, {**group.keys(), **keys})
        for layer, sums in tally.layer_sums(candidate, case).items():
            if sums[:, 0].any():
                yield from _layer_measurements(sums, confidence, {"layer": layer, **keys})


def margin_measurements(tally: Tally, confidence: float) -> Iterator[Measurement]:
    """The reference router's margin by layer: mean, and the percentiles that say how many tokens are near a flip."""
    for layer, (values, documents) in tally.margins().items():
        count = np.bincount(documents, minlength=tally.grouping.clusters)
        mean = ratio_of_sums(np.bincount(documents, values, minlength=len(count)), count, confidence=confidence)
        yield as_measurement("router_margin", mean, layer=layer)
        quantiles = clustered_quantiles(values, documents, (0.01, 0.1, 0.5), confidence=confidence)
        for name, quantile in zip(("p1", "p10", "median"), quantiles, strict=True):
            yield as_measurement(f"router_margin_{name}", quantile, layer=layer)


def _layer_measurements(sums: Sums, confidence: float, keys: dict[str, Any]) -> Iterator[Measurement]:
    """All figures of a layer, or of all layers, but those that its case makes 0."""
    skipped = _ALWAYS_ZERO.get(keys.get("case", ""), set())
    yield from (m for m in _layer_figures(sums, confidence, keys) if m["metric"] not in skipped)


def _layer_figures(sums: Sums, confidence: float, keys: dict[str, Any]) -> Iterator[Measurement]:
    column = {name: np.asarray(sums[:, i]) for i, name in enumerate(LAYER_FIELDS)}
    for metric, count in (("error_in", "n"), ("error_out", "n"), ("block_change", "block_n")):
        if column[count].any():
            name = metric if metric == "block_change" else f"hidden_{metric}"
            yield as_measurement(name, ratio_of_sums(column[metric], column[count], confidence=confidence), **keys)
    if column["block_n"].any():
        flips = ratio_of_sums(column["flipped_change"], column["block_n"], confidence=confidence)
        yield as_measurement("flips_weighted", flips, **keys)
    for metric, hits, count in (
        ("expert_set_changed", "set_changed", "routed"),
        ("first_expert_changed", "first_changed", "first_seen"),
    ):
        if column[count].any():
            share = share_of_sums(column[hits], column[count], correlation=OF_TOKENS, confidence=confidence)
            yield as_measurement(metric, share, **keys)


# --- verdicts ---


DEFAULT_MARGIN = 0.001


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one candidate is beside another (`against`): a word, and the difference in mean KL that it rests on."""

    against: str
    verdict: str
    margin_nats: float
    difference: Interval
    plan: Planned | None

    def as_dict(self) -> dict[str, Any]:
        """The verdict in a record; `plan` says how many documents settle what is not resolved, if the two are alike."""
        plan = {"plan": None if self.plan is None else self.plan.as_dict()} if self.verdict == OPEN else {}
        return {
            "against": self.against,
            "verdict": self.verdict,
            "margin_nats": self.margin_nats,
            "kl_nats_difference": self.difference.as_dict(),
            **plan,
        }


def against_floor(tally: Tally, candidate: int, floor: int, name: str, margin: float, confidence: float) -> Verdict:
    """Judge a candidate against the noise floor, which is candidate `floor` by the name of `name`."""
    difference = kl_difference(tally, candidate, floor, confidence)
    word = OPEN
    if difference.low is not None and difference.high is not None:
        word = ABOVE if difference.low > margin else WITHIN if difference.high <= margin else OPEN
    return Verdict(name, word, margin, difference, planned(difference, margin, 0.0) if word == OPEN else None)


def against_each_other(
    tally: Tally, candidate: int, other: int, name: str, margin: float, confidence: float
) -> Verdict:
    """Judge a candidate against another: better, worse, alike within the margin, or not resolved."""
    difference = kl_difference(tally, candidate, other, confidence)
    word = OPEN
    if difference.low is not None and difference.high is not None:
        if difference.low > margin or difference.high < -margin:
            word = WORSE if difference.low > margin else BETTER
        elif -margin <= difference.low and difference.high <= margin:
            word = ALIKE
    return Verdict(name, word, margin, difference, planned(difference, margin, 0.0) if word == OPEN else None)


def kl_difference(tally: Tally, candidate: int, other: int, confidence: float) -> Interval:
    """Mean KL of a candidate less that of another, paired by token, clustered by document."""
    a, b = (_sums(tally, c) for c in (candidate, other))
    return skewed_ratio(a[:, _KL] - b[:, _KL], a[:, _N], confidence=confidence)


def difference_measurements(
    tally: Tally, candidate: int, names: Sequence[str], confidence: float
) -> Iterator[Measurement]:
    """How a candidate differs from each other one, in KL and in -log p of the correct token."""
    a = _sums(tally, candidate)
    for other, name in enumerate(names):
        if other != candidate:
            b = _sums(tally, other)
            yield as_measurement("kl_nats_difference", kl_difference(tally, candidate, other, confidence), against=name)
            surprise = ratio_of_sums(a[:, _Q] - b[:, _Q], a[:, _N], confidence=confidence)
            yield as_measurement("log_perplexity_difference", surprise, against=name)


def _sums(tally: Tally, candidate: int) -> Sums:
    """A candidate's sums of TOKEN_FIELDS over everything, as served: (clusters, fields)."""
    return tally.grouping.sums(tally.token_sums(candidate, ACCUMULATED), ALL)
