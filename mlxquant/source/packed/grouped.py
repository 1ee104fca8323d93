"""Rows of packed codes with scales for groups, blocks, channels or whole tensors: one class for all of them.

    value[r, c] = (code[r, c] - zero[r, g]) · scale[r, g]        g the group that column c lies in

with the parts that a format has: integers may have zero points, 4-bit floats a second, global scale. The product is
rounded to the dtype that the format's own code computes in, then to that of the tensor. In float32 it has one rounding
or none: a difference of integers has 8 bits, and a scale of bfloat16 8 or of float16 11.

Worked: the byte 0xA7 holds the int4 codes -1 and 2; under the scale 0.5 the values are -0.5 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ...words.formats import DTYPES, carrier, nbytes, widen
from ..headers import Read, Tensor
from .decoded import AT_ONCE, Decoded
from .numbers import put, rounded, table_of


@dataclass(frozen=True, slots=True)
class Scales:
    """The scales of a tensor and how they apply.

    `tensor` has the shape (matrices or 1, lines, across): a scale for each block of (rows, columns), read as `coding`
    ("e4m3", "e8m0") or, None, as the floats that they are. `dtype` is what they are rounded to before they are used.
    """

    tensor: Tensor
    block: tuple[int, int]
    coding: str | None = None
    dtype: str = "F32"


@dataclass(frozen=True, slots=True)
class GlobalScale:
    """Scales of whole runs of rows beside those of groups: one for all rows, for each matrix, or for equal parts.

    `inverse` means that a group's scale is divided by it. Products are rounded to `dtype`.
    """

    tensor: Tensor
    inverse: bool
    dtype: str = "F32"


@dataclass(frozen=True, slots=True)
class ZeroPoints:
    """The zero points of groups: I8 in the shape of the scales, or `bits` of int32 words packed along the rows.

    `tensor` has the shape (matrices or 1, lines or words, across).
    """

    tensor: Tensor
    bits: int | None = None


@dataclass(frozen=True, slots=True)
class Grouped(Decoded):
    """Floats stored as `codes` under `scales`; see the module.

    `codes` are (…, rows, columns packed), in bytes of the `coding` (see `numbers`). `computed` is the dtype that the
    product is rounded to before it becomes `dtype`. `order` (columns,) int32 names the group of each column, where
    groups are not side by side (GPTQ's act-order). `shape_tensor` is stored beside it and not needed.
    """

    codes: Tensor
    coding: str
    scales: Scales
    computed: str
    zeros: ZeroPoints | None = None
    order: Tensor | None = None
    global_scale: GlobalScale | None = None
    shape_tensor: Tensor | None = None

    @classmethod
    def of(
        cls,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        codes: Tensor,
        coding: str,
        scales: Scales,
        computed: str,
        *,
        zeros: ZeroPoints | None = None,
        order: Tensor | None = None,
        global_scale: GlobalScale | None = None,
        shape_tensor: Tensor | None = None,
    ) -> Grouped:
        """The tensor `name` of a logical `shape` (…, rows, columns), made of its parts."""
        size = nbytes(dtype, shape)
        place = (codes.file, codes.start, size)
        return cls(
            name, dtype, shape, *place, codes, coding, scales, computed, zeros, order, global_scale, shape_tensor
        )

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The tensors in the files that its values are made of, the codes first."""
        parts = (self.zeros, self.global_scale)
        extra = [part.tensor for part in parts if part is not None]
        extra += [part for part in (self.order, self.shape_tensor) if part is not None]
        return (self.codes, self.scales.tensor, *extra)

    @property
    def storage(self) -> str:
        """What its values are stored in: "INT4", "FP4", or the dtype of the codes."""
        return {"int2": "INT2", "int4": "INT4", "int8": "INT8", "e2m1": "FP4"}.get(self.coding, self.codes.dtype)

    def _together(self, row: int, most: int) -> int:
        """How many whole rows from `row` on are of one matrix and fit the cache."""
        inside = row % self.shape[-2]
        return max(1, min(self.shape[-2] - inside, most, AT_ONCE // self.shape[-1]))

    def _decode(self, read: Read, row: int, column: int, out: NDArray[Any]) -> None:
        """Fill `out` (rows, columns) with the values from (`row`, `column`) on, all of one matrix."""
        rows, width = len(out), self.shape[-1]
        values = self._codes(read, row, rows)
        scales, zeros = self._scales(read, row, rows), self._zeros(read, row, rows)
        if self.order is not None:
            groups = self._groups(read, scales.shape[1])
            scales, zeros = scales[:, groups], None if zeros is None else zeros[:, groups]
            shaped = values
        elif scales.shape[1] * self.scales.block[1] == width:
            shaped = values.reshape(rows, scales.shape[1], -1)
            scales, zeros = scales[..., None], None if zeros is None else zeros[..., None]
        else:
            spread = np.arange(width) // self.scales.block[1]
            scales, zeros = scales[:, spread], None if zeros is None else zeros[:, spread]
            shaped = values
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            if zeros is not None:
                shaped -= zeros
            shaped *= scales
        if self.computed != self.dtype:
            values = rounded(values, self.computed)
        put(values[:, column : column + out.shape[1]], self.dtype, out)

    def _codes(self, read: Read, row: int, rows: int) -> NDArray[np.float32]:
        """The numbers behind the codes, (rows, columns)."""
        table = table_of(self.coding)
        line = self.codes.shape[-1] * DTYPES[self.codes.dtype].nbytes
        raw = np.empty(rows * line, np.uint8)
        read(self.codes.file, self.codes.start + row * line, raw.data)
        values = table.take(raw, axis=0).reshape(rows, -1)
        return np.ascontiguousarray(values[:, : self.shape[-1]])

    def _scales(self, read: Read, row: int, rows: int) -> NDArray[np.float32]:
        """The scales of rows, (rows, groups), the global one within them."""
        scales, tensor = self.scales, self.scales.tensor
        raw, pick = self._lines(read, tensor, row, rows)
        if scales.coding is None:
            values = widen(raw, tensor.dtype)
        else:
            values = table_of(scales.coding)[raw.view(np.uint8), 0]
        values = rounded(values, scales.dtype)[pick]
        if self.global_scale is None:
            return values
        whole = self._global(read, row, rows)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            product = values / whole if self.global_scale.inverse else values * whole
        return rounded(product.astype(np.float32, copy=False), self.global_scale.dtype)

    def _zeros(self, read: Read, row: int, rows: int) -> NDArray[np.float32] | None:
        """The zero points of rows, (rows, groups), as numbers of the codes' own scale."""
        if self.zeros is None:
            return None
        tensor, bits = self.zeros.tensor, self.zeros.bits
        if bits is None:
            raw, pick = self._lines(read, tensor, row, rows)
            return raw.view(np.int8).astype(np.float32)[pick]
        matrix, inside = divmod(row, self.shape[-2])
        _, down, across = tensor.shape
        first, last = inside * bits // 32, (inside + rows - 1) * bits // 32
        raw = np.empty((last - first + 1, across), np.uint32)
        at = self._matrix(tensor, matrix) * down + first
        read(tensor.file, tensor.start + at * across * 4, raw.data.cast("B"))
        places = (np.arange(inside, inside + rows) * bits)[:, None]
        fields = (raw[places[:, 0] // 32 - first] >> (places % 32).astype(np.uint32)) & np.uint32((1 << bits) - 1)
        return fields.astype(np.float32) - np.float32(1 << (bits - 1))

    def _lines(self, read: Read, tensor: Tensor, row: int, rows: int) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """The lines of a grid that rows lie in, (lines, across) of its carrier, and the line of each row."""
        matrix, inside = divmod(row, self.shape[-2])
        _, down, across = tensor.shape
        lines = np.arange(inside, inside + rows) // self.scales.block[0]
        raw = np.empty((int(lines[-1] - lines[0]) + 1, across), carrier(tensor.dtype))
        at = self._matrix(tensor, matrix) * down + int(lines[0])
        read(tensor.file, tensor.start + at * across * raw.itemsize, raw.data.cast("B"))
        return raw, lines - lines[0]

    @staticmethod
    def _matrix(grid: Tensor, matrix: int) -> int:
        return matrix if grid.shape[0] > 1 else 0

    def _global(self, read: Read, row: int, rows: int) -> NDArray[np.float32]:
        """The global scale of each of some rows, (rows, 1)."""
        assert self.global_scale is not None
        tensor = self.global_scale.tensor
        size = DTYPES[tensor.dtype].nbytes
        count = tensor.nbytes // size
        every = int(np.prod(self.shape[:-1])) // count
        parts = np.arange(row, row + rows) // every
        raw = np.empty(int(parts[-1] - parts[0]) + 1, carrier(tensor.dtype))
        read(tensor.file, tensor.start + int(parts[0]) * size, raw.data.cast("B"))
        values = widen(raw, tensor.dtype)
        return values[parts - parts[0], None]

    def _groups(self, read: Read, count: int) -> NDArray[np.int32]:
        """The group of each column; side by side where -1 says that nothing was ordered, as in modules that
        llm-compressor had no data for. Raises SourceError for a group that there is not.
        """
        assert self.order is not None
        groups = np.empty(self.shape[-1], np.int32)
        read(self.order.file, self.order.start, groups.data.cast("B"))
        if (groups == -1).all():
            return np.arange(len(groups), dtype=np.int32) // np.int32(self.scales.block[1])
        if groups.min() < 0 or groups.max() >= count:
            raise SourceError(
                f"{self.order.file}: {self.order.name}: groups 0 to {count - 1} expected,"
                f" {int(groups.min())} to {int(groups.max())} found; download it again"
            )
        return groups
