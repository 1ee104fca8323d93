"""The row kernels of affine quantization: `kernels_vector`'s loops, group parameters and packing, compiled.

One kernel per (dtype, group size, layout, task), compiled by numba when first asked for and kept on its disk
cache: in this package's __pycache__, else the user's cache folder, else not at all. A kernel takes the GIL away
from nobody: threads call it side by side. Rows it cannot answer for are flagged, see `Flag`.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from . import vector as kernels_vector
from .vector import (
    BF16,
    BIAS,
    DEQUANTIZE,
    DTYPES,
    F16,
    F32,
    INVERSE,
    ITEM,
    MEASURE,
    QUANTIZE,
    QUANTIZE_AND_SUM,
    SCALE,
    STORED,
    ends,
    groups,
    least_size,
)

__all__ = ["DEQUANTIZE", "INEXACT", "MEASURE", "NONFINITE", "QUANTIZE", "QUANTIZE_AND_SUM", "run", "summarize"]

# Flags of a row: it holds NaN, infinity or a range that is infinite; its sums want float64 throughout.
NONFINITE, INEXACT = 1, 2
# Beyond these the float32 squares of a row could over- or underflow.
_LARGEST, _SMALLEST = np.float32(2.0**60), np.float32(2.0**-40)
_EPS, _ZERO, _ONE, _HUGE = np.float32(1e-7), np.float32(0), np.float32(1), np.float32(3.4028235e38)
_TO_F16 = np.float32(2.0**112)
_LOCK = threading.Lock()
# numba looks at this file alone to tell whether its cache is stale, so the kernels' key holds the other's sum.
_REVISION = zlib.crc32(Path(kernels_vector.__file__).read_bytes())


def _jit(fn: Callable[..., Any]) -> Any:
    """Compile on first use; where there is no folder for a cache, compile in every process."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(fn)
    except RuntimeError:  # numba's "no locator available"
        return njit(nogil=True, error_model="numpy")(fn)


@_jit
def _float_of(bits):  # type: ignore[no-untyped-def]
    return np.uint32(bits).view(np.float32)


@_jit
def _bits_of(value):  # type: ignore[no-untyped-def]
    return np.float32(value).view(np.uint32)


@_jit
def _rounded(value, kind):  # type: ignore[no-untyped-def]
    """Bits of a finite float32 in the block's dtype, half to even."""
    bits = _bits_of(value)
    if kind == BF16:
        return np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    if kind == F16:
        size = np.uint32(bits & np.uint32(0x7FFFFFFF))
        odd = (size >> np.uint32(13)) & np.uint32(1)
        normal = np.uint32(size + np.uint32(0xFFF) + odd - np.uint32(0x38000000)) >> np.uint32(13)
        # 0.5 has its last place where float16's subnormals have theirs
        subnormal = np.uint32(_bits_of(_float_of(size) + np.float32(0.5)) - np.uint32(0x3F000000))
        return (subnormal if size < np.uint32(0x38800000) else normal) | ((bits >> np.uint32(16)) & np.uint32(0x8000))
    return bits


@_jit
def _widened(bits, kind):  # type: ignore[no-untyped-def]
    """float32 of stored bits."""
    if kind == BF16:
        return _float_of(np.uint32(bits) << np.uint32(16))
    if kind == F16:
        size = _float_of(np.uint32(bits & np.uint32(0x7FFF)) << np.uint32(13)) * _TO_F16
        return -size if bits & np.uint32(0x8000) else size
    return _float_of(bits)


@_jit
def _find_ends(address, low, high, kind, group):  # type: ignore[no-untyped-def]
    """Bits of the smallest and the largest value of each group; NaN and infinity come out as one of them."""
    for i in range(low.size):
        at = address + i * group * ITEM[kind]
        most, least = ends(at, kind, group)
        if (most ^ least) >= 0:  # of one sign: the other end is what is smallest in size
            other = least_size(at, kind, group)
            if most >= 0:
                least = other
            else:
                most = other
        low[np.uintp(i)], high[np.uintp(i)] = least, most


@_jit
def _inspect(low, high, kind, one):  # type: ignore[no-untyped-def]
    """Flags of one row, or of several, where a single group that could give its row a flag does."""
    bad, small, widest = np.int32(0), np.int32(0), np.int32(0)
    magnitude = np.uint32(0x7FFFFFFF if kind == F32 else 0x7FFF)
    infinity = np.uint32(0x7F800000 if kind == F32 else 0x7F80 if kind == BF16 else 0x7C00)
    for i in range(low.size):
        g = np.uintp(i)
        bad |= np.int32(low[g] & magnitude >= infinity) | np.int32(high[g] & magnitude >= infinity)
        least, most = _widened(low[g], kind), _widened(high[g], kind)
        bad |= np.int32(most - least > _HUGE)
        size = abs(least) if abs(least) > abs(most) else abs(most)
        small |= np.int32(size < _SMALLEST) & np.int32(size > _ZERO)
        widest = max(widest, np.int32(_bits_of(size)))
    size = _float_of(widest)
    few = (size < _SMALLEST and size > _ZERO) if one else small != 0
    return (NONFINITE if bad != 0 else 0) | (INEXACT if few or size > _LARGEST else 0)


@_jit
def _anchor(low, high, bins, params, scales, biases, kind):  # type: ignore[no-untyped-def]
    """Set mlx's scale and bias for every group, as used and as stored."""
    for i in range(low.size):
        g = np.uintp(i)
        least, most = _widened(low[g], kind), _widened(high[g], kind)
        spread = most - least
        scale = spread / bins
        scale = scale if scale > _EPS else _EPS
        negative = abs(least) > abs(most)
        scale = scale if negative else -scale
        edge = least if negative else most
        steps = np.rint(edge / scale)
        anchored = steps != _ZERO
        scale = edge / steps if anchored else scale
        bias = edge if anchored else _ZERO
        stored = _rounded(scale, kind)
        scales[g], biases[g] = stored, _rounded(bias, kind)
        params[np.uintp(SCALE), g], params[np.uintp(BIAS), g] = scale, bias
        params[np.uintp(STORED), g] = _widened(stored, kind)
        params[np.uintp(INVERSE), g] = _ONE / spread


@_jit
def _recall(low, high, params, scales, biases, kind, stored):  # type: ignore[no-untyped-def]
    """The parameters that a build has stored."""
    for i in range(low.size):
        g = np.uintp(i)
        spread = _widened(high[g], kind) - _widened(low[g], kind)
        params[np.uintp(BIAS), g] = _widened(biases[g], stored)
        params[np.uintp(STORED), g] = _widened(scales[g], stored)
        params[np.uintp(INVERSE), g] = _ONE / spread


@_jit
def summarize(sums):  # type: ignore[no-untyped-def]
    """Join rows' (rows, 4) sums in order: Σe², Σw², max|e|, max share, the worst row and its sqrt(Σe² / Σw²).

    NaN stays NaN, and a row with NaN is worse than any number.
    """
    error, weight, size, share, worst, worst_error = 0.0, 0.0, 0.0, 0.0, 0, 0.0
    for r in range(len(sums)):
        error, weight = error + sums[r, 0], weight + sums[r, 1]
        size, share = np.maximum(size, sums[r, 2]), np.maximum(share, sums[r, 3])
        row = np.sqrt(sums[r, 0] / sums[r, 1]) if sums[r, 1] != 0 else 0.0
        row = np.inf if np.isnan(row) else row
        if row > worst_error:
            worst, worst_error = r, row
    return error, weight, size, share, worst, worst_error


@lru_cache
def _kernel(kind: int, stored: int, group: int, bits: int, task: int, revision: int) -> Any:
    """The kernel of a dtype of values, a dtype of scales, group size, bits and task: its key in numba's cache.

    It goes by strips of rows, so that narrow rows, too, have their group parameters computed in full vectors.
    """
    item, bins = 4 if task == DEQUANTIZE else ITEM[kind], np.float32((1 << bits) - 1)
    sums_up = task in (QUANTIZE_AND_SUM, MEASURE)

    @_jit
    def run(values, packed, scales, biases, sums, flags, rows, row_groups, strip):  # type: ignore[no-untyped-def]
        all_low, all_high = np.zeros(strip * row_groups, np.uint32), np.zeros(strip * row_groups, np.uint32)
        params = np.empty((4, strip * row_groups), np.float32)
        for first in range(0, rows, strip):
            there = min(strip, rows - first)
            start, stop = first * row_groups, (first + there) * row_groups
            low, high = all_low[: stop - start], all_high[: stop - start]
            if task != DEQUANTIZE:
                _find_ends(values + start * group * item, low, high, kind, group)
                flags[first : first + there] = _inspect(low, high, kind, False)
            if task in (QUANTIZE, QUANTIZE_AND_SUM):
                _anchor(low, high, bins, params, scales[start:stop], biases[start:stop], kind)
            else:
                _recall(low, high, params, scales[start:stop], biases[start:stop], kind, stored)
            for i in range(there):
                r, g = first + i, i * row_groups
                if flags[r]:
                    flags[r] = _inspect(low[g : g + row_groups], high[g : g + row_groups], kind, True)
                w, q = values + r * row_groups * group * item, packed + r * (row_groups * group * bits // 8)
                at = params.ctypes.data + 4 * g
                groups(w, q, at, params.shape[1], sums.ctypes.data + 32 * r, row_groups, bins, kind, group, bits, task)
                # 1 / 0 is infinite: a group of equal values with an error shows here, without one not at all
                if sums_up and not (np.isfinite(sums[r, 0]) and np.isfinite(sums[r, 3])):
                    flags[r] |= INEXACT
        return revision

    return run


def _rows_at_once(row_groups: int) -> int:
    """Rows that together have some 128 groups, if they can in a number that 16 lanes divide."""
    unit = 16 // math.gcd(row_groups, 16)
    return max(1, -(-128 // (row_groups * unit)) * unit) if row_groups < 128 else 1


def run(
    task: int,
    dtype: str,
    group: int,
    bits: int,
    values: NDArray[Any],
    packed: NDArray[np.uint32],
    scales: NDArray[Any],
    biases: NDArray[Any],
    stored_dtype: str,
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Run one task over (rows, cols) `values`: source, or for DEQUANTIZE the float32 result. All arrays C-contiguous.

    `stored_dtype` is that of scales and biases; only a build to be measured may have another than its source.
    Returns (rows, 4) Σe², Σw², max|e|, max share, where the task sums; and the flags of the rows.
    """
    kind, stored = DTYPES[dtype], DTYPES[stored_dtype]
    bit_type = np.uint32 if stored == F32 else np.uint16
    if task in (MEASURE, DEQUANTIZE):
        packed, scales, biases = (a if a.flags.behaved else a.copy() for a in (packed, scales, biases))
    rows, row_groups = scales.shape
    # kernels go by addresses, so what does not fit must stop here
    fits = values.shape == (rows, row_groups * group) and packed.shape == (rows, row_groups * group * bits // 32)
    fits = fits and biases.shape == scales.shape and scales.itemsize == biases.itemsize == ITEM[stored]
    fits = fits and packed.itemsize == 4 and values.itemsize == (4 if task == DEQUANTIZE else ITEM[kind])
    if not fits or not all(a.flags.c_contiguous for a in (values, packed, scales, biases)):
        raise ValueError(f"C-contiguous arrays that fit together expected, {values.shape} in {packed.shape} given")
    sums, flags = np.empty((rows, 4)), np.zeros(rows, np.uint8)
    with _LOCK:  # two threads must not make the same kernel twice
        kernel = _kernel(kind, stored, group, bits, task, _REVISION)
    flat = scales.reshape(-1).view(bit_type), biases.reshape(-1).view(bit_type)
    strip = _rows_at_once(row_groups)
    kernel(values.ctypes.data, packed.ctypes.data, *flat, sums, flags, rows, row_groups, strip)
    return sums, flags
