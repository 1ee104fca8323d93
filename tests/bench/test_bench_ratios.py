"""What is worked out from samples: summaries, measurements, ratios, and how often an interval holds the truth."""

from __future__ import annotations

import json
from math import exp
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.bench.record import finish
from mlxquant.records.rows import rows
from mlxquant.records.schemas import check
from mlxquant.validate.reading import read_evidence
from tests.bench.bench_cases import record_of

rates = st.floats(1, 1000)


def ratio_of(first: list[float], second: list[float]) -> dict[str, Any]:
    """The ratio of two builds' speeds, from their rates round by round."""
    (ratio,) = record_of({"a": {"tg8": first}, "b": {"tg8": second}})["ratios"]
    return dict(ratio)


def test_a_summary_has_the_sample_standard_deviation():
    speed = record_of({"a": {"tg8": [1.0, 2.0, 3.0, 6.0]}})["results"][0]["tok_s"]
    assert speed == {"n": 4, "mean": 3.0, "sd": 2.160247, "median": 2.5, "min": 1.0, "max": 6.0}


def test_one_value_has_no_deviation():
    assert record_of({"a": {"tg8": [5.0]}})["results"][0]["tok_s"]["sd"] is None


def test_a_ratio_is_the_mean_of_log_ratios_with_students_t():
    ratio = ratio_of([1.0] * 5, [0.70, 0.71, 0.69, 0.70, 0.70])
    assert (ratio["ratio"], ratio["low"], ratio["high"]) == pytest.approx((0.69997, 0.69125, 0.70881), abs=1e-5)


def test_a_slower_build_is_resolved_although_the_machine_drifts():
    drift = [100.0, 80.0, 60.0, 90.0, 40.0]
    ratio = ratio_of(drift, [r * f for r, f in zip(drift, (0.70, 0.71, 0.69, 0.70, 0.70), strict=True)])
    assert ratio["resolved"]
    assert 0.68 < ratio["low"] < 0.70 < ratio["high"] < 0.72


def test_a_difference_within_the_noise_is_not_resolved():
    ratio = ratio_of([100.0] * 5, [97.0, 104.0, 99.0, 101.0, 98.0])
    assert not ratio["resolved"]
    assert ratio["reason"] == "not resolved: the interval contains 1 after 5 rounds"


def test_fewer_than_five_rounds_give_no_interval():
    ratio = ratio_of([100.0] * 4, [50.0] * 4)
    assert (ratio["low"], ratio["high"], ratio["resolved"]) == (None, None, False)
    assert ratio["reason"] == "not resolved: 4 rounds, an interval needs at least 5 (-r)"


@given(st.lists(st.tuples(rates, rates), min_size=5, max_size=8))
def test_swapping_the_builds_inverts_ratio_and_interval(pairs):
    a, b = (list(column) for column in zip(*pairs, strict=True))
    one, other = ratio_of(a, b), ratio_of(b, a)
    assert one["ratio"] * other["ratio"] == pytest.approx(1, rel=1e-5)
    assert one["low"] * other["high"] == pytest.approx(1, rel=1e-5)
    assert one["resolved"] == other["resolved"]


@pytest.mark.parametrize("rounds", [5, 10])
def test_intervals_hold_the_truth_about_as_often_as_they_say(rounds):
    draw, holding, trials = Random(7), 0, 300
    for _ in range(trials):
        ratio = ratio_of([1.0] * rounds, [exp(draw.gauss(0, 0.05)) for _ in range(rounds)])
        holding += ratio["low"] <= 1 <= ratio["high"]
    assert 0.92 < holding / trials <= 0.98


def test_each_build_has_its_figures_as_measurements_and_the_later_one_its_ratios():
    record = record_of({"a": {"pp512": [30.0] * 5, "tg8": [10.0] * 5}, "b": {"pp512": [15.0] * 5, "tg8": [9.0] * 5}})
    first, second = ({(m["metric"], m["test"]): m for m in build["measurements"]} for build in record["builds"])
    assert set(first) == {
        ("prefill_tok_s", "pp512"), ("ttft_s", "pp512"), ("peak_memory_bytes", "pp512"),
        ("decode_tok_s", "tg8"), ("inter_token_ms", "tg8"), ("peak_memory_bytes", "tg8"),
    }  # fmt: skip
    assert second["ttft_s_ratio", "pp512"]["estimate"] == pytest.approx(2)
    assert second["decode_tok_s_ratio", "tg8"]["estimate"] == pytest.approx(0.9)
    assert len(rows(record, "measurements")) == 6 + 10
    check(record, "bench.json", whole=True)


def test_the_gate_judges_by_the_interval_that_bench_prints(tmp_path: Path):
    record = record_of({"a": {"tg8": [100.0] * 5}, "b": {"tg8": [97.0, 104.0, 99.0, 101.0, 98.0]}})
    (printed,) = record["ratios"]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(record))
    (figure,) = read_evidence(path).candidates[0].find("decode_tok_s_ratio", {})
    interval = figure.interval
    assert figure.log and interval.low is not None and interval.high is not None
    ends = (exp(interval.estimate), exp(interval.low), exp(interval.high))
    assert ends == pytest.approx((printed["ratio"], printed["low"], printed["high"]), rel=1e-6)


def test_a_record_without_measurements_is_judged_by_what_its_samples_give(tmp_path: Path):
    record = record_of({"a": {"tg8": [100.0] * 5}, "b": {"tg8": [97.0, 104.0, 99.0, 101.0, 98.0]}})
    old = {**record, "builds": [{k: v for k, v in b.items() if k != "measurements"} for b in record["builds"]]}
    for name, content in (("new.json", record), ("old.json", old)):
        (tmp_path / name).write_text(json.dumps(content))
    new_sides, old_sides = (read_evidence(tmp_path / name).candidates for name in ("new.json", "old.json"))
    assert old_sides == new_sides
    assert finish(old) == record
