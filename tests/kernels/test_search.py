"""The search for scale and bias: never worse than rounding, the nearest integers, one result on every CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings

from mlxquant.kernels import InputCounts, Quantized, Rounding, Rows, Searching, dequantize_rows
from mlxquant.words.formats import MODES, Format

from .kernel_blocks import AFFINE, COLS, DTYPES, OTHERS, block, model_block, seeds, styles, widened


class Columns:
    """Column weights for every module: `sets` of them, each for `rows_each` rows."""

    def __init__(self, sets: np.ndarray[Any, Any], rows_each: int) -> None:
        self.sets, self.rows_each = sets.astype(np.float32), rows_each

    @property
    def signature(self) -> dict[str, Any]:
        return {"sets": len(self.sets)}

    def of(self, module: str) -> tuple[np.ndarray[Any, Any], int]:
        return self.sets, self.rows_each

    held_out = of

    def counts(self, module: str) -> InputCounts:
        ones = np.ones(len(self.sets), np.int64)
        return InputCounts.of(ones, ones)


def encoded(encoder: Any, values: np.ndarray[Any, Any], dtype: str, fmt: Format, first_row: int = 0) -> Quantized:
    out = Quantized.empty(len(values), values.shape[1], dtype, fmt)
    encoder.encode(Rows("module", first_row, values, dtype, fmt), out, errors=False)
    return out


def group_errors(values: np.ndarray[Any, Any], q: Quantized, dtype: str, fmt: Format, weights: Any = 1.0) -> Any:
    """Weighted squared errors of each group, (rows, groups), in float64."""
    exact = dequantize_rows(q, dtype, fmt).astype(np.float64) - widened(values, dtype)
    return (exact**2 * weights).reshape(len(values), -1, fmt.group_size).sum(-1)


def often(cases: list[Any], *default: Any) -> list[Any]:
    """Mark the cases that are not run by default as slow: each compiles kernels of its own."""
    return [c if c in default else pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=SLOW) for c in cases]


SLOW = pytest.mark.slow
FALLING = [(dtype, bits) for dtype in DTYPES for bits in MODES["affine"][1]]


@pytest.mark.parametrize("fmt", often(AFFINE[::4], Format(3, 64), Format(6, 32)), ids=str)
@settings(max_examples=15)
@given(names=styles, seed=seeds)
def test_no_row_is_worse_than_rounded_and_above_4_bits_no_group(fmt, names, seed):
    values = block("BF16", names, seed)
    rounded = group_errors(values, encoded(Rounding(True), values, "BF16", fmt), "BF16", fmt)
    searched = group_errors(values, encoded(Searching(None, True), values, "BF16", fmt), "BF16", fmt)
    if fmt.bits <= 4:
        rounded, searched = (
            np.where(np.isfinite(rounded), e, 0).reshape(len(values), -1).sum(1) for e in (rounded, searched)
        )
    # sums of float32 squares order them to within their rounding, and squares of the smallest are 0
    assert (searched <= rounded * (1 + 1e-4) + 1e-36)[np.isfinite(rounded)].all()


@pytest.mark.parametrize(("dtype", "bits"), often(FALLING, ("BF16", 3), ("F16", 4)))
def test_errors_of_ordinary_weights_fall(dtype, bits):
    values, fmt = model_block(dtype, 32), Format(bits, 64)
    rounded, searched = (
        group_errors(values, encoded(e, values, dtype, fmt), dtype, fmt).sum() for e in (Rounding(), Searching())
    )
    assert searched < rounded * (0.9 if dtype != "F32" or bits < 8 else 1)


def test_weighted_columns_of_each_expert_are_those_that_get_better():
    rng = np.random.default_rng(1)
    values, fmt = model_block("BF16", 40), Format(3, 64)
    sets = rng.gamma(0.3, size=(4, COLS)) + 1e-3
    weights = np.repeat(sets, 10, axis=0)
    plain = group_errors(values, encoded(Searching(), values, "BF16", fmt), "BF16", fmt, weights)
    columns = Columns(sets, 10)
    own = encoded(Searching(columns), values, "BF16", fmt)
    assert group_errors(values, own, "BF16", fmt, weights).sum() < 0.8 * plain.sum()
    # blocks begin anywhere: rows 7 to 33 hold the ends of experts 0 and 3
    part = encoded(Searching(columns), values[7:33], "BF16", fmt, first_row=7)
    assert all(np.array_equal(a, b[7:33]) for a, b in zip(arrays(part), arrays(own), strict=True))


def arrays(q: Quantized) -> list[np.ndarray[Any, Any]]:
    assert q.biases is not None
    return [q.packed, q.scales, q.biases]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_as_large_as_the_weights_that_they_stand_for(bits, weighted):
    """Least squares alone gives less: 0.9 of it at 2 bits."""
    values, fmt = model_block("BF16", 40), Format(bits, 64)
    sets = np.random.default_rng(1).gamma(0.5, size=(1, COLS)) + 1e-2 if weighted else np.ones((1, COLS))
    q = encoded(Searching(Columns(sets, 40)), values, "BF16", fmt)
    w, own = (a.astype(np.float64).reshape(-1, 64) for a in (widened(values, "BF16"), dequantize_rows(q, "BF16", fmt)))
    h = np.broadcast_to(sets, (40, COLS)).reshape(-1, 64)
    mean = (h * w).sum(1, keepdims=True) / h.sum(1, keepdims=True)
    slope = (h * (w - mean) * (own - mean)).sum(1) / (h * (w - mean) ** 2).sum(1)
    assert slope == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("fmt", often(AFFINE[1::4], Format(5, 128)), ids=str)
def test_integers_are_the_nearest_under_the_stored_scale_and_bias(fmt):
    """Up to 4 bits, under those before the group is stretched: few are a step off."""
    values = model_block("F32", 5)
    q = encoded(Searching(), values, "F32", fmt)
    packed, stored_scales, stored_biases = arrays(q)
    restored = np.array(
        mx.dequantize(
            mx.array(packed), mx.array(stored_scales), mx.array(stored_biases),
            group_size=fmt.group_size, bits=fmt.bits,
        )
    )  # fmt: skip
    assert np.array_equal(restored.reshape(5, -1), dequantize_rows(q, "F32", fmt))
    scales, biases = (a.reshape(5, -1, 1).astype(np.float64) for a in (stored_scales, stored_biases))
    groups = values.reshape(5, -1, fmt.group_size).astype(np.float64)
    nearest = np.clip(np.rint((groups - biases) / scales), 0, 2**fmt.bits - 1)
    step = np.abs(scales)
    off = np.abs(restored.reshape(groups.shape) - (nearest * scales + biases)) / (step + 1e-30)
    assert off.max() < 1.001
    assert (off <= 1e-5).mean() > (0.999 if fmt.bits > 4 else 0.8)


@pytest.mark.parametrize("fmt", OTHERS, ids=str)
def test_modes_without_biases_are_rounded(fmt):
    values = model_block("BF16", 4)
    both = [encoded(e, values, "BF16", fmt) for e in (Rounding(), Searching())]
    assert all(np.array_equal(a, b) for a, b in zip(*[(q.packed, q.scales) for q in both], strict=True))


def test_rows_with_nan_stay_as_mlx_makes_them_where_allowed():
    values, fmt = model_block("BF16", 4), Format(4, 64)
    values[2, 70] = 0x7FC0
    rounded, searched = (encoded(e, values, "BF16", fmt) for e in (Rounding(True), Searching(None, True)))
    assert np.array_equal(searched.scales[2, 1], rounded.scales[2, 1])
    assert np.array_equal(searched.packed[2, 8:16], rounded.packed[2, 8:16])


PRINT_HASH = """
import hashlib, numpy as np
from mlxquant.kernels import Quantized, Rows, Searching
from mlxquant.words.formats import Format
rng = np.random.default_rng(5)
values = (rng.standard_normal((48, 256)) * 0.02).astype(np.float32)
digest = hashlib.sha256()
for fmt in (Format(2, 32), Format(4, 64), Format(8, 128)):
    out = Quantized.empty(48, 256, "F32", fmt)
    Searching().encode(Rows("m", 0, values, "F32", fmt), out, errors=False)
    for a in (out.packed, out.scales, out.biases): digest.update(a.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_bytes_are_the_same_under_another_instruction_set(tmp_path):
    def digest(**more: str) -> str:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / more.get("NUMBA_CPU_NAME", "host")), **more}
        run = subprocess.run([sys.executable, "-c", PRINT_HASH], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout

    assert digest() == digest(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
