"""Blocks of rows in styles that break kernels, and what mlx and float64 make of them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import strategies as st

from mlxquant.kernels import ErrorSums, Quantized, quantize_rows
from mlxquant.words.formats import MODES, Format

DTYPES = ("BF16", "F16", "F32")
AFFINE = [Format(bits, group) for bits in MODES["affine"][1] for group in MODES["affine"][0]]
# Of these the kernels are compiled in every run: all bits, groups and dtypes, but not each with each
OFTEN = [
    ("BF16", Format(8, 64)), ("BF16", Format(4, 32)), ("BF16", Format(3, 32)), ("F16", Format(5, 64)),
    ("F16", Format(2, 128)), ("F32", Format(3, 32)), ("F32", Format(6, 128)),
]  # fmt: skip
OTHERS = [Format(4, 32, "mxfp4"), Format(8, 32, "mxfp8"), Format(4, 16, "nvfp4")]
# bits of exponent and mantissa, and the numpy type that holds them
SHAPES: dict[str, tuple[int, int, Any]] = {
    "BF16": (8, 7, np.uint16),
    "F16": (5, 10, np.float16),
    "F32": (8, 23, np.float32),
}
COLS = 256
STYLES = ("any", "near", "lattice", "one sign", "zeros", "all zero", "constant", "subnormal", "huge", "model")
styles = st.lists(st.sampled_from(STYLES), min_size=1, max_size=8)
seeds = st.integers(0, 2**32 - 1)


def fields(rng: np.random.Generator, dtype: str, style: str) -> np.ndarray[Any, Any]:
    """Bits of one row of finite values in a style."""
    exponent_bits, mantissa_bits, _ = SHAPES[dtype]
    top = 2**exponent_bits - 2
    sign, mantissa = rng.integers(0, 2, COLS), rng.integers(0, 2**mantissa_bits, COLS)
    middle = int(rng.integers(0, top + 1))
    exponent = np.clip(rng.integers(middle - 3, middle + 1, COLS), 0, top)
    if style == "any":
        exponent = rng.integers(0, top + 1, COLS)
    elif style == "lattice":  # few values, so that many lie halfway between two levels
        mantissa &= ~(2 ** (mantissa_bits - 3) - 1)
    elif style == "one sign":
        sign[:] = sign[0]
    elif style == "zeros":  # of both signs
        exponent[::2], mantissa[::2] = 0, 0
    elif style == "all zero":
        exponent[:], mantissa[:] = 0, 0
    elif style == "constant":
        sign, exponent, mantissa = (a[:1].repeat(COLS) for a in (sign, exponent, mantissa))
    elif style == "subnormal":
        exponent = rng.integers(0, 2, COLS)
    elif style == "huge":
        exponent = rng.integers(top - 1, top, COLS)
    elif style == "model":
        return narrowed(rng.standard_normal(COLS).astype(np.float32) * np.float32(0.02), dtype)
    return np.asarray((sign << (exponent_bits + mantissa_bits)) | (exponent << mantissa_bits) | mantissa)


def narrowed(values: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """float32 values as bits of a dtype."""
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint16)
    return values.view(np.uint32) >> (16 if dtype == "BF16" else 0)


def block(dtype: str, names: list[str], seed: int) -> np.ndarray[Any, Any]:
    """Rows of the named styles as `quantize_rows` takes them."""
    rng = np.random.default_rng(seed)
    bits = np.stack([fields(rng, dtype, name) for name in names])
    return bits.astype(np.uint32 if dtype == "F32" else np.uint16).view(SHAPES[dtype][2])


def model_block(dtype: str, rows: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return block(dtype, ["model"] * rows, seed)


def widened(a: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    return (a.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else a.astype(np.float32)


def by_mlx(w: np.ndarray[Any, Any], dtype: str, fmt: Format) -> list[bytes]:
    source = mx.array(w).view(mx.bfloat16) if dtype == "BF16" else mx.array(w)
    parts = mx.quantize(source, group_size=fmt.group_size, bits=fmt.bits, mode=fmt.mode)
    return [np.array(p.view(mx.uint16) if p.dtype == mx.bfloat16 else p).tobytes() for p in parts]


def summed(w: np.ndarray[Any, Any], dtype: str, fmt: Format, **options: Any) -> tuple[Quantized, ErrorSums]:
    q, errors = quantize_rows(w, dtype, fmt, errors=True, **options)
    assert errors is not None
    return q, errors


def contents(q: Quantized) -> list[bytes]:
    return [a.tobytes() for a in (q.packed, q.scales, q.biases) if a is not None]


def by_float64(
    w: np.ndarray[Any, Any], dtype: str, q: Quantized, fmt: Format, stored: str | None = None
) -> dict[str, Any]:
    """The errors by mlx's own unpacking and plain numpy."""
    assert q.biases is not None
    unit, zero = (mx.full(q.scales.shape, v, mx.float32) for v in (1.0, 0.0))
    levels = mx.dequantize(mx.array(q.packed), unit, zero, fmt.group_size, fmt.bits)
    scale, bias = (widened(a, stored or dtype).astype(np.float64)[..., None] for a in (q.scales, q.biases))
    source = widened(w, dtype).astype(np.float64).reshape(*q.scales.shape, -1)
    error = np.abs(source - (np.array(levels).reshape(source.shape) * scale + bias))
    largest, spread = error.max(-1), source.max(-1) - source.min(-1)
    share = np.where(spread > 0, largest / np.where(spread > 0, spread, 1), largest > 0)
    rows, weights = (error**2).sum((1, 2)), (source**2).sum((1, 2))
    return {
        "sum_sq_error": rows.sum(),
        "sum_sq_weight": weights.sum(),
        "max_abs_error": error.max(),
        "max_range_share": share.max(),
        "relative": np.sqrt(rows / np.where(weights > 0, weights, 1)),
    }


def assert_errors_are(sums: ErrorSums, expected: dict[str, Any]) -> None:
    for name in ("sum_sq_error", "sum_sq_weight", "max_abs_error", "max_range_share"):
        # float32 sums of squares; below 1e-7 of the weights, e itself is what rounding left of them
        floor = {
            "sum_sq_error": 1e-14 * expected["sum_sq_weight"],
            "max_abs_error": 1e-7 * expected["sum_sq_weight"] ** 0.5,
        }
        assert getattr(sums, name) == pytest.approx(expected[name], rel=1e-4, abs=floor.get(name, 1e-7)), name
    relative = expected["relative"]
    assert sums.worst_row_relative_rms_error == pytest.approx(relative.max(), rel=1e-4, abs=1e-7)
    assert relative[sums.worst_row] == pytest.approx(relative.max(), rel=1e-4, abs=1e-7)
