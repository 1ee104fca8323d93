"""GPTQ and AWQ: integers packed in 32-bit words, stored as (in, out), read as the floats of a matrix (out, in).

    value[o, i] = (code[i, o] - zero[g, o]) · scale[g, o]        g the group that input i lies in

in the dtype of the scales, as both formats' own code multiplies: integers are subtracted first, so there is one
rounding. Where the fields of a word lie:

    GPTQ   codes in words along `in`, zero points in words along `out`, the lowest bits first; 3 bits cross words,
           32 fields in three of them. `g_idx` names the group of each input. Zero points are stored minus 1 in
           checkpoint_format "gptq", as they are in "gptq_v2".
    AWQ    codes and zero points in words along `out`, the eight fields of a word in the order 0 2 4 6 1 3 5 7
           (AutoAWQ 0.2.9, utils/packing_utils.py, version "gemm").

Worked, GPTQ, 4 bits: the word 0x…A7 holds 7 for input 0 and 10 for input 1; zero 8 and scale 0.5 give -0.5 and 1.

Rows of the matrix are columns of what is stored, so a block of rows is picked out of lines that are much longer: the
lines are read in spans and dropped again, whatever their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ...words.formats import carrier, widen
from ..headers import Read, Tensor
from .decoded import Decoded
from .numbers import put

# Values decoded at once. More than in other formats, since each block reads lines of the whole tensor.
_AT_ONCE = 1 << 19
_SPAN = 1 << 20  # bytes of lines that are read at once
_DENSE = 32  # where less than one byte in so many is wanted, each line's are read alone
_AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # the field of a word that output 0, 1, … of its eight has


@dataclass(frozen=True, slots=True)
class Transposed(Decoded):
    """A matrix (out, in) of floats; see the module.

    `codes` are I32 words, (in · bits / 32, out) of GPTQ, (in, out / 8) with `interleaved`; `scales` (groups, out);
    `zeros` I32 words (groups, out · bits / 32), None where every zero point is 2^(bits - 1). `offset` is added to
    stored zero points. `order` I32 (in,) names the group of each input, None where groups of equal length follow each
    other.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    order: Tensor | None
    bits: int
    offset: int
    interleaved: bool = False

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The tensors in the files that its values are made of, the codes first."""
        return tuple(t for t in (self.codes, self.scales, self.zeros, self.order) if t is not None)

    @property
    def storage(self) -> str:
        """What its values are stored in: "INT4" of 4 bits."""
        return f"INT{self.bits}"

    def _together(self, row: int, most: int) -> int:
        """How many whole rows from `row` on are decoded at once."""
        return max(1, min(most, max(32, _AT_ONCE // self.shape[-1])))

    def _decode(self, read: Read, row: int, column: int, out: NDArray[Any]) -> None:
        """Fill `out` (rows, columns) with the values from (`row`, `column`) on."""
        rows = len(out)
        codes = self._codes(read, row, rows)
        scales = widen(_columns(read, self.scales, row, rows), self.scales.dtype)
        zeros = self._zeros(read, row, rows)
        groups = self._groups(read, len(scales))
        values = codes.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            values -= zeros[groups] if zeros.ndim else zeros
            values *= scales[groups]
        put(np.ascontiguousarray(values.T[:, column : column + out.shape[1]]), self.dtype, out)

    def _codes(self, read: Read, row: int, rows: int) -> NDArray[np.uint32]:
        """The integers behind some rows, (in, rows)."""
        if self.interleaved:
            return self._fields(read, self.codes, row, rows)
        words = _columns(read, self.codes, row, rows).view(np.uint32)
        return _unpacked(words, self.bits, self.shape[-1])

    def _zeros(self, read: Read, row: int, rows: int) -> NDArray[np.float32]:
        """The zero points of some rows, (groups, rows), or the one that all have."""
        if self.zeros is None:
            return np.array(1 << (self.bits - 1), np.float32)
        return self._fields(read, self.zeros, row, rows).astype(np.float32) + np.float32(self.offset)

    def _fields(self, read: Read, tensor: Tensor, first: int, count: int) -> NDArray[np.uint32]:
        """Fields `first … first+count` of each line of words that are packed along `out`, (lines, count)."""
        span = 32 if self.bits == 3 else 32 // self.bits  # fields that end where a word does
        words = span * self.bits // 32
        start, stop = first // span, -(-(first + count) // span)
        lines = _columns(read, tensor, start * words, (stop - start) * words).view(np.uint32)
        fields = _unpacked(np.ascontiguousarray(lines.T), self.bits, (stop - start) * span).T
        if self.interleaved:
            fields = fields.reshape(len(fields), -1, span)[:, :, _AWQ_ORDER].reshape(len(fields), -1)
        return fields[:, first - start * span :][:, :count]

    def _groups(self, read: Read, count: int) -> NDArray[np.intp]:
        """The group of each input. Raises SourceError for one that there is not."""
        if self.order is None:
            return np.arange(self.shape[-1]) * count // self.shape[-1]
        groups = np.empty(self.shape[-1], np.int32)
        read(self.order.file, self.order.start, groups.data.cast("B"))
        if groups.min() < 0 or groups.max() >= count:
            raise SourceError(
                f"{self.order.file}: {self.order.name}: groups 0 to {count - 1} expected,"
                f" {int(groups.min())} to {int(groups.max())} found; download it again"
            )
        return groups.astype(np.intp)


def _unpacked(words: NDArray[np.uint32], bits: int, count: int) -> NDArray[np.uint32]:
    """Fields of `bits` in words along the first axis, the lowest bits first: (words, n) to (count, n)."""
    mask = np.uint32((1 << bits) - 1)
    if 32 % bits == 0:
        shifts = np.arange(0, 32, bits, dtype=np.uint32)[None, :, None]
        return ((words[:, None, :] >> shifts) & mask).reshape(-1, words.shape[1])[:count]
    places = np.arange(count) * bits
    at, shift = places // 32, (places % 32).astype(np.uint32)[:, None]
    after = words[np.minimum(at + 1, len(words) - 1)].astype(np.uint64)
    both = words[at].astype(np.uint64) | after << np.uint64(32)
    return (both >> shift).astype(np.uint32) & mask


def _columns(read: Read, tensor: Tensor, first: int, count: int) -> NDArray[Any]:
    """Columns `first … first+count` of a stored matrix, (lines, count) of the carrier of its dtype."""
    lines, width = tensor.shape
    dtype = carrier(tensor.dtype)
    picked = np.empty((lines, count), dtype)
    if count * _DENSE < width:
        for line in range(lines):
            read(tensor.file, tensor.start + (line * width + first) * dtype.itemsize, picked[line].data.cast("B"))
        return picked
    step = max(1, _SPAN // (width * dtype.itemsize))
    span = np.empty((min(step, lines), width), dtype)
    for line in range(0, lines, step):
        part = span[: min(step, lines - line)]
        read(tensor.file, tensor.start + line * width * dtype.itemsize, part.data.cast("B"))
        picked[line : line + len(part)] = part[:, first : first + count]
    return picked
