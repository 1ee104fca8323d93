"""What chips reach of their ceiling: the fit to published points, its errors, a machine's own record."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from typing import Any

import pytest

from mlxquant.bench.calibration import (
    KAPPA,
    PUBLISHED,
    RECORD,
    TIER,
    Load,
    Point,
    Rates,
    calibrate,
    fit_rates,
    fitted,
    load_points,
    points_of_record,
    published_calibration,
    worst_transfer,
)
from mlxquant.bench.chips import CHIPS, Chip, chips_named

ULTRA = chips_named("M3 Ultra")[-1]


def known(chip: str) -> Any:
    calibration = published_calibration(chip)
    assert calibration is not None
    return calibration


def made(rates: Rates, chip: str = "M3 Ultra", n: int = 8) -> list[Point]:
    """Points that a machine of these numbers would measure."""
    points = []
    for i in range(n):
        moe = i % 2
        shape = Load((2 + i) * 1e9, (1 + i % 3) * 2e8, 0 if moe else 30, 48 if moe else 0, 512)
        point = Point("m", "8-bit g64", chip, None, 512, 1.0, shape.active_bytes, shape.cache_bytes, shape.dense_layers,
                      shape.moe_layers, "e", "mine.json", None, None)  # fmt: skip
        seconds = rates.seconds(shape, point.bandwidth)
        assert seconds
        points.append(replace(point, tok_s=1 / seconds))
    return points


def test_every_point_says_what_was_run_on_which_chip_and_who_says_so() -> None:
    points = load_points()
    assert len(points) >= 50
    assert all(p.tok_s > 0 and p.active_bytes > 0 and p.dense_layers + p.moe_layers > 0 for p in points)
    assert all(p.source.startswith("https://") or p.source.startswith("Ahmed 2026") for p in points)
    assert {p.chip for p in points} <= {c.name for c in CHIPS}
    assert {p.use for p in points} == {"fit", "check"}
    assert len({(p.model, p.format, p.chip, p.depth, p.tok_s) for p in points}) == len(points)


@pytest.mark.parametrize(
    ("chip", "n", "worst", "middle", "beta", "taus"),
    [("M3 Ultra", 18, 0.083, 0.040, 0.82, (68, 202)), ("M4 Max", 9, 0.030, 0.015, 0.91, (38, 94))],
)
def test_points_left_out_are_predicted_from_the_others(
    chip: str, n: int, worst: float, middle: float, beta: float, taus: tuple[int, int]
) -> None:
    calibration = known(chip)
    assert (calibration.method, len(calibration.errors)) == (PUBLISHED, n)
    assert calibration.worst <= worst and calibration.median <= middle
    assert calibration.rates.beta == pytest.approx(beta, abs=0.01)
    fitted_taus = (1e6 * calibration.rates.tau_dense, 1e6 * calibration.rates.tau_moe)
    assert fitted_taus == pytest.approx(taus, abs=2)
    assert KAPPA[0] <= calibration.rates.kappa <= KAPPA[1]


def test_a_chip_whose_points_fit_worse_has_a_wider_interval() -> None:
    assert known("M2 Ultra").worst > 0.2
    assert known("M2 Ultra").spread > 3 * known("M3 Ultra").spread


@pytest.mark.parametrize("chip", ["M3 Ultra", "M4 Max"])
def test_points_that_were_not_fitted_lie_in_the_interval(chip: str) -> None:
    others = [p for p in load_points() if p.chip == chip and p.use == "check" and not p.source.startswith("Ahmed")]
    assert len(others) >= 2
    for point in others:
        speed = known(chip).speed(point.load, point.bandwidth)
        assert speed.low <= point.tok_s <= speed.high, point


def test_a_fit_finds_the_numbers_that_made_its_points() -> None:
    rates = Rates(60e-6, 180e-6, 0.8, 0.35)
    again = fit_rates(made(rates))
    assert (again.tau_dense, again.tau_moe) == pytest.approx((60e-6, 180e-6), rel=0.02)
    assert (again.beta, again.kappa) == pytest.approx((0.8, 0.35), rel=0.02)


def test_layers_of_a_kind_without_points_have_no_prediction() -> None:
    dense = [p for p in load_points() if p.chip == "M3 Ultra" and p.dense_layers and p.use == "fit"]
    calibration = fitted("M3 Ultra", dense, PUBLISHED)
    assert calibration.rates.tau_moe is None
    assert calibration.speed(Load(3e9, 1e8, 0, 48, 512), ULTRA.bandwidth) is None


def test_a_chip_without_points_takes_its_tiers_with_a_wider_interval_or_has_none() -> None:
    (max_chip,) = (c for c in chips_named("M5 Max") if c.gpu_cores == 40)
    calibration = calibrate(max_chip)
    assert calibration is not None
    assert (calibration.method, calibration.chip) == (TIER, "M4 Max")
    assert calibration.spread == worst_transfer() > known("M4 Max").spread
    assert calibrate(chips_named("M4")[0]) is None
    assert calibrate(Chip("given", 0, 500, "-", "-", None)) is None


def test_a_record_with_enough_points_takes_the_place_of_the_published() -> None:
    rates = Rates(90e-6, 250e-6, 0.7, 0.3)
    calibration = calibrate(ULTRA, made(rates))
    assert calibration is not None
    assert (calibration.method, len(calibration.points)) == (RECORD, 8)
    assert calibration.rates.beta == pytest.approx(0.7, rel=0.02)
    assert calibrate(chips_named("M4 Max")[-1], made(rates)) is published_calibration("M4 Max")


def test_a_record_with_few_points_scales_the_published_numbers() -> None:
    slower = [replace(p, tok_s=p.tok_s / 1.25) for p in made(known("M3 Ultra").rates, n=2)]
    calibration = calibrate(ULTRA, slower)
    assert calibration is not None
    speed, published = (c.speed(slower[0].load, ULTRA.bandwidth) for c in (calibration, known("M3 Ultra")))
    assert speed is not None and published is not None
    assert speed.tok_s == pytest.approx(published.tok_s / 1.25)
    assert calibration.note == "2 points in mine.json, too few for a fit: the numbers of M3 Ultra, scaled to them"


def test_a_prediction_says_in_what_a_build_lies_outside_the_points() -> None:
    inside = known("M3 Ultra").speed(Load(5e9, 1e8, 0, 48, 512, "4-bit g64"), ULTRA.bandwidth)
    assert inside.extrapolates == ()
    assert inside.high / inside.tok_s == pytest.approx(exp(known("M3 Ultra").spread))
    outside = known("M3 Ultra").speed(Load(40e9, 1e9, 3, 58, 65536, "2-bit g64"), ULTRA.bandwidth)
    words = " ".join(outside.extrapolates)
    for part in ("context: 65,536 tokens", "weights a token: 40.0 GB", "dense and MoE in one model", "format: 2-bit"):
        assert part in words


def test_a_bench_records_decode_speeds_become_points() -> None:
    traffic = {"active_bytes_per_token": 10**9, "cache_bytes": {"0": 5, "64": 10**6}, "layers": {"dense": 2, "moe": 0}}
    result = {"build": 0, "n_prompt": 0, "n_gen": 16, "n_depth": 64, "tok_s": {"mean": 50.0}}
    record = {
        "machine": {"chip": "Apple M3 Ultra", "gpu_cores": 60},
        "settings": {"batch": 1},
        "builds": [{"name": "b", "format": "8-bit g64", "traffic": traffic}],
        "results": [result, {**result, "n_gen": 0, "n_prompt": 8}, {**result, "tok_s": None}],
    }
    (point,) = points_of_record(record, "mine.json")
    assert (point.tok_s, point.depth, point.cache_bytes, point.dense_layers) == (50.0, 64, 10**6, 2)
    assert point in calibrate(chips_named("M3 Ultra")[0], [point]).points  # type: ignore[union-attr]
    assert points_of_record({**record, "settings": {"batch": 4}}, "mine.json") == []
