"""From a tally's sums to what happened within layers: routing that flipped, blocks and hidden states that moved.

    expert_set_changed      share of tokens whose set of chosen experts differs from the reference's
    first_expert_changed    share whose expert of the highest score does
    block_change            mean over tokens of |block output - reference's| / |reference's|
    flips_weighted          the same sum over tokens whose experts changed, divided by all tokens

`flips_weighted` weighs a flip by what it does: one between two experts that answer alike counts little. It is divided
by all tokens and not by the sum of changes, so that candidates can be compared; flips_weighted / block_change is the
share of a candidate's change that stands at flipped tokens. Cases are those of `scores`: without one, a measurement is
of the candidate as it would be served, each layer on what its own layers before made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..stats import clustered_quantiles, ratio_of_sums, share_of_sums
from .statistics import Measurement, Sums, measurement
from .tally import ACCUMULATED, LAYER_FIELDS, OWN, ROUTER, TEACHER_FORCED, Tally

# What is 0 in a case whatever the candidate: a whole layer on the reference's state has no error entering, and so on.
_ALWAYS_ZERO = {
    OWN: {"hidden_error_in"},
    ROUTER: {"hidden_error_in", "hidden_error_out", "block_change", "flips_weighted"},
    TEACHER_FORCED: {"expert_set_changed", "first_expert_changed", "flips_weighted"},
}


def layer_measurements(tally: Tally, candidate: int, confidence: float) -> Iterator[Measurement]:
    """Routing and hidden-state error: by layer, and over all layers by group, in each case.

    Over all layers an observation is a token at a layer, a hidden-state error the mean over layers.
    """
    for case in tally.cases("routing", candidate):
        keys = {} if case == ACCUMULATED else {"case": case}
        for group in tally.grouping.groups:
            sums = tally.grouping.sums(tally.routing_sums(candidate, case), group)
            if sums[:, 0].any():
                yield from _told(sums, confidence, {**group.keys(), **keys})
        for layer, sums in tally.layer_sums(candidate, case).items():
            if sums[:, 0].any():
                yield from _told(sums, confidence, {"layer": layer, **keys})


def margin_measurements(tally: Tally, confidence: float) -> Iterator[Measurement]:
    """The reference router's margin by layer: mean, and the percentiles that say how many tokens are near a flip."""
    for layer, (values, documents) in tally.margins().items():
        count = np.bincount(documents, minlength=tally.grouping.clusters)
        mean = ratio_of_sums(np.bincount(documents, values, minlength=len(count)), count, confidence=confidence)
        yield measurement("router_margin", mean, {"layer": layer})
        quantiles = clustered_quantiles(values, documents, (0.01, 0.1, 0.5), confidence=confidence)
        for name, found in zip(("p1", "p10", "median"), quantiles, strict=True):
            yield measurement(f"router_margin_{name}", found, {"layer": layer})


def _told(sums: Sums, confidence: float, keys: dict[str, Any]) -> Iterator[Measurement]:
    skipped = _ALWAYS_ZERO.get(keys.get("case", ""), set())
    yield from (m for m in _layer_figures(sums, confidence, keys) if m["metric"] not in skipped)


def _layer_figures(sums: Sums, confidence: float, keys: dict[str, Any]) -> Iterator[Measurement]:
    column = {name: np.asarray(sums[:, i]) for i, name in enumerate(LAYER_FIELDS)}
    for metric, count in (("error_in", "n"), ("error_out", "n"), ("block_change", "block_n")):
        if column[count].any():
            name = metric if metric == "block_change" else f"hidden_{metric}"
            yield measurement(name, ratio_of_sums(column[metric], column[count], confidence=confidence), keys)
    if column["block_n"].any():
        flips = ratio_of_sums(column["flipped_change"], column["block_n"], confidence=confidence)
        yield measurement("flips_weighted", flips, keys)
    for metric, hits, count in (
        ("expert_set_changed", "set_changed", "routed"),
        ("first_expert_changed", "first_changed", "first_seen"),
    ):
        if column[count].any():
            yield measurement(metric, share_of_sums(column[hits], column[count], confidence=confidence), keys)
