"""Quantized bytes are mlx's, for any bits."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant import kernels
from mlxquant.kernels import BlockFault, Quantized, quantize_rows
from mlxquant.words.formats import Format
from mlxquant.words.jit import jit
from tests.kernels.kernel_blocks import (
    AFFINE,
    COLS,
    DTYPES,
    OFTEN,
    OTHERS,
    SHAPES,
    STYLES,
    assert_errors_are,
    block,
    by_float64,
    by_mlx,
    contents,
    model_block,
    narrowed,
    seeds,
    styles,
    summed,
    widened,
)


def cases() -> list[Any]:
    """Every format for every dtype; by default those of `OFTEN`, since each compiles a kernel, and the rest slow."""
    return [
        pytest.param(dtype, fmt, marks=() if (dtype, fmt) in OFTEN else pytest.mark.slow, id=f"{dtype}-{fmt}")
        for dtype in DTYPES
        for fmt in AFFINE
    ]


@pytest.mark.parametrize(("dtype", "fmt"), cases())
@settings(max_examples=15)
@given(names=styles, seed=seeds)
def test_bytes_are_mlx_s_for_every_format_and_dtype(fmt, dtype, names, seed):
    w = block(dtype, [*STYLES, *names], seed)
    q, _ = summed(w, dtype, fmt, allow_nonfinite=True)
    assert contents(q) == by_mlx(w, dtype, fmt)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fmt", AFFINE, ids=str)
def test_random_bits_of_any_kind_give_mlx_s_bytes(fmt, dtype):
    rng = np.random.default_rng(7)
    w = rng.integers(0, 256, (2048, COLS * SHAPES[dtype][2]().itemsize), np.uint8).view(SHAPES[dtype][2])
    q, _ = quantize_rows(w, dtype, fmt, allow_nonfinite=True)
    assert contents(q) == by_mlx(w, dtype, fmt)


@pytest.mark.parametrize(
    ("dtype", "fmt"), [("BF16", Format(8, 64)), ("F16", Format(2, 128)), ("F32", Format(3, 32))], ids=str
)
def test_bytes_are_the_same_without_sums(fmt, dtype):
    w = block(dtype, list(STYLES), 3)
    plain, nothing = quantize_rows(w, dtype, fmt, allow_nonfinite=True)
    assert contents(plain) == by_mlx(w, dtype, fmt) and nothing is None


@pytest.mark.parametrize("cols", [128, 192, 640, 4096, 17 * 1024])
def test_rows_of_any_width_give_mlx_s_bytes(cols):
    w = np.resize(model_block("BF16", 64, 5), (37, cols)).copy()
    q, errors = summed(w, "BF16", Format(8, 64))
    assert contents(q) == by_mlx(w, "BF16", Format(8, 64))
    assert_errors_are(errors, by_float64(w, "BF16", q, Format(8, 64)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fmt", OTHERS, ids=str)
def test_modes_are_mlx_s(fmt, dtype):
    w = model_block(dtype, 5)
    q, errors = summed(w, dtype, fmt)
    assert not kernels.has_fast_path(fmt, dtype)
    assert contents(q) == by_mlx(w, dtype, fmt)
    assert 0.01 < errors.relative_rms_error < 0.2


@given(
    row=st.integers(0, 6),
    column=st.integers(0, COLS - 1),
    value=st.sampled_from([np.nan, np.inf, -np.inf, -np.nan]),
    form=st.sampled_from(
        [("BF16", Format(8, 64)), ("F16", Format(5, 64)), ("F32", Format(6, 128)), ("BF16", OTHERS[0])]
    ),
)
@settings(max_examples=40)
def test_the_first_nan_or_infinity_is_located(row, column, value, form):
    dtype, fmt = form
    w = model_block(dtype, 8)
    bits = narrowed(np.array([value], np.float32), dtype).astype(np.uint32 if dtype == "F32" else np.uint16)
    w[row, column], w[7, 0] = bits.view(w.dtype)[0], bits.view(w.dtype)[0]
    with pytest.raises(BlockFault) as fault:
        quantize_rows(w, dtype, fmt, errors=True)
    assert (fault.value.row, fault.value.column) == (row, column)
    assert fault.value.kind == ("NaN" if np.isnan(value) else "infinity")


@pytest.mark.parametrize(("dtype", "fmt"), [("BF16", Format(8, 64)), ("F32", Format(6, 128))])
def test_a_group_whose_range_is_infinite_is_located(dtype, fmt):
    w = model_block(dtype, 4)
    far = narrowed(np.array([3e38, -3e38], np.float32), dtype)
    w[2, [130, 140]] = far.astype(np.uint16) if dtype == "BF16" else far.view(np.float32)
    with pytest.raises(BlockFault, match="overflows") as fault:
        quantize_rows(w, dtype, fmt, errors=True)
    assert (fault.value.kind, fault.value.row, fault.value.column) == ("overflow", 2, 128)


def test_what_is_not_finite_passes_as_mlx_s_bytes_when_allowed():
    rng = np.random.default_rng(1)
    w = rng.integers(0, 2**16, (64, COLS), np.uint16)
    q, errors = summed(w, "BF16", Format(3, 32), allow_nonfinite=True)
    assert contents(q) == by_mlx(w, "BF16", Format(3, 32))
    assert np.isnan(errors.sum_sq_error) and errors.worst_row_relative_rms_error == np.inf


@pytest.mark.parametrize(
    ("dtype", "fmt"), [("BF16", Format(8, 64)), ("F32", Format(3, 32)), ("F16", Format(2, 128))], ids=str
)
def test_dequantized_values_are_mlx_s_in_float32(fmt, dtype):
    q, _ = summed(model_block(dtype, 9), dtype, fmt)
    assert q.biases is not None
    scales, biases = (mx.array(widened(a, dtype)) for a in (q.scales, q.biases))
    theirs = mx.dequantize(mx.array(q.packed), scales, biases, fmt.group_size, fmt.bits)
    assert np.array_equal(kernels.dequantize_rows(q, dtype, fmt), np.array(theirs))


def test_threads_side_by_side_give_the_same_bytes():
    blocks = [model_block("BF16", 64, seed) for seed in range(8)]
    formats = [Format(8, 64), OTHERS[0]] * 4
    alone = [summed(w, "BF16", f) for w, f in zip(blocks, formats, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda w, f: summed(w, "BF16", f), blocks, formats))
    assert [contents(q) for q, _ in together] == [contents(q) for q, _ in alone]
    assert [errors for _, errors in together] == [errors for _, errors in alone]


def test_a_read_only_source_at_an_odd_address_is_taken_into_given_memory():
    w = model_block("BF16", 4)
    odd = np.frombuffer(b"x" + w.tobytes(), np.uint8)[1:].view(np.uint16).reshape(w.shape)
    out = Quantized.empty(4, COLS, "BF16", Format(8, 64))
    q, _ = quantize_rows(odd, "BF16", Format(8, 64), out=out)
    assert q is out and contents(out) == by_mlx(w, "BF16", Format(8, 64))


def test_arrays_that_do_not_fit_are_refused():
    w = model_block("BF16", 4)
    for given_w, rows in ((w, 3), (w[:, ::2], 4), (w.astype(np.float32), 4)):
        with pytest.raises(ValueError, match="fit together"):
            quantize_rows(
                given_w, "BF16", Format(8, 64), out=Quantized.empty(rows, given_w.shape[1], "BF16", Format(8, 64))
            )


def test_importing_kernels_imports_neither_numba_nor_mlx():
    code = "import sys, mlxquant.kernels; print({'numba', 'llvmlite', 'mlx'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_without_a_place_for_its_cache_numba_compiles_all_the_same(monkeypatch):
    import numba

    njit: Any = numba.njit

    def nowhere(signature: Any = None, **options: Any) -> Any:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(signature, **options)

    monkeypatch.setattr(numba, "njit", nowhere)
    assert jit(lambda x: x + 1)(1) == 2
    assert jit(lambda x: x + 1, numba.int64(numba.int64))(1) == 2


@pytest.mark.metal
def test_the_gpu_quantizes_in_pieces():
    from mlxquant.kernels import mlx as kernels_mlx

    w = model_block("BF16", 64)
    whole, _ = quantize_rows(w, "BF16", Format(8, 64), device="gpu")
    kernels_mlx.GPU_PIECE_BYTES, before = w[:5].nbytes, kernels_mlx.GPU_PIECE_BYTES
    pieces, _ = quantize_rows(w, "BF16", Format(8, 64), device="gpu")
    kernels_mlx.GPU_PIECE_BYTES = before
    assert contents(pieces) == contents(whole)
