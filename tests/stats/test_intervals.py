"""Intervals clustered by document or task: what they are, and how often they hold the truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.stats import (
    Interval,
    bootstrap_quantile,
    clustered_difference,
    clustered_mean,
    clustered_quantiles,
    clustered_ratio,
    clustered_share,
    difference_of_sums,
    kaplan_meier,
    linearized,
    mcnemar_exact,
    pass_hat_k,
    ratio_of_sums,
    share_of_sums,
)
from mlxquant.stats.interval import SCALES, holds_estimate


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None and interval.high is not None, interval.reason
    return interval.low, interval.high


def holds(interval: Interval, truth: float) -> bool:
    low, high = ends(interval)
    return low <= truth <= high


# Means and ratios


def test_one_value_a_cluster_gives_students_t():
    values = [1.0, 2.0, 4.0, 7.0, 11.0]
    interval = clustered_mean(values, range(5), share=False)
    assert interval.estimate == 5
    assert interval.se == pytest.approx(np.std(values, ddof=1) / np.sqrt(5))
    assert interval.df == pytest.approx(4)
    assert interval.se is not None and ends(interval) == pytest.approx(
        (5 - 2.7764451 * interval.se, 5 + 2.7764451 * interval.se)
    )


def test_copies_of_a_document_widen_nothing_and_narrow_nothing():
    draw = np.random.default_rng(1)
    means = draw.normal(size=12)
    once = clustered_mean(means, range(12), share=False)
    often = clustered_mean(np.repeat(means, 100), np.repeat(np.arange(12), 100), share=False)
    assert ends(often) == pytest.approx(ends(once))
    assert (often.n, often.clusters) == (1200, 12)


def test_names_of_clusters_and_their_order_do_not_matter():
    values, names = [1.0, 5.0, 2.0, 8.0, 3.0, 1.5], ["a", "b", "a", "c", "d", "e"]
    other = [3, 1, 3, 4, 0, 7]
    order = [5, 2, 0, 3, 1, 4]
    interval = clustered_mean(values, names)
    moved = clustered_mean([values[i] for i in order], [other[i] for i in order])
    assert ends(interval) == pytest.approx(ends(moved))


def test_sums_a_cluster_give_what_single_values_give():
    draw = np.random.default_rng(2)
    ids = draw.integers(0, 9, 300)
    a, b = draw.exponential(size=300), draw.exponential(size=300)
    sums = [np.bincount(ids, v) for v in (a, b)]
    assert ends(clustered_ratio(a, b, ids)) == pytest.approx(ends(ratio_of_sums(*sums, n=300)))


def test_weights_count_as_observations():
    values, weights = [1.0, 2.0, 5.0, 3.0, 9.0], [1, 2, 1, 3, 1]
    repeated = clustered_mean(np.repeat(values, weights), np.repeat(range(5), weights), share=False)
    weighted = clustered_mean(values, range(5), weights=weights, share=False)
    assert ends(weighted) == pytest.approx(ends(repeated))


def test_a_cluster_that_holds_nothing_is_left_out():
    assert ratio_of_sums([1, 2, 3, 4, 5, 0], [2, 2, 2, 2, 2, 0]) == ratio_of_sums([1, 2, 3, 4, 5], [2] * 5)


def test_fewer_than_five_clusters_give_no_interval_and_say_why():
    interval = clustered_mean([1.0, 2.0, 3.0, 9.0], range(4))
    assert (interval.estimate, interval.low, interval.high, interval.se) == (3.75, None, None, None)
    assert interval.reason == "4 clusters; an interval needs at least 5"


def test_nothing_at_all_is_refused():
    with pytest.raises(ValueError, match="no cluster holds anything"):
        ratio_of_sums([], [])


def test_a_mean_that_is_not_finite_has_no_interval():
    interval = clustered_mean([1.0, float("inf"), 2.0, 3.0, 4.0], range(5))
    assert interval.low is None and interval.reason == "a value is infinite or not a number"


def test_one_document_of_most_tokens_widens_the_interval():
    alike = ratio_of_sums(np.array([1.0, 2, 3, 4, 5, 6]) * 100, [100] * 6)
    uneven = ratio_of_sums(np.array([1.0, 2, 3, 4, 5, 6]) * [600, 10, 10, 10, 10, 10], [600, 10, 10, 10, 10, 10])
    assert alike.df == pytest.approx(5)
    assert uneven.df is not None and uneven.df < 2


@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(1, 50)), min_size=5, max_size=20))
def test_the_estimate_lies_within_its_interval(documents):
    sums = [value * size for value, size in documents]
    low, high = ends(interval := ratio_of_sums(sums, [size for _, size in documents]))
    assert low <= interval.estimate <= high


# Shares


def test_none_of_200_documents_is_no_proof_of_never():
    interval = share_of_sums(np.zeros(200), np.full(200, 500))
    assert ends(interval) == pytest.approx((0, 1 - 0.025 ** (50.9 / 100_000)))  # 500 tokens, correlated by 0.1
    assert interval.method == "Clopper-Pearson on clusters"
    assert interval.n == 100_000


def test_all_of_five_documents_may_be_half():
    assert ends(clustered_share([True] * 5, range(5))) == pytest.approx((0.4782, 1), abs=1e-4)


def test_a_share_that_is_alike_in_every_document_has_an_interval_too():
    assert ends(share_of_sums([5] * 20, [10] * 20)) == pytest.approx((0.2720, 0.7280), abs=1e-4)


def test_independent_observations_give_clopper_and_pearsons_interval():
    interval = clustered_mean([1] * 7 + [0] * 43, range(50))
    assert ends(interval) == pytest.approx((0.0582, 0.2674), abs=1e-4)


def test_a_small_share_has_no_interval_below_zero():
    interval = share_of_sums([2, 1, *[0] * 48], [100] * 50)
    low, high = ends(interval)
    assert 0 <= low < interval.estimate < high < 0.01


def test_values_of_0_and_1_are_a_share_unless_said_otherwise():
    values, ids = [1.0, 0, 0, 0, 0, 0], range(6)
    assert ends(clustered_mean(values, ids)) == ends(clustered_share(values, ids))
    assert ends(clustered_mean(values, ids, share=False))[0] < 0


# Differences


def test_pairs_that_never_differ_are_no_proof_of_equality():
    interval = clustered_difference([1, 0, 1, 1, 0, 1], [1, 0, 1, 1, 0, 1], range(6))
    wide = 2.5706 * np.sqrt(2) / (6 + 2)  # Bonett and Price
    assert [interval.estimate, *ends(interval)] == pytest.approx([0, -wide, wide], abs=1e-4)


def test_a_difference_changes_sign_with_its_sides():
    a, b = [1, 1, 1, 0, 1, 1, 0, 1], [0, 1, 0, 1, 1, 0, 0, 0]
    low, high = ends(clustered_difference(a, b, range(8)))
    assert ends(clustered_difference(b, a, range(8))) == pytest.approx((-high, -low))


def test_pairing_removes_what_both_sides_share():
    draw = np.random.default_rng(3)
    hard = draw.normal(size=30) * 10
    interval = clustered_difference(hard + 1 + draw.normal(size=30) * 0.1, hard, range(30))
    low, high = ends(interval)
    assert 0.9 < low < high < 1.1


def test_pairs_of_unequal_number_are_refused():
    with pytest.raises(ValueError, match="pairs expected"):
        clustered_difference([1, 2], [1], [0, 1])


# Coverage: how often 95 % intervals hold the truth

SIZES = {
    "alike": lambda draw, g: np.full(g, 20),
    "uneven": lambda draw, g: np.maximum(1, draw.lognormal(4, 0.7, g).astype(int)),
    "one large": lambda draw, g: np.concatenate([[200], np.full(g - 1, 10)]),
}


def coverage(trial, times: int, seed: int) -> float:
    draw = np.random.default_rng(seed)
    return sum(bool(trial(draw)) for _ in range(times)) / times


def mean_trial(clusters: int, sizes: str, icc: float):
    def trial(draw: np.random.Generator) -> bool:
        n = SIZES[sizes](draw, clusters)
        means = np.sqrt(icc) * draw.normal(size=clusters) + draw.normal(size=clusters) * np.sqrt((1 - icc) / n)
        return holds(ratio_of_sums(n * means, n), 0.0)

    return trial


@pytest.mark.parametrize("sizes", SIZES)
def test_means_of_clustered_values_hold_the_truth_in_95_percent(sizes):
    assert 0.92 <= coverage(mean_trial(12, sizes, 0.3), 700, 5) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clusters", "sizes", "icc"), list(itertools.product((5, 8, 20, 60), ("alike", "uneven"), (0, 0.1, 0.5)))
)
def test_means_hold_the_truth_whatever_the_documents(clusters, sizes, icc):
    assert 0.92 <= coverage(mean_trial(clusters, sizes, icc), 3000, 7) <= 0.975


def share_trial(clusters: int, p: float, icc: float, size: int = 40):
    def trial(draw: np.random.Generator) -> bool:
        shares = draw.beta(p * (1 / icc - 1), (1 - p) * (1 / icc - 1), clusters)
        return holds(share_of_sums(draw.binomial(size, shares), np.full(clusters, size)), p)

    return trial


@pytest.mark.parametrize(("p", "icc"), [(0.02, 0.02), (0.3, 0.1)])
def test_shares_of_clustered_values_hold_the_truth(p, icc):
    assert coverage(share_trial(40, p, icc), 500, 11) >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clusters", "p", "icc"), list(itertools.product((10, 40, 200), (0.003, 0.02, 0.3, 0.9), (0.01, 0.1)))
)
def test_shares_hold_the_truth_whatever_the_documents(clusters, p, icc):
    assert coverage(share_trial(clusters, p, icc), 2000, 13) >= 0.91


@pytest.mark.parametrize(("only_a", "only_b"), [(0.02, 0.02), (0.15, 0.05)])
def test_differences_of_paired_shares_hold_the_truth(only_a, only_b):
    def trial(draw: np.random.Generator) -> bool:
        kinds = draw.choice(3, 60, p=[only_a, only_b, 1 - only_a - only_b])
        return holds(difference_of_sums(kinds == 0, kinds == 1, np.ones(60)), only_a - only_b)

    assert 0.92 <= coverage(trial, 800, 17) <= 1


def quantile_trial(q: float, truth: float, bootstrap: bool):
    def trial(draw: np.random.Generator) -> bool:
        ids = np.repeat(np.arange(30), 40)
        values = np.sqrt(0.3) * draw.normal(size=30)[ids] + np.sqrt(0.7) * draw.normal(size=1200)
        if bootstrap:
            return holds(bootstrap_quantile(values, ids, q, resamples=300), truth)
        return holds(clustered_quantiles(values, ids, [q])[0], truth)

    return trial


@pytest.mark.parametrize(("q", "truth"), [(0.5, 0.0), (0.05, -1.6449), (0.95, 1.6449)])
def test_quantiles_hold_the_truth_in_95_percent(q, truth):
    assert 0.92 <= coverage(quantile_trial(q, truth, bootstrap=False), 400, 19) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("q", "truth"), [(0.5, 0.0), (0.9, 1.2816)])
def test_bootstrapped_quantiles_hold_the_truth(q, truth):
    assert 0.90 <= coverage(quantile_trial(q, truth, bootstrap=True), 600, 23) <= 0.99


# Quantiles


def test_quantiles_are_numpys():
    values = np.random.default_rng(4).normal(size=301)
    intervals = clustered_quantiles(values, np.arange(301) // 10, (0.01, 0.5, 0.9, 1))
    assert [f.estimate for f in intervals] == pytest.approx(np.quantile(values, (0.01, 0.5, 0.9, 1)))
    assert intervals[-1].reason == "an extreme; it has no interval"


def test_a_quantile_further_out_than_the_data_has_no_interval():
    interval = clustered_quantiles(np.arange(100.0), np.arange(100) // 5, [0.999])[0]
    assert (interval.low, interval.reason) == (None, "too few values beyond it")


def test_a_bootstrap_gives_the_same_for_the_same_seed():
    values, ids = np.random.default_rng(5).normal(size=200), np.arange(200) // 20
    one, other = (bootstrap_quantile(values, ids, 0.9, seed=3, resamples=200) for _ in range(2))
    assert one == other
    assert one.estimate == pytest.approx(np.quantile(values, 0.9))


def test_woodruff_and_the_bootstrap_agree():
    values, ids = np.random.default_rng(6).normal(size=4000), np.arange(4000) // 40
    one, other = clustered_quantiles(values, ids, [0.9])[0], bootstrap_quantile(values, ids, 0.9)
    assert ends(one) == pytest.approx(ends(other), abs=0.03)


# The same at another confidence, and in records


def samples() -> list[Interval]:
    draw = np.random.default_rng(8)
    return [
        clustered_mean(draw.normal(size=60), np.arange(60) // 4),
        share_of_sums(draw.binomial(50, 0.1, 30), np.full(30, 50)),
        share_of_sums(np.zeros(30), np.full(30, 50)),
        difference_of_sums(draw.binomial(5, 0.1, 30), draw.binomial(5, 0.2, 30), np.full(30, 9)),
        difference_of_sums(np.zeros(30), np.zeros(30), np.full(30, 9)),
    ]


def measured_at_99() -> list[Interval]:
    draw = np.random.default_rng(8)
    return [
        clustered_mean(draw.normal(size=60), np.arange(60) // 4, confidence=0.99),
        share_of_sums(draw.binomial(50, 0.1, 30), np.full(30, 50), confidence=0.99),
        share_of_sums(np.zeros(30), np.full(30, 50), confidence=0.99),
    ]


def test_an_interval_restated_is_what_would_have_been_measured():
    for interval, wanted in zip(samples(), measured_at_99(), strict=False):
        assert ends(interval.at(0.99)) == pytest.approx(ends(wanted))
        assert interval.at(0.99).confidence == 0.99


@pytest.mark.parametrize("interval", samples(), ids=lambda f: f.method)
def test_more_confidence_is_a_wider_interval_and_back(interval):
    low, high = ends(interval.at(0.99))
    assert low <= ends(interval)[0] and high >= ends(interval)[1] and high - low > ends(interval)[1] - ends(interval)[0]
    assert ends(interval.at(0.99).at(0.95)) == pytest.approx(ends(interval))


@pytest.mark.parametrize("interval", samples(), ids=lambda f: f.method)
def test_a_record_gives_the_interval_back(interval):
    read = Interval.from_dict({"metric": "x", **interval.as_dict()})
    assert ends(read) == pytest.approx(ends(interval), rel=1e-6)
    assert ends(read.at(0.9)) == pytest.approx(ends(interval.at(0.9)), rel=1e-5)
    assert (read.n, read.clusters, read.method) == (interval.n, interval.clusters, interval.method)


def test_a_record_says_nothing_that_is_the_default():
    assert clustered_mean([1.0, 2, 3, 4, 6], range(5)).as_dict().keys() == {
        "estimate", "low", "high", "se", "n", "clusters",
    }  # fmt: skip


def test_order_statistics_cannot_be_restated():
    interval = clustered_quantiles(np.arange(500.0), np.arange(500) // 10, [0.5])[0].at(0.99)
    assert interval.low is None
    assert interval.reason == "measured at 95%; Woodruff on clusters cannot be restated at 0.99"


def test_a_mapped_interval_has_mapped_ends_and_the_delta_methods_error():
    interval = clustered_mean(np.log([1.0, 2, 3, 4, 6]), range(5))
    mapped = interval.mapped("exp", np.exp(interval.estimate))
    assert ends(mapped) == pytest.approx(tuple(np.exp(ends(interval))))
    assert interval.se is not None and mapped.se == pytest.approx(interval.se * mapped.estimate)


@pytest.mark.parametrize("scale", SCALES)
def test_a_mapped_interval_restated_is_the_restated_one_mapped(scale):
    interval = clustered_mean([0.6, 0.7, 0.65, 0.9, 0.8], range(5))
    for mapped in (interval.mapped(scale, 1.0), Interval.from_dict(interval.mapped(scale, 1.0).as_dict())):
        assert ends(mapped.at(0.99)) == pytest.approx(ends(interval.at(0.99).mapped(scale, 1.0)), rel=1e-5)


def test_any_statistic_can_be_linearized():
    draw = np.random.default_rng(9)
    sizes = draw.integers(5, 50, 40)
    sums = draw.normal(size=40) * sizes
    mean = ratio_of_sums(sums, sizes)
    scores = 2 * mean.estimate * (sums - mean.estimate * sizes) / sizes.sum()
    squared = linearized(mean.estimate**2, scores, sizes, n=int(sizes.sum()))
    assert mean.se is not None and squared.se == pytest.approx(abs(2 * mean.estimate) * mean.se)


# Tests and counts


@pytest.mark.parametrize(
    ("a", "b", "p"), [(0, 0, 1.0), (3, 3, 1.0), (1, 9, 0.021484375), (9, 1, 0.021484375), (0, 6, 0.03125)]
)
def test_mcnemar_is_the_binomial_of_the_pairs_that_differ(a, b, p):
    assert mcnemar_exact(a, b) == pytest.approx(p)


def test_mcnemar_stands_for_thousands_of_pairs():
    assert 0 < mcnemar_exact(2000, 2400) < 1e-8


def test_pass_hat_k_is_the_mean_over_tasks():
    interval = pass_hat_k([4, 2, 0, 3, 1], [4] * 5, 2)
    assert interval.estimate == pytest.approx((1 + 1 / 6 + 0 + 0.5 + 0) / 5)
    assert interval.clusters == 5
    assert ends(pass_hat_k([4] * 10, [4] * 10, 4)) == pytest.approx((0.025 ** (1.3 / 40), 1), abs=1e-4)


def test_pass_hat_k_needs_k_trials():
    with pytest.raises(ValueError, match=r"pass\^3 needs 3 trials of every task; 1 have fewer \(the fewest: 2\)"):
        pass_hat_k([1, 2], [2, 3], 3)


# Survival: Freireich et al. 1963, 6-mercaptopurine against placebo in leukaemia, remission in weeks; the medians and
# intervals are those that SAS's LIFETEST (log-log) and R's survfit give for it

TREATED = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
RELAPSED = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def test_the_curve_of_a_known_trial():
    curve = kaplan_meier(TREATED, RELAPSED)
    assert curve.times.tolist() == [6, 7, 10, 13, 16, 22, 23]
    assert curve.survival == pytest.approx([0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482], abs=1e-4)
    assert (curve.median, curve.median_low, curve.median_high) == (23, 13, None)
    assert curve.low is not None and curve.low[0] == pytest.approx(0.6197, abs=1e-4)
    assert [curve.at(5), curve.at(9)] == pytest.approx([1, 0.8067], abs=1e-4)


def test_the_median_of_a_known_trial_without_censoring():
    curve = kaplan_meier(PLACEBO, [True] * 21)
    assert (curve.median, curve.median_low, curve.median_high) == (8, 4, 11)
    assert curve.survival[-1] == 0


def test_runs_that_never_fail_have_no_median():
    curve = kaplan_meier([20] * 12, [False] * 12)
    assert (curve.median, curve.median_low, curve.median_high) == (None, None, None)
    assert len(curve.times) == 0


def test_runs_of_one_task_are_resampled_together():
    alone = kaplan_meier(PLACEBO * 4, [True] * 84)
    together = kaplan_meier(PLACEBO * 4, [True] * 84, list(range(21)) * 4)
    assert together.method == "cluster bootstrap"
    assert alone.high is not None and together.high is not None
    assert together.high[4] > alone.high[4]
    assert together.clusters == 21


def test_four_runs_give_a_curve_without_intervals():
    curve = kaplan_meier([1, 2, 3, 4], [True] * 4)
    assert (curve.median, curve.low, curve.reason) == (2, None, "4 runs; an interval needs at least 5")


def test_a_curve_in_a_record_is_plain():
    record = kaplan_meier(TREATED, RELAPSED).as_dict()
    assert record["median_high"] is None and record["at_risk"][0] == 21


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=5, max_size=30))
def test_a_curve_falls_and_lies_within_its_band(runs):
    curve = kaplan_meier([t for t, _ in runs], [seen for _, seen in runs])
    assert curve.low is not None and curve.high is not None
    assert (np.diff(curve.survival) <= 1e-12).all()
    assert (curve.low <= curve.survival + 1e-12).all() and (curve.survival <= curve.high + 1e-12).all()


@pytest.mark.slow
def test_a_medians_interval_holds_the_truth():
    def trial(draw: np.random.Generator) -> bool:
        t, stop = np.ceil(draw.exponential(10, 40)), draw.integers(8, 40, 40)
        curve = kaplan_meier(np.minimum(t, stop), t <= stop)
        truth = 7  # ceil of an exponential: P(T > 6) = 0.549, P(T > 7) = 0.497
        high = np.inf if curve.median_high is None else curve.median_high
        return curve.median_low is not None and curve.median_low <= truth <= high

    assert 0.92 <= coverage(trial, 2000, 29) <= 0.99


@given(st.integers(5, 60), st.integers(1, 4), st.integers(0, 4), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_difference_alike_in_every_cluster_is_the_same_stated_again_as_measured_so(
    clusters: int, per: int, differing: int, confidence: float
) -> None:
    lost, none, counts = [min(differing, per)] * clusters, [0] * clusters, [per] * clusters
    measured = difference_of_sums(none, lost, counts, confidence=confidence)
    again = difference_of_sums(none, lost, counts).at(confidence)
    assert (again.low, again.high) == pytest.approx((measured.low, measured.high))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=40), st.sampled_from([0.5, 0.8, 0.95]))
def test_an_interval_holds_its_estimate_as_a_record_is_asked_to(
    pairs: list[tuple[bool, bool]], confidence: float
) -> None:
    a, b = ([float(x) for x in column] for column in zip(*pairs, strict=True))
    names = [i // 2 for i in range(len(pairs))]
    difference = clustered_difference(a, b, names, confidence=confidence)
    for found in (difference, clustered_mean(a, names, confidence=confidence)):
        if found.low is not None and found.high is not None:
            assert holds_estimate(found.estimate, found.low, found.high, found.clusters, found.method)
