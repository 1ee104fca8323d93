"""Blocks quantized by mlx itself: the modes, devices and rows that `compiled` does not do.

mlx streams belong to the thread that made them, so each worker thread has its own. numpy has no bfloat16: BF16
goes in and out as uint16 bit patterns. On a GPU, blocks go in pieces that end long before Metal's watchdog does.
"""

from __future__ import annotations

import threading
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..words.formats import Format

GPU_PIECE_BYTES = 64 << 20
_LOCAL = threading.local()


def require_device(device: str) -> None:
    """Raise UsageError if mlx cannot compute on `device`, "cpu" or "gpu", here."""
    if device == "gpu" and not mx.is_available(mx.gpu):
        raise UsageError("--device gpu: mlx finds no GPU that it can use here; leave the option out for the CPU")


def quantize(w: NDArray[Any], dtype: str, fmt: Format, device: str) -> list[NDArray[Any]]:
    """Packed values, scales and, for affine, biases of (rows, cols), by `mx.quantize`."""
    rows = max(1, GPU_PIECE_BYTES // max(1, w[:1].nbytes)) if device == "gpu" else max(1, len(w))
    pieces = [_quantize_piece(w[start : start + rows], dtype, fmt, device) for start in range(0, len(w), rows)]
    return pieces[0] if len(pieces) == 1 else [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def _quantize_piece(w: NDArray[Any], dtype: str, fmt: Format, device: str) -> list[NDArray[Any]]:
    with mx.stream(_stream(device)):
        source = mx.array(w)
        if dtype == "BF16":
            source = source.view(mx.bfloat16)
        packed, *rest = mx.quantize(source, group_size=fmt.group_size, bits=fmt.bits, mode=fmt.mode)
        if dtype == "BF16" and fmt.mode == "affine":
            rest = [part.view(mx.uint16) for part in rest]
        mx.eval(packed, *rest)
        return [np.array(part) for part in (packed, *rest)]


def dequantize(packed: NDArray[np.uint32], scales: NDArray[np.uint8], fmt: Format) -> NDArray[np.float32]:
    """float32 (rows, cols) of an mx mode. The products are exact: a 4- or 8-bit float times a power of two or E4M3."""
    with mx.stream(_stream("cpu")):
        values = mx.dequantize(
            mx.array(packed), mx.array(scales), None, fmt.group_size, fmt.bits, fmt.mode, dtype=mx.float32
        )
        mx.eval(values)
        return np.array(values)


def _stream(device: str) -> mx.Stream:
    streams: dict[str, mx.Stream] = _LOCAL.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = mx.new_stream(mx.Device(mx.gpu if device == "gpu" else mx.cpu))
    return streams[device]
