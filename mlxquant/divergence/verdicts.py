"""Candidates beside each other and beside the noise floor, paired by document, against a margin set beforehand.

Candidates were run on the same tokens, so the difference of two is taken token by token, and what makes a text hard
for both drops out. Without a margin, enough data resolve any difference, however small; so the question is whether it
is larger than what matters, which must be said before one sees it. The default, 0.001 nats a token, is a change in
probability of one in a thousand; it is in every record.

    above the noise floor     KL exceeds the floor's by more than the margin: the interval lies above it
    within the noise floor    it does not: the interval ends below the margin
    not resolved              the interval holds the margin, or there is none

The noise floor is the reference itself with hidden states rounded to bf16 between layers, which serving in bf16 costs
whatever the weights are. What KL cannot do: it rejects bad quantizations, it does not rank near-lossless ones. Over all
quantizations of a model its rank correlation with benchmark scores was -0.72 and -0.86, among those close to the
reference 0.00 and -0.24 (Nikolić et al. 2026, arXiv:2606.19558).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..records.metrics import ABOVE, ALIKE, BETTER, OPEN, WITHIN, WORSE
from ..stats import Interval, ratio_of_sums, samples_needed
from .grouping import ALL
from .statistics import Measurement, measurement
from .tally import ACCUMULATED, TOKEN_FIELDS, Tally

DEFAULT_MARGIN = 0.001
_N, _Q, _KL = (TOKEN_FIELDS.index(name) for name in ("n", "q", "kl"))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one candidate is beside another (`against`): a word, and the difference in mean KL that it rests on."""

    against: str
    verdict: str
    margin_nats: float
    difference: Interval
    documents_needed: int | None

    def as_dict(self) -> dict[str, Any]:
        """The verdict in a record; `documents_needed` more would settle what is not resolved."""
        found = {"against": self.against, "verdict": self.verdict, "margin_nats": self.margin_nats}
        found |= {"kl_nats_difference": self.difference.as_dict()}
        return found | ({"documents_needed": self.documents_needed} if self.verdict == OPEN else {})


def against_floor(tally: Tally, candidate: int, floor: int, name: str, margin: float, confidence: float) -> Verdict:
    """Judge a candidate against the noise floor, which is candidate `floor` by the name of `name`."""
    found = kl_difference(tally, candidate, floor, confidence)
    word = OPEN
    if found.low is not None and found.high is not None:
        word = ABOVE if found.low > margin else WITHIN if found.high <= margin else OPEN
    return Verdict(name, word, margin, found, samples_needed(found, margin) if word == OPEN else None)


def against_each_other(
    tally: Tally, candidate: int, other: int, name: str, margin: float, confidence: float
) -> Verdict:
    """Judge a candidate against another: better, worse, alike within the margin, or not resolved."""
    found = kl_difference(tally, candidate, other, confidence)
    word = OPEN
    if found.low is not None and found.high is not None:
        if found.low > margin or found.high < -margin:
            word = WORSE if found.low > margin else BETTER
        elif -margin <= found.low and found.high <= margin:
            word = ALIKE
    nearest = margin if found.estimate > 0 else -margin
    return Verdict(name, word, margin, found, samples_needed(found, nearest) if word == OPEN else None)


def kl_difference(tally: Tally, candidate: int, other: int, confidence: float) -> Interval:
    """Mean KL of a candidate less that of another, paired by token, clustered by document."""
    a, b = (_sums(tally, c) for c in (candidate, other))
    return ratio_of_sums(a[:, _KL] - b[:, _KL], a[:, _N], confidence=confidence)


def difference_measurements(
    tally: Tally, candidate: int, names: Sequence[str], confidence: float
) -> Iterator[Measurement]:
    """How a candidate differs from each other one, in KL and in -log p of the correct token."""
    mine = _sums(tally, candidate)
    for other, name in enumerate(names):
        if other != candidate:
            theirs, keys = _sums(tally, other), {"against": name}
            yield measurement("kl_nats_difference", kl_difference(tally, candidate, other, confidence), keys)
            found = ratio_of_sums(mine[:, _Q] - theirs[:, _Q], mine[:, _N], confidence=confidence)
            yield measurement("log_perplexity_difference", found, keys)


def _sums(tally: Tally, candidate: int) -> Any:
    return tally.grouping.sums(tally.token_sums(candidate, ACCUMULATED), ALL)
