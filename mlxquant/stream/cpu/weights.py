"""A module's weight as a float32 array of numpy: its own memory, or widened once while a layer is there.

A widened layer takes the bytes that the reference's has in float32, so the most that is in memory is a candidate's
packed layer and as much as the reference's layer took before. `forget` lets all of it go.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...kernels import Quantized, dequantize_rows, has_fast_path
from ...words.formats import Format
from .threads import spread

Array = NDArray[np.float32]
# From so many values on the compiled kernels are worth their compilation, a second or two on a new machine.
MANY = 1 << 20
# Rows that a thread takes at a time, as values.
PIECE = 1 << 18


def view(array: mx.array) -> Array:
    """An array's values in float32, evaluated: its own memory where it is of that dtype."""
    return np.asarray(array.astype(mx.float32))


class Weights:
    """The weights of one model's modules, by module."""

    def __init__(self) -> None:
        self._widened: dict[int, tuple[mx.array, Array]] = {}

    def of(self, module: Any) -> Array:
        """A module's weight, (…, out, in)."""
        packed: mx.array = module["weight"]
        if packed.dtype == mx.float32:
            return view(packed)
        held = self._widened.get(id(module))
        if held is None or held[0] is not packed:  # another layer's or another candidate's
            wide = dequantized(module) if "scales" in module else view(packed)
            held = self._widened[id(module)] = (packed, wide)
        return held[1]

    def forget(self) -> None:
        """Let go of what was widened."""
        self._widened.clear()


def dequantized(module: Any) -> Array:
    """A quantized module's weight (…, out, in) in float32: scale · q + bias, with float32 scales."""
    packed, scales, biases = module["weight"], module["scales"], module.get("biases")
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    fmt = Format(module.bits, module.group_size, module.mode)
    shape = (*scales.shape[:-1], scales.shape[-1] * fmt.group_size)
    if biases is None or np.prod(shape) < MANY or not has_fast_path(fmt, "F32"):
        return view(mx.dequantize(packed, scales, biases, fmt.group_size, fmt.bits, fmt.mode, dtype=mx.float32))
    block = Quantized(*(np.asarray(a).reshape(-1, a.shape[-1]) for a in (packed, scales, biases)))
    values = np.empty((len(block.scales), shape[-1]), np.float32)
    step = max(1, PIECE // shape[-1])

    def restore(at: int) -> None:
        part = slice(at, at + step)
        values[part] = dequantize_rows(block.rows(part), "F32", fmt)

    spread(restore, range(0, len(values), step), 10.0 * values.size)
    return values.reshape(shape)
