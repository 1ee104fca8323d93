"""The row kernels of affine quantization: plain loops, which numba compiles to vector code.

A row goes by chunks of 512 values, which fit the first-level cache together with all that is made of them: group by
group its values become levels (`_groups`), then levels become packed words (`_pack`). Values go in pairs, since one
32-bit word of BF16 is two weights: the even one shifted up, the odd one masked, so nothing is shuffled on the way in.

Why the bytes are mlx's:
- In a group of two signs the largest bits as signed integers are the largest value, as unsigned the smallest. NaN and
  infinity have larger bits than all others, so the same two show them; such rows are flagged and left to mlx.
- Division is IEEE float32 division. Rounding half to even is the addition of 1.5·2²³, exact for |y| < 2²²; y is below
  2·bins + 1, and the low bits of the sum are then q itself.
- q needs no lower clip: `bias` is the end of the group that `scale` points away from, so y >= 0; where bias is 0,
  |y| <= 0.5.

Why the sums are the same on every machine with fused multiply-add: each of 16 even and 16 odd lanes adds its squares in
order, in float32 over a chunk; then lanes add in float64, and are folded by halves. Loops go lane by lane, around the
few values of a group that fall on a lane, so the compiler vectorizes across lanes and reorders no addition. `contract`
allows it to fuse a multiplication with an addition, nothing else.

One kernel per (dtype, dtype of scales, group size, bits, task), compiled when first needed and kept on numba's disk
cache (see `words.jit`). Threads call it side by side. Rows that it cannot answer for are flagged: NONFINITE, INEXACT.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numba import from_dtype, types
from numpy.typing import NDArray

from ..words.formats import DTYPES
from ..words.jit import jit

__all__ = ["DEQUANTIZE", "INEXACT", "MEASURE", "NONFINITE", "QUANTIZE", "QUANTIZE_AND_SUM", "run", "summarize"]

BF16, F16, F32 = 0, 1, 2
_KINDS = {"BF16": BF16, "F16": F16, "F32": F32}
QUANTIZE, QUANTIZE_AND_SUM, MEASURE, DEQUANTIZE = 0, 1, 2, 3

# Flags of a row: it holds NaN, infinity or a range that is infinite; its sums want float64 throughout.
NONFINITE, INEXACT = 1, 2

# Rows of the groups' parameters: the scale that divides, the bias, the scale as stored, 1 / range
_SCALE, _BIAS, _STORED, _INVERSE = 0, 1, 2, 3
# Values of a chunk, of which each of 16 even and 16 odd lanes has every 32nd
_CHUNK, _LANES = 512, 16
_STRIP = 8 << 10  # bytes of rows whose group parameters are computed together; read twice, so from the cache
# Sections of the lanes' sums, 16 each: Σe² even and odd, Σw² even and odd, max|e|, max share
_E_ODD, _W_EVEN, _W_ODD, _TOP, _SHARE = 16, 32, 48, 64, 80
# numpy's names for what packed levels are written and read as, by bits
_PACKED = {2: "u1", 3: "u4", 4: "u1", 5: "u4", 6: "u4", 8: "u2"}
# Beyond these the float32 squares of a row could over- or underflow.
_LARGEST, _SMALLEST = np.float32(2.0**60), np.float32(2.0**-40)
_EPS, _ZERO, _ONE, _HUGE = np.float32(1e-7), np.float32(0), np.float32(1), np.float32(3.4028235e38)
_TO_F16, _MAGIC = np.float32(2.0**112), np.float32(12582912.0)  # the last is 1.5 * 2**23
_LOCK = threading.Lock()

# --- numbers ---


@jit
def _float_of(bits):  # type: ignore[no-untyped-def]
    return np.uint32(bits).view(np.float32)


@jit
def _bits_of(value):  # type: ignore[no-untyped-def]
    return np.float32(value).view(np.uint32)


@jit
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


@jit
def _widened(bits, kind):  # type: ignore[no-untyped-def]
    """float32 of stored bits."""
    if kind == BF16:
        return _float_of(np.uint32(bits) << np.uint32(16))
    if kind == F16:
        size = _float_of(np.uint32(bits & np.uint32(0x7FFF)) << np.uint32(13)) * _TO_F16
        return -size if bits & np.uint32(0x8000) else size
    return _float_of(bits)


@jit
def _value(words, pair, odd, kind):  # type: ignore[no-untyped-def]
    """One value of a pair, as float32; words are 32 bits: two values of 16 bits, or one of float32."""
    if kind == F32:
        return _float_of(words[np.uintp(2 * pair + odd)])
    word = words[np.uintp(pair)]
    top = np.uint32(word & np.uint32(0xFFFF0000)) if odd else np.uint32(word << np.uint32(16))
    if kind == BF16:
        return _float_of(top)
    # shift float16's exponent in beside the sign, and correct it by 2**112
    return _float_of(np.uint32(np.int32(top) >> np.int32(3)) & np.uint32(0x8FFFE000)) * _TO_F16


# --- groups ---


@jit
def _signed(bits, kind):  # type: ignore[no-untyped-def]
    return np.int32(bits) if kind == F32 else np.int16(bits)


@jit(forceinline=True)
def _find_ends(values, first, low, high, kind, group):  # type: ignore[no-untyped-def]
    """Bits of the smallest and the largest value of each group; NaN and infinity come out as one of them."""
    # two groups at a time: a loop over 32 values alone is so short that the compiler would write it out in scalars
    bottom = np.int32(-(2**31)) if kind == F32 else np.int16(-(2**15))
    zero = np.uint32(0) if kind == F32 else np.uint16(0)
    ones = np.uint32(0xFFFFFFFF) if kind == F32 else np.uint16(0xFFFF)
    for g in range(0, low.size, 2):
        h = min(g + 1, low.size - 1)
        at, also = first + g * group, first + h * group
        most, least, nearest = bottom, zero, ones
        most2, least2, nearest2 = bottom, zero, ones
        for i in range(group):
            bits, others = values[np.uintp(at + i)], values[np.uintp(also + i)]
            value, value2 = _signed(bits, kind), _signed(others, kind)
            most, most2 = value if value > most else most, value2 if value2 > most2 else most2
            least, least2 = bits if bits > least else least, others if others > least2 else least2
            nearest, nearest2 = bits if bits < nearest else nearest, others if others < nearest2 else nearest2
        low[np.uintp(g)], high[np.uintp(g)] = _ends(most, least, nearest, kind)
        low[np.uintp(h)], high[np.uintp(h)] = _ends(most2, least2, nearest2, kind)


@jit
def _ends(most, least, nearest, kind):  # type: ignore[no-untyped-def]
    """Smallest and largest of a group, given its largest bits, signed and unsigned, and the smallest unsigned ones."""
    if (most < 0) != (_signed(least, kind) < 0):  # of two signs
        return np.uint32(least), np.uint32(most)
    if most >= 0:
        return np.uint32(nearest), np.uint32(most)
    return np.uint32(least), np.uint32(nearest)


@jit
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


@jit
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
        params[np.uintp(_SCALE), g], params[np.uintp(_BIAS), g] = scale, bias
        params[np.uintp(_STORED), g] = _widened(stored, kind)
        params[np.uintp(_INVERSE), g] = _ONE / spread


@jit
def _recall(low, high, params, scales, biases, kind, stored):  # type: ignore[no-untyped-def]
    """The parameters that a build has stored."""
    for i in range(low.size):
        g = np.uintp(i)
        spread = _widened(high[g], kind) - _widened(low[g], kind)
        params[np.uintp(_BIAS), g] = _widened(biases[g], stored)
        params[np.uintp(_STORED), g] = _widened(scales[g], stored)
        params[np.uintp(_INVERSE), g] = _ONE / spread


# --- values and levels ---


@jit(forceinline=True)
def _groups(words, pair, pairs, at, count, params, lanes, bins, kind, group, bits, task):  # type: ignore[no-untyped-def]
    """Quantize or measure `count` groups of `group` values, from pair `pair` of the block on, by spans of 64 values.

    `pairs` takes, or for MEASURE holds, both levels of a pair in one word, the odd one `bits` higher; the groups'
    parameters begin at `at`.
    """
    for span in range(count * group // 64):
        first, second = at + span * 64 // group, at + (span * 64 + 32) // group
        _span(words, pair, pairs, span, first, second, params, lanes, bins, kind, 2, bits, task)
    if group == 32 and count % 2 == 1:  # a last group of 32 alone
        last = at + count - 1
        _span(words, pair, pairs, count // 2, last, last, params, lanes, bins, kind, 1, bits, task)


@jit(fastmath={"contract"}, forceinline=True)
def _span(words, pair, pairs, span, first, second, params, lanes, bins, kind, halves, bits, task):  # type: ignore[no-untyped-def]
    """Quantize or measure 64 values, or 32 as one half; the parameters of the halves are number `first` and `second`.

    e = (w - bias) - scale·q is rounded once.
    """
    mask, p, s = np.uint32((1 << bits) - 1), np.uintp(first), np.uintp(second)
    scales = params[np.uintp(_SCALE), p], params[np.uintp(_SCALE), s]
    biases = params[np.uintp(_BIAS), p], params[np.uintp(_BIAS), s]
    stored = params[np.uintp(_STORED), p], params[np.uintp(_STORED), s]
    inverse = params[np.uintp(_INVERSE), p], params[np.uintp(_INVERSE), s]
    for lane in range(_LANES):  # the loop that becomes vectors; what is inside is written out
        k = np.uintp(lane)
        if task != QUANTIZE:
            e_even, e_odd = lanes[k], lanes[k + np.uintp(_E_ODD)]
            w_even, w_odd = lanes[k + np.uintp(_W_EVEN)], lanes[k + np.uintp(_W_ODD)]
            top, share = lanes[k + np.uintp(_TOP)], lanes[k + np.uintp(_SHARE)]
        for half in range(halves):
            i = (2 * span + half) * _LANES + lane
            w0, w1 = _value(words, pair + i, 0, kind), _value(words, pair + i, 1, kind)
            bias = biases[0] if half == 0 else biases[1]
            x0, x1 = w0 - bias, w1 - bias
            if task == MEASURE:
                both = pairs[np.uintp(i)]
                q0, q1 = np.float32(np.int32(both & mask)), np.float32(np.int32(both >> np.uint32(bits)))
            else:
                scale = scales[0] if half == 0 else scales[1]
                y0, y1 = x0 / scale, x1 / scale
                m0 = (bins if bins < y0 else y0) + _MAGIC  # keeps a NaN, whose row is flagged
                m1 = (bins if bins < y1 else y1) + _MAGIC
                pairs[np.uintp(i)] = (_bits_of(m0) & mask) | np.uint32((_bits_of(m1) & mask) << np.uint32(bits))
                q0, q1 = m0 - _MAGIC, m1 - _MAGIC
            if task != QUANTIZE:
                step = stored[0] if half == 0 else stored[1]
                e0, e1 = x0 - q0 * step, x1 - q1 * step
                e_even, e_odd = e0 * e0 + e_even, e1 * e1 + e_odd
                w_even, w_odd = w0 * w0 + w_even, w1 * w1 + w_odd
                worst = abs(e0) if abs(e0) > abs(e1) else abs(e1)
                # a NaN is not larger; 0 · infinity, of a group of equal values without an error, is one
                top, part = worst if worst > top else top, worst * (inverse[0] if half == 0 else inverse[1])
                share = part if part > share else share
        if task != QUANTIZE:
            lanes[k], lanes[k + np.uintp(_E_ODD)] = e_even, e_odd
            lanes[k + np.uintp(_W_EVEN)], lanes[k + np.uintp(_W_ODD)] = w_even, w_odd
            lanes[k + np.uintp(_TOP)], lanes[k + np.uintp(_SHARE)] = top, share


@jit
def _restore(values, pair, pairs, at, count, params, half, bits):  # type: ignore[no-untyped-def]
    """Turn levels back into float32: scale·q, then + bias, each rounded."""
    mask = np.uint32((1 << bits) - 1)
    for g in range(count):
        p = np.uintp(at + g)
        scale, bias = params[np.uintp(_STORED), p], params[np.uintp(_BIAS), p]
        for k in range(half):
            both = pairs[np.uintp(g * half + k)]
            i = np.uintp(2 * (pair + g * half + k))
            values[i] = np.float32(np.int32(both & mask)) * scale + bias
            values[i + np.uintp(1)] = np.float32(np.int32(both >> np.uint32(bits))) * scale + bias


@jit(forceinline=True)
def _close_chunk(lanes, totals):  # type: ignore[no-untyped-def]
    """Add a chunk's float32 lanes to the row's float64 ones, and begin anew."""
    for lane in range(_LANES):
        k = np.uintp(lane)
        totals[k] += np.float64(lanes[k] + lanes[k + np.uintp(_E_ODD)])
        totals[k + np.uintp(_LANES)] += np.float64(lanes[k + np.uintp(_W_EVEN)] + lanes[k + np.uintp(_W_ODD)])
    lanes[:_TOP] = _ZERO


@jit
def _close_row(lanes, totals, sums, row):  # type: ignore[no-untyped-def]
    """Fold a row's lanes by halves to Σe² and Σw², max|e| and max share, and begin anew."""
    n = _LANES
    while n > 1:
        n //= 2
        for i in range(n):
            totals[i] += totals[i + n]
            totals[_LANES + i] += totals[_LANES + i + n]
    top, share = _ZERO, _ZERO
    for i in range(_LANES):
        top = max(top, lanes[_TOP + i])
        share = max(share, lanes[_SHARE + i])
    sums[row, 0], sums[row, 1], sums[row, 2], sums[row, 3] = totals[0], totals[_LANES], top, share
    totals[:] = 0.0
    lanes[:] = _ZERO


# --- levels and packed words ---


@jit(forceinline=True)
def _pack(pairs, n, packed, at, fours, eights, bits):  # type: ignore[no-untyped-def]
    """Squeeze `n` pairs of levels into words of `packed` from `at` on, first lowest."""
    if bits in (4, 8):
        for i in range(n):
            packed[np.uintp(at + i)] = pairs[np.uintp(i)]
    elif bits == 2:
        for i in range(n // 2):
            j = np.uintp(2 * i)
            packed[np.uintp(at + i)] = pairs[j] | np.uint32(pairs[j + np.uintp(1)] << np.uint32(4))
    else:
        b = np.uint64(bits)
        for i in range(n // 2):
            j = np.uintp(2 * i)
            fours[np.uintp(i)] = pairs[j] | np.uint32(pairs[j + np.uintp(1)] << np.uint32(2 * bits))
        for i in range(n // 4):
            j = np.uintp(2 * i)
            eights[np.uintp(i)] = np.uint64(fours[j]) | np.uint64(fours[j + np.uintp(1)]) << (np.uint64(4) * b)
        for i in range(n // 16):  # 32 levels are `bits` words
            j, o = np.uintp(4 * i), np.uintp(at + bits * i)
            for word in range(bits):
                # a word begins in one string of 8 · bits bits and may end in the next
                first, shift = 32 * word // (8 * bits), 32 * word % (8 * bits)
                value = eights[j + np.uintp(first)] >> np.uint64(shift)
                if shift + 32 > 8 * bits:
                    value |= eights[j + np.uintp(first + 1)] << np.uint64(8 * bits - shift)
                packed[o + np.uintp(word)] = np.uint32(value)


@jit(forceinline=True)
def _unpack(packed, at, n, pairs, fours, eights, bits):  # type: ignore[no-untyped-def]
    """The inverse of `_pack`."""
    if bits in (4, 8):
        for i in range(n):
            pairs[np.uintp(i)] = packed[np.uintp(at + i)]
    elif bits == 2:
        for i in range(n // 2):
            both, j = np.uint32(packed[np.uintp(at + i)]), np.uintp(2 * i)
            pairs[j], pairs[j + np.uintp(1)] = both & np.uint32(15), both >> np.uint32(4)
    else:
        mask = np.uint64((1 << 8 * bits) - 1)
        for i in range(n // 16):
            o, j = np.uintp(at + bits * i), np.uintp(4 * i)
            for string in range(4):
                # a string of 8 · bits bits begins in one word and may end in the next
                first, shift = 8 * bits * string // 32, 8 * bits * string % 32
                value = np.uint64(packed[o + np.uintp(first)]) >> np.uint64(shift)
                if shift + 8 * bits > 32:
                    value |= np.uint64(packed[o + np.uintp(first + 1)]) << np.uint64(32 - shift)
                eights[j + np.uintp(string)] = value & mask
        for i in range(n // 4):
            both, j = eights[np.uintp(i)], np.uintp(2 * i)
            fours[j] = np.uint32(both & np.uint64((1 << 4 * bits) - 1))
            fours[j + np.uintp(1)] = np.uint32(both >> np.uint64(4 * bits))
        for i in range(n // 2):
            four, j = fours[np.uintp(i)], np.uintp(2 * i)
            pairs[j] = four & np.uint32((1 << 2 * bits) - 1)
            pairs[j + np.uintp(1)] = four >> np.uint32(2 * bits)


# --- kernels ---


@jit
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
def _kernel(kind: int, stored: int, group: int, bits: int, task: int) -> Any:
    """The kernel of a dtype of values, a dtype of scales, group size, bits and task: its key in numba's cache."""
    bins, chunk = np.float32((1 << bits) - 1), _CHUNK // group
    # by these numba drops what a task does not need: it knows names of constants and `==`, not `in`
    encodes, unpacks = task in (QUANTIZE, QUANTIZE_AND_SUM), task in (MEASURE, DEQUANTIZE)
    sums_up = task in (QUANTIZE_AND_SUM, MEASURE)

    def run(values, words, restored, packed, scales, biases, sums, flags, rows, row_groups, strip):  # type: ignore[no-untyped-def]
        all_low, all_high = np.zeros(strip * row_groups, np.uint32), np.zeros(strip * row_groups, np.uint32)
        params = np.empty((4, strip * row_groups), np.float32)
        pairs, fours = np.empty(_CHUNK // 2, np.uint32), np.empty(_CHUNK // 4, np.uint32)
        eights = np.empty(_CHUNK // 8, np.uint64)
        lanes, totals = np.zeros(6 * _LANES, np.float32), np.zeros(2 * _LANES, np.float64)
        for first in range(0, rows, strip):
            there = min(strip, rows - first)
            start, stop = first * row_groups, (first + there) * row_groups
            low, high = all_low[: stop - start], all_high[: stop - start]
            if task != DEQUANTIZE:
                _find_ends(values, start * group, low, high, kind, group)
                flags[first : first + there] = _inspect(low, high, kind, False)
            if encodes:
                _anchor(low, high, bins, params, scales[start:stop], biases[start:stop], kind)
            else:
                _recall(low, high, params, scales[start:stop], biases[start:stop], kind, stored)
            for i in range(there):
                r, g = first + i, i * row_groups
                if flags[r]:
                    flags[r] = _inspect(low[g : g + row_groups], high[g : g + row_groups], kind, True)
                for c in range(0, row_groups, chunk):
                    count = min(chunk, row_groups - c)
                    pair, n = (r * row_groups + c) * (group // 2), count * (group // 2)
                    at = pair // 16 * bits * 4 // packed.itemsize  # 16 pairs are `bits` words of 4 bytes
                    if unpacks:
                        _unpack(packed, at, n, pairs, fours, eights, bits)
                    if task == DEQUANTIZE:
                        _restore(restored, pair, pairs, g + c, count, params, group // 2, bits)
                    else:
                        _groups(words, pair, pairs, g + c, count, params, lanes, bins, kind, group, bits, task)
                    if encodes:
                        _pack(pairs, n, packed, at, fours, eights, bits)
                    if sums_up:
                        _close_chunk(lanes, totals)
                if sums_up:
                    _close_row(lanes, totals, sums, r)
                    # 1 / 0 is infinite: a group of equal values with an error shows here, without one not at all
                    if not (np.isfinite(sums[r, 0]) and np.isfinite(sums[r, 3])):
                        flags[r] |= INEXACT

    return jit(run, _signature(kind, stored, bits, encodes))


def _signature(kind: int, stored: int, bits: int, encodes: bool) -> Any:
    """Types of a kernel's arguments; numba compiles for them at once."""
    return types.void(
        _flat(_bits(kind)), _flat("u4"), _flat("f4", written=True),
        _flat(_PACKED[bits], written=encodes), *[_flat(_bits(stored), written=encodes)] * 2,
        types.Array(types.float64, 2, "C"), _flat("u1", written=True), *[types.int64] * 3,
    )  # fmt: skip


def _bits(kind: int) -> str:
    """Numpy's name for the bits of a dtype."""
    return "u4" if kind == F32 else "u2"


def _flat(name: str, *, written: bool = False) -> Any:
    """Numba's type of a flat array; one that is only read may be a read-only one."""
    return types.Array(from_dtype(np.dtype(name)), 1, "C", readonly=not written)


def _rows_at_once(row_groups: int, row_bytes: int) -> int:
    """Rows of a strip: some 128 groups, if possible in a number that 16 lanes divide, within `_STRIP` bytes."""
    unit = 16 // math.gcd(row_groups, 16)
    rows = min(-(-128 // row_groups), _STRIP // row_bytes)
    return rows // unit * unit or max(1, rows)


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
    kind, stored = _KINDS[dtype], _KINDS[stored_dtype]
    rows, row_groups = scales.shape
    # kernels do not look at sizes, so what does not fit must stop here
    arrays, cols = (values, packed, scales, biases), row_groups * group
    shapes = [(rows, cols), (rows, cols * bits // 32), (rows, row_groups), (rows, row_groups)]
    sizes = [4 if task == DEQUANTIZE else DTYPES[dtype].nbytes, 4, *[DTYPES[stored_dtype].nbytes] * 2]
    fits = [a.shape for a in arrays] == shapes and [a.itemsize for a in arrays] == sizes
    if not fits or not all(a.flags.c_contiguous for a in arrays):
        raise ValueError(f"C-contiguous arrays that fit together expected, {values.shape} in {packed.shape} given")
    if task in (MEASURE, DEQUANTIZE):
        packed, scales, biases = (_aligned(a, 4) for a in (packed, scales, biases))
    sums, flags = np.empty((rows, 4)), np.zeros(rows, np.uint8)
    with _LOCK:  # two threads must not make the same kernel twice
        kernel = _kernel(kind, stored, group, bits, task)
    parts = packed.reshape(-1).view(_PACKED[bits]), *(a.reshape(-1).view(_bits(stored)) for a in (scales, biases))
    if task == DEQUANTIZE:
        views = np.empty(0, _bits(kind)), np.empty(0, "u4"), values.reshape(-1)
    else:
        source = _aligned(values, 4).reshape(-1)
        views = source.view(_bits(kind)), source.view("u4"), np.empty(0, "f4")
    kernel(*views, *parts, sums, flags, rows, row_groups, _rows_at_once(row_groups, values.itemsize * cols))
    return sums, flags


def _aligned(a: NDArray[Any], nbytes: int) -> NDArray[Any]:
    """The array itself where it begins at a multiple of `nbytes`, as compiled code counts on, else a copy."""
    return a if a.ctypes.data % nbytes == 0 else a.copy()
