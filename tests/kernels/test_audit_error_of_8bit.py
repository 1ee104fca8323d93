"""The published answer to "8-bit error is about 0.4 % of the dynamic range" holds when it is measured again."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def benchmark(root) -> ModuleType:
    spec = importlib.util.spec_from_file_location("error_of_8bit", root / "benchmarks" / "error_of_8bit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published(root) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((root / "benchmarks" / "results" / "error_of_8bit.json").read_text())[
        "cases"
    ]
    return cases


@pytest.fixture(scope="module")
def weights(benchmark) -> dict[str, Any]:
    drawn: dict[str, Any] = benchmark.draw(64)
    return drawn


@pytest.mark.parametrize("name", ["gaussian", pytest.param("uniform", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["BF16", pytest.param("F32", marks=pytest.mark.slow)])
def test_what_is_published_is_measured_again(benchmark, published, weights, name, dtype):
    for group in benchmark.GROUPS:
        shares = benchmark.measure(name, weights[name], 8, group, dtype)
        wanted = (name, 8, group, dtype)
        case = next(c for c in published if (c["weights"], c["bits"], c["group_size"], c["scales"]) == wanted)
        assert shares["rms_share"] == pytest.approx(case["rms_share"], rel=0.03)
        assert shares["max_share"] <= case["max_share"] * 1.02


def test_with_exact_scales_no_error_exceeds_one_in_256_of_the_range(published):
    exact = [c for c in published if c["bits"] == 8 and c["scales"] == "F32"]
    assert max(c["max_share"] for c in exact) == pytest.approx(1 / 256, rel=1e-3)
    assert all(c["rms_share"] == pytest.approx(c["ideal_rms_share"], rel=0.02) for c in exact)


def test_scales_in_bf16_are_what_goes_beyond_it(published):
    stored = [c for c in published if c["bits"] == 8 and c["scales"] == "BF16"]
    assert 0.0057 < max(c["max_share"] for c in stored) < 0.006
    assert all(0.00138 < c["rms_share"] < 0.00155 for c in stored)
