"""Errors summed by the kernels are those of float64, block by block and joined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.kernels import BlockFault, ErrorSums, measure_rows, merged_sums, quantize_rows
from mlxquant.words.formats import Format
from tests.kernels.kernel_blocks import (
    DTYPES,
    SHAPES,
    STYLES,
    assert_errors_are,
    block,
    by_float64,
    model_block,
    narrowed,
    seeds,
    styles,
    summed,
)


@pytest.mark.parametrize(
    ("dtype", "fmt"),
    [
        ("BF16", Format(8, 64)),
        ("F32", Format(3, 32)),
        ("F16", Format(2, 128)),
        *(
            pytest.param(dtype, fmt, marks=pytest.mark.slow)
            for dtype in DTYPES
            for fmt in (Format(4, 32), Format(6, 64))
        ),
    ],
    ids=str,
)
@given(names=styles, seed=seeds)
@settings(max_examples=25)
def test_errors_are_those_of_float64(names, seed, dtype, fmt):
    w = block(dtype, [n for n in names if n not in ("any", "huge")] or ["near"], seed)
    try:
        q, errors = summed(w, dtype, fmt)
    except BlockFault:
        return
    assert_errors_are(errors, by_float64(w, dtype, q, fmt))
    assert measure_rows(w, dtype, q, fmt) == errors


@given(seed=seeds, fmt=st.sampled_from([Format(8, 64), Format(3, 32)]))
@settings(max_examples=20)
def test_a_build_from_elsewhere_is_measured(seed, fmt):
    rng = np.random.default_rng(seed)
    w = block("BF16", ["model", "constant", "all zero", "near"], seed)
    q, _ = quantize_rows(model_block("BF16", 4, seed), "BF16", fmt)
    q.packed[:] = rng.integers(0, 2**32, q.packed.shape, np.uint32)
    assert_errors_are(measure_rows(w, "BF16", q, fmt), by_float64(w, "BF16", q, fmt))


def test_merged_blocks_equal_the_whole():
    w, fmt = model_block("BF16", 48), Format(4, 32)
    whole = summed(w, "BF16", fmt)[1]
    merged: ErrorSums | None = None
    for at in range(0, 48, 7):
        merged = merged_sums(merged, summed(w[at : at + 7], "BF16", fmt)[1], at)
    assert merged is not None
    assert merged.sum_sq_error == pytest.approx(whole.sum_sq_error, rel=1e-14)
    assert merged.sum_sq_weight == pytest.approx(whole.sum_sq_weight, rel=1e-14)
    rest = ("max_abs_error", "max_range_share", "worst_row", "worst_row_relative_rms_error")
    assert [getattr(merged, n) for n in rest] == [getattr(whole, n) for n in rest]


def test_a_row_s_errors_do_not_depend_on_its_neighbours():
    w, fmt = block("BF16", [s for s in STYLES if s not in ("any", "huge")] * 3, 9), Format(4, 32)
    alone = [summed(w[r : r + 1], "BF16", fmt)[1].worst_row_relative_rms_error for r in range(len(w))]
    worst = summed(w, "BF16", fmt)[1]
    assert (worst.worst_row, worst.worst_row_relative_rms_error) == (int(np.argmax(alone)), max(alone))


def test_of_equally_bad_rows_the_first_is_worst_and_zeros_are_without_error():
    w = np.repeat(model_block("BF16", 1), 4, axis=0)
    w[0] = 0
    errors = summed(w, "BF16", Format(8, 64))[1]
    first, second = (summed(w[a:b], "BF16", Format(8, 64))[1] for a, b in ((0, 2), (2, 4)))
    assert errors.worst_row == 1 and first.merge(second, 2).worst_row == 1
    assert summed(w[:1], "BF16", Format(8, 64))[1].worst_row_relative_rms_error == 0


@pytest.mark.parametrize(("stored", "fmt"), [("BF16", Format(8, 64)), ("F16", Format(5, 64))])
def test_a_build_cast_to_another_dtype_is_measured_against_its_source(stored, fmt):
    w = block("F32", ["model", "all zero", "model", "subnormal"], 4)
    cast = narrowed(w, stored).astype(np.uint16).view(SHAPES[stored][2])
    q, errors = summed(cast, stored, fmt)
    measured = measure_rows(w, "F32", q, fmt, stored_dtype=stored)
    assert_errors_are(measured, by_float64(w, "F32", q, fmt, stored))
    assert measured.sum_sq_error != errors.sum_sq_error
