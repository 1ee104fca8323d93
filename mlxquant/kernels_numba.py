"""The row kernels of affine quantization: `kernels_vector`'s loops, group parameters and packing, compiled.

One kernel per (dtype, group size, layout, task), compiled by numba when first asked for and kept on its disk
cache: in this package's __pycache__, else the user's cache folder, else not at all. A kernel takes the GIL away
from nobody: threads call it side by side. Rows it cannot answer for are flagged, see `Flag`.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from . import kernels_vector
from .kernels_vector import (
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
    groups,
    limits,
)

__all__ = ["DEQUANTIZE", "INEXACT", "MEASURE", "NONFINITE", "QUANTIZE", "QUANTIZE_AND_SUM", "run"]

# Flags of a row: it holds NaN, infinity or a range that is infinite; its sums want float64 throughout.
NONFINITE, INEXACT = 1, 2
_INFINITY = (0x7F80, 0x7C00, 0x7F800000)
# Beyond these the float32 squares of a row could over- or underflow, below the last its 1 / range.
_LARGEST, _SMALLEST, _NARROWEST = np.float32(2.0**60), np.float32(2.0**-40), np.float32(2.0**-126)
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
def _from_key(key, kind):  # type: ignore[no-untyped-def]
    """The float32 of a group's end, from its key (see `limits`)."""
    top = np.int32(31 if kind > F16 else 15)
    bits = np.int32(key ^ ((key >> top) & np.int32(0x7FFFFFFF if kind > F16 else 0x7FFF)))
    if kind == BF16:
        return _float_of(np.uint32(bits) << np.uint32(16))
    if kind == F16:
        size = _float_of(np.uint32(bits & 0x7FFF) << np.uint32(13)) * _TO_F16
        return -size if bits & 0x8000 else size
    return _float_of(np.uint32(bits))


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
def _inspect(low, high, params, kind, infinity, ours):  # type: ignore[no-untyped-def]
    """Write 1 / range of every group of a row; return the row's flags.

    Groups of equal values have no error in what we quantize, unless so small that mlx takes them for 0.
    """
    bad, narrow, widest = np.int32(0), np.int32(0), np.int32(0)
    for i in range(low.size):
        g = np.uintp(i)
        bad |= np.int32(high[g] >= infinity) | np.int32(low[g] <= ~infinity)
        least, most = _from_key(low[g], kind), _from_key(high[g], kind)
        spread = most - least
        bad |= np.int32(spread > _HUGE)
        flat = np.int32(spread == _ZERO) & np.int32(ours) & (np.int32(most == _ZERO) | np.int32(abs(most) > _EPS))
        narrow |= np.int32(spread < _NARROWEST) & (flat ^ np.int32(1))
        widest = max(widest, np.int32(_bits_of(abs(least))), np.int32(_bits_of(abs(most))))
        params[np.uintp(INVERSE), g] = _ZERO if spread == _ZERO else _ONE / spread
    size = _float_of(widest)
    inexact = narrow != 0 or size > _LARGEST or (size < _SMALLEST and widest > 0)
    return (NONFINITE if bad != 0 else 0) | (INEXACT if inexact else 0)


@_jit
def _anchor(low, high, bins, params, scales, biases, kind):  # type: ignore[no-untyped-def]
    """Set mlx's scale and bias for every group of a row, as used and as stored."""
    for i in range(low.size):
        g = np.uintp(i)
        least, most = _from_key(low[g], kind), _from_key(high[g], kind)
        scale = (most - least) / bins
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


@_jit
def _recall(params, scales, biases, kind):  # type: ignore[no-untyped-def]
    """The parameters that a row of a build has stored."""
    for i in range(scales.size):
        g = np.uintp(i)
        params[np.uintp(BIAS), g] = _widened(biases[g], kind)
        params[np.uintp(STORED), g] = _widened(scales[g], kind)


@lru_cache
def _kernel(kind: int, group: int, bits: int, task: int, revision: int) -> Any:
    """The kernel of one dtype, group size, bits and task; these integers are its key in numba's cache."""
    item, infinity, bins = ITEM[kind], _INFINITY[kind], np.float32((1 << bits) - 1)

    @_jit
    def run(values, rows, cols, packed, scales, biases, sums, flags):  # type: ignore[no-untyped-def]
        n = cols // group
        low, high = np.empty(n, np.int32), np.empty(n, np.int32)
        params = np.empty((4, n), np.float32)
        for r in range(rows):
            w = values + r * cols * (4 if task == DEQUANTIZE else item)
            if task != DEQUANTIZE:
                for g in range(n):
                    low[np.uintp(g)], high[np.uintp(g)] = limits(w + g * group * item, kind, group)
                flags[r] = _inspect(low, high, params, kind, infinity, task != MEASURE)
            if task in (QUANTIZE, QUANTIZE_AND_SUM):
                _anchor(low, high, bins, params, scales[r], biases[r], kind)
            else:
                _recall(params, scales[r], biases[r], kind)
            q = packed + r * (cols * bits // 8)
            groups(w, q, params.ctypes.data, sums.ctypes.data + r * 32, n, bins, kind, group, bits, task)
        return revision

    return run


def run(
    task: int,
    dtype: str,
    group: int,
    bits: int,
    values: NDArray[Any],
    packed: NDArray[np.uint32],
    scales: NDArray[Any],
    biases: NDArray[Any],
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Run one task over (rows, cols) `values`: source, or for DEQUANTIZE the float32 result. All arrays C-contiguous.

    Returns (rows, 4) Σe², Σw², max|e|, max share, where the task sums; and the flags of the rows.
    """
    kind = DTYPES[dtype]
    bit_type = np.uint32 if kind == F32 else np.uint16
    if task in (MEASURE, DEQUANTIZE):
        packed, scales, biases = (a if a.flags.behaved else a.copy() for a in (packed, scales, biases))
    rows, cols = values.shape
    sums, flags = np.empty((rows, 4)), np.empty(rows, np.uint8)
    with _LOCK:  # two threads must not make the same kernel twice
        kernel = _kernel(kind, group, bits, task, _REVISION)
    kernel(
        values.ctypes.data, rows, cols, packed.ctypes.data, scales.view(bit_type), biases.view(bit_type), sums, flags
    )
    return sums, flags
