"""Quantize blocks of rows, byte for byte as mlx does, and sum what it cost.

First version: mlx itself does every block; a numba path replaces it where the bytes are proven the same.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import NonFiniteError
from .formats import Format

_STORED = {"BF16": np.dtype(np.uint16), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}
_LOCAL = threading.local()


class BlockFault(NonFiniteError):
    """A value or a group of a block that has no finite quantization; `row` counts within the block."""

    def __init__(self, kind: str, row: int, column: int) -> None:
        what = "the range of the group overflows its scale" if kind == "overflow" else f"{kind} found"
        super().__init__(f"row {row}, column {column}: finite values expected, {what}")
        self.kind, self.row, self.column = kind, row, column


@dataclass(frozen=True, slots=True)
class Quantized:
    """A block as mlx stores it: packed (rows, cols*bits/32) uint32; scales, biases (rows, cols/group).

    Scales and biases have the block's dtype (uint16 bit patterns for BF16); mx modes have uint8 scales, no biases.
    """

    packed: NDArray[np.uint32]
    scales: NDArray[Any]
    biases: NDArray[Any] | None

    @classmethod
    def empty(cls, rows: int, cols: int, dtype: str, fmt: Format) -> Quantized:
        """Room for a block of (rows, cols), to be reused as `out` of `quantize_rows`."""
        packed = np.empty((rows, cols * fmt.bits // 32), np.uint32)
        groups = (rows, cols // fmt.group_size)
        if fmt.mode != "affine":
            return cls(packed, np.empty(groups, np.uint8), None)
        return cls(packed, np.empty(groups, _STORED[dtype]), np.empty(groups, _STORED[dtype]))


@dataclass(frozen=True, slots=True)
class BlockErrors:
    """Sums over one block of rows, in float64; ŵ = float32(scale)·q + float32(bias), as stored."""

    rows: int
    values: int
    sum_sq_error: float
    sum_sq_weight: float
    max_abs_error: float
    max_range_share: float
    worst_row: int
    worst_row_error: float

    def merge(self, other: BlockErrors, row_offset: int) -> BlockErrors:
        """Join with the block whose first row is `row_offset` here; call in row order."""
        theirs = other.worst_row_error > self.worst_row_error
        return BlockErrors(
            self.rows + other.rows,
            self.values + other.values,
            self.sum_sq_error + other.sum_sq_error,
            self.sum_sq_weight + other.sum_sq_weight,
            max(self.max_abs_error, other.max_abs_error),
            max(self.max_range_share, other.max_range_share),
            row_offset + other.worst_row if theirs else self.worst_row,
            other.worst_row_error if theirs else self.worst_row_error,
        )


def has_fast_path(fmt: Format, dtype: str) -> bool:
    """Whether numba quantizes this, rather than mlx."""
    return False


def quantize_rows(
    w: NDArray[Any],
    dtype: str,
    fmt: Format,
    *,
    out: Quantized | None = None,
    errors: bool = False,
    allow_nonfinite: bool = False,
    device: str = "cpu",
) -> tuple[Quantized, BlockErrors | None]:
    """Quantize (rows, cols) as `mx.quantize` does. Raises BlockFault at the first NaN, infinity or overflow."""
    w32 = _as_float32(w, dtype)
    if not allow_nonfinite:
        _refuse_nonfinite(w32)
    made = _quantize_with_mlx(w, dtype, fmt, device)
    if fmt.mode == "affine" and not allow_nonfinite:
        finite = np.isfinite(_as_float32(made.scales, dtype))
        if not finite.all():
            row, group = (int(i) for i in np.argwhere(~finite)[0])
            raise BlockFault("overflow", row, group * fmt.group_size)
    if out is not None:
        out.packed[:], out.scales[:] = made.packed, made.scales
        if out.biases is not None:
            out.biases[:] = made.biases
        made = out
    return made, measure_rows(w, dtype, made, fmt) if errors else None


def dequantize_rows(q: Quantized, dtype: str, fmt: Format) -> NDArray[np.float32]:
    """ŵ of a block, (rows, cols) float32."""
    rows = q.packed.shape[0]
    if fmt.mode != "affine" or q.biases is None:
        return _dequantize_with_mlx(q, fmt)
    raw = np.unpackbits(q.packed.view(np.uint8), axis=1, bitorder="little").reshape(rows, -1, fmt.bits)
    values = (raw @ (1 << np.arange(fmt.bits))).astype(np.float32).reshape(rows, -1, fmt.group_size)
    scales, biases = _as_float32(q.scales, dtype), _as_float32(q.biases, dtype)
    return (values * scales[..., None] + biases[..., None]).reshape(rows, -1)


def measure_rows(w: NDArray[Any], dtype: str, q: Quantized, fmt: Format) -> BlockErrors:
    """Errors of a build's block `q` against its source block `w` (rows, cols)."""
    w32 = _as_float32(w, dtype)
    rows, cols = w32.shape
    source = w32.astype(np.float64).reshape(rows, -1, fmt.group_size)
    error = np.abs(source - dequantize_rows(q, dtype, fmt).reshape(source.shape))
    worst, span = error.max(axis=2), source.max(axis=2) - source.min(axis=2)
    share = np.divide(worst, span, out=np.where(worst > 0, 1.0, 0.0), where=span > 0)
    row_error, row_weight = (error**2).sum(axis=(1, 2)), (source**2).sum(axis=(1, 2))
    relative = np.sqrt(np.divide(row_error, row_weight, out=np.zeros(rows), where=row_weight > 0))
    at = int(np.argmax(relative))
    return BlockErrors(
        rows,
        rows * cols,
        float(row_error.sum()),
        float(row_weight.sum()),
        float(worst.max()),
        float(share.max()),
        at,
        float(relative[at]),
    )


def _as_float32(w: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":
        return (w.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return w.astype(np.float32, copy=False)


def _refuse_nonfinite(w32: NDArray[np.float32]) -> None:
    finite = np.isfinite(w32)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        raise BlockFault("NaN" if np.isnan(w32[row, column]) else "infinity", row, column)


def _stream(device: str) -> Any:
    """This thread's stream: mlx streams belong to the thread that made them."""
    import mlx.core as mx

    streams: dict[str, Any] = _LOCAL.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = mx.new_stream(mx.gpu if device == "gpu" else mx.cpu)
    return streams[device]


def _quantize_with_mlx(w: NDArray[Any], dtype: str, fmt: Format, device: str) -> Quantized:
    import mlx.core as mx

    with mx.stream(_stream(device)):
        source = mx.array(w)
        if dtype == "BF16":
            source = source.view(mx.bfloat16)
        parts = mx.quantize(source, group_size=fmt.group_size, bits=fmt.bits, mode=fmt.mode)
        if dtype == "BF16" and fmt.mode == "affine":
            parts = [parts[0], *(p.view(mx.uint16) for p in parts[1:])]
        mx.eval(*parts)
        arrays = [np.array(p) for p in parts]
    return Quantized(arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None)


def _dequantize_with_mlx(q: Quantized, fmt: Format) -> NDArray[np.float32]:
    import mlx.core as mx

    with mx.stream(_stream("cpu")):
        made = mx.dequantize(
            mx.array(q.packed), mx.array(q.scales), None, fmt.group_size, fmt.bits, fmt.mode, dtype=mx.float32
        )
        mx.eval(made)
        return np.array(made)
