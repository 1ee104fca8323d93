"""Making one piece of a build: read source rows, cast, encode, write them in their place, sum the error, checksum.

Which rows, and in what order, is for others to say (see `pieces`, `workers`); so is where bytes go: `Target` writes
them into open files, `check.remake` only compares them with what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from ...disk import files as disk
from ...disk.journal import Finished
from ...errors import NonFiniteError
from ...kernels import BlockFault, Encoder, ErrorSums, Rows, merged_sums
from ...layout.views.bytes import MLX_DTYPES, to_mlx, to_numpy
from ...layout.views.read import read_rows
from ...plan.plan import OutputArray
from ...source.headers import Read
from ...words.formats import DTYPES, FLOATS, Format, carrier, nonfinite
from .pieces import Output, Piece
from .workers import Scratch


@dataclass(frozen=True)
class Target:
    """Where arrays lie: name -> (open file, its path, first byte)."""

    places: Mapping[str, tuple[int, Path, int]]

    def write(self, output: Output, part: OutputArray, row: int, data: NDArray[Any]) -> None:
        """Write rows of one array from `row` on: (rows, words) of any dtype, C-contiguous."""
        handle, path, start = self.places[part.name]
        disk.write_at(handle, data.data.cast("B"), start + row * output.row_bytes(part), path)


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes pieces of one build: reads by `read`, encodes by `encoder`, writes to `target`.

    `errors` asks for error sums. With `allow_nonfinite`, NaN and infinity in dense arrays are stored as they are; for
    quantized ones the encoder decides.
    """

    read: Read
    target: Target
    encoder: Encoder
    errors: bool = True
    allow_nonfinite: bool = False

    def make(self, piece: Piece, scratch: Scratch) -> Finished:
        """Make one piece. Raises NonFiniteError naming tensor, row and column; SourceError, OutputError."""
        making = _Making(self, piece)
        for start, rows in piece.blocks:
            making.add(start, read_block(piece.output, self.read, start, rows, scratch), scratch)
        return making.finish()


def make_together(makers: Sequence[Maker], pieces: Sequence[Piece | None], scratch: Scratch) -> list[Finished | None]:
    """Make the same rows for several builds, and read them once; None where a build has its piece already.

    One piece at least is to be made; all that are have the same rows of the same view. Raises as `Maker.make`.
    """
    makings = [None if piece is None else _Making(m, piece) for m, piece in zip(makers, pieces, strict=True)]
    first = next(piece for piece in pieces if piece is not None)
    for start, rows in first.blocks:
        block = read_block(first.output, makers[0].read, start, rows, scratch)
        for making in makings:
            if making is not None:
                making.add(start, block, scratch)
    return [None if making is None else making.finish() for making in makings]


class _Making:
    """A piece of one build that is being made, block by block."""

    def __init__(self, maker: Maker, piece: Piece) -> None:
        self._maker, self._piece = maker, piece
        self._checksums = [xxhash.xxh3_64() for _ in piece.output.parts]
        self._errors: ErrorSums | None = None

    def add(self, start: int, block: NDArray[np.uint8], scratch: Scratch) -> None:
        """Write a block, which begins with row `start` of the output, and sum what was lost."""
        maker, output = self._maker, self._piece.output
        fmt = output.parts[0].format
        if fmt is not None:
            self._encode(start, block, fmt, scratch)
            return
        if not maker.allow_nonfinite:
            check_finite(block, output.dtype, output.name, start)
        maker.target.write(output, output.parts[0], start, block)
        self._checksums[0].update(block.data)

    def finish(self) -> Finished:
        """The journal's entry of the piece."""
        return Finished(
            output=self._piece.output.name,
            start=self._piece.start,
            checksums=tuple(checksum.hexdigest() for checksum in self._checksums),
            errors=self._errors.as_dict() if self._errors is not None else None,
            checked=not self._maker.allow_nonfinite,
        )

    def _encode(self, start: int, block: NDArray[np.uint8], fmt: Format, scratch: Scratch) -> None:
        maker, output = self._maker, self._piece.output
        dtype, values = output.dtype, block.view(carrier(output.dtype))
        packed = scratch.packed(len(block), output.columns, dtype, fmt)
        try:
            errors = maker.encoder.encode(Rows(output.module, start, values, dtype, fmt), packed, errors=maker.errors)
        except BlockFault as fault:
            raise nonfinite_error(output.name, start + fault.row, fault.column, fault.kind) from None
        arrays = [a for a in (packed.packed, packed.scales, packed.biases) if a is not None]
        for part, data, checksum in zip(output.parts, arrays, self._checksums, strict=True):
            maker.target.write(output, part, start, data)
            checksum.update(data.data)
        self._errors = merged_sums(self._errors, errors, start - self._piece.start)


def read_block(output: Output, read: Read, start: int, rows: int, scratch: Scratch) -> NDArray[np.uint8]:
    """Read source rows and cast them to the output's dtype: (rows, columns * itemsize) bytes.

    The result lies in `scratch`, unless it was cast, and is overwritten by the next call.
    """
    width = output.source_row_bytes
    block = scratch.take(rows * width).reshape(rows, width)
    read_rows(output.view, read, start, block)
    dtype = MLX_DTYPES[output.dtype]
    if dtype == output.view.dtype:
        return block
    cast = to_mlx(block, (rows, output.columns), output.view.dtype).astype(dtype)
    return to_numpy(cast).reshape(rows, output.columns * DTYPES[output.dtype].nbytes)


def check_finite(block: NDArray[np.uint8], dtype: str, name: str, start: int) -> None:
    """Raise NonFiniteError, naming tensor and place, if a dense block of floats holds NaN or infinity.

    `block` is (rows, columns * itemsize) bytes, of which the first row is row `start` of the tensor.
    """
    if dtype not in FLOATS:
        return
    bad = nonfinite(block, dtype)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise nonfinite_error(name, start + row, column, "NaN or infinity")


def nonfinite_error(name: str, row: int, column: int, kind: str) -> NonFiniteError:
    """The error for a value that has no finite quantization, saying where and what to do."""
    what = "a group whose range overflows its scale" if kind == "overflow" else kind
    return NonFiniteError(
        f"{name}: row {row:,}, column {column:,}: finite values expected, {what} found (the first; there may be more);"
        " download the shard again, or pass --allow-nonfinite to store it as it is"
    )
