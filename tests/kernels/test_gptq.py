"""GPTQ for one matrix: less error of the output at the same bytes, and where there is nothing to choose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxquant.kernels import Quantized, dequantize_rows, quantize_rows
from mlxquant.kernels.compiled import _KINDS
from mlxquant.kernels.gptq import Curvature, _gptq, _sweep, compensate_rows, output_errors
from mlxquant.words.formats import Format, widen

from .kernel_blocks import model_block

ROWS, COLS = 48, 256


def inputs_of(columns: int, n: int = 600) -> np.ndarray[Any, Any]:
    """Inputs (n, columns) as layers have them: correlated, with some channels much larger than others."""
    rng = np.random.default_rng(1)
    mixed = rng.standard_normal((n, columns // 4)) @ rng.standard_normal((columns // 4, columns))
    sizes = np.exp(rng.standard_normal(columns))
    return np.asarray((mixed + rng.standard_normal((n, columns))) * sizes, np.float32)


def moments_of(inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(inputs.T @ inputs / len(inputs))


def rounded(values: np.ndarray[Any, Any], dtype: str, fmt: Format) -> Quantized:
    return quantize_rows(values, dtype, fmt)[0]


def compensated(values: np.ndarray[Any, Any], dtype: str, fmt: Format, curvature: Curvature) -> Quantized:
    out = compensate_rows(values, dtype, fmt, curvature, rounded(values, dtype, fmt))
    assert out is not None
    return out


def errors(values: np.ndarray[Any, Any], q: Quantized, dtype: str, fmt: Format, inputs: np.ndarray[Any, Any]) -> Any:
    return output_errors(widen(values, dtype), dequantize_rows(q, dtype, fmt), inputs)


@pytest.mark.parametrize(
    ("dtype", "fmt", "share"),
    [
        ("BF16", Format(4, 64), 0.35),
        ("BF16", Format(3, 64), 0.35),
        pytest.param("BF16", Format(2, 32), 0.4, marks=pytest.mark.slow),
        pytest.param("F16", Format(5, 128), 0.4, marks=pytest.mark.slow),
        pytest.param("F32", Format(6, 32), 0.6, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_output_of_other_inputs_is_nearer_than_rounded(dtype, fmt, share):
    values, inputs = model_block(dtype, ROWS), inputs_of(COLS, 1200)
    curvature = Curvature.of(moments_of(inputs[::2]))
    ours = errors(values, compensated(values, dtype, fmt, curvature), dtype, fmt, inputs[1::2])
    plain = errors(values, rounded(values, dtype, fmt), dtype, fmt, inputs[1::2])
    assert ours.sum() < share * plain.sum()


def test_no_row_is_worse_under_the_damped_moments_than_rounded():
    fmt, values, inputs = Format(3, 64), model_block("BF16", ROWS), inputs_of(COLS, 40)  # fewer inputs than columns
    curvature = Curvature.of(moments_of(inputs))
    losses = []
    for q in (compensated(values, "BF16", fmt, curvature), rounded(values, "BF16", fmt)):
        error = (widen(values, "BF16") - dequantize_rows(q, "BF16", fmt)).astype(np.float64)
        losses.append(np.einsum("ri,ij,rj->r", error, curvature.moments, error))
    assert (losses[0] <= losses[1] * (1 + 1e-5)).all()


def test_columns_of_equal_and_unrelated_inputs_gain_what_the_search_gains():
    fmt, values = Format(4, 64), model_block("BF16", ROWS)
    curvature = Curvature.of(np.eye(COLS), damping=0)
    error = widen(values, "BF16") - dequantize_rows(compensated(values, "BF16", fmt, curvature), "BF16", fmt)
    plain = widen(values, "BF16") - dequantize_rows(rounded(values, "BF16", fmt), "BF16", fmt)
    assert 0.5 < np.square(error).sum() / np.square(plain).sum() < 0.95


def test_the_factor_is_that_of_the_moments_in_falling_order():
    curvature = Curvature.of(moments_of(inputs_of(COLS)))
    ordered = curvature.moments[np.ix_(curvature.order, curvature.order)].astype(np.float64)
    factor = (curvature.feedback * curvature.pivots[:, None]).T.astype(np.float64)
    np.testing.assert_allclose(factor @ factor.T, ordered, atol=1e-5 * ordered.max())
    assert np.array_equal(factor, np.triu(factor))
    assert (np.diff(curvature.moments.diagonal()[curvature.order]) <= 0).all()


@pytest.mark.parametrize("rows", [1, 63, 65])
def test_any_number_of_rows_is_encoded_as_well(rows):
    fmt, values, inputs = Format(4, 32), model_block("BF16", 65)[:rows], inputs_of(COLS)
    curvature = Curvature.of(moments_of(inputs))
    ours = errors(values, compensated(values, "BF16", fmt, curvature), "BF16", fmt, inputs)
    assert (ours < 0.6 * errors(values, rounded(values, "BF16", fmt), "BF16", fmt, inputs)).all()


def test_levels_are_those_of_the_errors_that_were_minimized():
    fmt, values, inputs = Format(2, 64), model_block("BF16", ROWS), inputs_of(COLS)
    curvature, weights = Curvature.of(moments_of(inputs)), widen(values, "BF16")
    start = rounded(values, "BF16", fmt)
    codes = _gptq(np.ascontiguousarray(weights.T), curvature, start, "BF16", fmt)
    for _ in range(3):
        before = codes.losses.copy()
        error = codes.errors.T.astype(np.float64)
        np.testing.assert_allclose(codes.losses, np.einsum("ri,ij,rj->r", error, curvature.moments, error), rtol=1e-4)
        _sweep(codes, curvature, fmt, _KINDS["BF16"])
        assert (codes.losses <= before).all()


def test_moments_that_float32_cannot_factor_are_factored_in_float64():
    inputs = inputs_of(64, 30)
    inputs[:, 0] *= 1e5
    curvature = Curvature.of(moments_of(inputs), damping=1e-12)
    assert np.isfinite(curvature.feedback).all()


def test_moments_that_are_not_finite_are_refused():
    with pytest.raises(np.linalg.LinAlgError):
        Curvature.of(np.full((64, 64), np.nan))


@pytest.mark.parametrize("fmt", [Format(4, 32, "mxfp4"), Format(8, 32, "mxfp8"), Format(4, 16, "nvfp4")], ids=str)
def test_modes_without_biases_have_nothing_to_choose(fmt):
    values = model_block("BF16", 2)
    assert compensate_rows(values, "BF16", fmt, Curvature.of(np.eye(COLS)), rounded(values, "BF16", fmt)) is None


def test_rows_that_hold_nan_have_nothing_to_choose():
    values, fmt = model_block("BF16", 2), Format(4, 64)
    before = rounded(values, "BF16", fmt)
    values[1, 3] = 0x7FC0
    assert compensate_rows(values, "BF16", fmt, Curvature.of(np.eye(COLS)), before) is None
