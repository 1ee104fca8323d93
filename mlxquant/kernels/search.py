"""Scale and bias of each group searched for least squared error, plain or weighted by column, as loops for numba.

For a group w of 32, 64 or 128 neighbours under column weights h (all 1 where there are none):

    candidates  both ends of the range, each drawn in towards the group's mean in `STEPS` steps, by `REACH` at most
    each        nearest integers, scale and bias by least squares given these, twice; then the scale as it is stored,
                the best bias for that scale, as it is stored too
    chosen      the least Σ h·(w - (scale·q + bias))², q the nearest integers under the stored scale and bias
    polished    neighbouring stored scales, each with its best bias, as long as one is better
    stretched   at 2 to 4 bits: scale = Σ h·(w - w̄)² / Σ h·(w - w̄)·(q - q̄), the integers as they are

What rounding chose is the first candidate, so a group's error is never larger than rounding's before it is stretched
(where its squares overflow float32, rounding stays). Stretching by a factor makes its error as much larger; a row is
stretched only where its error stays below rounding's. Integers are taken from the stored scale and bias, before that.

Why stretched: least squares gives the mean of all weights that an integer may stand for, so what it gives is too small,
by its squared error: at 2 bits by a tenth, and all outputs of a layer with it. The scale of the inverse regression (of
q on w) makes w and its values agree in size, for hardly more error. On the store model, at its columns' order and nine
others, that took KL from 0.42 to 0.24 of rounding's at 2 bits and from 0.62 to 0.57 at 3, weighed by inputs from 0.26
to 0.17 and from 0.41 to 0.37; at 4 bits it changed nothing. Weighing large weights more, as llama.cpp does, was worse
at 2 bits and no better above.

The alternation is the one of k-means, as llama.cpp's imatrix quantization does it
(`make_qkx3_quants`); HQQ (https://mobiusml.github.io/hqq_blog), which minimizes another norm, did worse at 4 bits on
the models tried. In bf16 a scale has 8 bits, so at 8 bits and wide groups its rounding is most of the error: hence the
polish.

Sixteen groups go side by side, one in each lane, and each lane adds its own group's terms in order. There is no
reassociation and no fused multiply-add, so bytes are the same on every CPU, however wide its vectors.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from ..words.jit import jit
from .compiled import _KINDS, _bits, _flat, _rounded, _widened

__all__ = ["search"]

# Steps at each end of the range, and how far towards the mean they go, by bits: fewer levels gain by clipping more.
STEPS = 5
REACH = {2: 0.6, 3: 0.5, 4: 0.4}
_REACH_ELSE = 0.2
_LANES, _UNROLL, _POLISHES = 16, 8, 3
_ZERO, _ONE, _INFINITY = np.float32(0), np.float32(1), np.float32(np.inf)
# Below this share of its largest, a determinant of least squares is rounding: all integers of the group are equal.
_SINGULAR = np.float32(1e-6)
# Up to so many bits groups are stretched, by so much at most; above, the stored scale is coarser than what is to gain.
_STRETCHED_BITS, _STRETCH = 4, np.float32(2)
_LOCK = threading.Lock()

# Rows of a block's lanes
_S, _B, _BEST_S, _BEST_B, _BEST, _LOW, _HIGH, _MEAN, _SH, _SW, _SQ, _SQQ, _SQW, _ERR, _INV = range(15)
_SWW, _ROUNDED, _OUT_S, _OUT_B = range(15, 19)
_SCALARS = 19


@jit(forceinline=True)
def _level(value, bias, inverse, top):  # type: ignore[no-untyped-def]
    """The nearest integer, as float32."""
    q = np.rint((value - bias) * inverse)
    q = q if q > _ZERO else _ZERO
    return q if q < top else top


@jit(forceinline=True)
def _invert(lanes):  # type: ignore[no-untyped-def]
    for lane in range(_LANES):
        k = np.uintp(lane)
        s = lanes[np.uintp(_S), k]
        lanes[np.uintp(_INV), k] = _ONE / s if s != _ZERO else _ZERO


@jit
def _sum_levels(values, weights, lanes, top, group):  # type: ignore[no-untyped-def]
    """Set Σhq, Σhq² and Σhqw of the nearest integers under the lanes' scale and bias."""
    _invert(lanes)
    for lane in range(_LANES):
        k = np.uintp(lane)
        lanes[np.uintp(_SQ), k] = _ZERO
        lanes[np.uintp(_SQQ), k] = _ZERO
        lanes[np.uintp(_SQW), k] = _ZERO
    for first in range(0, group, _UNROLL):
        for lane in range(_LANES):  # the loop that becomes vectors; what is inside is written out
            k = np.uintp(lane)
            bias, inverse = lanes[np.uintp(_B), k], lanes[np.uintp(_INV), k]
            sq, sqq, sqw = lanes[np.uintp(_SQ), k], lanes[np.uintp(_SQQ), k], lanes[np.uintp(_SQW), k]
            for step in range(_UNROLL):
                i = np.uintp((first + step) * _LANES + lane)
                value = values[i]
                q = _level(value, bias, inverse, top)
                hq = weights[i] * q
                sq += hq
                sqq += hq * q
                sqw += hq * value
            lanes[np.uintp(_SQ), k], lanes[np.uintp(_SQQ), k], lanes[np.uintp(_SQW), k] = sq, sqq, sqw


@jit
def _sum_errors(values, weights, lanes, top, group):  # type: ignore[no-untyped-def]
    """Set Σhe² of the nearest integers under the lanes' scale and bias."""
    _invert(lanes)
    for lane in range(_LANES):
        lanes[np.uintp(_ERR), np.uintp(lane)] = _ZERO
    for first in range(0, group, _UNROLL):
        for lane in range(_LANES):
            k = np.uintp(lane)
            scale, bias, inverse = lanes[np.uintp(_S), k], lanes[np.uintp(_B), k], lanes[np.uintp(_INV), k]
            error = lanes[np.uintp(_ERR), k]
            for step in range(_UNROLL):
                i = np.uintp((first + step) * _LANES + lane)
                value = values[i]
                e = value - (_level(value, bias, inverse, top) * scale + bias)
                error += weights[i] * (e * e)
            lanes[np.uintp(_ERR), k] = error


@jit
def _fit(lanes):  # type: ignore[no-untyped-def]
    """Scale and bias by least squares, given the sums over the integers."""
    for lane in range(_LANES):
        k = np.uintp(lane)
        sh, sw = lanes[np.uintp(_SH), k], lanes[np.uintp(_SW), k]
        sq, sqq, sqw = lanes[np.uintp(_SQ), k], lanes[np.uintp(_SQQ), k], lanes[np.uintp(_SQW), k]
        most = sh * sqq
        determinant = most - sq * sq
        regular = determinant > _SINGULAR * most
        s = (sh * sqw - sq * sw) / (determinant if regular else _ONE)
        b = (sw - s * sq) / sh
        lanes[np.uintp(_S), k] = s if regular else lanes[np.uintp(_S), k]
        lanes[np.uintp(_B), k] = b if regular else lanes[np.uintp(_B), k]


@jit(forceinline=True)
def _store(lanes, kind):  # type: ignore[no-untyped-def]
    """Round the scale to what is stored, then the best bias for it given the sums over the integers."""
    for lane in range(_LANES):
        k = np.uintp(lane)
        s = _widened(_rounded(lanes[np.uintp(_S), k], kind), kind)
        b = (lanes[np.uintp(_SW), k] - s * lanes[np.uintp(_SQ), k]) / lanes[np.uintp(_SH), k]
        lanes[np.uintp(_S), k], lanes[np.uintp(_B), k] = s, _widened(_rounded(b, kind), kind)


@jit
def _keep_better(lanes):  # type: ignore[no-untyped-def]
    """Take over scale and bias where their error is less than the best. NaN is not less. Says whether one was."""
    any_better = np.int32(0)
    for lane in range(_LANES):
        k = np.uintp(lane)
        better = lanes[np.uintp(_ERR), k] < lanes[np.uintp(_BEST), k]
        any_better |= np.int32(better)
        lanes[np.uintp(_BEST), k] = lanes[np.uintp(_ERR), k] if better else lanes[np.uintp(_BEST), k]
        lanes[np.uintp(_BEST_S), k] = lanes[np.uintp(_S), k] if better else lanes[np.uintp(_BEST_S), k]
        lanes[np.uintp(_BEST_B), k] = lanes[np.uintp(_B), k] if better else lanes[np.uintp(_BEST_B), k]
    return any_better


@jit
def _describe(values, weights, lanes, group):  # type: ignore[no-untyped-def]
    """Set the ends and the mean of each lane's group, Σh, Σhw, and Σhw² about the mean."""
    for lane in range(_LANES):
        k = np.uintp(lane)
        low = high = values[k]
        total, sh, sw = _ZERO, _ZERO, _ZERO
        for i in range(group):
            j = np.uintp(i * _LANES + lane)
            value = values[j]
            low, high = value if value < low else low, value if value > high else high
            total += value
            h = weights[j]
            sh += h
            sw += h * value
        lanes[np.uintp(_LOW), k], lanes[np.uintp(_HIGH), k] = low, high
        lanes[np.uintp(_MEAN), k] = total / np.float32(group)
        lanes[np.uintp(_SH), k], lanes[np.uintp(_SW), k] = sh, sw
        centre, square = sw / sh, _ZERO
        for i in range(group):
            j = np.uintp(i * _LANES + lane)
            e = values[j] - centre
            square += weights[j] * (e * e)
        lanes[np.uintp(_SWW), k] = square


@jit
def _try_ends(lanes, low_share, high_share, top):  # type: ignore[no-untyped-def]
    """Scale and bias of the range whose ends are drawn in by shares of their distance to the mean."""
    for lane in range(_LANES):
        k = np.uintp(lane)
        mean = lanes[np.uintp(_MEAN), k]
        low, high = lanes[np.uintp(_LOW), k], lanes[np.uintp(_HIGH), k]
        a = low + low_share * (mean - low)
        z = high - high_share * (high - mean)
        lanes[np.uintp(_S), k], lanes[np.uintp(_B), k] = (z - a) / top, a


@jit(forceinline=True)
def _step_scale(lanes, step, kind):  # type: ignore[no-untyped-def]
    """The stored scale `step` places up or down from the best one, in the order of its bits, with the best bias."""
    for lane in range(_LANES):
        k = np.uintp(lane)
        bits = np.int64(_rounded(lanes[np.uintp(_BEST_S), k], kind)) + step
        lanes[np.uintp(_S), k] = _widened(np.uint32(max(bits, 0)), kind)
        lanes[np.uintp(_B), k] = lanes[np.uintp(_BEST_B), k]


@jit
def _stretch(values, weights, lanes, kind, top, group):  # type: ignore[no-untyped-def]
    """Set the best scale and bias, stretched, and the error with them."""
    lanes[_S], lanes[_B] = lanes[_BEST_S], lanes[_BEST_B]
    _sum_levels(values, weights, lanes, top, group)
    for lane in range(_LANES):
        k = np.uintp(lane)
        covariance = lanes[np.uintp(_SQW), k] - lanes[np.uintp(_SQ), k] * (
            lanes[np.uintp(_SW), k] / lanes[np.uintp(_SH), k]
        )
        best = lanes[np.uintp(_BEST_S), k]
        s = lanes[np.uintp(_SWW), k] / (covariance if covariance != _ZERO else _ONE)
        ratio = s / (best if best != _ZERO else _ONE)
        lanes[np.uintp(_S), k] = s if ratio > _ONE and ratio < _STRETCH else best
    _store(lanes, kind)
    for lane in range(_LANES):  # as `_sum_errors`, but of the integers under the best scale and bias
        k = np.uintp(lane)
        best, bias = lanes[np.uintp(_BEST_S), k], lanes[np.uintp(_BEST_B), k]
        s, b = lanes[np.uintp(_S), k], lanes[np.uintp(_B), k]
        inverse, error = _ONE / best if best != _ZERO else _ZERO, _ZERO
        for i in range(group):
            j = np.uintp(i * _LANES + lane)
            e = values[j] - (_level(values[j], bias, inverse, top) * s + b)
            error += weights[j] * (e * e)
        finite = error < _INFINITY
        lanes[np.uintp(_ERR), k] = error if finite else lanes[np.uintp(_BEST), k]
        lanes[np.uintp(_OUT_S), k], lanes[np.uintp(_OUT_B), k] = s if finite else best, b if finite else bias


@jit
def _take_stretched(stretched, errors, scales, biases, row_groups, kind):  # type: ignore[no-untyped-def]
    """Store the stretched scales and biases of the rows whose error stays below rounding's."""
    for first in range(0, errors.shape[1], row_groups):
        rounded, own = np.float64(0), np.float64(0)
        for g in range(first, first + row_groups):
            rounded += np.float64(errors[0, g])
            own += np.float64(errors[1, g])
        if own < rounded:
            for g in range(first, first + row_groups):
                if errors[1, g] > _ZERO:
                    scales[g], biases[g] = _rounded(stretched[0, g], kind), _rounded(stretched[1, g], kind)


@jit
def _pack_group(values, lane, scale, bias, packed, at, top, group, bits):  # type: ignore[no-untyped-def]
    """Write a group's nearest integers as a string of bits, lowest first, into words from `at` on."""
    inverse = _ONE / scale if scale != _ZERO else _ZERO
    held, count, word = np.uint64(0), 0, at
    for i in range(group):
        q = np.uint64(_level(values[np.uintp(i * _LANES + lane)], bias, inverse, top))
        held |= q << np.uint64(count)
        count += bits
        if count >= 32:
            packed[np.uintp(word)] = np.uint32(held & np.uint64(0xFFFFFFFF))
            held >>= np.uint64(32)
            word, count = word + 1, count - 32


@jit
def _load(source, scales, biases, columns, column_rows, first, groups, group, kind, values, weights, lanes):  # type: ignore[no-untyped-def]
    """Fill the lanes with 16 groups from `first` on: values, weights, and what rounding chose. The last one repeats."""
    row_groups = columns.shape[1] // group
    for lane in range(_LANES):
        g = min(first + lane, groups - 1)
        for i in range(group):
            values[i * _LANES + lane] = _widened(np.uint32(source[g * group + i]), kind)
        if column_rows.size:
            row, at = column_rows[g // row_groups], g % row_groups * group
            for i in range(group):
                weights[i * _LANES + lane] = columns[row, at + i]
        lanes[_S, lane] = _widened(np.uint32(scales[g]), kind)
        lanes[_B, lane] = _widened(np.uint32(biases[g]), kind)


@lru_cache
def _kernel(kind: int) -> Any:
    """The kernel of a dtype: its key in numba's cache."""

    def run(source, packed, scales, biases, columns, column_rows, groups, group, bits, stretch, shares):  # type: ignore[no-untyped-def]
        values, weights = np.zeros(group * _LANES, np.float32), np.ones(group * _LANES, np.float32)
        lanes = np.zeros((_SCALARS, _LANES), np.float32)
        top, words = np.float32((1 << bits) - 1), group * bits // 32
        # of each group: scale and bias when stretched; the error when rounded and when stretched, 0 where not finite
        stretched, errors = np.zeros((2, groups), np.float32), np.zeros((2, groups), np.float32)
        for first in range(0, groups, _LANES):
            _load(source, scales, biases, columns, column_rows, first, groups, group, kind, values, weights, lanes)
            _describe(values, weights, lanes, group)
            _sum_errors(values, weights, lanes, top, group)
            lanes[_BEST], lanes[_BEST_S], lanes[_BEST_B] = lanes[_ERR], lanes[_S], lanes[_B]
            lanes[_ROUNDED] = lanes[_ERR]
            for low_share in shares:
                for high_share in shares:
                    _try_ends(lanes, low_share, high_share, top)
                    for _ in range(2):
                        _sum_levels(values, weights, lanes, top, group)
                        _fit(lanes)
                    _store(lanes, kind)
                    _sum_errors(values, weights, lanes, top, group)
                    _keep_better(lanes)
            for _ in range(_POLISHES):
                better = np.int32(0)
                for step in (-1, 1):
                    _step_scale(lanes, step, kind)
                    _sum_levels(values, weights, lanes, top, group)
                    _store(lanes, kind)
                    _sum_errors(values, weights, lanes, top, group)
                    better |= _keep_better(lanes)
                if better == 0:
                    break
            if stretch:
                _stretch(values, weights, lanes, kind, top, group)
            for lane in range(min(_LANES, groups - first)):
                g = first + lane
                if np.isfinite(lanes[_BEST, lane]):
                    scale, bias = lanes[_BEST_S, lane], lanes[_BEST_B, lane]
                    scales[g], biases[g] = _rounded(scale, kind), _rounded(bias, kind)
                    _pack_group(values, lane, scale, bias, packed, g * words, top, group, bits)
                    if stretch:
                        stretched[0, g], stretched[1, g] = lanes[_OUT_S, lane], lanes[_OUT_B, lane]
                        errors[0, g], errors[1, g] = lanes[_ROUNDED, lane], lanes[_ERR, lane]
        if stretch:
            _take_stretched(stretched, errors, scales, biases, columns.shape[1] // group, kind)

    signature = types.void(
        _flat(_bits(kind)), _flat("u4", written=True), *[_flat(_bits(kind), written=True)] * 2,
        types.Array(types.float32, 2, "C", readonly=True), _flat("i8"), *[types.int64] * 4, _flat("f4"),
    )  # fmt: skip
    return jit(run, signature)


def search(
    dtype: str,
    group: int,
    bits: int,
    values: NDArray[Any],
    packed: NDArray[np.uint32],
    scales: NDArray[Any],
    biases: NDArray[Any],
    columns: NDArray[np.float32] | None = None,
    column_rows: NDArray[np.int64] | None = None,
    *,
    stretch: bool = True,
) -> None:
    """Better the scales, biases and integers of (rows, cols) `values` where rounding has put its own. All C-contiguous.

    `columns` (sets, cols) are column weights, positive and finite, of which row r uses set ``column_rows[r]``. Without
    `stretch` groups keep the least squared error. Groups with NaN or infinity stay as they are.
    """
    kind, (rows, row_groups) = _KINDS[dtype], scales.shape
    cols = row_groups * group
    fits = values.shape == (rows, cols) and packed.shape == (rows, cols * bits // 32) and biases.shape == scales.shape
    if columns is None or column_rows is None:
        columns, column_rows = np.empty((1, cols), np.float32), np.empty(0, np.int64)
    elif columns.shape[1] != cols or column_rows.shape != (rows,):
        fits = False
    if not fits:
        raise ValueError(f"arrays that fit together expected, {values.shape} in {packed.shape} given")
    with _LOCK:  # two threads must not make the same kernel twice
        kernel = _kernel(kind)
    source = values.reshape(-1).view(_bits(kind))
    parts = [a.reshape(-1).view(_bits(kind)) for a in (scales, biases)]
    shares = np.linspace(0, REACH.get(bits, _REACH_ELSE), STEPS, dtype=np.float32)
    sizes = (rows * row_groups, group, bits, int(stretch and bits <= _STRETCHED_BITS))
    kernel(source, packed.reshape(-1), *parts, columns, column_rows, *sizes, shares)
