"""Summaries and paired ratios: what they are, and how often an interval holds the truth."""

from __future__ import annotations

from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.bench.stats import Ratio, paired_ratio, quantile, summarize

rates = st.floats(1, 1000)


def interval(ratio: Ratio) -> tuple[float, float]:
    assert ratio.low is not None and ratio.high is not None
    return ratio.low, ratio.high


def test_a_summary_has_the_sample_standard_deviation():
    s = summarize([1.0, 2.0, 3.0, 6.0])
    assert (s.n, s.mean, s.median, s.min, s.max) == (4, 3.0, 2.5, 1.0, 6.0)
    assert s.sd == pytest.approx(2.160246899)


def test_one_value_has_no_deviation():
    assert summarize([5.0]).sd is None


@given(st.lists(rates, min_size=1), st.floats(0, 1))
def test_a_quantile_lies_within_the_values(values, q):
    assert min(values) <= quantile(values, q) <= max(values) * (1 + 1e-12)


def test_a_slower_build_is_resolved_although_the_machine_drifts():
    drift = [100.0, 80.0, 60.0, 90.0, 40.0]
    ratio = paired_ratio(drift, [r * f for r, f in zip(drift, (0.70, 0.71, 0.69, 0.70, 0.70), strict=True)])
    assert ratio.resolved
    low, high = interval(ratio)
    assert 0.68 < low < 0.70 < high < 0.72


def test_a_difference_within_the_noise_is_not_resolved():
    ratio = paired_ratio([100.0] * 5, [97.0, 104.0, 99.0, 101.0, 98.0])
    assert not ratio.resolved
    assert ratio.reason == "not resolved: the interval contains 1 after 5 rounds"


def test_fewer_than_five_rounds_give_no_interval():
    ratio = paired_ratio([100.0] * 4, [50.0] * 4)
    assert (ratio.low, ratio.high, ratio.resolved) == (None, None, False)
    assert ratio.reason == "not resolved: 4 rounds, an interval needs at least 5 (-r)"


@given(st.lists(st.tuples(rates, rates), min_size=5, max_size=8))
def test_swapping_the_builds_inverts_ratio_and_interval(pairs):
    a, b = zip(*pairs, strict=True)
    one, other = paired_ratio(a, b, resamples=200), paired_ratio(b, a, resamples=200)
    assert one.ratio * other.ratio == pytest.approx(1)
    assert interval(one)[0] * interval(other)[1] == pytest.approx(1, rel=1e-6)
    assert one.resolved == other.resolved


@pytest.mark.parametrize("rounds", [5, 10])
def test_intervals_hold_the_truth_about_as_often_as_they_say(rounds):
    draw, held, trials = Random(7), 0, 300
    for trial in range(trials):
        b = [exp(draw.gauss(0, 0.05)) for _ in range(rounds)]
        ratio = paired_ratio([1.0] * rounds, b, seed=trial, resamples=300)
        held += interval(ratio)[0] <= 1 <= interval(ratio)[1]
    assert 0.88 < held / trials <= 0.98


def test_the_same_samples_give_the_same_interval():
    a, b = [100.0, 90.0, 95.0, 99.0, 91.0], [80.0, 85.0, 84.0, 70.0, 79.0]
    assert paired_ratio(a, b, seed=3) == paired_ratio(a, b, seed=3)
