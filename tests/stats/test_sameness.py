"""More sameness never gives a worse verdict; small, skewed and repeated figures have intervals that hold the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.stats import (
    Interval,
    clustered_difference,
    clustered_share,
    difference_of_sums,
    pass_hat_difference,
    pass_hat_k,
    planned,
    share_of_sums,
    skewed_ratio,
)
from mlxquant.stats.interval import RESAMPLED_METHOD, T_METHOD
from mlxquant.stats.resampled import COVERAGE
from mlxquant.stats.sums import carried_by


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None and interval.high is not None, interval.reason
    return interval.low, interval.high


def width(interval: Interval) -> float:
    low, high = ends(interval)
    return high - low


CALLS = np.full(30, 12)  # 360 calls in 30 tasks
RIGHT = np.random.default_rng(0).binomial(12, 0.83, 30)


def differing(lost: int, won: int) -> Interval:
    """So many calls lost and won, each in a task of its own, as far as there are tasks."""
    only_a, only_b = (np.bincount(np.arange(n) % 30, minlength=30) for n in (won, lost))
    return difference_of_sums(only_a, only_b[::-1], CALLS, hits_b=RIGHT)


def test_no_call_that_differs_is_the_narrowest_result():
    none, one_each = differing(0, 0), differing(1, 1)
    assert none.estimate == 0 and width(none) < width(one_each)
    assert ends(none)[1] == -ends(none)[0] < 0.03
    assert none.at(0.99).high > none.high  # type: ignore[operator]


@given(st.integers(0, 14))
def test_a_pair_less_on_either_side_never_widens_a_difference(n: int) -> None:
    assert width(differing(n, n)) < width(differing(n + 1, n + 1))


def test_a_lost_call_less_never_lowers_the_lower_end():
    lows = [ends(differing(lost, 0))[0] for lost in range(25)]
    assert lows == sorted(lows, reverse=True)


@pytest.mark.parametrize(("documents", "tokens"), [(86, 572), (30, 12), (20, 4), (50, 1)])
def test_a_flip_less_never_lowers_the_share_that_stays(documents: int, tokens: int) -> None:
    lows = []
    for flips in range(12):
        hits = np.full(documents, tokens) - np.bincount(np.arange(flips) % documents, minlength=documents)
        lows.append(ends(share_of_sums(hits, np.full(documents, tokens)))[0])
    assert lows == sorted(lows, reverse=True)


def test_a_share_restated_is_what_would_have_been_measured():
    hits, counts = np.array([12] * 28 + [11, 9]), np.full(30, 12)
    for again, there in ((hits, 0.99), (counts, 0.99)):
        restated = share_of_sums(again, counts).at(there)
        assert ends(restated) == pytest.approx(ends(share_of_sums(again, counts, confidence=there)))


@pytest.mark.parametrize(("clusters", "size", "share", "correlation"), [(20, 12, 0.05, 0.3), (40, 4, 0.05, 0.5)])
def test_small_clustered_shares_hold_the_truth(clusters: int, size: int, share: float, correlation: float) -> None:
    draw, odds = np.random.default_rng(3), 1 / correlation - 1
    rates = draw.beta(share * odds, (1 - share) * odds, (300, clusters))
    intervals = [share_of_sums(draw.binomial(size, r), np.full(clusters, size)) for r in rates]
    assert np.mean([not i.excludes(share) for i in intervals]) > 0.92


@pytest.mark.parametrize(
    ("hits", "df"), [([10] * 5, 85), ([1], 85), ([10, 1, 1, 1, 1], 2.64), ([10, 10, 1, 1, 1], 5.08)]
)
def test_few_clusters_that_hold_most_hits_carry_few_degrees_of_freedom(hits: list[int], df: float) -> None:
    of_clusters = np.array(hits + [0] * (86 - len(hits)))
    assert carried_by(of_clusters.astype(float), 85) == pytest.approx(df, abs=0.005)
    assert share_of_sums(of_clusters, np.full(86, 500)).df == pytest.approx(df, abs=0.005)


# KL means


def test_a_skewed_mean_is_resampled_from_20_documents_to_499():
    draw = np.random.default_rng(1)
    methods = [skewed_ratio(draw.lognormal(size=n), np.ones(n)).method for n in (19, 20, 499, 500)]
    assert methods == [T_METHOD, RESAMPLED_METHOD, RESAMPLED_METHOD, T_METHOD]


def test_a_resampled_interval_reaches_further_up_than_down_and_is_the_same_each_time():
    values = np.random.default_rng(2).lognormal(size=30)
    interval = skewed_ratio(values, np.ones(30))
    low, high = ends(interval)
    assert high - interval.estimate > 1.2 * (interval.estimate - low) > 0
    assert interval == skewed_ratio(values, np.ones(30))
    assert ends(Interval.from_dict(interval.as_dict()).at(0.95)) == pytest.approx((low, high), rel=1e-6)
    assert width(interval.at(0.99)) > width(interval) > width(interval.at(0.9))


@pytest.mark.slow
def test_resampled_intervals_hold_the_truth_more_often_than_t():
    from mlxquant.stats import ratio_of_sums

    draw = np.random.default_rng(4)
    documents = draw.lognormal(-0.5, 1.0, (400, 20))
    shares = [
        np.mean([not way(d, np.ones(20)).excludes(1.0) for d in documents]) for way in (ratio_of_sums, skewed_ratio)
    ]
    assert shares[1] > shares[0] + 0.02


def test_stated_coverage_is_what_was_simulated():
    path = Path(__file__).parents[2] / "benchmarks/results/coverage.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    means = [r for r in rows if (r["what"], r["nominal"]) == ("mean KL", 0.95) and r["drawn"].endswith("1.0")]
    measured = {r["clusters"]: r["measured"] for r in means}  # of two methods the bootstrap-t's, which comes last
    assert measured.keys() == COVERAGE.keys()
    assert all(abs(measured[n] - share) <= 0.006 for n, share in COVERAGE.items())


# pass^k


def test_pass_1_is_the_reward_of_0_and_1_interval_and_all():
    draw = np.random.default_rng(5)
    first, second = (draw.binomial(1, p, (25, 4)) for p in (0.5, 0.55))
    tasks = np.repeat(np.arange(25), 4)
    pass_1 = pass_hat_k(first.sum(axis=1), [4] * 25, 1)
    reward = clustered_share(first.ravel(), tasks)
    assert (pass_1.estimate, *ends(pass_1)) == pytest.approx((reward.estimate, *ends(reward)))
    chances = [list(side.mean(axis=1)) for side in (second, first)]
    of_tasks = pass_hat_difference(chances[0], chances[1], [4] * 25, range(25))
    of_trials = clustered_difference(second.ravel(), first.ravel(), tasks)
    assert (of_tasks.estimate, *ends(of_tasks)) == pytest.approx((of_trials.estimate, *ends(of_trials)))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_rare_passes_have_intervals_within_0_and_1_that_hold_the_truth(k: int) -> None:
    draw = np.random.default_rng(6)
    rates = draw.beta(0.3, 2.7, (300, 40))
    truth = float(np.mean(draw.beta(0.3, 2.7, 200_000) ** k))
    intervals = [pass_hat_k(draw.binomial(4, r).tolist(), [4] * 40, k) for r in rates]
    assert all(0 <= end <= 1 for i in intervals for end in ends(i))
    assert np.mean([not i.excludes(truth) for i in intervals]) > 0.92


# Plans


def test_a_plan_settles_four_of_five_runs_if_its_assumption_holds():
    draw = np.random.default_rng(7)
    spread = clustered_difference(draw.normal(0, 1, 400), np.zeros(400), range(400), share=False)
    plan = planned(spread, 0.5, 0.0)
    assert plan is not None and 20 < plan.least < plan.most < 60
    total = (plan.least + plan.most) // 2
    runs = draw.normal(0, 1, (400, total))
    settled = [clustered_difference(r, np.zeros(total), range(total), share=False).high < 0.5 for r in runs]  # type: ignore[operator]
    assert 0.72 < np.mean(settled) < 0.9


def test_a_plan_does_not_depend_on_the_estimate():
    values = np.random.default_rng(8).normal(0, 1, 50)
    plans = [
        planned(clustered_difference(values + x, np.zeros(50), range(50), share=False), 2.0, 0.0) for x in (0, 1.9)
    ]
    assert plans[0] is not None and plans[0].as_dict() == pytest.approx(plans[1].as_dict())  # type: ignore[union-attr]


def test_nothing_tells_the_limit_from_itself():
    assert planned(clustered_difference([1.0, 2, 3, 4, 5], [0.0] * 5, range(5), share=False), 0.0, 0.0) is None


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(0.5, 0.9999))
def test_any_limit_has_a_plan_of_finite_size_or_none(limit: float, confidence: float) -> None:
    interval = clustered_difference([1.0, 2, 3, 4, 5], [0.0] * 5, range(5), share=False)
    plan = planned(interval, limit, 0.0, confidence=confidence)
    assert plan is None or 5 <= plan.least <= plan.most < 10_000_000
