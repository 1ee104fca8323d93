"""How often intervals at 95 % hold the truth: simulated, by method, number of clusters and kind of data.

    .venv/bin/python benchmarks/interval_coverage.py -o benchmarks/results/coverage.json

Data are drawn as mlxquant sees them: documents whose mean KL is log-normal, shares that are alike within a cluster
(beta-binomial), pairs that differ rarely and together, tasks that pass with rates of their own. Each row has the
method, the number of clusters, what was drawn, and the shares of intervals that hold the truth, lie above it and lie
below it. Seeds are fixed; 1,000 samples a row give ±1.4 points.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlxquant.records.head import describe_machine, describe_versions, utc_date
from mlxquant.stats import (
    OF_TOKENS,
    Interval,
    clustered_mean,
    difference_of_sums,
    pass_hat_k,
    ratio_of_sums,
    share_of_sums,
    skewed_ratio,
)

Draw = Callable[[np.random.Generator], tuple[Interval, float]]


def row(what: str, drawn: str, clusters: int, draw: Draw, samples: int, nominal: float = 0.95) -> dict[str, Any]:
    """Simulate one kind of data."""
    rng = np.random.default_rng(1)
    held = above = below = 0
    widths, method = [], ""
    for _ in range(samples):
        interval, truth = draw(rng)
        interval = interval.at(nominal)
        assert interval.low is not None and interval.high is not None, interval.reason
        held += interval.low <= truth <= interval.high
        above += interval.low > truth
        below += interval.high < truth
        widths.append(interval.high - interval.low)
        method = interval.method
    shares = {"measured": held / samples, "above_truth": above / samples, "below_truth": below / samples}
    print(f"{what}, {drawn}, {clusters} clusters, {nominal:.0%}: {held / samples:.3f} ({method})", flush=True)
    return {
        "what": what, "drawn": drawn, "method": method, "clusters": clusters, "nominal": nominal, **shares,
        "median_width": float(np.median(widths)), "samples": samples,
    }  # fmt: skip


def kl_means(samples: int) -> Iterator[dict[str, Any]]:
    """Documents of 100 to 1,000 tokens whose mean KL is log-normal."""
    for spread in (0.6, 1.0, 1.4):
        for clusters in (5, 10, 20, 40, 86, 100, 200, 500):
            for way in (ratio_of_sums, skewed_ratio):
                if way is skewed_ratio and not 20 <= clusters < 500:
                    continue

                def draw(rng: np.random.Generator, way: Any = way, n: int = clusters, s: float = spread) -> Any:
                    sizes = rng.integers(100, 1000, n).astype(float)
                    return way(sizes * rng.lognormal(-(s**2) / 2, s, n), sizes), 1.0

                for nominal in (0.95, 0.99) if spread == 1.0 and clusters in (20, 86) else (0.95,):
                    yield row("mean KL", f"log-normal, deviation {spread}", clusters, draw, samples, nominal)


def _rates(rng: np.random.Generator, mean: float, correlation: float, n: int) -> np.ndarray:
    odds = 1 / correlation - 1
    return rng.beta(mean * odds, (1 - mean) * odds, n)


def shares(samples: int) -> Iterator[dict[str, Any]]:
    """Observations of one cluster are alike: tokens of documents, calls or trials of tasks."""
    for clusters, size, share, alike in (
        (20, 12, 0.02, 0.3), (20, 12, 0.05, 0.3), (20, 50, 0.01, 0.3), (30, 12, 0.05, 0.1), (30, 12, 0.2, 0.3),
        (86, 500, 0.01, 0.1), (86, 500, 0.001, 0.05), (86, 500, 0.001, 0.005),
        (40, 4, 0.05, 0.5), (40, 4, 0.3, 0.5), (100, 10, 0.01, 0.2),
    ):  # fmt: skip

        def draw(rng: np.random.Generator, n: int = clusters, m: int = size, p: float = share, r: float = alike) -> Any:
            assumed = OF_TOKENS if m >= 500 else None
            return share_of_sums(rng.binomial(m, _rates(rng, p, r, n)), np.full(n, m), correlation=assumed), p

        yield row("share", f"{share:g} of {size} each, correlation {alike:g}", clusters, draw, samples)


def paired(samples: int) -> Iterator[dict[str, Any]]:
    """A candidate that loses and wins calls or trials against the baseline, more in some tasks than in others."""
    for clusters, size, right, lost, won in (
        (30, 12, 0.83, 0.0, 0.0), (30, 12, 0.83, 0.01, 0.0), (30, 12, 0.83, 0.02, 0.02), (30, 12, 0.98, 0.01, 0.005),
        (30, 12, 0.83, 0.1, 0.05), (20, 4, 0.6, 0.05, 0.05), (100, 4, 0.5, 0.1, 0.1),
    ):  # fmt: skip

        def draw(rng: np.random.Generator, n: int = clusters, m: int = size, p: float = right, a: float = lost,
                 b: float = won) -> Any:  # fmt: skip
            hits = rng.binomial(m, _rates(rng, p, 0.2, n))
            worse = rng.binomial(hits, _rates(rng, a, 0.2, n)) if a else np.zeros(n)
            better = rng.binomial(m - hits, _rates(rng, b, 0.2, n)) if b else np.zeros(n)
            return difference_of_sums(better, worse, np.full(n, m), hits_b=hits), b * (1 - p) - a * p

        drawn = f"{right:g} right of {size} each, {lost:g} lost, {won:g} won, correlation 0.2"
        yield row("paired difference", drawn, clusters, draw, samples)


def passes(samples: int) -> Iterator[dict[str, Any]]:
    """pass^k of tasks with four trials each."""
    for clusters, low, high in ((40, 0.3, 2.7), (107, 0.3, 2.7), (107, 1.0, 1.0), (40, 2.7, 0.3)):
        for k in (1, 2, 3, 4):
            powers = np.random.default_rng(0).beta(low, high, 1_000_000) ** k

            def draw(rng: np.random.Generator, n: int = clusters, a: float = low, b: float = high, k: int = k,
                     truth: float = float(powers.mean())) -> Any:  # fmt: skip
                return pass_hat_k(rng.binomial(4, rng.beta(a, b, n)).tolist(), [4] * n, k), truth

            yield row(f"pass^{k}", f"rates beta({low:g}, {high:g}), 4 trials", clusters, draw, samples)


def speeds(samples: int) -> Iterator[dict[str, Any]]:
    """Ratios of speeds over rounds, t on logarithms."""
    for rounds in (5, 10, 20):

        def draw(rng: np.random.Generator, n: int = rounds) -> Any:
            logs = clustered_mean(np.log(0.95) + rng.normal(0, 0.02, n), range(n), share=False)
            return logs.mapped("exp", float(np.exp(logs.estimate))), 0.95

        yield row("ratio of speeds", "log-normal noise of 2 %", rounds, draw, samples)


def main() -> None:
    """Run all and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/coverage.json"))
    parser.add_argument("--samples", type=int, default=1000, help="Samples a row.")
    arguments = parser.parse_args()
    rows = [r for part in (kl_means, shares, paired, passes, speeds) for r in part(arguments.samples)]
    record = {
        "about": "Simulated coverage of mlxquant's intervals (benchmarks/interval_coverage.py)", "date": utc_date(),
        "machine": describe_machine(), "versions": describe_versions(), "rows": rows,
    }  # fmt: skip
    arguments.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
