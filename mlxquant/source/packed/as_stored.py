"""Packed tensors whose bits mlx can use as they are: the arrays of its own format, without quantizing again.

    int4, int8, int2, symmetric      mlx's affine: the same words, the same scales, biases = -zero · scale
    MXFP4                            mlx's mxfp4: the same bytes, the same scales
    MXFP8                            mlx's mxfp8

A signed code c is stored as c + 8, and c · s = (c + 8) · s - 8 · s, where -8 · s is exact in every float dtype: a power
of two times s. So mlx's number, scale · stored + bias, is the source's before either is rounded. With zero points
z the bias -(z + 8) · s takes more bits than a scale has, and with NVFP4's global scale mlx would multiply by another
number than the source's: those are not offered, and the reason is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...words.formats import FLOATS, MODES, Format, carrier, nbytes, widen
from ..headers import Read, Tensor
from .decoded import Decoded
from .grouped import Grouped
from .mlx_builds import MlxPacked
from .numbers import put
from .transposed import Transposed


@dataclass(frozen=True, slots=True)
class AsStored:
    """A packed matrix as the arrays of one of mlx's formats: suffix ("weight", "scales", "biases") -> tensor."""

    format: Format
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Multiplied(Decoded):
    """A tensor of the values of another, `scales`, each times a power of two: exact."""

    scales: Tensor
    factor: float

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The tensor in a file that its values are made of."""
        return (self.scales,)

    def _decode(self, read: Read, row: int, column: int, out: NDArray[Any]) -> None:
        """Fill `out` (rows, columns) from (`row`, `column`) on."""
        raw = np.empty(out.size, carrier(self.dtype))
        at = (row * self.shape[-1] + column) * raw.itemsize
        read(self.scales.file, self.scales.start + at, raw.data.cast("B"))
        put((widen(raw, self.dtype) * np.float32(self.factor)).reshape(out.shape), self.dtype, out)


def as_stored(tensor: Decoded) -> AsStored | str:
    """The arrays of mlx's format that a tensor's bits are already, or why there are none."""
    if isinstance(tensor, MlxPacked):
        return _build(tensor)
    if isinstance(tensor, Transposed):
        return "it is stored transposed (GPTQ, AWQ), with zero points"
    if not isinstance(tensor, Grouped):
        return "it is FP8 with scales for blocks, which no mode of mlx has"
    if tensor.order is not None:
        return "its groups are not side by side (act-order)"
    if tensor.zeros is not None:
        return "it has zero points, and biases made of them are not exact"
    if tensor.global_scale is not None:
        return "it has a global scale, which mlx-lm's Linear does not take"
    group = tensor.scales.block[1]
    mode, bits = _MODES.get((tensor.coding, tensor.scales.coding), ("", 0))
    groups, _ = MODES.get(mode, ((), ()))
    if not mode or tensor.scales.block[0] != 1 or group not in groups or tensor.shape[-1] % group:
        rows, columns = tensor.scales.block
        return f"no mode of mlx has {tensor.coding} with a scale for {rows} × {columns} values"
    return _parts(tensor, Format(bits, group, mode))


# (coding of values, of scales) -> mode of mlx, bits
_MODES = {
    ("int2", None): ("affine", 2), ("int4", None): ("affine", 4), ("int8", None): ("affine", 8),
    ("e2m1", "e8m0"): ("mxfp4", 4), ("e4m3", "e8m0"): ("mxfp8", 8),
}  # fmt: skip


def _build(tensor: MlxPacked) -> AsStored | str:
    """The arrays of an MLX build, which are mlx's own."""
    if tensor.global_scale is not None:
        return "it has a global scale, which mlx-lm's Linear does not take"
    parts = {"weight": tensor.codes, "scales": tensor.scales, "biases": tensor.biases}
    return AsStored(tensor.form, {suffix: part for suffix, part in parts.items() if part is not None})


def _parts(tensor: Grouped, form: Format) -> AsStored | str:
    scales = tensor.scales.tensor
    shapes = form.tensors(tensor.shape, scales.dtype)
    packed, grid = shapes["weight"][1], shapes["scales"][1]
    if tensor.codes.nbytes != nbytes("U32", packed):
        return f"its rows of {tensor.shape[-1]} values end within a word"
    parts = {"weight": replace(tensor.codes, dtype="U32", shape=packed)}
    if form.mode != "affine":
        return AsStored(form, {**parts, "scales": replace(scales, dtype="U8", shape=grid)})
    assert scales.dtype in FLOATS
    placed = replace(scales, shape=grid)
    biases = Multiplied(
        f"{scales.name} times {-(1 << (form.bits - 1))}",
        scales.dtype,
        grid,
        scales.file,
        scales.start,
        scales.nbytes,
        placed,
        -float(1 << (form.bits - 1)),
    )
    return AsStored(form, {**parts, "scales": placed, "biases": biases})
