"""How well published decode speeds are predicted, each from all others: the table in docs/how-it-works/speed.md.

    .venv/bin/python benchmarks/throughput.py            # a table for each chip
    .venv/bin/python benchmarks/throughput.py --brief    # a line for each chip

It reads mlxquant/bench/throughput.json and fits; nothing is measured, so the figures are the same on every machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from math import exp
from statistics import median

from mlxquant.bench.calibration import Calibration, Point, fit_rates, load_points, published_calibration, worst_transfer


def one_tau(points: Sequence[Point]) -> list[float]:
    """Errors of points left out where dense and MoE layers share one time a layer."""
    alike = [replace(p, dense_layers=p.dense_layers + p.moe_layers, moe_layers=0) for p in points]
    return [error(fit_rates([*alike[:i], *alike[i + 1 :]]), point) for i, point in enumerate(alike)]


def error(rates: object, point: Point) -> float:
    """How much too fast a point is predicted, as a share."""
    seconds = rates.seconds(point.load, point.bandwidth)  # type: ignore[attr-defined]
    return 1 / (seconds * point.tok_s) - 1


def brief(chip: str, calibration: Calibration) -> str:
    """A chip in a line."""
    rates, single = calibration.rates, [abs(e) for e in one_tau(calibration.points)]
    taus = " ".join("-" if tau is None else f"{1e6 * tau:.0f}" for tau in (rates.tau_dense, rates.tau_moe))
    return (
        f"{chip}: {len(calibration.points)} points, tau dense and MoE {taus} us, beta {rates.beta:.2f},"
        f" kappa {rates.kappa:.2f}; left out: worst {100 * calibration.worst:.1f} %, median"
        f" {100 * calibration.median:.1f} %; interval times or over {exp(calibration.spread):.2f};"
        f" with one tau: worst {100 * max(single):.1f} %, median {100 * median(single):.1f} %"
    )


def rows(chip: str, calibration: Calibration) -> list[str]:
    """A chip's points: measured, predicted from the others, and off by; then those beside the fit."""
    head = f"{'model':<28} {'format':<14} {'depth':>7} {'tok/s':>7} {'predicted':>9} {'off':>8}"
    fitted = [(p, e) for p, e in zip(calibration.points, calibration.errors, strict=True) if e is not None]
    beside = [p for p in load_points() if p.chip == chip and p.use == "check"]
    checked = [(p, error(calibration.rates, p)) for p in beside]
    lines = [head, *(_row(p, e) for p, e in fitted)]
    return [*lines, *(["not part of the fit:"] if checked else []), *(_row(p, e) for p, e in checked)]


def _row(point: Point, off: float) -> str:
    predicted = point.tok_s * (1 + off)
    return (
        f"{point.model:<28} {point.format[:14]:<14} {point.depth:>7,} {point.tok_s:>7.1f} {predicted:>9.1f}"
        f" {100 * off:>+7.1f}%"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="How well published decode speeds are predicted from each other.")
    parser.add_argument("--brief", action="store_true", help="a line for each chip")
    wanted = parser.parse_args()
    for chip in dict.fromkeys(point.chip for point in load_points()):
        calibration = published_calibration(chip)
        if calibration is None:
            continue
        print(brief(chip, calibration))
        if not wanted.brief:
            print("\n".join(rows(chip, calibration)), end="\n\n")
    print(f"between chips of a tier: worst, times or over {exp(worst_transfer()):.2f}")


if __name__ == "__main__":
    main()
