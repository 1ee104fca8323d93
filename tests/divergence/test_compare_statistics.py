"""What is made of a comparison's scores: held against llama.cpp's formulas and plain loops over tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from mlxquant.divergence.statistics import (
    against_each_other,
    against_floor,
    difference_measurements,
    kl_difference,
    layer_measurements,
    margin_measurements,
    reference_measurements,
    routing_damage,
    token_measurements,
)
from mlxquant.divergence.tally import ALL, SliceGroup, Tally, bucket_names, shared_tokens
from mlxquant.divergence.texts.documents import Document
from mlxquant.errors import OutputError
from mlxquant.records.metrics import ABOVE, ALIKE, BETTER, OPEN, PLACES, WITHIN, WORSE
from mlxquant.stream.scores import TokenScores
from tests.divergence.compare_tallies import LAYERS, documents, fill, filled, layer_scores, part, token_scores

Measured = dict[str, Any]


def find(measured: list[Measured], metric: str, **over: Any) -> Measured:
    found = [m for m in measured if m["metric"] == metric and all(m.get(k) == over.get(k) for k in PLACES)]
    assert len(found) == 1, (metric, over, len(found))
    return found[0]


def measured(candidate: int = 1, tally: Tally | None = None) -> list[Measured]:
    return list(token_measurements(tally or filled(), candidate, 0.95))


def all_tokens(candidate: int = 1, noise: float = 0.5) -> TokenScores:
    """Scores of all documents' tokens, one after the other."""
    found = [token_scores(i, d.tokens, noise, candidate) for i, d in enumerate(documents())]
    joined = (np.concatenate([getattr(s, f.name) for s in found]) for f in dataclasses.fields(TokenScores))
    return TokenScores(*joined)


def llama(candidate: int = 1, noise: float = 0.5) -> dict[str, tuple[float, float]]:
    """llama.cpp's statistics and uncertainties, by the text of its kl_divergence, from single tokens."""
    s = all_tokens(candidate, noise)
    n, q, r, kl = len(s.kl), s.nll, s.nll_reference, s.kl
    dp = s.p.astype(np.float64) - s.p_reference

    def uncertain(x: np.ndarray) -> tuple[float, float]:
        return float(x.mean()), float(np.sqrt(((x**2).mean() - x.mean() ** 2) / (n - 1)))

    def covariance(x: np.ndarray, y: np.ndarray) -> float:
        return float(((x * y).mean() - x.mean() * y.mean()) / (n - 1))

    (mq, uq), (mr, ur), cov = uncertain(q), uncertain(r), covariance(q, r)
    ratio = mq - mr, float(np.sqrt(uq**2 + ur**2 - 2 * cov))
    pq, pr = np.exp(mq), np.exp(mr)
    square = uncertain(dp**2)
    same = float(s.same_top.mean())
    return {
        "perplexity": (pq, pq * uq),
        "log_perplexity_correlation": (cov / (uq * ur), np.nan),
        "log_perplexity_ratio": ratio,
        "perplexity_ratio": (np.exp(ratio[0]), np.exp(ratio[0]) * ratio[1]),
        "perplexity_difference": (pq - pr, np.sqrt((pq * uq) ** 2 + (pr * ur) ** 2 - 2 * pq * pr * cov)),
        "kl_nats": uncertain(kl),
        "dp_mean": uncertain(dp),
        "dp_rms": (np.sqrt(square[0]), 0.5 / np.sqrt(square[0]) * square[1]),
        "same_top": (same, np.sqrt(same * (1 - same) / (n - 1))),
    }


# llama.cpp's statistics


@pytest.mark.parametrize("metric", llama())
def test_a_statistic_and_its_iid_error_are_llama_cpps(metric):
    figure, (value, error) = find(measured(), metric), llama()[metric]
    assert figure["estimate"] == pytest.approx(value, rel=1e-6)
    if not np.isnan(error):
        assert figure["se_iid"] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("metric", "q"), [("kl_min_nats", 0), ("kl_p1_nats", 0.01), ("kl_median_nats", 0.5), ("kl_p99_nats", 0.99),
                      ("kl_p99_9_nats", 0.999), ("kl_max_nats", 1)],
)  # fmt: skip
def test_percentiles_of_kl_are_those_of_single_tokens(metric, q):
    assert find(measured(), metric)["estimate"] == pytest.approx(np.quantile(all_tokens().kl, q), rel=1e-5)


@pytest.mark.parametrize(("metric", "q"), [("dp_p0_1", 0.001), ("dp_p25", 0.25), ("dp_median", 0.5), ("dp_p95", 0.95)])
def test_percentiles_of_the_change_in_probability_are_those_of_single_tokens(metric, q):
    s = all_tokens()
    values = s.p.astype(np.float64) - s.p_reference
    assert find(measured(), metric)["estimate"] == pytest.approx(np.quantile(values, q), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "limit"), [("kl_above_0_01_nats", 0.01), ("kl_above_0_1_nats", 0.1), ("kl_above_1_nats", 1)]
)
def test_a_share_of_tokens_above_a_kl_is_that_of_single_tokens(name, limit):
    share = find(measured(), name)
    assert share["estimate"] == pytest.approx((all_tokens().kl > limit).mean(), rel=1e-6)
    assert 0 < share["low"] < share["estimate"] <= share["high"]


def test_documents_that_differ_widen_the_interval_beyond_the_iid_one():
    """Odd documents have twice the noise: tokens of one document are not independent."""
    figure = find(measured(), "kl_nats")
    assert figure["se"] > 2 * figure["se_iid"]
    assert figure["low"] < figure["estimate"] < figure["high"]
    assert (figure["n"], figure["clusters"]) == (len(all_tokens().kl), len(documents()))


def test_the_reference_has_a_perplexity_of_its_own():
    figure = find(list(reference_measurements(filled(), 0.95)), "perplexity")
    assert figure["estimate"] == pytest.approx(np.exp(all_tokens().nll_reference.mean()))


def test_every_figure_has_an_interval_or_says_why_not():
    for m in [*measured(), *layer_measurements(filled(), 1, 0.95)]:
        assert (m["low"] is None) == (m["high"] is None)
        assert m["low"] is not None or m["reason"]
        assert m["low"] is None or m["low"] <= m["estimate"] * (1 + 1e-6) + 1e-12


# Groups


def test_buckets_are_named_by_their_first_and_last_number():
    assert bucket_names((256, 1024)) == ("1-256", "257-1024", "1025+")
    assert bucket_names((1, 2, 4)) == ("1", "2", "3-4", "5+")


def mean_over(mask_of: Any, noise: float = 0.5) -> tuple[float, int]:
    values = np.concatenate(
        [
            token_scores(i, d.tokens, noise, 1).kl[mask_of(d, np.arange(1, len(d.tokens)))]
            for i, d in enumerate(documents())
        ]
    )
    return float(values.mean()), len(values)


@pytest.mark.parametrize(
    ("over", "mask"),
    [
        ({"depth": "1-256"}, lambda d, t: t <= 256),
        ({"depth": "257-1024"}, lambda d, t: t > 256),
        ({"turn": "1"}, lambda d, t: d.turns[t] == 1),
        ({"turn": "3-4"}, lambda d, t: (d.turns[t] == 3) | (d.turns[t] == 4)),
        ({"slice": "json"}, lambda d, t: np.full(len(t), "json" in d.slices)),
        ({"slice": "in:json"}, lambda d, t: d.spans["in:json"][t] if d.spans else np.zeros(len(t), bool)),
    ],
)  # fmt: skip
def test_a_group_holds_the_tokens_that_are_predicted_in_it(over, mask):
    figure, (mean, n) = find(measured(), "kl_nats", **over), mean_over(mask)
    assert (figure["estimate"], figure["n"]) == (pytest.approx(mean, rel=1e-6), n)


@pytest.mark.parametrize("over", [{"slice": "json"}, {"slice": "in:json"}, {"depth": "1-256"}, {"turn": "2"}])
def test_a_groups_tail_is_that_of_its_tokens(over):
    def inside(d, t):
        if over.get("slice") == "in:json":
            return d.spans["in:json"][t] if d.spans else np.zeros(len(t), bool)
        if "slice" in over:
            return np.full(len(t), "json" in d.slices)
        return t <= 256 if "depth" in over else d.turns[t] == 2

    values = np.concatenate(
        [
            token_scores(i, d.tokens, 0.5, 1).kl[inside(d, np.arange(1, len(d.tokens)))]
            for i, d in enumerate(documents())
        ]
    )
    assert find(measured(), "kl_p99_nats", **over)["estimate"] == pytest.approx(np.quantile(values, 0.99), rel=1e-5)


def test_a_group_that_holds_nothing_is_not_reported():
    assert not any(m.get("depth") == "1025-4096" for m in measured())


def test_a_slice_of_few_documents_has_no_interval():
    few = [dataclasses.replace(d, slices=("rare",) if i < 3 else ()) for i, d in enumerate(documents())]
    tally = Tally(few)
    fill(tally, few, (0.1,), forced=False)
    figure = find(measured(0, tally), "kl_nats", slice="rare")
    assert (figure["low"], figure["clusters"]) == (None, 3)
    assert figure["reason"] == "3 clusters; an interval needs at least 5"


def test_copies_of_a_document_say_no_more_than_one():
    """Ten copies of each: the same interval as of one, where documents in their own right would narrow it."""
    few = [d for d in documents() if len(d.tokens) > 5][:6]
    copied = [dataclasses.replace(d, id=f"{d.id}-{i}") for d in few for i in range(10)]
    one, ten = Tally(few), Tally(copied)
    for i, d in enumerate(few):
        for tally, places in ((one, [i]), (ten, range(10 * i, 10 * i + 10))):
            for place in places:
                tally.tokens(0, "accumulated", place, 0, token_scores(i, d.tokens, 0.5))
                tally.layer(0, 0, "accumulated", place, 0, layer_scores(i, d.tokens, 0, 0.5))
    # a median's ends are values of documents, and step from one to the next
    for metric, step in (("kl_nats", 0.05), ("kl_median_nats", 0.3), ("same_top", 0.05)):
        a, b = find(measured(0, one), metric), find(measured(0, ten), metric)
        assert (b["clusters"], b["n"]) == (6, 10 * a["n"])
        ends = tuple(pytest.approx(a[end], rel=step, abs=0.01) for end in ("low", "high"))
        assert (b["low"], b["high"]) == ends
    layers = [find(list(layer_measurements(t, 0, 0.95)), "expert_set_changed", layer=0) for t in (one, ten)]
    assert layers[1]["clusters"] == 6 and layers[1]["high"] == pytest.approx(layers[0]["high"], rel=0.05)


def test_tokens_that_documents_begin_with_alike_are_counted():
    def document(*tokens: int) -> Document:
        n = len(tokens)
        return Document("x", np.array(tokens, np.int32), np.zeros(n, np.int16), (), {})

    texts = [document(1, 2, 3, 4), document(1, 2, 9), document(5, 6), document(1, 2, 3, 7), document(5, 6)]
    assert shared_tokens(texts) == 2 + 3


def test_the_second_half_is_llama_cpps():
    tally = Tally(documents(), second_half=True)
    fill(tally, documents(), (0.5,), forced=False)
    figure = find(measured(0, tally), "kl_nats")
    halves = [token_scores(i, d.tokens, 0.5, 0).kl[len(d.tokens) // 2 :] for i, d in enumerate(documents())]
    assert figure["estimate"] == pytest.approx(np.concatenate(halves).mean())
    # n_ctx - 1 - n_ctx / 2 of each chunk
    assert figure["n"] == sum(len(d.tokens) - 1 - len(d.tokens) // 2 for d in documents())


# Chunks, resuming, ranks


def same(a: Tally, b: Tally) -> bool:
    x, y = a.state(), b.state()
    return x.keys() == y.keys() and all(np.array_equal(x[k], y[k], equal_nan=True) for k in x)


def test_chunks_give_what_the_whole_gives():
    chunked = Tally(documents())
    for i, d in enumerate(documents()):
        scores = token_scores(i, d.tokens, 0.5, 1)
        for start in range(0, len(scores.kl), 64):
            chunked.tokens(0, "accumulated", i, start, part(scores, start, start + 64))
    for over in ({}, {"depth": "257-1024"}, {"turn": "3-4"}, {"slice": "in:json"}):
        whole, figure = find(measured(), "kl_nats", **over), find(measured(0, chunked), "kl_nats", **over)
        assert [figure[k] for k in ("estimate", "low", "high", "n")] == pytest.approx(
            [whole[k] for k in ("estimate", "low", "high", "n")]
        )


@pytest.mark.parametrize("second_half", [False, True])
def test_a_resumed_pass_gives_the_same_to_the_last_bit(second_half):
    through, resumed = (Tally(documents(), second_half=second_half) for _ in range(2))
    half = len(documents()) // 2
    for tally in (through, resumed):
        fill(tally, documents(), (0.1, 0.5), only=range(half))
        if tally is resumed:
            kept = {name: array.copy() for name, array in tally.state().items()}
            fill(tally, documents(), (0.1, 0.5), only=range(half, half + 2))  # lost with the process
            resumed = Tally(documents(), second_half=second_half)
            resumed.restore(kept)
    for tally in (through, resumed):
        fill(tally, documents(), (0.1, 0.5), only=range(half, len(documents())))
    assert same(through, resumed)


def test_ranks_merged_give_the_same_to_the_last_bit():
    ranks = [Tally(documents()) for _ in range(3)]
    for r, tally in enumerate(ranks):
        fill(tally, documents(), (0.1, 0.5, 0.02), only=range(r, len(documents()), 3))
    merged = Tally(documents())
    merged.merge([tally.state() for tally in ranks])
    assert same(merged, filled())


def test_a_rank_without_documents_changes_nothing():
    merged = Tally(documents())
    merged.merge([filled().state(), Tally(documents()).state()])
    assert same(merged, filled())


def test_a_state_of_other_documents_is_refused():
    with pytest.raises(ValueError, match="state of another comparison"):
        Tally(documents(7)).restore(filled().state())


def test_a_state_of_which_other_tokens_were_scored_is_refused_with_what_to_do():
    halves = Tally(documents(), second_half=True)
    with pytest.raises(OutputError, match="begun with all tokens scored; go on in the same way, or give --fresh"):
        halves.restore(filled().state())
    with pytest.raises(OutputError, match="begun with --second-half"):
        Tally(documents()).restore(halves.state())


# Layers and routing


def routed(case_noise: float, mask: Any = None) -> dict[str, float]:
    """Shares over all layers that route, from single tokens."""
    flips, first, weighted, n = 0, 0, 0.0, 0
    for i, d in enumerate(documents()):
        for layer in range(LAYERS - 1):
            s = layer_scores(i, d.tokens, layer, case_noise, 1)
            assert s.routing is not None and s.routing.first_changed is not None and s.routing.block_change is not None
            kept = np.ones(len(d.tokens), bool) if mask is None else mask(d, np.arange(len(d.tokens)))
            flips += int(s.routing.set_changed[kept].sum())
            first += int(s.routing.first_changed[kept].sum())
            weighted += float((s.routing.block_change.astype(float) * s.routing.set_changed)[kept].sum())
            n += int(kept.sum())
    return {"expert_set_changed": flips / n, "first_expert_changed": first / n, "flips_weighted": weighted / n}


@pytest.mark.parametrize(("case", "noise"), [(None, 0.5), ("own", 0.125)])
def test_flips_are_shares_of_tokens_and_layers(case, noise):
    figures = list(layer_measurements(filled(), 1, 0.95))
    for metric, share in routed(noise).items():
        assert find(figures, metric, case=case)["estimate"] == pytest.approx(share, rel=1e-6)


def test_a_layers_group_holds_the_tokens_that_are_read_in_it():
    figures = list(layer_measurements(filled(), 1, 0.95))
    shares = routed(0.5, lambda d, t: d.turns[t] == 2)
    assert find(figures, "expert_set_changed", turn="2")["estimate"] == pytest.approx(shares["expert_set_changed"])
    shares = routed(0.5, lambda d, t: t + 1 > 256)
    assert find(figures, "expert_set_changed", depth="257-1024")["estimate"] == (
        pytest.approx(shares["expert_set_changed"])
    )


def test_a_layer_that_routes_nothing_has_errors_but_no_flips():
    figures = list(layer_measurements(filled(), 1, 0.95))
    assert find(figures, "hidden_error_out", layer=LAYERS - 1)["estimate"] > 0
    assert not any(m["metric"] == "expert_set_changed" and m.get("layer") == LAYERS - 1 for m in figures)


def test_what_a_case_fixes_at_zero_is_not_measured():
    figures = list(layer_measurements(filled(), 1, 0.95))
    assert not any(m["metric"] == "hidden_error_in" and m.get("case") == "own" for m in figures)


def test_flips_of_a_kept_router_are_none_by_construction_and_have_no_interval():
    tally = Tally(documents())
    fill(tally, documents(), (0.0,), forced=False)
    scores = layer_scores(0, documents()[0].tokens, 0, 0.0)
    tally.layer(0, 0, "router", 0, 0, scores)
    kept, open_ = (
        find(list(layer_measurements(tally, 0, 0.95, kept_routers=k)), "expert_set_changed", case="router", layer=0)
        for k in (True, False)
    )
    assert kept["estimate"] == open_["estimate"] == 0
    assert kept["low"] is None and "by construction" in kept["reason"]


def test_no_flip_at_all_is_not_proof_of_none():
    tally = Tally(documents())
    fill(tally, documents(), (0.0,), forced=False)
    figure = find(list(layer_measurements(tally, 0, 0.95)), "expert_set_changed")
    assert figure["estimate"] == 0 and figure["high"] == pytest.approx(
        1 - 0.025 ** (figure["design_effect"] / figure["n"])
    )


def test_an_identical_candidate_differs_nowhere():
    tally = Tally(documents())
    fill(tally, documents(), (0.0,), forced=False)
    figures = measured(0, tally)
    kl = find(figures, "kl_nats")
    assert (kl["estimate"], kl["low"], kl["high"]) == (0, 0, 0)
    assert find(figures, "log_perplexity_correlation")["reason"] == "equal at every token"
    assert find(figures, "same_top")["low"] < 1


def test_margins_are_the_references_by_layer():
    figures = list(margin_measurements(filled(), 0.95))
    margins = np.concatenate(
        [
            r.margin
            for i, d in enumerate(documents())
            if (r := layer_scores(i, d.tokens, 0, 0.0).routing) and r.margin is not None
        ]
    )
    assert find(figures, "router_margin", layer=0)["estimate"] == pytest.approx(margins.mean(), rel=1e-5)
    assert find(figures, "router_margin_p10", layer=0)["estimate"] == pytest.approx(np.quantile(margins, 0.1), rel=1e-4)
    assert not any(m["layer"] == LAYERS - 1 for m in figures)


def test_damage_through_weights_and_through_routing_add_up():
    found = [*measured(), *routing_damage(filled(), 1, 0.95)]
    whole, weights = find(found, "kl_nats"), find(found, "kl_nats", case="teacher-forced")
    assert find(found, "kl_through_routing_nats")["estimate"] == pytest.approx(whole["estimate"] - weights["estimate"])


def test_without_teacher_forcing_nothing_is_said_of_the_split():
    assert list(routing_damage(filled(), 2, 0.95)) == []


def test_a_score_that_is_not_a_number_gives_no_interval():
    tally = Tally(documents())
    fill(tally, documents(), (0.1,), forced=False)
    broken = token_scores(0, documents()[0].tokens, 0.1)
    broken.kl[2] = np.nan
    tally = Tally(documents())
    for i, d in enumerate(documents()):
        tally.tokens(0, "accumulated", i, 0, broken if i == 0 else token_scores(i, d.tokens, 0.1))
    figures = measured(0, tally)
    assert find(figures, "kl_nats")["low"] is None
    assert find(figures, "kl_median_nats")["reason"] == "1 values are not a number"
    assert find(figures, "kl_nats", slice="json")["low"] is not None


# Verdicts


def test_differences_are_paired_by_token():
    a, b = all_tokens(1, 0.5).kl, all_tokens(0, 0.1).kl
    found = kl_difference(filled(), 1, 0, 0.95)
    assert found.estimate == pytest.approx((a - b).mean())
    figure = find(list(difference_measurements(filled(), 1, ["x", "y", "z"], 0.95)), "kl_nats_difference", against="x")
    assert figure["estimate"] == pytest.approx(found.estimate, rel=1e-6)


def test_a_bad_candidate_is_above_the_noise_floor_and_the_floor_within_itself():
    bad = against_floor(filled(), 1, 2, "floor", 0.001, 0.95)
    assert bad.verdict == ABOVE
    assert against_floor(filled(), 2, 2, "floor", 0.001, 0.95).verdict == WITHIN


def test_what_the_margin_allows_is_within_the_floor():
    difference = kl_difference(filled(), 0, 2, 0.95)
    assert difference.low is not None and difference.high is not None
    verdicts = {m: against_floor(filled(), 0, 2, "f", m, 0.95) for m in (0.0, difference.estimate, difference.high)}
    assert [v.verdict for v in verdicts.values()] == [ABOVE, OPEN, WITHIN]
    between = (difference.estimate + difference.high) / 2
    needed = against_floor(filled(), 0, 2, "f", between, 0.95)
    assert needed.verdict == OPEN and needed.plan is not None and 0 < needed.plan.least <= needed.plan.most


def test_candidates_are_better_worse_alike_or_open():
    difference = kl_difference(filled(), 1, 0, 0.95)
    assert difference.low is not None and difference.high is not None

    def word(a: int, b: int, margin: float) -> str:
        return against_each_other(filled(), a, b, "x", margin, 0.95).verdict

    assert (word(1, 0, 0.0), word(0, 1, 0.0)) == (WORSE, BETTER)
    assert word(1, 0, difference.high * 1.01) == ALIKE
    assert word(1, 0, difference.estimate) == OPEN


def test_groups_of_everything_come_first():
    assert filled().grouping.groups[0] == ALL
    assert SliceGroup("slice", "json") in filled().grouping.groups
