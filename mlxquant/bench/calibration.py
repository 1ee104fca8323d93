"""How fast a build decodes on a chip: a model of four numbers a chip, fitted to published speeds, with its own error.

Memory bandwidth alone is a ceiling that real engines reach to a fifth (small experts) or to four fifths (dense models).
What they reach is told well by

    seconds a token = dense layers · τ_dense + MoE layers · τ_moe + weights / (β · bandwidth) + cache / (κ · bandwidth)

    an 8-bit Qwen3.5-122B-A10B on an M3 Ultra: 48 · 202 us + 9.573e9 / (0.823 · 819e9) + 0.167e9 / (0.45 · 819e9)
    = 9.68 + 14.21 + 0.45 = 24.3 ms, 41.1 tok/s; 42.7 were measured

τ is the time that a layer takes whatever its size (launches, routing), β the share of bandwidth that weights are
read at, κ the one for the cache. The points are in throughput.json, each with its page. Bounded least squares on the
logarithm of time fits a chip's numbers; each point is then predicted from all others, and these errors, widened by
Student's t, are the interval. One τ for all layers fails (see benchmarks/throughput.py).

Most points are shallow and leave κ to chance, so it is held to 0.20 to 0.45. Points that differ in depth alone give it
directly, from 0.18 to 0.67, the middle ones 0.28 to 0.41; M2 Ultra's deep points give 0.31. Where a build has more
cache than any point, the interval takes in both ends.

A chip without points takes the numbers of one of its tier (Max, Ultra), with the worst error that was seen when one
chip's points were predicted from another's; other chips have none. A machine's own `bench` record takes the place of
the published points of its chip. Prefill, and several sequences at once, were not fitted: no points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from math import exp, log, sqrt
from statistics import fmean, median, stdev
from typing import Any

from .chips import Chip, chips_named, find_chip

KAPPA = (0.20, 0.45)
BETA = (0.30, 1.0)
LONGEST_LAYER = 2e-3  # seconds
ENOUGH = 6  # points from which a chip's own numbers are fitted
TIERS = {"Ultra": "M3 Ultra", "Max": "M4 Max"}  # the chip of a tier with most points
PUBLISHED, TIER, RECORD = "published points", "another chip's points", "a bench record"


@dataclass(frozen=True, slots=True)
class Load:
    """What a decoded token asks of a machine: bytes of weights and cache, layers by kind."""

    active_bytes: float
    cache_bytes: float
    dense_layers: int
    moe_layers: int
    depth: int
    format: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """A measured decode speed: what was run, on which chip, who says so. `use` is "fit", or "check" beside the fit."""

    model: str
    format: str
    chip: str
    gpu_cores: int | None
    depth: int
    tok_s: float
    active_bytes: float
    cache_bytes: float
    dense_layers: int
    moe_layers: int
    engine: str
    source: str
    published: str | None
    read: str | None
    use: str = "fit"

    @property
    def load(self) -> Load:
        """What a token asked for there."""
        return Load(self.active_bytes, self.cache_bytes, self.dense_layers, self.moe_layers, self.depth, self.format)

    @property
    def bandwidth(self) -> float:
        """Bytes a second of its chip."""
        chip = find_chip(self.chip, self.gpu_cores)
        assert chip is not None, f"{self.chip}: not in the table of chips"
        return chip.bandwidth


@dataclass(frozen=True, slots=True)
class Rates:
    """A chip's four numbers: seconds a layer (None where no point has such layers), and two shares of bandwidth."""

    tau_dense: float | None
    tau_moe: float | None
    beta: float
    kappa: float

    def seconds(self, load: Load, bandwidth: float) -> float | None:
        """Time of a token; None for layers of a kind that nobody measured."""
        if (load.dense_layers and self.tau_dense is None) or (load.moe_layers and self.tau_moe is None):
            return None
        layers = load.dense_layers * (self.tau_dense or 0) + load.moe_layers * (self.tau_moe or 0)
        weights, cached = load.active_bytes / self.beta, load.cache_bytes / self.kappa
        return layers + (weights + cached) / bandwidth

    def slower(self, factor: float) -> Rates:
        """The same with every time multiplied."""
        dense, moe = (None if tau is None else tau * factor for tau in (self.tau_dense, self.tau_moe))
        return Rates(dense, moe, self.beta / factor, self.kappa / factor)


@dataclass(frozen=True, slots=True)
class Speed:
    """A predicted speed in tokens a second, its interval, and in what the build lies outside the points."""

    tok_s: float
    low: float
    high: float
    extrapolates: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Its entry in a record."""
        figures = {"tok_s": round(self.tok_s, 2), "low": round(self.low, 2), "high": round(self.high, 2)}
        return {**figures, "extrapolates": list(self.extrapolates)}


@dataclass(frozen=True, slots=True)
class Calibration:
    """A chip's numbers and how well they predict.

    `points` are what they are fitted to, `errors` what each of these was predicted off from the others (0.05 is 5 % too
    fast; None where it was the only one of its kind). `spread` is the half interval of the logarithm of a speed.
    """

    chip: str
    method: str
    rates: Rates
    points: tuple[Point, ...]
    errors: tuple[float | None, ...]
    spread: float
    note: str | None = None

    @property
    def worst(self) -> float:
        """The largest error of a point that was left out."""
        return max((abs(e) for e in self.errors if e is not None), default=self.spread)

    @property
    def median(self) -> float:
        """The median error, without its sign, of the points that were left out."""
        return median([abs(e) for e in self.errors if e is not None] or [self.spread])

    def speed(self, load: Load, bandwidth: float) -> Speed | None:
        """Predict; None for layers of a kind that no point has."""
        seconds = self.rates.seconds(load, bandwidth)
        if seconds is None:
            return None
        slow, fast = seconds, seconds
        if load.cache_bytes > max(p.cache_bytes for p in self.points):  # where no point holds kappa to a value
            slow, fast = (replace(self.rates, kappa=kappa).seconds(load, bandwidth) or seconds for kappa in KAPPA)
        widened = exp(self.spread)
        return Speed(1 / seconds, 1 / slow / widened, widened / fast, tuple(_outside(load, self.points)))

    def as_dict(self) -> dict[str, Any]:
        """Its entry in a record."""
        rates = self.rates
        left_out = [e for e in self.errors if e is not None]
        return {
            "method": self.method,
            "points_of": self.chip,
            "points": len(self.points),
            "tau_dense_us": None if rates.tau_dense is None else round(1e6 * rates.tau_dense, 1),
            "tau_moe_us": None if rates.tau_moe is None else round(1e6 * rates.tau_moe, 1),
            "beta": round(rates.beta, 4),
            "kappa": round(rates.kappa, 4),
            "left_out": {
                "points": len(left_out),
                "worst": round(self.worst, 4) if left_out else None,
                "median": round(self.median, 4) if left_out else None,
            },
            "interval_factor": round(exp(self.spread), 4),
            "note": self.note,
        }


# --- points ---


@cache
def load_points() -> tuple[Point, ...]:
    """The published points, from throughput.json."""
    table = json.loads(files(__package__).joinpath("throughput.json").read_text(encoding="utf-8"))
    names = {field.name for field in fields(Point)}
    return tuple(Point(**{key: value for key, value in entry.items() if key in names}) for entry in table["points"])


def points_of_record(record: Mapping[str, Any], name: str) -> list[Point]:
    """The decode speeds in a `bench` record as points; empty where it has none of a build whose traffic is known."""
    machine, settings = record["machine"], record["settings"]
    points = []
    for result in record["results"]:
        build = record["builds"][result["build"]]
        traffic, rate = build.get("traffic") or {}, result.get("tok_s")
        layers, depth = traffic.get("layers"), result["n_depth"]
        cached = (traffic.get("cache_bytes") or {}).get(str(depth))
        if not result["n_gen"] or not rate or layers is None or cached is None or settings["batch"] != 1:
            continue
        points.append(
            Point(
                model=str(build.get("name", "")),
                format=str(build.get("format", "")),
                chip=str(machine.get("chip") or ""),
                gpu_cores=machine.get("gpu_cores"),
                depth=depth,
                tok_s=rate["mean"],
                active_bytes=traffic["active_bytes_per_token"],
                cache_bytes=cached,
                dense_layers=layers["dense"],
                moe_layers=layers["moe"],
                engine="mlx-lm",
                source=name,
                published=None,
                read=None,
            )
        )
    return points


# --- fitting ---


def fit_rates(points: Sequence[Point]) -> Rates:
    """Fit a chip's four numbers to its points: bounded least squares on log(predicted time · measured speed)."""
    import numpy as np

    from ..stats import bounded_least_squares

    rows = [(p.dense_layers, p.moe_layers, p.active_bytes, p.cache_bytes, p.bandwidth, p.tok_s) for p in points]
    dense, moe, active, cached, bandwidth, tok_s = np.array(rows, dtype=np.float64).T

    def residuals(x: Any) -> Any:
        layers = dense * x[0] * 1e-3 + moe * x[1] * 1e-3  # x in milliseconds: all four of one size
        return np.log((layers + active / (x[2] * bandwidth) + cached / (x[3] * bandwidth)) * tok_s)

    longest = 1e3 * LONGEST_LAYER
    low, high = (0.0, 0.0, BETA[0], KAPPA[0]), (longest, longest, BETA[1], KAPPA[1])
    tau_dense, tau_moe, beta, kappa = bounded_least_squares(residuals, (0.07, 0.15, 0.8, 0.3), low, high)
    return Rates(tau_dense / 1e3 if dense.any() else None, tau_moe / 1e3 if moe.any() else None, beta, kappa)


def leave_one_out(points: Sequence[Point]) -> list[float | None]:
    """What each point is predicted off from all others: 0.05 where 5 % too fast, None where it cannot be."""
    return [_error(fit_rates([*points[:i], *points[i + 1 :]]), p) for i, p in enumerate(points)]


def _error(rates: Rates, point: Point) -> float | None:
    seconds = rates.seconds(point.load, point.bandwidth)
    return None if seconds is None else 1 / (seconds * point.tok_s) - 1


def fitted(chip: str, points: Sequence[Point], method: str) -> Calibration:
    """Fit a chip and judge the fit by leaving out one point at a time; at least ENOUGH points."""
    from ..stats import t_quantile

    errors = leave_one_out(points)
    logs = [log(1 + e) for e in errors if e is not None]
    free = max(
        1, len(points) - 2 - sum(any(getattr(p, kind) for p in points) for kind in ("dense_layers", "moe_layers"))
    )
    spread = t_quantile(0.95, free) * sqrt(fmean(e * e for e in logs))
    return Calibration(chip, method, fit_rates(points), tuple(points), tuple(errors), spread)


@cache
def published_calibration(chip: str) -> Calibration | None:
    """The calibration of a chip that has enough published points of its own."""
    points = [p for p in load_points() if p.chip == chip and p.use == "fit"]
    return fitted(chip, points, PUBLISHED) if len(points) >= ENOUGH else None


@cache
def worst_transfer() -> float:
    """The largest |log error| where a chip's points are predicted from the numbers of another chip of its tier."""
    errors = [0.0]
    for tier, donor in TIERS.items():
        calibration = published_calibration(donor)
        others = [p for p in load_points() if p.chip.endswith(tier) and p.chip != donor]
        errors += [abs(log(1 + e)) for p in others if calibration and (e := _error(calibration.rates, p)) is not None]
    return max(errors)


def calibrate(chip: Chip, own: Sequence[Point] = ()) -> Calibration | None:
    """Give a chip's calibration: from its own record, its published points or those of its tier; None for others."""
    mine = [p for p in own if chip in chips_named(p.chip)]
    known = published_calibration(chip.name) or _of_tier(chip)
    return _of_record(chip, mine, known) if mine else known


def _of_tier(chip: Chip) -> Calibration | None:
    donor = TIERS.get(chip.name.rpartition(" ")[2])
    calibration = published_calibration(donor) if donor else None
    if calibration is None:
        return None
    note = f"no points of its own: the numbers of {donor}, with the worst error seen between two chips of a tier"
    return replace(calibration, method=TIER, spread=worst_transfer(), note=note)


def _of_record(chip: Chip, points: Sequence[Point], known: Calibration | None) -> Calibration:
    """Fit a record with enough points; scale the known numbers to one with fewer."""
    from ..stats import t_quantile

    name = points[0].source
    if len(points) >= ENOUGH:
        return replace(fitted(chip.name, points, RECORD), note=f"from {name}")
    base = known or published_calibration(TIERS["Ultra"])
    assert base is not None, "the tiers' chips have enough points"
    off = [log(1 + e) for p in points if (e := _error(base.rates, p)) is not None]
    if not off:
        return base
    spread = base.spread
    if len(off) > 2:
        spread = t_quantile(0.95, len(off) - 1) * stdev(off) * sqrt(1 + 1 / len(off))
    note = f"{len(points)} points in {name}, too few for a fit: the numbers of {base.chip}, scaled to them"
    rates = base.rates.slower(exp(fmean(off)))
    return Calibration(chip.name, RECORD, rates, tuple(points), (), max(spread, 0.02), note)


# --- extrapolation ---


def _outside(load: Load, points: Sequence[Point]) -> list[str]:
    """In what a build lies outside of the points."""
    words = []
    if load.depth > (deepest := max(p.depth for p in points)):
        words.append(f"context: {load.depth:,} tokens, the deepest point has {deepest:,}")
    sizes = [p.active_bytes for p in points if bool(p.moe_layers) == bool(load.moe_layers)]
    if sizes and not min(sizes) <= load.active_bytes <= max(sizes):
        span = f"{min(sizes) / 1e9:.1f} to {max(sizes) / 1e9:.1f} GB"
        words.append(f"weights a token: {load.active_bytes / 1e9:.1f} GB, the points' {span}")
    if load.dense_layers and load.moe_layers and not any(p.dense_layers and p.moe_layers for p in points):
        words.append("layers: dense and MoE in one model, no point has both")
    bits = load.format.split(" g")[0]
    if bits and bits not in (known := {p.format.split(" g")[0] for p in points}):
        words.append(f"format: {bits}, the points' are {', '.join(sorted(known))}")
    return words
