"""Quantize blocks of rows, byte for byte as mlx does on the CPU, and sum in the same pass what it cost.

Affine quantization of a group w of 32, 64 or 128 neighbours, after `quantize` in mlx/backend/cpu/quantized.cpp
(ml-explore/mlx, 0.32). All of it is IEEE float32, whatever the dtype:

    bins  = 2**bits - 1
    scale = max((max(w) - min(w)) / bins, 1e-7), negative unless |min(w)| > |max(w)|
    edge  = whichever of min(w), max(w) is larger in size
    q0    = rint(edge / scale)                           half to even
    scale, bias = (edge / q0, edge) if q0 else (scale, 0)
    q     = clip(rint((w - bias) / scale), 0, bins)      with this scale; only then are both rounded to the dtype

so that 0 falls on a level. Worked, 8 bits, w from -0.5 to 1: scale = -1.5/255 = -1/170, edge = 1, q0 = -170, and
w = 0 becomes (0 - 1) * -170 = 170, exactly. As BF16 the stored scale is -0.005889893, 0.13 % off -1/170: at 8 bits
this, not the step, is most of the error, and the reason why the errors here are taken from what is stored:

    e = w - (scale_stored * q + bias_stored)             as real numbers, not rounded back to the dtype

Modes mxfp4, mxfp8 and nvfp4, and devices other than the CPU, go to `mx.quantize` itself; so do, where the caller
allows them, rows with NaN or infinity, whose bytes are then mlx's by construction. What is not here: reading,
writing, and any choice of format.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import NonFiniteError
from ..words.formats import FLOATS, Format, carrier, nonfinite, widen
from .error_sums import ErrorSums

# Integers that are packed or unpacked at once
_LEVELS = 1 << 20


class BlockFault(NonFiniteError):
    """The first value or group of a block that has no finite quantization.

    `kind` is "NaN", "infinity" or "overflow" (finite values whose range is not); `row` counts within the block,
    `column` is that of the value, or of the group's first. The caller knows the tensor and the row's place in it.
    """

    def __init__(self, kind: str, row: int, column: int) -> None:
        what = "a group whose range overflows its scale" if kind == "overflow" else kind
        super().__init__(f"row {row}, column {column}: finite values expected, {what} found")
        self.kind, self.row, self.column = kind, row, column


@dataclass(frozen=True, slots=True)
class Quantized:
    """A block as mlx stores it: `packed` (rows, cols * bits / 32) uint32; `scales`, `biases` (rows, cols / group).

    Scales and biases are of the block's dtype (BF16 as uint16 bit patterns); mx modes have uint8 scales, no biases.
    """

    packed: NDArray[np.uint32]
    scales: NDArray[Any]
    biases: NDArray[Any] | None

    @classmethod
    def empty(cls, rows: int, cols: int, dtype: str, fmt: Format) -> Quantized:
        """Room for a block; reused as `out` of `quantize_rows`, it saves the page faults of new memory."""
        packed = np.empty((rows, cols * fmt.bits // 32), np.uint32)
        groups = (rows, cols // fmt.group_size)
        if fmt.mode != "affine":
            return cls(packed, np.empty(groups, np.uint8), None)
        return cls(packed, np.empty(groups, carrier(dtype)), np.empty(groups, carrier(dtype)))

    def rows(self, which: Any) -> Quantized:
        """Some of the rows, by slice, index array or mask."""
        return Quantized(self.packed[which], self.scales[which], None if self.biases is None else self.biases[which])


def has_fast_path(fmt: Format, dtype: str) -> bool:
    """Whether the compiled kernels do this on the CPU, rather than mlx."""
    usual = fmt.mode == "affine" and fmt.problem() is None and fmt.bits > 1  # 1 bit is mlx's own
    return usual and dtype in FLOATS and sys.byteorder == "little"


def quantize_rows(
    w: NDArray[Any],
    dtype: str,
    fmt: Format,
    *,
    out: Quantized | None = None,
    errors: bool = False,
    allow_nonfinite: bool = False,
    device: str = "cpu",
) -> tuple[Quantized, ErrorSums | None]:
    """Quantize `w` (rows, cols) as `mx.quantize` does on `device`, into `out` where given.

    `w` is C-contiguous, of any alignment: uint16 bit patterns for BF16, float16 for F16, float32 for F32. Threads
    may call this side by side. Raises BlockFault at the first row with NaN, infinity or a range that is infinite,
    unless `allow_nonfinite`.
    """
    rows, cols = w.shape
    out = Quantized.empty(rows, cols, dtype, fmt) if out is None else out
    if device == "cpu" and has_fast_path(fmt, dtype):
        return _quantize_fast(w, dtype, fmt, out, errors, allow_nonfinite)
    if not allow_nonfinite:
        _refuse(w, dtype, fmt, _bad_rows(w, dtype))
    _quantize_with_mlx(w, dtype, fmt, out, device)
    if not allow_nonfinite and fmt.mode == "affine":
        _refuse(w, dtype, fmt, _bad_rows(out.scales, dtype))
    return out, measure_rows(w, dtype, out, fmt) if errors else None


def dequantize_rows(q: Quantized, dtype: str, fmt: Format) -> NDArray[np.float32]:
    """float32(scale) * q + float32(bias) of a block, (rows, cols): float32 multiplication, then addition."""
    if q.biases is None:
        from . import mlx as kernels_mlx

        return kernels_mlx.dequantize(q.packed, q.scales, fmt)
    rows, groups = q.scales.shape
    if has_fast_path(fmt, dtype):
        from . import compiled

        values = np.empty((rows, groups * fmt.group_size), np.float32)
        compiled.run(compiled.DEQUANTIZE, dtype, fmt.group_size, fmt.bits, values, q.packed, q.scales, q.biases, dtype)
        return values
    levels = _levels(q.packed, fmt).astype(np.float32)
    return (levels * widen(q.scales, dtype)[..., None] + widen(q.biases, dtype)[..., None]).reshape(rows, -1)


def measure_rows(
    w: NDArray[Any], dtype: str, q: Quantized, fmt: Format, *, stored_dtype: str | None = None
) -> ErrorSums:
    """The errors of any build's block `q` against the source's `w` (rows, cols) of `dtype`.

    `stored_dtype` is that of the build's scales and biases where it was converted from another.
    """
    stored = stored_dtype or dtype
    if q.biases is not None and has_fast_path(fmt, dtype) and has_fast_path(fmt, stored):
        from . import compiled

        sums, flags = compiled.run(
            compiled.MEASURE, dtype, fmt.group_size, fmt.bits, w, q.packed, q.scales, q.biases, stored
        )
        return _errors(w, dtype, fmt, q, stored, sums, flags)
    return _errors(w, dtype, fmt, q, stored, np.empty((len(w), 4)), np.ones(len(w), np.uint8))


def _quantize_fast(
    w: NDArray[Any], dtype: str, fmt: Format, out: Quantized, errors: bool, allow_nonfinite: bool
) -> tuple[Quantized, ErrorSums | None]:
    from . import compiled

    assert out.biases is not None  # affine has biases
    task = compiled.QUANTIZE_AND_SUM if errors else compiled.QUANTIZE
    sums, flags = compiled.run(task, dtype, fmt.group_size, fmt.bits, w, out.packed, out.scales, out.biases, dtype)
    bad = (flags & compiled.NONFINITE) != 0
    if bad.any():
        if not allow_nonfinite:
            _refuse(w, dtype, fmt, bad)
        again = Quantized.empty(int(bad.sum()), w.shape[1], dtype, fmt)
        _quantize_with_mlx(w[bad], dtype, fmt, again, "cpu")
        _copy(again, out, bad)
    return out, _errors(w, dtype, fmt, out, dtype, sums, flags) if errors else None


def _quantize_with_mlx(w: NDArray[Any], dtype: str, fmt: Format, out: Quantized, device: str) -> None:
    from . import mlx as kernels_mlx

    packed, scales, *biases = kernels_mlx.quantize(w, dtype, fmt, device)
    _copy(Quantized(packed, scales, biases[0] if biases else None), out, slice(None))


def _copy(source: Quantized, out: Quantized, rows: Any) -> None:
    out.packed[rows], out.scales[rows] = source.packed, source.scales
    if out.biases is not None and source.biases is not None:
        out.biases[rows] = source.biases


def _refuse(w: NDArray[Any], dtype: str, fmt: Format, bad: NDArray[np.bool_]) -> None:
    """Raise the fault of the first bad row, if there is one."""
    if not bad.any():
        return
    row = int(np.argmax(bad))
    values = widen(w[row], dtype)
    wrong = ~np.isfinite(values)
    if wrong.any():
        column = int(np.argmax(wrong))
        raise BlockFault("NaN" if np.isnan(values[column]) else "infinity", row, column)
    groups = values.reshape(-1, fmt.group_size)
    with np.errstate(over="ignore"):
        group = int(np.argmax(np.isinf(groups.max(axis=1) - groups.min(axis=1))))
    raise BlockFault("overflow", row, group * fmt.group_size)


def _errors(
    w: NDArray[Any],
    dtype: str,
    fmt: Format,
    q: Quantized,
    stored: str,
    sums: NDArray[np.float64],
    flags: NDArray[np.uint8],
) -> ErrorSums:
    """Join the rows' (rows, 4) sums, after redoing flagged rows in float64."""
    from . import compiled

    again = flags != 0
    if again.any():
        sums[again] = _exact_sums(w[again], dtype, fmt, q.rows(again), stored)
    return ErrorSums(*compiled.summarize(sums))


def _exact_sums(w: NDArray[Any], dtype: str, fmt: Format, q: Quantized, stored: str) -> NDArray[np.float64]:
    """Σe², Σw², max|e| and the largest share of each row, in float64: for rows out of float32's reach, and mx modes."""
    rows = len(w)
    with np.errstate(invalid="ignore", over="ignore"):
        source = widen(w, dtype).astype(np.float64).reshape(rows, -1, fmt.group_size)
        if q.biases is None:
            restored = dequantize_rows(q, stored, fmt).astype(np.float64).reshape(source.shape)
        else:
            scales, biases = (widen(a, stored).astype(np.float64)[..., None] for a in (q.scales, q.biases))
            restored = _levels(q.packed, fmt) * scales + biases
        error = np.abs(source - restored)
        worst, spread = error.max(axis=2), source.max(axis=2) - source.min(axis=2)
        share = np.divide(worst, spread, out=(worst != 0).astype(np.float64), where=spread != 0)
        squares = [(a**2).sum(axis=(1, 2)) for a in (error, source)]
    return np.stack([*squares, worst.max(axis=1), share.max(axis=1)], axis=1)


def levels_of(q: Quantized, fmt: Format) -> NDArray[np.uint8]:
    """The integers of an affine block, (rows, groups, group_size)."""
    out = np.empty((*q.scales.shape, fmt.group_size), np.uint8)
    step = max(1, _LEVELS // out[0].size)
    for at in range(0, len(out), step):  # a part at a time: every bit takes a word on the way
        out[at : at + step] = _levels(q.packed[at : at + step], fmt)
    return out


def pack_levels(levels: NDArray[np.uint8], fmt: Format) -> NDArray[np.uint32]:
    """Integers (rows, groups, group_size) as an affine block has them packed, (rows, words); `levels_of`'s inverse."""
    rows = len(levels)
    packed = np.empty((rows, levels[0].size * fmt.bits // 32), np.uint32)
    step = max(1, _LEVELS // levels[0].size)
    for at in range(0, rows, step):
        part = levels[at : at + step].reshape(-1, 1)
        bits = (part >> np.arange(fmt.bits, dtype=np.uint8)) & 1
        packed[at : at + step] = np.packbits(bits, bitorder="little").view(np.uint32).reshape(-1, packed.shape[1])
    return packed


def _levels(packed: NDArray[np.uint32], fmt: Format) -> NDArray[Any]:
    """Give q as integers, (rows, groups, group_size). The packed words are one string of bits, lowest first."""
    bits = np.unpackbits(np.ascontiguousarray(packed).view(np.uint8), bitorder="little")
    return (bits.reshape(-1, fmt.bits) @ (1 << np.arange(fmt.bits))).reshape(len(packed), -1, fmt.group_size)


def _bad_rows(a: NDArray[Any], dtype: str) -> NDArray[np.bool_]:
    """Which rows hold NaN or infinity."""
    return np.asarray(nonfinite(a, dtype).any(axis=1))
